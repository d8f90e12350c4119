"""Deliveries that share a commit. Real: PostgreSQL, threads. Transactions are real ones, so each test cleans up."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection

from byteport.core.resource import ResourceRef
from signals.intake import Delivery, Intake, ReplayError, SourceGoneError
from signals.models import SignalEvent, Source, WebhookDelivery
from signals.reading import Reading, State

pytestmark = pytest.mark.django_db(transaction=True)
THREADS = 8


def firing(name: str, **more) -> Reading:
    at = datetime.now(UTC) - timedelta(seconds=1)
    return Reading(signal="x", resource=ResourceRef("host", name, "host", name), at=at, state=State.FIRING, **more)


@pytest.fixture
def source():
    return Source.objects.create(slug="sender", kind="generic")


def at_once(work):
    """Runs `work(number)` in threads that begin together; what each returned or raised."""
    barrier = threading.Barrier(THREADS)

    def body(number):
        barrier.wait(10)
        try:
            return work(number)
        except (ReplayError, DatabaseError) as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(body, range(THREADS)))


def test_each_is_told_what_its_own_delivery_led_to(source):
    intake = Intake()
    results = at_once(lambda n: intake.keep(Delivery(source.pk, "sender", None, [firing(f"web-{n}"), firing("all")])))
    opened = [pk for result in results for pk in result.opened]
    assert sorted(opened) == sorted(SignalEvent.objects.values_list("pk", flat=True))
    assert SignalEvent.objects.count() == THREADS + 1
    assert all(sum(result.why.values()) == 2 for result in results)
    own = {SignalEvent.objects.get(resource=f"host/web-{n}/host/web-{n}").pk for n in range(THREADS)}
    assert all(len(own & set(result.opened)) == 1 for result in results)


def test_of_like_deliveries_one_is_kept(source):
    intake = Intake()
    results = at_once(lambda n: intake.keep(Delivery(source.pk, "sender", "ab12", [firing("web-1")])))
    assert sum(isinstance(result, ReplayError) for result in results) == THREADS - 1
    assert WebhookDelivery.objects.count() == 1


def test_one_that_postgresql_does_not_take_spoils_no_other(source):
    intake = Intake()
    bad = firing("web-1", labels={"a": "\x00"})

    def one(number):
        said = [bad] if number == 0 else [firing(f"web-{number + 1}")]
        return intake.keep(Delivery(source.pk, "sender", f"{number:x}", said))

    results = at_once(one)
    assert isinstance(results[0], DatabaseError)
    assert all(result.opened for result in results[1:])
    assert SignalEvent.objects.count() == WebhookDelivery.objects.count() == THREADS - 1


def test_a_source_that_is_no_more_is_no_replay(source):
    with pytest.raises(SourceGoneError):
        Intake().keep(Delivery(source.pk + 1000, "sender", "ab12", [firing("web-1")]))
    assert not SignalEvent.objects.exists()


def test_after_a_fault_the_next_delivery_is_kept(source):
    intake = Intake()
    with pytest.raises(DatabaseError):
        intake.keep(Delivery(source.pk, "sender", "1", [firing("web-1", labels={"a": "\x00"})]))
    assert intake.keep(Delivery(source.pk, "sender", "1", [firing("web-1")])).opened
