"""Verification by a vendor's metrics, which tell of a change only later. Real: PostgreSQL, the loop, the part that all
such sources share. The vendor and the host are stand-ins, and time is moved by hand."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import time_machine

from byteport import loop
from byteport.core.clock import now
from runbooks.models import AgentSettings
from runbooks.verify import measures
from signals.catalog import CATALOG
from signals.ingest import ingest
from signals.metrics import MetricSourceBase, Options, floor
from signals.models import SignalEvent, Source
from signals.reading import Reading, State
from signals.source import SOURCES
from tests.standin import RESOURCE, Platform, installed

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Vendor(MetricSourceBase[Options]):
    """Has a measurement each minute, two minutes late."""

    name, title, options_type, behind = "vendor", "Vendor", Options, timedelta(minutes=2)
    silent, ahead = False, timedelta(0)
    dies_at = datetime.max.replace(tzinfo=UTC)  # nothing is measured any more from then on

    def look(self, config, options, span, only=None):
        config.progress.count()
        newest = floor(min(now() - self.behind, self.dies_at), 60) - timedelta(minutes=1)
        if newest < span.start and not self.ahead:
            return []
        newest += self.ahead
        measured = Reading(
            signal="disk_pressure", resource=RESOURCE, at=newest, value=10.0, source="vendor", period_s=60
        )
        return [] if self.silent else [[measured]]


@pytest.fixture
def vendor(monkeypatch):
    made = Vendor()
    monkeypatch.setitem(vars(SOURCES), "_found", {**SOURCES, "vendor": made})
    Source.objects.create(slug="vendor", kind="vendor")
    AgentSettings.objects.create(dry_run=False)
    with installed(Platform()):
        yield made


def run():
    with time_machine.travel(START, tick=False) as clock:
        fired = Reading(
            signal="disk_pressure", resource=RESOURCE, at=START, value=90.0, state=State.FIRING, source="vendor"
        )
        ingest([fired])
        event = SignalEvent.objects.get()
        for _ in range(80):
            if event.status in ("resolved", "escalated"):
                return event
            if event.due_at and event.due_at > now():
                clock.move_to(event.due_at)
            loop.advance(event.pk)
            event.refresh_from_db()
    raise AssertionError(f"still {event.status}: {event.reason}")


def test_what_was_measured_before_the_fix_never_counts_and_each_good_look_is_at_a_new_measurement(vendor):
    event = run()
    assert (event.status, event.resolved_by) == ("resolved", "byteport")
    looks = list(event.samples.order_by("at"))
    assert [sample.look for sample in looks][-3:] == ["good"] * 3
    assert {sample.look for sample in looks[:-3]} == {"inconclusive"}, "the first measurements are older than the fix"
    fixed_at = max(action.finished_at for action in event.actions.all())
    good = [sample.at for sample in looks[-3:]]
    assert good[0] - fixed_at >= timedelta(minutes=2)
    assert all(later - earlier >= timedelta(minutes=1) for earlier, later in pairwise(good))
    assert Source.objects.get().calls_today == len(looks)


def test_a_vendor_that_says_nothing_ends_with_a_person_once_its_own_delay_is_over(vendor):
    vendor.silent = True
    event = run()
    assert event.status == "escalated"
    assert "Could not verify" in event.reason
    fixed_at = max(action.finished_at for action in event.actions.all())
    assert event.samples.latest("at").at - fixed_at >= timedelta(seconds=120) + timedelta(minutes=4)


def test_one_measurement_counts_once_however_often_it_is_looked_at(vendor):
    """An agent that dies over the fix leaves a last measurement, which stands for the newest for minutes."""
    vendor.dies_at = START + timedelta(minutes=1)
    event = run()
    assert event.status == "escalated"
    assert "Could not verify" in event.reason
    assert [sample.look for sample in event.samples.all()].count("good") == 1


def test_a_measurement_out_of_the_future_is_no_evidence(vendor):
    """By such a clock, what was measured before the fix would count as measured after it."""
    vendor.ahead = timedelta(days=1)
    event = run()
    assert event.status == "escalated"
    assert "Could not verify" in event.reason


@pytest.mark.parametrize("signal", sorted(CATALOG))
def test_what_a_runbook_counts_for_itself_is_not_kept_as_a_value_of_a_signal_that_has_none(signal):
    assert measures(signal) == CATALOG[signal].sends_values
    assert measures("a signal of one's own")
