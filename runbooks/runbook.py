"""The contract of a runbook. A new one is one file in `runbooks/library/` that defines `RUNBOOK`.

What looks at infrastructure (`observe`, `opt_in`, `override`, `reread`) is kept apart from what decides
(`diagnose`, `plan`, `judge`, `advise`): those are functions of data, without I/O.

Two more things a runbook may do, each a contract of its own: `RollsOut` and `BacksOff`.
"""

from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import msgspec

from byteport.core.registry import Registry
from byteport.core.resource import ResourceRef
from signals.reading import Reading


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """What a runbook gets to see of a signal event."""

    id: int
    signal: str
    resource: ResourceRef
    detail: str
    severity: str
    value: float | None
    threshold: float | None
    detected_at: datetime
    source: str
    labels: dict[str, str] = {}
    target: ResourceRef | None = None  # what its plan changes, once there is one: the workload of a pod, say


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's figures that a plan is frozen with. Seconds."""

    verify_delay_s: float
    verify_interval_s: float
    verify_deadline_s: float
    good_samples: int
    clear: float  # the signal counts as cleared below this value
    step: int = 1  # how much one run adds, where the runbook adds something


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen, and what BytePort makes of it. The two are never mixed."""

    evidence: tuple[str, ...]
    inference: str
    confident: bool = True  # False: the inference is a guess, and is called one
    facts: dict[str, Any] = {}
    exit_code: int | None = None  # of the program that failed
    log: str = ""  # what it wrote last, the latest line last


class StepKind(StrEnum):
    """What a step is for. Without a fix that was carried out there is nothing to verify."""

    FIX = "fix"
    PREPARE = "prepare"
    PUT_BACK = "put_back"  # takes back what a preparation changed: also when the plan was cut off, gates or not


class Step(msgspec.Struct, frozen=True):
    """One action of a plan. `key` tells it from the plan's other steps."""

    key: str
    action: str
    target: str
    summary: str
    params: dict[str, Any] = {}
    kind: StepKind = StepKind.FIX


class Plan(msgspec.Struct, frozen=True):
    """What a runbook means to do, in order, and how it will be verified. Frozen into the event."""

    runbook: str
    summary: str
    steps: tuple[Step, ...]
    timing: Timing

    @property
    def hash(self) -> str:
        """Names this very plan: an approval is for it and for no other."""
        return sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


class CannotPlan(msgspec.Struct, frozen=True):
    """The runbook knows of nothing safe to do here; a person is told why."""

    reason: str


class OptIn(msgspec.Struct, frozen=True):
    """The opt-in as it was read just now from the resource itself."""

    given: bool
    where: str  # where it was read, e.g. "/etc/byteport/annotations on web-1"
    found: str  # what stood there
    remedy: str = ""  # the exact command that would opt it in


class Look(StrEnum):
    GOOD = "good"
    BAD = "bad"
    INCONCLUSIVE = "inconclusive"


class Judgement(msgspec.Struct, frozen=True):
    """One verification sample judged. `hopeless`: it is so bad that waiting on would be wrong."""

    look: Look
    message: str
    hopeless: bool = False


class ProgressState(StrEnum):
    """How far a change has got that takes effect by and by."""

    COMPLETE = "complete"
    PROGRESSING = "progressing"
    STUCK = "stuck"  # it will not get any further by itself


class Progress(msgspec.Struct, frozen=True):
    """How far it has got, and what was seen: "2 of 3 new replicas are available"."""

    state: ProgressState
    message: str


class ManualStep(msgspec.Struct, frozen=True):
    """One thing for a person to do: what for, and the exact command."""

    title: str
    command: str


@runtime_checkable
class Runbook(Protocol):
    """How one signal is treated. `observe`, `opt_in`, `override` and `reread` raise Temporary or Permanent."""

    name: str
    signal: str
    title: str
    actions: tuple[str, ...]  # the names of all actions that its plans may contain
    permissions: tuple[str, ...]  # what its reads need in a cluster, e.g. "apps/deployments: get"; actions have theirs
    cooldown_s: int  # default pause between two runs on one resource
    verify_deadline_s: int  # default time within which the signal has to clear

    def observe(self, event: EventView) -> dict[str, Any]:
        """Reads what the diagnosis needs, from the infrastructure itself."""

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis: ...

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan: ...

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        """Reasons, out of the product's list of nevers, why this plan must not run; normally none."""

    def opt_in(self, event: EventView) -> OptIn:
        """Reads the opt-in from the resource itself, now."""

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        """Says which change somebody else has made to the resource since detection; empty when none is seen."""

    def can_reread(self, event: EventView) -> bool:
        """Whether BytePort can read this resource's signal itself."""

    def reread(self, event: EventView, now: datetime) -> Reading | None: ...

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement: ...

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        """Three manual steps, with the real names filled in and shell-quoted."""


@runtime_checkable
class RollsOut(Protocol):
    """A runbook whose change goes on by itself after the action: a rollout, an issuance.

    Until it is complete the signal is not looked at, since it would be that of the state before.
    """

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        """Reads how far it has got since the action ended. Raises Temporary or Permanent."""


@runtime_checkable
class BacksOff(Protocol):
    """A runbook whose pause on one resource doubles with each of its runs there, up to this many seconds."""

    longest_cooldown_s: int


RUNBOOKS: Registry[Runbook] = Registry(package="runbooks.library", attribute="RUNBOOK", group="byteport.runbooks")
