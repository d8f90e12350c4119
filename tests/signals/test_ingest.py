"""ingest() against a real PostgreSQL; only the clock is moved by hand."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import time_machine
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from byteport.core.resource import ResourceRef
from byteport.models import QueuedTask
from signals import maintenance, policy
from signals.ingest import ingest
from signals.kubernetes.revisions import STABLE
from signals.models import Sample, Series, SignalEvent, SignalPolicy
from signals.reading import Reading, State
from signals.router import Why

pytestmark = pytest.mark.django_db
PATIENCE_S = 20  # against hanging; no measure of speed
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
VAR = ResourceRef("host", "web-1", "mount", "/var")


@pytest.fixture(autouse=True)
def _clock():
    policy.forget()
    with time_machine.travel(START + timedelta(hours=1), tick=False):
        yield


def reading(seconds: float, value: float = 90.0, resource: ResourceRef = VAR, **more) -> Reading:
    at = START + timedelta(seconds=seconds)
    return Reading(signal="disk_pressure", resource=resource, at=at, value=value, source="host", **more)


def test_a_sustained_breach_opens_one_event_and_enqueues_its_first_stage():
    ingested = ingest([reading(0), reading(30), reading(60)])
    event = SignalEvent.objects.get()
    assert ingested.opened == (event.pk,)
    assert (event.status, event.severity, event.value) == ("detected", "warning", 90.0)
    assert (event.fleet, event.neighbourhood) == ("host", "host/web-1")
    assert event.detected_at == START + timedelta(seconds=60)
    assert QueuedTask.objects.count() == 1


def test_the_window_spans_batches():
    for seconds in (0, 30):
        assert ingest([reading(seconds)]).opened == ()
    assert len(ingest([reading(60)]).opened) == 1


def test_an_open_event_is_not_opened_again_and_takes_note_of_what_goes_on():
    ingest([reading(0), reading(60)])
    for seconds, value in ((75, 91.0), (90, 97.0)):
        assert ingest([reading(seconds, value)]).opened == ()
    event = SignalEvent.objects.get()
    assert (event.value, event.severity, event.repeats) == (97.0, "critical", 2)


def test_a_severity_never_goes_down_while_the_event_is_open():
    ingest([reading(0, 97.0), reading(60, 97.0)])
    ingest([reading(90, 86.0)])
    assert SignalEvent.objects.get().severity == "critical"


def test_it_clears_when_it_was_low_for_long_enough():
    ingest([reading(0), reading(60)])
    ingest([reading(70, 70.0)])
    assert SignalEvent.objects.get().cleared_at is None
    cleared = ingest([reading(130, 70.0)]).cleared
    assert cleared == (SignalEvent.objects.get().pk,)
    assert ingest([reading(140, 70.0)]).cleared == ()


def test_a_signal_that_fires_again_before_the_loop_has_looked_is_not_cleared_any_more():
    ingest([reading(0, state=State.FIRING)])
    ingest([reading(5, 10.0, state=State.RESOLVED)])
    ingest([reading(6, state=State.FIRING)])
    event = SignalEvent.objects.get()
    assert event.cleared_at is None


def test_late_and_duplicate_readings_are_kept_as_samples_at_most_and_decide_nothing():
    ingest([reading(0), reading(60)])
    before = Series.objects.get()
    ingested = ingest([reading(60), reading(30, 10.0)])
    assert ingested.why == {Why.LATE: 2}
    after = Series.objects.get()
    assert (after.last_at, after.breach_since, after.last_value) == (
        before.last_at,
        before.breach_since,
        90.0,
    )
    assert Sample.objects.count() == 3


def test_of_two_values_of_one_moment_the_sample_is_the_one_that_was_judged():
    ingest([reading(0, 91.0), reading(0, 20.0)])
    assert Series.objects.get().last_value == Sample.objects.get().value == 91.0


def test_what_claims_to_come_from_the_future_is_refused_and_counted():
    ingested = ingest([reading(3600 + 301)])
    assert ingested.why == {Why.FROM_THE_FUTURE: 1}
    assert Series.objects.count() == 0


def test_an_unknown_state_opens_and_closes_nothing():
    ingest([reading(0, state=State.FIRING)])
    assert ingest([reading(10, state=State.UNKNOWN)]).cleared == ()
    assert ingest([reading(20, resource=ResourceRef("host", "b", "mount", "/"), state=State.UNKNOWN)]).opened == ()


def test_thresholds_come_from_the_operators_policy():
    SignalPolicy.objects.create(signal="disk_pressure", threshold=95, critical=99, clear=90, sustain_s=0, max_gap_s=90)
    policy.forget()
    assert ingest([reading(0)]).opened == ()
    assert len(ingest([reading(1, 96.0)]).opened) == 1


def test_a_signal_that_is_switched_off_is_kept_and_opens_nothing():
    SignalPolicy.objects.create(
        signal="disk_pressure", threshold=85, critical=99, clear=80, sustain_s=0, max_gap_s=90, enabled=False
    )
    policy.forget()
    assert ingest([reading(0)]).why == {Why.SWITCHED_OFF: 1}
    assert Sample.objects.count() == 1


def test_nothing_is_half_written_when_the_transaction_is_rolled_back():
    with transaction.atomic():
        ingest([reading(0), reading(60)])
        transaction.set_rollback(True)
    assert not Series.objects.exists()
    assert not SignalEvent.objects.exists()
    assert not QueuedTask.objects.exists()


def test_hostile_names_are_only_names():
    odd = ResourceRef("host", "we'b\\-1\"", "mount", "/{a,b}; DROP TABLE series --\n")
    ingest([reading(0, resource=odd, state=State.FIRING, detail="'; {x}", labels={"a": "\\', \"}"})])
    event = SignalEvent.objects.get()
    assert event.ref == odd
    assert event.labels == {"a": "\\', \"}"}


def test_samples_land_in_the_partition_of_their_day_also_when_it_was_made_late():
    ingest([reading(0)])
    maintenance.make_partitions()
    maintenance.make_partitions()
    ingest([reading(1)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM samples GROUP BY 1")
        assert cursor.fetchall() == [(f"samples_{START:%Y%m%d}", 2)]


def test_old_partitions_are_dropped_whole():
    maintenance.make_partitions()
    ingest([reading(0)])
    with time_machine.travel(START + timedelta(days=60)):
        maintenance.run()
    assert Sample.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_backup_that_reads_for_hours_keeps_old_days_a_while_and_holds_up_no_signal():
    """To drop a day takes the whole table; whoever waited for that would have every sender wait behind."""
    maintenance.make_partitions()
    ingest([reading(0)])
    with (
        time_machine.travel(START + timedelta(days=60)),
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(**connection.get_connection_params()) as backup,
    ):
        backup.execute("SELECT count(*) FROM samples").fetchone()
        pool.submit(maintain).result(timeout=PATIENCE_S)
        assert Sample.objects.count() == 1
        ingest([reading(60 * 86_400)])
    with time_machine.travel(START + timedelta(days=60)):
        maintenance.run()
        assert Sample.objects.count() == 1, "the new one"


def maintain() -> None:
    try:
        maintenance.run()
    finally:
        connection.close()


def test_what_landed_in_no_days_partition_is_dropped_by_age_as_well():
    """No worker ran for a week: the days of which nobody made a partition are never made afterwards."""
    ingest([reading(0)])
    with time_machine.travel(START + timedelta(days=7)):
        maintenance.run()
        assert Sample.objects.count() == 1
    with time_machine.travel(START + timedelta(days=60)):
        maintenance.run()
    assert Sample.objects.count() == 0


def test_a_series_that_has_been_silent_for_long_is_forgotten_but_not_which_revisions_have_worked():
    stable = Reading(signal=STABLE, resource=VAR, at=START, value=3.0)
    ingest([reading(0), stable])
    with time_machine.travel(START + timedelta(days=30)):
        maintenance.run()
        assert Series.objects.count() == 2
    with time_machine.travel(START + timedelta(days=60)):
        maintenance.run()
    assert [series.signal for series in Series.objects.all()] == [STABLE]


def test_whatever_texts_a_sender_uses_are_kept_as_they_are():
    odd = 'NULL {a,b} "quoted" \\back\\slashes\\" \t\n ü \U0001f525'
    place = ResourceRef("host", odd, "mount", odd)
    fires = Reading(
        signal=odd, resource=place, at=START, state=State.FIRING, detail=odd, source=odd, labels={odd: odd, "b": ""}
    )
    ingest([fires])
    event, series = SignalEvent.objects.get(), Series.objects.get()
    assert (event.signal, event.ref, event.detail, event.source) == (odd, place, odd, odd)
    assert event.labels == {odd: odd, "b": ""}
    assert (series.signal, series.unit, series.source) == (odd, place.unit, odd)
    assert event.timeline.get().actor == odd


@pytest.mark.django_db(transaction=True)
def test_what_fires_while_its_event_is_being_ended_is_opened_anew():
    ingest([reading(0, state=State.FIRING)])
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            SignalEvent.objects.update(status="resolved", resolved_by="person", resolved_at=START)
            again = pool.submit(ingest_and_hang_up, reading(5, state=State.FIRING))
            wait_for_one_that_waits()
        assert again.result(30).opened == (SignalEvent.objects.exclude(status="resolved").get().pk,)


def ingest_and_hang_up(*readings: Reading):
    try:
        return ingest(readings)
    finally:
        connection.close()


def wait_for_one_that_waits() -> None:
    """Until somebody waits for a lock of this transaction."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            if cursor.fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("nobody waits")


steps = st.tuples(
    st.integers(1, 120),
    st.sampled_from([10.0, 82.0, 90.0, 97.0]),
    st.sampled_from([State.MEASURED, State.MEASURED, State.FIRING, State.RESOLVED, State.UNKNOWN]),
)


class AnySequence(TestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(steps, min_size=1, max_size=5), max_size=8))
    def test_no_sequence_of_readings_opens_two_events_for_a_fingerprint(self, batches):
        seconds = 0
        for batch in batches:
            readings = []
            for gap, value, state in batch:
                seconds += gap
                readings.append(reading(seconds, value, state=state))
            ingest(readings)
            open_events = SignalEvent.objects.exclude(status="resolved").values_list("fingerprint", flat=True)
            assert len(open_events) == len(set(open_events)) <= 1
