"""A worker is killed with SIGKILL at every boundary while it tells people; another takes over. As the other side sees
it, each thing was told exactly once. Outgoing webhooks cannot be asked what has arrived: there, once or more, and
always under the same id.

Real: PostgreSQL, the processes and their deaths, the queue's table, PyGithub, postmarker, HTTP. The far ends are the
servers of tests/incidents/escalation. Boundaries are just before and just after each commit, and the moments at which
the far end has got a request but not yet carried it out, and has carried it out but not yet answered.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from byteport import loop
from byteport.core.clock import now
from incidents.escalation import github as github_channel
from incidents.escalation import postmark as postmark_channel
from incidents.escalation.channel import Channel
from incidents.models import Delivery, Told
from incidents.outbox import delivery
from incidents.outgoing import courier
from runbooks.models import AgentSettings
from signals.happening import Happening
from signals.lifecycle import wake
from signals.models import SignalEvent
from signals.outgoing import publish
from tests.crash.worker import Executioner, work
from tests.incidents import scenes
from tests.incidents.escalation import github_server, postmark_server
from tests.incidents.escalation.wire import Wire
from tests.incidents.farend import channels
from tests.incidents.outgoing.receiver import receiver, webhook
from tests.processes import exit_code, forked

LEASE = timedelta(seconds=0.15)
LABELS = ("byteport", "severity:warning", "bad_weather")
CHUNKS = 2  # shared out between the test runner's processes
pytestmark = [pytest.mark.proof, pytest.mark.django_db(transaction=True)]

FarSide = Callable[[], Any]


@pytest.fixture(autouse=True)
def _quick_times(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    AgentSettings.objects.create(dry_run=False)
    monkeypatch.setattr(loop, "LEASE", LEASE)
    monkeypatch.setattr(delivery, "LEASE", LEASE)
    monkeypatch.setattr(delivery, "DELAY_S", (0.05, 900.0))
    monkeypatch.setattr(courier, "SENDING", LEASE)
    monkeypatch.setattr(courier, "DELAY_S", (0.05, 900.0))
    monkeypatch.setattr(courier, "PAUSE_S", (0.05, 300.0))
    monkeypatch.setattr(github_channel, "WRITE_PAUSE_S", 0.0)
    monkeypatch.setenv("BYTEPORT_GITHUB_CLOSE", "cleared")
    for channel in (github_channel.CHANNEL, postmark_channel.CHANNEL):
        monkeypatch.setattr(channel, "settle_s", 0.0, raising=False)


@contextmanager
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Wire, Channel, FarSide]]:
    with github_server.github() as state:
        state.labels.update(dict.fromkeys(LABELS, "ededed"))
        for name, value in (("REPO", github_server.REPO), ("TOKEN", github_server.TOKEN), ("URL", state.base)):
            monkeypatch.setenv(f"BYTEPORT_GITHUB_{name}", value)

        def told() -> list[tuple[str, int]]:
            return [(issue["state"], len(state.comments.get(number, ()))) for number, issue in state.issues.items()]

        yield state, github_channel.CHANNEL, told


@contextmanager
def postmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Wire, Channel, FarSide]]:
    with postmark_server.postmark() as state:
        given = {"TOKEN": postmark_server.TOKEN, "FROM": postmark_server.FROM, "TO": postmark_server.TO}
        for name, value in {**given, "URL": state.base}.items():
            monkeypatch.setenv(f"BYTEPORT_POSTMARK_{name}", value)
        yield state, postmark_channel.CHANNEL, lambda: [email["Subject"] for email in state.emails]


class Watched:
    """One worker that is to die at one boundary, be it one of its own or one at the far end."""

    def __init__(self, wire: Wire, kill_at: int | None) -> None:
        self._seen = multiprocessing.RawValue("i", 0)
        self._kill_at = kill_at
        self._pid = 0
        wire.on_request = self._at_far_end

    def run(self, until: Callable[[], bool]) -> tuple[int, int]:
        """Its exit code, and how many boundaries it came to."""

        def body() -> None:
            Executioner(self._kill_at, self._seen).install()
            work(until, LEASE)

        self._pid = forked(body)
        return exit_code(self._pid), self._seen.value

    def _at_far_end(self, moment: str) -> None:
        while not self._pid:
            time.sleep(0.001)
        self._seen.value += 1
        if self._seen.value == self._kill_at:
            os.kill(self._pid, signal.SIGKILL)


def all_told(event: SignalEvent, kind: str) -> bool:
    return Delivery.objects.filter(event=event, kind=kind, status=Told.SENT).exists()


def survived(wire: Wire, kill_at: int | None, until: Callable[[], bool]) -> int:
    """The work is done, by the first worker or by the one after it. Returns how many boundaries the first one saw."""
    code, seen = Watched(wire, kill_at).run(until)
    assert code == (0 if kill_at is None else -signal.SIGKILL), f"boundary {kill_at}"
    if kill_at is not None:
        code, _ = Watched(wire, None).run(until)
        assert code == 0, f"boundary {kill_at}"
    return seen


def trouble() -> SignalEvent:
    """An incident for which there is no runbook, as detection leaves it."""
    event = scenes.incident("detected", signal="bad_weather")
    with transaction.atomic():
        wake(SignalEvent.objects.filter(pk=event.pk), now())
    return event


def is_over(event: SignalEvent) -> None:
    SignalEvent.objects.filter(pk=event.pk).update(cleared_at=now())
    with transaction.atomic():
        wake(SignalEvent.objects.filter(pk=event.pk), now())


def every_boundary(chunk: int, story: Callable[[int | None], int], more_than: int = 15) -> None:
    boundaries = story(None)
    assert boundaries > more_than, "the worker that lives must have crossed many boundaries"
    for kill_at in range(1 + chunk, boundaries + 1, CHUNKS):
        story(kill_at)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(("far_end", "once"), [(github, [("open", 0)]), (postmark, 1)], ids=["github", "postmark"])
def test_an_escalation_is_told_exactly_once_whenever_its_worker_dies(far_end, once, chunk, monkeypatch):
    def story(kill_at: int | None) -> int:
        with far_end(monkeypatch) as (wire, channel, told), channels(channel):
            event = trouble()
            seen = survived(wire, kill_at, lambda: all_told(event, "escalated"))
            assert (told() if far_end is github else len(told())) == once, f"boundary {kill_at}"
            event.refresh_from_db()
            assert event.status == "escalated"
            return seen

    every_boundary(chunk, story)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_end_is_told_exactly_once_and_the_issue_closed_whenever_its_worker_dies(chunk, monkeypatch):
    def story(kill_at: int | None) -> int:
        with github(monkeypatch) as (wire, channel, told), channels(channel):
            event = trouble()
            work(lambda: all_told(event, "escalated"), LEASE)
            is_over(event)
            seen = survived(wire, kill_at, lambda: all_told(event, "cleared"))
            assert told() == [("closed", 1)], f"boundary {kill_at}"
            return seen

    every_boundary(chunk, story)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_webhook_is_told_once_or_more_under_one_id_whenever_its_worker_dies(chunk):
    def story(kill_at: int | None) -> int:
        with receiver() as far:
            called = webhook(far.base, name=f"killed at {kill_at}")
            with transaction.atomic():
                publish(Happening.OPENED, [scenes.incident().pk], now())
            seen = survived(far, kill_at, lambda: called.events.filter(status="sent").exists())
            assert 1 <= len(far.got) <= 2, f"boundary {kill_at}"
            assert {asked.raw for asked in far.got} == {called.events.get().body.encode()}, f"boundary {kill_at}"
            called.delete()
            return seen

    every_boundary(chunk, story, more_than=7)
