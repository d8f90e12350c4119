"""The matcher and the diagnosis: which runbook fits, what it sees, and the plan that is frozen into the event."""

from datetime import datetime

import msgspec

from byteport.core.outcome import Severity
from runbooks.guards import SWITCHED_OFF
from runbooks.policy import is_switched_on, policy_for, timing_for
from runbooks.runbook import RUNBOOKS, CannotPlan, Runbook
from runbooks.stage import Move, view_of
from signals.models import SignalEvent, Status

INFO_AGAIN_S = 600.0  # until it is looked at whether it has become more than that


def runbook_for(signal: str) -> Runbook | None:
    """The built-in (or installed) runbook that treats this signal."""
    return next((runbook for runbook in RUNBOOKS.values() if runbook.signal == signal), None)


def _without_runbook(event: SignalEvent) -> Move:
    """People are told, unless its sender says that it is for their information only: then it is kept and shown."""
    reason = f"BytePort has no runbook for {event.signal}."
    if event.severity == Severity.INFO:
        return Move(reason=f"{reason} It is for information only, so that nobody is called.", delay_s=INFO_AGAIN_S)
    return Move(to=Status.ESCALATED, reason=reason)


def diagnose(event: SignalEvent, at: datetime) -> Move:
    """Stage *detected*: look, conclude, plan."""
    runbook = runbook_for(event.signal)
    if runbook is None:
        return _without_runbook(event)
    if not is_switched_on(runbook):  # it may have no rights here, not even to look
        reason = f"{runbook.title} would treat it. {SWITCHED_OFF}"
        return Move(to=Status.ESCALATED, reason=reason, fields={"runbook": runbook.name})
    view = view_of(event)
    timing = timing_for(policy_for(runbook), event.signal, view.resource)
    diagnosis = runbook.diagnose(view, runbook.observe(view))
    plan = runbook.plan(view, diagnosis, timing)
    found = {"runbook": runbook.name, "diagnosis": msgspec.to_builtins(diagnosis)}
    if isinstance(plan, CannotPlan):
        return Move(to=Status.ESCALATED, reason=plan.reason, fields=found)
    return Move(
        to=Status.DIAGNOSED,
        reason=f"{diagnosis.inference} Plan: {plan.summary}",
        fields={**found, "plan": msgspec.to_builtins(plan), "plan_hash": plan.hash},
    )
