"""A runbook and an action for tests of the loop itself: the platform behind them is a dictionary, the rest is real."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.action import ACTIONS, ActionCall, Probe, ProbeState
from runbooks.runbook import (
    RUNBOOKS,
    CannotPlan,
    Diagnosis,
    EventView,
    Judgement,
    Look,
    ManualStep,
    OptIn,
    Plan,
    Progress,
    ProgressState,
    Step,
    StepKind,
    Timing,
)
from signals.reading import Reading

RESOURCE = ResourceRef("host", "web-1", "mount", "/srv")


class Platform:
    """What is at the far end of the wire: its condition, and what was done to it."""

    def __init__(self) -> None:
        self.value = 90.0
        self.heals = True
        self.opted_in = True
        self.opt_in_found = "nothing"
        self.override = ""
        self.readable = True
        self.done: list[str] = []
        self.on_execute: Callable[[ActionCall], None] = lambda call: None
        self.probe = Probe(ProbeState.ABSENT)
        self.rehearsal = ActionOutcome(Result.SIMULATED, "would clean")
        self.progress = Progress(ProgressState.COMPLETE, "all of it")
        self.target: ResourceRef | None = None  # None: what the event is about
        self.kinds: dict[int, StepKind] = {}  # of the plan's steps; the others are fixes


class StandInAction:
    name = "standin.clean"
    title = "Clean"
    permissions = ("standin: clean",)
    rehearsed = True

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def simulate(self, call: ActionCall) -> ActionOutcome:
        return self.platform.rehearsal

    def execute(self, call: ActionCall) -> ActionOutcome:
        self.platform.on_execute(call)
        self.platform.done.append(call.id)
        if self.platform.heals:
            self.platform.value = 10.0
        return ActionOutcome(Result.DONE, "cleaned")

    def probe(self, call: ActionCall, started_at: datetime) -> Probe:
        return self.platform.probe


class StandInRunbook:
    name = "standin"
    signal = "disk_pressure"
    title = "Stand-in"
    actions = ("standin.clean",)
    permissions = ()
    cooldown_s = 600
    verify_deadline_s = 120
    longest_cooldown_s = 2000

    def __init__(self, platform: Platform, steps: int = 2) -> None:
        self.platform = platform
        self.steps = steps

    def observe(self, event: EventView) -> dict[str, Any]:
        return {}

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        return Diagnosis(evidence=("It is full.",), inference="It needs cleaning.")

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        target = str(self.platform.target or event.resource)
        kinds = self.platform.kinds
        steps = (
            Step(f"step-{n}", "standin.clean", target, f"Clean, part {n}", kind=kinds.get(n, StepKind.FIX))
            for n in range(self.steps)
        )
        return Plan(self.name, "clean.", tuple(steps), timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return OptIn(
            self.platform.opted_in,
            "the stand-in",
            "disk" if self.platform.opted_in else self.platform.opt_in_found,
            "opt in.",
        )

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        return self.platform.override

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        return self.platform.progress

    def can_reread(self, event: EventView) -> bool:
        return self.platform.readable

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        return Reading(signal=event.signal, resource=event.resource, at=now, value=self.platform.value)

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, "no data")
        good = reading.value < timing.clear
        return Judgement(Look.GOOD if good else Look.BAD, f"{reading.value} %", hopeless=reading.value >= 95)

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        return (ManualStep("Look", "df -h"), ManualStep("Find", "du -x"), ManualStep("Check", "df -i"))


@contextmanager
def installed(platform: Platform, steps: int = 2) -> Iterator[Platform]:
    """Puts the stand-ins into the registries, where a package from outside would put its own."""
    runbooks, actions = dict(RUNBOOKS), dict(ACTIONS)
    vars(RUNBOOKS)["_found"] = {"standin": StandInRunbook(platform, steps)}
    vars(ACTIONS)["_found"] = {**actions, "standin.clean": StandInAction(platform)}
    try:
        yield platform
    finally:
        vars(RUNBOOKS)["_found"], vars(ACTIONS)["_found"] = runbooks, actions
