"""The contract of an action: one typed change to infrastructure. New ones are defined in `runbooks/actions/`."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from byteport.core.outcome import ActionOutcome
from byteport.core.registry import Registry
from byteport.core.resource import ResourceRef


class ActionCall(msgspec.Struct, frozen=True):
    """One action to be carried out: which, on what, with which parameters, under which id.

    The id travels with the change (a host's journal, an object's annotation), so that a probe can find it.
    """

    id: str
    action: str
    target: ResourceRef
    params: dict[str, Any] = {}


class ProbeState(StrEnum):
    """What became of an action whose caller died."""

    ABSENT = "absent"  # it was never begun: it may be begun now
    RUNNING = "running"  # it goes on without its caller: look again later
    FINISHED = "finished"  # it was done, and `outcome` says how
    UNKNOWN = "unknown"  # begun, and nobody can tell whether it finished: never repeat it


class Probe(msgspec.Struct, frozen=True):
    state: ProbeState
    message: str = ""
    outcome: ActionOutcome | None = None


@runtime_checkable
class Action(Protocol):
    """One kind of change. All methods may raise Temporary or Permanent; a Refused means that nothing was changed."""

    name: str
    title: str  # for people: "Delete rotated logs older than 7 days"
    permissions: tuple[str, ...]  # what it needs: "apps/deployments: get, patch", "pods: list", "host: clear_tmp"

    def simulate(self, call: ActionCall) -> ActionOutcome:
        """What it would do, by the platform's own dry run where there is one. Changes nothing."""

    def execute(self, call: ActionCall) -> ActionOutcome:
        """Does it, inside the fence, once."""

    def probe(self, call: ActionCall, started_at: datetime) -> Probe:
        """Looks whether a call that was begun at `started_at` happened. Changes nothing."""


@runtime_checkable
class Rehearsed(Protocol):
    """An action whose platform can judge it beforehand: its `simulate` has to pass before the plan is shown or run."""

    rehearsed: bool


ACTIONS: Registry[Action] = Registry(package="runbooks.actions", attribute="ACTIONS", group="byteport.actions")
