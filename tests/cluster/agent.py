"""BytePort at work on the real cluster: the watcher in a process of its own, and the loop fed from the real queue.

Only what is in the test's own namespaces is ever acted on: a cluster that others use as well stays theirs.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from django.conf import settings
from django_q.signing import SignedPackage

from byteport import tasks
from byteport.core.clock import now
from byteport.models import QueuedTask
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.runbook import RUNBOOKS
from signals.models import SignalEvent, Source, Status
from signals.polling import Watch
from tests.cluster.live import PATIENCE_S
from tests.processes import exit_code, forked

IDLE_S = 0.05
ENDS = (Status.RESOLVED, Status.ESCALATED, Status.SIMULATED)


def configure(*, dry_run: bool = False) -> None:
    """Out of dry-run, with verification as quick as it gets. Others' troubles in the same cluster hold nothing back."""
    unbounded = {"max_concurrent": 1000, "max_per_hour": 1000, "max_per_neighbourhood_hour": 1000}
    AgentSettings.objects.update_or_create(pk=1, defaults={"dry_run": dry_run, "storm_minimum": 10_000, **unbounded})
    for runbook in RUNBOOKS:
        RunbookPolicy.objects.update_or_create(
            pk=runbook,
            defaults={
                "cooldown_s": 1,
                "verify_delay_s": 1,
                "verify_interval_s": 1,
                "verify_deadline_s": 20,
                "good_samples": 2,
            },
        )
    Source.objects.update_or_create(slug="kubernetes", defaults={"kind": "kubernetes_events"})


def start_watcher(kubeconfig: str) -> int:
    """The watcher in a process of its own, as `manage.py watch` runs it, with credentials of its own. Its pid."""

    def body() -> None:
        settings.KUBECONFIG = kubeconfig
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        Watch().run(stop)

    return forked(body)


@contextmanager
def watching(kubeconfig: str) -> Iterator[None]:
    pid = start_watcher(kubeconfig)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == 0, "the watcher did not end well"


class Player(Protocol):
    """Plays a part of the cluster in one namespace."""

    namespace: str

    def tick(self) -> None: ...


class Agent:
    """The loop, for the events of the players' namespaces. Asked for, and waited for, are those of one signal."""

    def __init__(self, place: str, signal: str, *players: Player) -> None:
        self._signal = signal
        self._players = players
        self._ours = tuple({f"kubernetes/{place}/{player.namespace}/" for player in players})

    def event(self, name: str, *, kind: str = "deployment") -> SignalEvent | None:
        """The latest event of an object of ours."""
        resources = [f"{ours}{kind}/{name}" for ours in self._ours]
        return SignalEvent.objects.filter(signal=self._signal, resource__in=resources).order_by("-pk").first()

    def run(self, name: str, *until: str, kind: str = "deployment") -> SignalEvent:
        """Works until an event of `name` has come to one of these statuses."""
        found: list[SignalEvent] = []

        def has_come() -> bool:
            event = self.event(name, kind=kind)
            found[:] = [event] if event else []
            return event is not None and event.status in (*until, *ENDS)

        self.work(has_come, lambda: f"{found[0].status}: {found[0].reason}" if found else "there is no event of it")
        assert found[0].status in (until or ENDS), f"{found[0].status}: {found[0].reason}"
        return found[0]

    def work(self, until: Callable[[], bool], state: Callable[[], str] = lambda: "") -> None:
        """Runs what is due, and lets the players play, until the condition holds. A hang is a failure."""
        patience = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < patience, f"it never came to it; {state()}"
            for player in self._players:
                player.tick()
            if not self._run_next():
                time.sleep(IDLE_S)

    def _run_next(self) -> bool:
        """Takes the next due task; one that is about others' things is dropped."""
        due = QueuedTask.objects.filter(visible_at__lte=now()).order_by("visible_at").first()
        if due is None:
            return False
        due.delete()
        task = SignedPackage.loads(due.payload)
        if task["func"].endswith(".advance") and self._is_ours(task["args"][0]):
            tasks.advance(*task["args"])
        return True

    def _is_ours(self, event_id: int) -> bool:
        event = SignalEvent.objects.filter(pk=event_id).only("resource").first()
        return event is not None and event.resource.startswith(self._ours)
