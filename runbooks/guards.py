"""The gates that stand between a plan and the first change. Pure: facts in, verdicts out.

Every gate is evaluated and its verdict kept, not only the first that refuses: an operator who asks "why not"
gets the whole answer. The facts are gathered in `runbooks.facts`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from runbooks.runbook import OptIn


class Then(StrEnum):
    """What follows from a refusal. The most cautious of all refusals is what happens."""

    ESCALATE = "escalate"  # a person has to look
    WAIT = "wait"  # it may pass by itself: look again later
    SIMULATE = "simulate"  # say what would be done, and do nothing
    ASK = "ask"  # a person has to say yes


class Verdict(msgspec.Struct, frozen=True):
    gate: str
    allowed: bool
    reason: str
    then: Then | None = None  # only for a refusal
    until: datetime | None = None  # when it is worth looking again


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much BytePort does at the moment, and how much it may do."""

    running: int
    max_running: int
    last_hour: int
    max_last_hour: int
    neighbourhood_last_hour: int
    max_neighbourhood_last_hour: int
    failing: int  # distinct hosts or workloads with an open event
    known: int  # distinct hosts or workloads heard of lately; 0, not counted, while fewer than `storm_minimum` fail
    storm_percent: int
    storm_minimum: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gates judge by, read just before they judge."""

    now: datetime
    paused: bool = False
    paused_reason: str = ""
    switched_on: bool = True
    enabled: bool = True
    prohibitions: tuple[str, ...] = ()
    verifiable: bool = True
    opt_in: OptIn
    opt_in_word: str
    override: str = ""
    is_drill: bool = False
    dry_run: bool = False
    dry_run_is_forced: bool = False
    runbook_dry_run: bool = False
    maintenance: str = ""
    maintenance_until: datetime | None = None
    cooldown_until: datetime | None = None
    ineffective: int = 0
    ineffective_limit: int = 3
    budget: Budget
    needs_approval: bool = False
    approved_by: str = ""
    resuming: bool = False  # the plan has begun: what only holds back a beginning holds it back no more


Gate = Callable[[Facts], Verdict]

SWITCHED_OFF = (
    "This deployment has the runbook switched off: BYTEPORT_RUNBOOKS, in the Helm chart `runbooks`, does not list it."
)
FORCED_DRY_RUN = (
    "This deployment keeps the agent in dry-run: BYTEPORT_FORCE_DRY_RUN is set, in the Helm chart by `dryRun: true`."
    " That has to be ended first."
)


def paused(facts: Facts) -> Verdict:
    if facts.paused:
        why = facts.paused_reason or "no reason was given"
        return Verdict("paused", False, f"BytePort is paused: {why}.", Then.WAIT)
    return Verdict("paused", True, "BytePort is not paused.")


def never(facts: Facts) -> Verdict:
    if facts.prohibitions:
        return Verdict("never", False, " ".join(facts.prohibitions), Then.ESCALATE)
    if not facts.switched_on:
        return Verdict("never", False, SWITCHED_OFF, Then.ESCALATE)
    if not facts.enabled:
        return Verdict("never", False, "The runbook is switched off in its policy.", Then.ESCALATE)
    return Verdict("never", True, "The plan holds nothing that BytePort must never do.")


def verifiable(facts: Facts) -> Verdict:
    if facts.verifiable:
        return Verdict("verifiable", True, "The signal can be read again after the action.")
    reason = (
        "Nobody could tell afterwards whether it helped: BytePort cannot read this resource,"
        " and its sender does not report when it is over."
    )
    return Verdict("verifiable", False, reason, Then.ESCALATE)


def opt_in(facts: Facts) -> Verdict:
    seen = f"{facts.opt_in.where}: {facts.opt_in.found}"
    if facts.opt_in.given:
        return Verdict("opt_in", True, f"Opted in to `{facts.opt_in_word}` ({seen}).")
    remedy = f" To opt in: {facts.opt_in.remedy}" if facts.opt_in.remedy else ""
    return Verdict("opt_in", False, f"Not opted in to `{facts.opt_in_word}` ({seen}).{remedy}", Then.ESCALATE)


def human_override(facts: Facts) -> Verdict:
    if facts.override:
        return Verdict("human_override", False, f"Somebody is at work on it: {facts.override}.", Then.ESCALATE)
    return Verdict("human_override", True, "Nobody else has changed the resource since detection.")


def dry_run(facts: Facts) -> Verdict:
    if facts.is_drill:
        return Verdict("dry_run", True, "A drill acts on what it made itself, whatever dry-run says.")
    if facts.dry_run_is_forced:
        return Verdict("dry_run", False, FORCED_DRY_RUN, Then.SIMULATE)
    if facts.dry_run:
        return Verdict("dry_run", False, "The agent is in dry-run.", Then.SIMULATE)
    if facts.runbook_dry_run:
        return Verdict("dry_run", False, "This runbook's policy is in dry-run.", Then.SIMULATE)
    return Verdict("dry_run", True, "Dry-run is off.")


def maintenance_window(facts: Facts) -> Verdict:
    if facts.maintenance:
        reason = f"Within the maintenance window “{facts.maintenance}”."
        return Verdict("maintenance_window", False, reason, Then.WAIT, facts.maintenance_until)
    return Verdict("maintenance_window", True, "No maintenance window covers it.")


def cooldown(facts: Facts) -> Verdict:
    if facts.cooldown_until and facts.cooldown_until > facts.now and not facts.resuming:
        reason = f"This runbook ran on this resource lately; it may run again at {facts.cooldown_until:%H:%M:%S} UTC."
        return Verdict("cooldown", False, reason, Then.WAIT, facts.cooldown_until)
    return Verdict("cooldown", True, "It did not run on this resource within the cooldown.")


def ineffective_loop(facts: Facts) -> Verdict:
    if facts.ineffective >= facts.ineffective_limit and not facts.resuming:
        reason = f"{facts.ineffective} fixes of this resource did not last; trying again would hide the cause."
        return Verdict("ineffective_loop", False, reason, Then.ESCALATE)
    return Verdict("ineffective_loop", True, "Earlier fixes of this resource have lasted, or there were none.")


def budget(facts: Facts) -> Verdict:
    if facts.resuming:
        return Verdict("budget", True, "Counted when the plan began.")
    if facts.is_drill:
        return Verdict("budget", True, "A drill counts in nobody's budget.")
    spent = facts.budget
    reason = _overspent(spent)
    if reason:
        return Verdict("budget", False, reason, Then.ESCALATE)
    if spent.running >= spent.max_running:
        reason = f"The most that may run at once in this fleet ({spent.max_running}) are running."
        return Verdict("budget", False, reason, Then.WAIT)
    return Verdict("budget", True, "Within the budgets.")


def _overspent(spent: Budget) -> str:
    """Why a person has to look before anything more is done; empty when nobody has to."""
    if spent.failing >= spent.storm_minimum and spent.failing * 100 > spent.known * spent.storm_percent:
        return (
            f"{spent.failing} of {spent.known} known fail at once: a common cause is likely,"
            " and treating symptoms would hide it."
        )
    if spent.last_hour >= spent.max_last_hour:
        return f"The fleet's budget of {spent.max_last_hour} runs an hour is used up."
    if spent.neighbourhood_last_hour >= spent.max_neighbourhood_last_hour:
        return f"The budget of {spent.max_neighbourhood_last_hour} runs an hour for this host or namespace is used up."
    return ""


def approval(facts: Facts) -> Verdict:
    if not facts.needs_approval or facts.is_drill:
        return Verdict("approval", True, "The policy asks for no approval.")
    if facts.approved_by:
        return Verdict("approval", True, f"Approved by {facts.approved_by}.")
    return Verdict("approval", False, "The policy asks for a person's approval of this plan.", Then.ASK)


GATES: Sequence[Gate] = (
    paused,
    never,
    verifiable,
    opt_in,
    human_override,
    dry_run,
    maintenance_window,
    cooldown,
    ineffective_loop,
    budget,
    approval,
)

# What is most cautious comes first. Dry-run goes before waiting, so that it can show what it would do, and after
# whatever needs a person, so that it does not show what would never have been done.
CAUTION: Sequence[Then] = (Then.ESCALATE, Then.SIMULATE, Then.WAIT, Then.ASK)


def evaluate(facts: Facts) -> tuple[Verdict, ...]:
    """Every gate's verdict, in order."""
    return tuple(gate(facts) for gate in GATES)


def decide(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The refusal that counts, or None when every gate allows."""
    refusals = [verdict for verdict in verdicts if not verdict.allowed]
    return min(refusals, key=lambda refusal: CAUTION.index(refusal.then or Then.ESCALATE), default=None)
