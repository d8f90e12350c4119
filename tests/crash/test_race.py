"""Eight processes at once. Real: PostgreSQL, the processes, the loop; the far end of the wire is tests/standin.py,
which counts in the file system what was done to it."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from byteport import loop
from byteport.models import QueuedTask
from runbooks import policy
from runbooks.models import AgentAction, AgentSettings
from signals.ingest import ingest
from signals.models import Series, SignalEvent
from signals.reading import Reading, State
from tests.processes import exit_code, forked
from tests.standin import RESOURCE, Platform, installed

pytestmark = pytest.mark.django_db(transaction=True)
PROCESSES = 8


def together(body) -> None:
    """Runs `body(number)` in eight processes that begin at the same moment."""
    begin = time.time() + 0.5

    def at_once(number: int) -> None:
        time.sleep(max(begin - time.time(), 0))
        body(number)

    pids = [forked(lambda number=number: at_once(number)) for number in range(PROCESSES)]
    assert [exit_code(pid) for pid in pids] == [0] * PROCESSES


def test_the_same_thousand_readings_in_eight_processes_open_one_event_and_run_its_runbook_once(
    tmp_path: Path, monkeypatch
):
    AgentSettings.objects.create(dry_run=False)
    monkeypatch.setattr(policy, "timing_for", lambda *_: policy.Timing(
        verify_delay_s=0, verify_interval_s=0, verify_deadline_s=60, good_samples=1, clear=80
    ))  # fmt: skip
    monkeypatch.setattr("runbooks.diagnose.timing_for", policy.timing_for)
    start = datetime.now(UTC) - timedelta(seconds=1001)
    readings = [
        Reading(signal="disk_pressure", resource=RESOURCE, at=start + timedelta(seconds=n), value=90.0)
        for n in range(1000)
    ]
    platform = Platform()
    platform.on_execute = lambda call: (tmp_path / call.id).touch(exist_ok=False)

    def everything(number: int) -> None:
        for first in range(0, 1000, 50):
            ingest(readings[first : first + 50])
        for _ in range(200):
            event = SignalEvent.objects.get()
            if event.status == "resolved":
                return
            loop.advance(event.pk)
            # What was done cannot be seen across processes; the stand-in's condition is what the files say.
            if any(tmp_path.iterdir()):
                platform.value = 10.0
            time.sleep(0.01)
        raise AssertionError(f"still {event.status}: {event.reason}")

    with installed(platform):
        together(everything)
    event = SignalEvent.objects.get()
    assert (event.status, event.resolved_by) == ("resolved", "byteport")
    assert len(list(tmp_path.iterdir())) == AgentAction.objects.count() == 2
    assert event.timeline.filter(kind="detected").count() == 1


def test_readings_of_new_series_from_eight_processes_neither_collide_nor_wait_in_a_circle():
    start = datetime.now(UTC) - timedelta(seconds=100)

    def mine(number: int) -> None:
        for second in range(20):
            batch = [
                Reading(
                    signal="disk_pressure",
                    resource=RESOURCE.__class__("host", f"web-{n}", "mount", "/"),
                    at=start + timedelta(seconds=second, milliseconds=number),
                    value=90.0,
                )
                for n in range(50)
            ]
            ingest(batch if number % 2 else batch[::-1])

    together(mine)
    assert Series.objects.count() == 50
    assert SignalEvent.objects.count() == 0


def test_the_last_place_in_a_budget_is_given_once():
    AgentSettings.objects.create(dry_run=False, max_concurrent=1, max_per_neighbourhood_hour=100, storm_minimum=100)
    now = datetime.now(UTC)
    resources = [RESOURCE.__class__("host", f"web-{n}", "mount", "/") for n in range(PROCESSES)]
    with installed(Platform()):
        ingest([Reading(signal="disk_pressure", resource=r, at=now, state=State.FIRING) for r in resources])
        events = list(SignalEvent.objects.order_by("pk"))
        assert len(events) == PROCESSES
        for event in events:
            loop.advance(event.pk)
        together(lambda number: loop.advance(events[number].pk))
    assert SignalEvent.objects.filter(status="acting").count() == 1
    assert SignalEvent.objects.filter(status="diagnosed").count() == PROCESSES - 1
    assert QueuedTask.objects.count() >= PROCESSES
