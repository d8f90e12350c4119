"""A worker is killed with SIGKILL at every boundary between two statements that commit; another takes over.

Real: PostgreSQL, the processes and their deaths, the queue's table, `hostctl` with its journal, the files that are
deleted, the database sessions that are ended. The worker is the loop itself fed from the queue; that real pools survive
SIGKILL is shown in test_queue.py, and that hostctl, which runs within the worker here, does nothing twice when it is
killed itself, in tests/runbooks/test_hostctl.py.
"""

import multiprocessing
import signal
from collections import Counter
from datetime import timedelta

import msgspec
import pytest

from byteport import loop
from byteport.clients.hosts.local import LocalTransport
from byteport.clients.hosts.protocol import HostAnswer, HostRequest
from byteport.core.clock import now
from byteport.drills.drill import DRILLS
from runbooks import hostctl, policy
from runbooks.models import STARTED, AgentAction, RunbookPolicy
from runbooks.runbook import RUNBOOKS
from signals.catalog import CATALOG
from signals.ingest import ingest
from signals.models import SignalEvent, Source, Status
from signals.source import SOURCES, PollSource, SourceConfig
from tests.crash.worker import LEASE, Executioner, work
from tests.processes import exit_code, forked

ALIVE = timedelta(seconds=30)  # a lease that nobody outlives
QUICK = {"verify_delay_s": 0.05, "verify_interval_s": 0.05, "verify_deadline_s": 30.0}
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _quick_times(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RUNBOOKS:
        RunbookPolicy.objects.create(runbook=name, cooldown_s=0, verify_deadline_s=120, good_samples=1)
    monkeypatch.setattr(loop, "LEASE", LEASE)
    monkeypatch.setattr(policy, "DRILL_VERIFY", QUICK)
    monkeypatch.setattr("signals.policy.DRILL_SUSTAIN_S", 0.0)
    monkeypatch.setattr("byteport.drills.drill.scale", 0.1)  # a hundred of them follow each other
    monkeypatch.setattr("byteport.clients.postgres.inventory.DRILL_IDLE_LIMIT_S", 0.05)
    monkeypatch.setattr(LocalTransport, "run", without_a_process)


def without_a_process(transport: LocalTransport, request: HostRequest, *, timeout_s: float) -> HostAnswer:
    """To start Python a dozen times takes longer than all the rest of an incident."""
    asked = msgspec.json.decode(msgspec.json.encode(request))
    return msgspec.convert(hostctl.run(asked, hostctl.Roots.of_this_host()), HostAnswer)


def ended(event_id: int) -> bool:
    return SignalEvent.objects.filter(pk=event_id, status__in=[Status.RESOLVED, Status.ESCALATED]).exists()


def worker_that_dies(event_id: int, kill_at: int | None) -> tuple[int, int]:
    """The exit code of a worker that is to die at one boundary, and how many it came to see."""
    seen = multiprocessing.RawValue("i", 0)

    def body() -> None:
        Executioner(kill_at, seen, frugal=True).install()
        work(until=lambda: ended(event_id))

    return exit_code(forked(body)), seen.value


def provoke(drill_name: str):
    """The drill's trouble, and the event that the source which sees it has opened for it."""
    drill = DRILLS[drill_name]
    resource = drill.prepare(lambda line: None)
    kinds = [name for name, source in SOURCES.items() if isinstance(source, PollSource)]
    for kind in sorted(kinds, key=lambda kind: not kind.startswith(drill.platform)):
        # Other tests make troubles on this machine at the same time; theirs is none of this story.
        seen = [one for one in SOURCES[kind].poll(SourceConfig(kind), now()) if one.resource == resource]
        ours = [one for one in seen if one.signal == drill_name or one.signal not in CATALOG]
        if ours:
            Source.objects.get_or_create(slug=kind, defaults={"kind": kind})
            ingest(ours)
            break
    return drill, SignalEvent.objects.get(resource=str(resource))


def story(drill_name: str, kill_at: int | None) -> int:
    """One incident with one killing. Returns how many boundaries the (first) worker saw."""
    drill, event = provoke(drill_name)
    before = drill.figures()
    try:
        code, seen = worker_that_dies(event.pk, kill_at)
        # A look at the source more or less, and a story has a few boundaries more or less at its end.
        outlived = kill_at is not None and code == 0 and kill_at - FEWER <= seen < kill_at
        assert outlived or code == (0 if kill_at is None else -signal.SIGKILL), f"boundary {kill_at}"
        if kill_at is not None:
            assert exit_code(forked(lambda: work(until=lambda: ended(event.pk)))) == 0
        event.refresh_from_db()
        check(event)
        assert drill.figures() != before
    finally:
        drill.remove()
    return seen


def check(event: SignalEvent) -> None:
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert event.postmortem_final
    assert event.lease_token is None
    rows = list(AgentAction.objects.filter(event=event))
    assert Counter(row.step for row in rows).most_common(1)[0][1] == 1
    assert [row.step for row in rows] == [step["key"] for step in event.plan["steps"]]
    assert all(row.status not in {STARTED, "unknown"} for row in rows), [(r.step, r.status) for r in rows]


HERE = [name for name, drill in DRILLS.items() if drill.platform != "kubernetes"]  # those that need no cluster
FEWER = 12
CHUNKS = 4  # shared out between the test runner's processes


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("drill_name", HERE)
def test_an_incident_survives_the_death_of_its_worker_at_every_boundary(drill_name, chunk):
    boundaries = story(drill_name, None)
    assert boundaries > 20, "the worker that lives must have crossed many boundaries"
    for kill_at in range(1 + chunk, boundaries + 1, CHUNKS):
        story(drill_name, kill_at)


@pytest.mark.parametrize("drill_name", HERE)
def test_several_workers_at_one_incident_do_each_step_once(drill_name, monkeypatch):
    monkeypatch.setattr(loop, "LEASE", ALIVE)
    drill, event = provoke(drill_name)
    try:
        pids = [forked(lambda: work(until=lambda: ended(event.pk), lease=ALIVE)) for _ in range(4)]
        assert [exit_code(pid) for pid in pids] == [0] * 4
        event.refresh_from_db()
        check(event)
    finally:
        drill.remove()
