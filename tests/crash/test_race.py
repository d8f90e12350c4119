"""Eight processes at once. Real: PostgreSQL, the processes, the loop fed from the queue, what drills make. The API
server of the runbooks for clusters is the stand-in of tests/kubernetes; the test of budgets has that of tests/standin.
"""

import time
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from byteport import loop
from byteport.models import QueuedTask
from runbooks.models import AgentSettings
from runbooks.runbook import RUNBOOKS
from signals.ingest import ingest
from signals.models import Series, SignalEvent
from signals.reading import Reading, State
from tests.crash.troubles import ENDED, assert_treated_once, trouble_for
from tests.crash.worker import work
from tests.processes import exit_code, forked
from tests.standin import RESOURCE, Platform, installed

ALIVE = timedelta(seconds=30)  # a lease that nobody outlives
pytestmark = [pytest.mark.proof, pytest.mark.django_db(transaction=True)]
PROCESSES = 8


def together(body) -> None:
    """Runs `body(number)` in eight processes that begin at the same moment."""
    begin = time.time() + 0.5

    def at_once(number: int) -> None:
        time.sleep(max(begin - time.time(), 0))
        body(number)

    pids = [forked(lambda number=number: at_once(number)) for number in range(PROCESSES)]
    assert [exit_code(pid) for pid in pids] == [0] * PROCESSES


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_the_same_thousand_readings_in_eight_processes_open_one_event_and_run_its_runbook_once(
    name, cluster, monkeypatch
):
    monkeypatch.setattr(loop, "LEASE", ALIVE)
    monkeypatch.setattr("signals.policy.DRILL_SUSTAIN_S", 0.5)
    trouble = trouble_for(name, cluster)
    last = trouble.reading
    readings = [structs.replace(last, at=last.at - timedelta(milliseconds=n)) for n in reversed(range(1000))]
    events = SignalEvent.objects.filter(resource=str(last.resource))

    def everything(number: int) -> None:
        for first in range(0, 1000, 100):
            ingest(readings[first : first + 100])
        work(lambda: events.filter(status__in=ENDED).exists(), ALIVE)

    try:
        ingest(trouble.beside)
        together(everything)
        event = events.get()
        assert_treated_once(event, trouble)
        assert event.timeline.filter(kind="detected").count() == 1
    finally:
        trouble.remove()


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
