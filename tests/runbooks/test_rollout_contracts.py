"""What the loop does with runbooks and actions that keep `RollsOut`, `BacksOff` or `Rehearsed`. Real: PostgreSQL and
every stage and gate. The far end of the wire is the stand-in of tests/standin.py; time is moved by hand."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from byteport import loop
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.facts import pause_s
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.runbook import RUNBOOKS, Progress, ProgressState
from signals.ingest import ingest
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.standin import RESOURCE, Platform, installed

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def platform(db):
    AgentSettings.objects.create(dry_run=False, max_per_neighbourhood_hour=100)
    with installed(Platform(), steps=1) as platform:
        yield platform


@pytest.fixture
def clock():
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


def fire(resource: ResourceRef = RESOURCE) -> SignalEvent:
    now = datetime.now(UTC)
    ingest([Reading(signal="disk_pressure", resource=resource, at=now, value=90.0, state=State.FIRING)])
    return SignalEvent.objects.filter(resource=str(resource)).latest("pk")


def advance(event: SignalEvent, clock: time_machine.Traveller) -> str:
    if event.due_at and event.due_at > datetime.now(UTC):
        clock.move_to(event.due_at)
    loop.advance(event.pk)
    event.refresh_from_db()
    return event.status


def run_until(event: SignalEvent, clock: time_machine.Traveller, *statuses: str) -> SignalEvent:
    for _ in range(80):
        if event.status in statuses:
            return event
        advance(event, clock)
    raise AssertionError(f"still {event.status}: {event.reason}")


@pytest.mark.parametrize("needs_approval", [False, True])
def test_a_plan_that_the_platforms_dry_run_refuses_is_neither_shown_nor_run(platform, clock, needs_approval):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=60, verify_deadline_s=120, needs_approval=needs_approval)
    platform.rehearsal = ActionOutcome(Result.FAILED, "must be less than or equal to the limit")
    event = run_until(fire(), clock, "escalated", "resolved", "awaiting_approval")
    assert event.status == "escalated"
    assert "must be less than or equal to the limit" in event.reason
    assert platform.done == []
    assert event.acted_at is None, "the reserved run is given back"


def test_the_signal_is_not_looked_at_while_the_change_is_progressing(platform, clock):
    platform.progress = Progress(ProgressState.PROGRESSING, "1 of 3")
    event = run_until(fire(), clock, "verifying")
    assert advance(event, clock) == "verifying"
    sample = event.samples.get()
    assert (sample.look, sample.message, sample.value) == ("inconclusive", "it is progressing: 1 of 3", None)
    platform.progress = Progress(ProgressState.COMPLETE, "3 of 3")
    assert run_until(event, clock, "resolved").samples.count() == 4


def test_a_change_that_is_still_progressing_at_the_deadline_could_not_be_verified(platform, clock):
    platform.progress = Progress(ProgressState.PROGRESSING, "1 of 3")
    event = run_until(fire(), clock, "escalated", "resolved")
    assert event.reason == "Could not verify within 120 s: it is progressing: 1 of 3"


def test_a_change_that_is_stuck_is_handed_over_at_once(platform, clock):
    platform.progress = Progress(ProgressState.STUCK, "the deadline of the rollout is exceeded")
    event = run_until(fire(), clock, "escalated", "resolved")
    assert event.status == "escalated"
    assert "the deadline of the rollout is exceeded" in event.reason
    assert event.samples.count() == 1


def test_two_events_that_change_the_same_thing_share_a_cooldown(platform, clock):
    platform.target = ResourceRef("host", "web-1", "unit", "cart")
    run_until(fire(), clock, "resolved")
    other = fire(ResourceRef("host", "web-1", "mount", "/other"))
    advance(other, clock)
    assert advance(other, clock) == "diagnosed"
    assert "may run again at" in other.reason


def test_fixes_of_the_same_thing_that_did_not_last_are_counted_together(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=0, verify_deadline_s=120)
    platform.target = ResourceRef("host", "web-1", "unit", "cart")
    for number in range(3):
        run_until(fire(ResourceRef("host", "web-1", "mount", f"/pod-{number}")), clock, "resolved")
    event = run_until(fire(ResourceRef("host", "web-1", "mount", "/pod-3")), clock, "escalated", "resolved")
    assert "ineffective_loop" in event.reason


def test_the_pause_doubles_with_each_run_up_to_its_longest(platform, clock):
    AgentSettings.objects.update(ineffective_limit=100)
    event = fire()
    for pause in (600, 1200, 2000, 2000):
        began = run_until(event, clock, "resolved").acted_at
        event = fire()
        advance(event, clock)
        advance(event, clock)
        until = began + timedelta(seconds=pause)
        assert f"may run again at {until:%H:%M:%S}" in event.reason
        clock.move_to(until)


def test_the_pause_of_a_runbook_that_does_not_back_off_stays():
    assert pause_s(RUNBOOKS["cleanup_logs"], 600, 5) == 600
