"""The fence: while an action runs, just the calls that it may make may pass; at all other times none may.

Every client that can change something asks `admit()` right before a byte leaves, whatever credentials it holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import msgspec

from byteport.core.errors import Refused, Temporary
from runbooks.policy import agent_settings


class Admits(Protocol):
    """What lets some calls pass. Where one call is as good as another of its name, `Permit` will do."""

    def refusal(self, call: object) -> str:
        """Why this call may not pass; empty when it may.

        It may read what it needs to judge by. When that raises, the call does not pass either.
        """


class Permit(msgspec.Struct, frozen=True):
    """One call that may be made: on which platform and place, which operation, on what."""

    platform: str
    place: str
    operation: str
    target: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.platform}/{self.place} ({self.target})"

    def refusal(self, call: object) -> str:
        return "" if call == self else f"only {self} is under way"


_open: ContextVar[tuple[Admits, ...]] = ContextVar("open_permits", default=())


@contextmanager
def opened(*permits: Admits) -> Iterator[None]:
    """Admits what these permit, and nothing else, until it ends. An action cannot widen the fence of another."""
    if _open.get():
        raise Refused("An action is running already; the fence opens for one at a time.")
    token = _open.set(permits)
    try:
        yield
    finally:
        _open.reset(token)


def heed_switches(*, in_dry_run: bool = False) -> None:
    """Asked last, right before a change leaves: since the gates were asked, the fence has read what it judges by, and
    that can take a minute. Raises Temporary when an operator has paused BytePort by now, or has put it into dry-run:
    nothing has happened yet, and the gates, which are asked again, say what follows.

    `in_dry_run`: also then it may be done, as what a drill does, or what puts back BytePort's own.
    """
    agent = agent_settings()
    if agent.paused or (agent.dry_run and not in_dry_run):
        switched = "paused" if agent.paused else "put into dry-run"
        raise Temporary(f"BytePort was {switched} right before the change would have left.", delay_s=1.0)


def admit(call: object) -> None:
    """Lets a call pass that the running action may make. Raises Refused for any other."""
    reasons = [permit.refusal(call) for permit in _open.get()]
    if "" not in reasons:
        raise Refused(f"The fence does not admit {call}: {'; '.join(reasons) or 'no action is under way'}.")
