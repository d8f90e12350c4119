"""What an operator can do: one function a deed, used by console, admin, API and commands alike, each audited."""

from django.db import transaction

from byteport import audit
from byteport.core.clock import now
from byteport.core.errors import Refused
from incidents.outbox import rounds
from runbooks.guards import FORCED_DRY_RUN
from runbooks.models import AgentSettings, Approval, RunbookPolicy
from runbooks.policy import agent_settings
from runbooks.runbook import RUNBOOKS
from signals.ingest import ingest
from signals.lifecycle import note, wake
from signals.models import SignalEvent, Status
from signals.reading import Reading, State

ENDED_BY_HAND = (Status.DETECTED, Status.SIMULATED, Status.ESCALATED)  # BytePort is not at work on these


def settings_for_update() -> AgentSettings:
    """The one row of settings, locked until the transaction ends; made when there is none yet."""
    AgentSettings.objects.get_or_create(pk=1)
    return AgentSettings.objects.select_for_update().get(pk=1)


@transaction.atomic
def set_dry_run(on: bool, *, actor: str) -> None:
    """Switches dry-run. Off: what was only simulated and still lasts is looked at afresh.

    Raises Refused when the deployment forces it on: off would then be a word without effect.
    """
    agent = settings_for_update()
    if agent.dry_run_is_forced and not on:
        raise Refused(FORCED_DRY_RUN)
    before, agent.dry_run = agent.dry_run, on
    agent.save(update_fields=["dry_run"])
    deed = f"dry-run {'on' if on else 'off'}"
    audit.record(actor=actor, action=deed, target="agent", before={"dry_run": before}, after={"dry_run": on})
    if before and not on:
        wake_simulated()


def wake_simulated() -> None:
    """Has every simulated event look whether it may be treated now."""
    wake(SignalEvent.objects.filter(status=Status.SIMULATED), now())


@transaction.atomic
def wake_unheld() -> None:
    """For the sweep: dry-run may also have ended with a deployment, where nobody wakes what it had held."""
    if agent_settings().dry_run:
        return
    held = RunbookPolicy.objects.filter(dry_run=True).values_list("runbook", flat=True)
    free = set(RUNBOOKS).difference(held)
    wake(SignalEvent.objects.filter(status=Status.SIMULATED, runbook__in=free), now())


@transaction.atomic
def pause(*, actor: str, why: str) -> None:
    """The kill switch: from now on no action is begun."""
    _set_paused(True, actor=actor, why=why)


@transaction.atomic
def resume(*, actor: str) -> None:
    """Ends the pause; what waited goes on within seconds."""
    _set_paused(False, actor=actor, why="")


def _set_paused(paused: bool, *, actor: str, why: str) -> None:
    agent = settings_for_update()
    before = {"paused": agent.paused, "paused_reason": agent.paused_reason}
    agent.paused, agent.paused_reason = paused, why
    agent.save(update_fields=["paused", "paused_reason"])
    after = {"paused": paused, "paused_reason": why}
    audit.record(actor=actor, action="pause" if paused else "resume", target="agent", before=before, after=after)


def approve(event_id: int, *, actor: str, plan_hash: str | None = None) -> None:
    """Says yes to the plan that waits. Raises Refused when none waits, or it is not the one that was shown."""
    _decide(event_id, True, actor=actor, why="", plan_hash=plan_hash)


def refuse(event_id: int, *, actor: str, why: str, plan_hash: str | None = None) -> None:
    """Says no to the plan that waits; people take over. Raises Refused as `approve` does."""
    _decide(event_id, False, actor=actor, why=why, plan_hash=plan_hash)


@transaction.atomic
def _decide(event_id: int, approved: bool, *, actor: str, why: str, plan_hash: str | None) -> None:
    event = SignalEvent.objects.filter(pk=event_id).first()
    if event is None:
        raise Refused(f"There is no incident {event_id}.")
    if event.status != Status.AWAITING_APPROVAL:
        raise Refused(f"Incident {event_id} does not wait for approval: it is {event.status}.")
    if plan_hash is not None and plan_hash != event.plan_hash:
        raise Refused("The plan has changed since it was shown; look at it again.")
    at = now()
    decided = Approval.objects.filter(
        event=event, plan_hash=event.plan_hash, approved__isnull=True, expires_at__gt=at
    ).update(approved=approved, decided_by=actor, decided_at=at, why=why)
    if not decided:
        raise Refused(f"The request for approval of incident {event_id} has lapsed, or somebody was faster.")
    word = "approved" if approved else "refused"
    note(
        event,
        kind="approval",
        actor=actor,
        message=f"{actor} {word} the plan{f': {why}' if why else ''}.",
        at=at,
    )
    audit.record(
        actor=actor,
        action=word,
        target=f"incident {event_id}",
        before={"approved": None},
        after={"approved": approved},
    )
    wake(SignalEvent.objects.filter(pk=event.pk), at)


@transaction.atomic
def end(event_id: int, *, actor: str, why: str) -> None:
    """A person's word that it is over, where nobody else will say so: its sender was taken away, say.

    It counts as the signal's end: should it fire again, that is a new incident. Raises Refused while BytePort is at
    it, or where it is over already.
    """
    event, at = SignalEvent.objects.filter(pk=event_id).first(), now()
    if event is None:
        raise Refused(f"There is no incident {event_id}.")
    if event.status not in ENDED_BY_HAND:
        raise Refused(f"Incident {event_id} cannot be ended by hand: it is {event.status.replace('_', ' ')}.")
    note(event, kind="ended", actor=actor, message=f"{actor} says that it is over: {why}", at=at)
    audit.record(
        actor=actor,
        action="end",
        target=f"incident {event_id}",
        before={"over": False},
        after={"over": True, "why": why},
    )
    over = Reading(
        signal=event.signal, resource=event.ref, detail=event.detail, at=at, state=State.RESOLVED, source=actor
    )
    if event_id not in ingest([over]).cleared:
        raise Refused(f"Incident {event_id} is over already, or was heard of this very moment.")


@transaction.atomic
def send_again(delivery_id: int, *, actor: str) -> None:
    """Has a delivery that failed tried once more. Raises Refused when it is none that failed."""
    if not rounds.send_again(delivery_id):
        raise Refused("There is nothing to send again: it is on its way, or has arrived.")
    target = f"delivery {delivery_id}"
    audit.record(actor=actor, action="send again", target=target, before={"failed": True}, after={"failed": False})
