"""What goes to `hostctl` and what comes back, as types; and how a transport looks."""

from typing import Any, Literal, Protocol

import msgspec

READ_VERBS = frozenset({"facts", "usage", "memory", "annotations", "survey", "probe"})
MAX_ANSWER_BYTES = 1_048_576


class Scope(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a verb works: the host itself, or one drill's volume. Never a path."""

    kind: Literal["host", "drill"]
    id: str | None = None


class HostRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of `hostctl`."""

    verb: str
    scope: Scope = Scope("host")
    action_id: str | None = None
    args: dict[str, Any] = {}
    dry_run: bool = False


class HostAnswer(msgspec.Struct, frozen=True):
    """Its answer. `result` has the verb's own figures."""

    status: Literal["done", "failed", "skipped", "refused"]
    reason: str = ""
    result: dict[str, Any] = {}
    replayed: bool = False


class Transport(Protocol):
    """A way to run `hostctl` on one host."""

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        """Runs it once, never again by itself. Raises Permanent, or Temporary when it may have happened or not."""
