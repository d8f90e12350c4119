"""An incident told for people: how far it came, and what happened when. Pure: rows in, lines out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from byteport.core.outcome import Severity
from incidents.queries import Record
from incidents.templatetags.console import BY_WHOM, LOOKS, RESULTS, STATUSES, Badge
from runbooks.diagnose import runbook_for
from runbooks.models import STARTED, AgentAction, VerificationSample
from runbooks.runbook import Plan
from signals.models import ResolvedBy, SignalEvent, Status, TimelineEntry


class Stage(msgspec.Struct, frozen=True):
    """One of Detect, Diagnose, Act, Verify, and the outcome. `state` is a word that console.css knows."""

    name: str
    state: str  # done, now, waiting, would, failed, skipped, todo
    note: str
    at: datetime | None = None


class Line(msgspec.Struct, frozen=True):
    """One line of the story. `quiet`: a detail among the changes of status."""

    at: datetime
    tone: str
    icon: str
    title: str
    text: str
    actor: str
    quiet: bool = False


def progress(event: SignalEvent, record: Record, plan: Plan | None) -> list[Stage]:
    """How far the event came through the loop."""
    entered = {entry.kind: entry.at for entry in record.timeline}
    if is_for_information(event):
        return _kept_only(event)
    return [
        Stage("Detect", "done", "Signal fired", event.detected_at),
        _diagnose(event, entered),
        _act(event, entered, record.actions, plan),
        _verify(event, entered, record.samples),
        _outcome(event),
    ]


def is_for_information(event: SignalEvent) -> bool:
    """Whether it is kept and shown, and nothing will be done about it: nothing treats it, and nobody is called."""
    return event.status == Status.DETECTED and event.severity == Severity.INFO and runbook_for(event.signal) is None


def _kept_only(event: SignalEvent) -> list[Stage]:
    return [
        Stage("Detect", "done", "Signal fired", event.detected_at),
        Stage("Diagnose", "skipped", "No runbook"),
        Stage("Act", "skipped", "Nothing to do"),
        Stage("Verify", "skipped", "Nothing to verify"),
        Stage("Outcome", "todo", "For information"),
    ]


def _diagnose(event: SignalEvent, entered: Mapping[str, datetime]) -> Stage:
    if event.status == Status.DETECTED:
        return Stage("Diagnose", "now", "Looking for the cause")
    if event.diagnosis:
        return Stage("Diagnose", "done", "Cause looked into", entered.get(Status.DIAGNOSED))
    return Stage("Diagnose", "skipped", "Not diagnosed")


def _act(
    event: SignalEvent, entered: Mapping[str, datetime], actions: Sequence[AgentAction], plan: Plan | None
) -> Stage:
    done = [action for action in actions if not action.dry_run and action.status != STARTED]
    steps = f"{len(done)} of {len(plan.steps) if plan else len(done)} steps"
    under_way = {
        Status.DIAGNOSED: ("now", "Asking the gates"),
        Status.AWAITING_APPROVAL: ("waiting", "Waits for approval"),
        Status.ACTING: ("now", steps),
    }
    if event.status in under_way:
        state, note = under_way[Status(event.status)]
        return Stage("Act", state, note, entered.get(event.status))
    if Status.VERIFYING in entered:
        return Stage("Act", "done", steps, entered.get(Status.ACTING))
    if done:
        return Stage("Act", "failed", f"Stopped after {steps}", entered.get(Status.ACTING))
    return _not_acted(event, entered)


def _not_acted(event: SignalEvent, entered: Mapping[str, datetime]) -> Stage:
    if event.status == Status.DETECTED:
        return Stage("Act", "todo", "")
    if Status.SIMULATED in entered:
        return Stage("Act", "would", "Dry-run only", entered[Status.SIMULATED])
    return Stage("Act", "failed", "Held back") if event.escalated_at else Stage("Act", "skipped", "Not needed")


def _verify(event: SignalEvent, entered: Mapping[str, datetime], samples: Sequence[VerificationSample]) -> Stage:
    looks = f"{len(samples)} look{'' if len(samples) == 1 else 's'}"
    if event.status == Status.VERIFYING:
        return Stage("Verify", "now", f"{looks} so far", entered.get(Status.VERIFYING))
    if Status.VERIFYING in entered:
        state = "done" if event.resolved_by == ResolvedBy.BYTEPORT else "failed"
        return Stage("Verify", state, looks, entered.get(Status.VERIFYING))
    ended = event.status in (Status.RESOLVED, Status.ESCALATED, Status.SIMULATED)
    return Stage("Verify", "skipped", "Nothing to verify") if ended else Stage("Verify", "todo", "")


def _outcome(event: SignalEvent) -> Stage:
    if event.status == Status.RESOLVED:
        return Stage("Resolved", "done", BY_WHOM.get(event.resolved_by, ""), event.resolved_at)
    if event.status == Status.ESCALATED:
        return Stage("Escalated", "failed", "Handed to people", event.escalated_at)
    if event.status == Status.SIMULATED:
        return Stage("Simulated", "would", "Nothing was changed")
    return Stage("Outcome", "todo", "")


def story(record: Record) -> list[Line]:
    """Timeline, actions and looks in one row, by time."""
    lines = [*map(_of_entry, record.timeline), *_of_actions(record.actions), *map(_of_sample, record.samples)]
    return sorted(lines, key=lambda line: line.at)


def _of_entry(entry: TimelineEntry) -> Line:
    tone, icon, title = STATUSES.get(entry.kind) or _note(entry.kind)
    return Line(entry.at, tone, icon, title, entry.message, entry.actor, quiet=entry.kind not in STATUSES)


def _note(kind: str) -> Badge:
    return (
        ("warn", "hand", "Approval") if kind == "approval" else ("plain", "info", kind.replace("_", " ").capitalize())
    )


def _of_actions(actions: Iterable[AgentAction]) -> Iterable[Line]:
    for action in actions:
        tone, icon, result = RESULTS.get(action.status, ("plain", "info", action.status))
        result = "Would have" if action.status == "simulated" else result
        title = f"{result}: {action.summary}"
        yield Line(action.finished_at or action.started_at, tone, icon, title, action.message, "byteport", quiet=True)


def _of_sample(sample: VerificationSample) -> Line:
    tone, icon, words = LOOKS.get(sample.look, ("plain", "eye", sample.look))
    return Line(sample.at, tone, icon, f"{words} look", sample.message, "byteport", quiet=True)
