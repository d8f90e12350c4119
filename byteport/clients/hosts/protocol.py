"""What goes to `hostctl` and what comes back, as types; and how a transport looks."""

from typing import Any, Literal, Protocol

import msgspec

READ_VERBS = frozenset(
    {"facts", "usage", "memory", "gauges", "consumers", "restartable", "annotations", "survey", "probe"}
)
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


class Annotations(msgspec.Struct, frozen=True):
    """What a host is opted in to, read from the host itself or its platform just now."""

    words: tuple[str, ...]
    present: bool  # whether there is such an annotation at all
    where: str  # where it was read, e.g. "/etc/byteport/annotations of web-1"


class Transport(Protocol):
    """A way to run `hostctl` on one host."""

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        """Runs it once, never again by itself. Raises Permanent, or Temporary when it may have happened or not."""

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        """Reads the opt-in where this kind of host has it. Raises Temporary or Permanent."""

    def remedy(self, words: str) -> str:
        """What a person does to opt the host in to these words (comma-separated), with names shell-quoted."""
