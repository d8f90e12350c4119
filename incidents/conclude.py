"""How an incident ends: resolved with a postmortem, or handed over to people."""

from datetime import datetime
from typing import Any
from uuid import UUID

from byteport.core.outcome import Result
from incidents.outbox.write import write_cleared, write_escalated
from incidents.postmortem import render
from runbooks.act import owed
from runbooks.models import STARTED, AgentAction
from runbooks.policy import agent_settings, policy_for
from runbooks.runbook import RUNBOOKS
from runbooks.stage import Move
from signals.happening import Happening
from signals.lifecycle import LostClaimError, note, transition
from signals.models import ResolvedBy, SignalEvent, Status
from signals.outgoing import publish

# Nothing is due for these until their signal clears or an operator does something.
AT_REST = (Status.RESOLVED, Status.ESCALATED, Status.SIMULATED)


def cleared(event: SignalEvent, by: ResolvedBy) -> Move:
    """The signal is over, and BytePort was not at it."""
    who = "while people had it" if by == ResolvedBy.PERSON else "before anything was done"
    return Move(to=Status.RESOLVED, reason=f"The signal cleared {who}.", fields={"resolved_by": by})


def await_dry_run_off(event: SignalEvent, at: datetime) -> Move:
    """Stage *simulated*: once dry-run is off for this runbook and the trouble still lasts, it is looked at afresh."""
    runbook = RUNBOOKS.get(event.runbook)
    if runbook is None or agent_settings().dry_run or policy_for(runbook).dry_run:
        return Move()
    return Move(to=Status.DETECTED, reason="Dry-run was switched off while the signal lasts: it is looked at afresh.")


def resolve(event: SignalEvent, move: Move, *, at: datetime, token: UUID | None) -> None:
    """Ends the event, finalises its postmortem and tells whoever knew of it, in the same transaction."""
    by = move.fields.get("resolved_by", ResolvedBy.BYTEPORT)
    actor = "byteport" if by == ResolvedBy.BYTEPORT else event.source or "byteport"
    fields = {**move.fields, "resolved_by": by, "resolved_at": at}
    transition(event, Status.RESOLVED, actor=actor, reason=move.reason, at=at, token=token, **fields)
    _write_postmortem(event, final=True)
    write_cleared(event, at)
    publish(Happening.RESOLVED, [event.pk], at)


def escalate(event: SignalEvent, move: Move, *, at: datetime, token: UUID | None) -> None:
    """Hands the event over to people, who are told in the same transaction, with a draft of the postmortem."""
    give_up_started(event, move.reason, at=at)
    fields = {**move.fields, "escalated_at": at}
    if not AgentAction.objects.filter(event=event, dry_run=False).exists():
        fields["acted_at"] = None  # the reserved run was never begun, and is given back to the budget
    transition(event, Status.ESCALATED, actor="byteport", reason=move.reason, at=at, token=token, **fields)
    _write_postmortem(event, final=False)
    write_escalated(event, at)
    publish(Happening.ESCALATED, [event.pk], at)


def give_up_started(event: SignalEvent, why: str, *, at: datetime) -> None:
    """No action stays `started` for ever: of one that nobody will look after any more, nobody can tell how it ended."""
    put_back_later = owed(event)  # that one is looked after
    rows = AgentAction.objects.filter(event=event, status=STARTED)
    given_up = list(rows.exclude(step=put_back_later.key if put_back_later else "").select_for_update())
    AgentAction.objects.filter(pk__in=[row.pk for row in given_up]).update(
        status=Result.UNKNOWN, message=f"Given up without knowing how it ended: {why}", finished_at=at
    )
    for row in given_up:
        publish(Happening.ACTED, [event.pk], at, [row.pk])


def stay(event: SignalEvent, *, reason: str, at: datetime, token: UUID | None, **fields: Any) -> None:
    """Leaves the event where it is. A new reason for that goes to the timeline; the same one only once."""
    news = bool(reason) and reason != event.reason
    if news:
        fields["reason"] = reason
    if not SignalEvent.objects.filter(pk=event.pk, lease_token=token, status=event.status).update(**fields):
        raise LostClaimError(f"event {event.pk} was taken over by another worker")
    if news:
        note(event, kind="note", actor="byteport", message=reason, at=at)


def _write_postmortem(event: SignalEvent, *, final: bool) -> None:
    event.refresh_from_db()
    markdown = render(event)
    SignalEvent.objects.filter(pk=event.pk).update(postmortem_md=markdown, postmortem_final=final)
    event.postmortem_md, event.postmortem_final = markdown, final
