"""The fence: while an action runs, just the calls that it declared may pass; at all other times none may.

Every client that can change something asks `admit()` right before a byte leaves, whatever credentials it holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from byteport.core.errors import Refused


class Permit(msgspec.Struct, frozen=True):
    """One call that may be made: on which platform and place, which operation, on what."""

    platform: str
    place: str
    operation: str
    target: str


_open: ContextVar[tuple[Permit, ...]] = ContextVar("open_permits", default=())


@contextmanager
def opened(*permits: Permit) -> Iterator[None]:
    """Admits these calls, and no others, until it ends. An action cannot widen the fence of another."""
    if _open.get():
        raise Refused("An action is running already; the fence opens for one at a time.")
    token = _open.set(permits)
    try:
        yield
    finally:
        _open.reset(token)


def admit(call: Permit) -> None:
    """Lets a call pass that the running action declared. Raises Refused for any other."""
    if call not in _open.get():
        raise Refused(f"The fence does not admit {call.operation} on {call.platform}/{call.place} ({call.target}).")
