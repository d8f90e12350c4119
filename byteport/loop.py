"""The whole agent on one screen: Detect → Diagnose → Act → Verify, then resolve or escalate.

`advance()` runs one stage of one event and enqueues the next, in the transaction that makes it necessary. Restart,
retry, waiting for approval and waiting to verify are this same path, so a worker killed anywhere loses nothing.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import DataError, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce, Greatest

from byteport.core.clock import now
from byteport.core.errors import BytePortError, Temporary
from byteport.core.masking import mask_secrets
from byteport.queue import enqueue_many
from incidents import conclude, operate
from runbooks import act, diagnose, verify
from runbooks.stage import Move, Stage
from signals.lifecycle import ADVANCE, ARROWS, ONE_WAITS, LostClaimError, enqueue_advance, transition
from signals.models import ResolvedBy, SignalEvent, Status

log = structlog.get_logger()

STAGES: Mapping[str, Stage] = {
    Status.DETECTED: diagnose.diagnose,
    Status.DIAGNOSED: act.begin,
    Status.AWAITING_APPROVAL: act.await_approval,
    Status.ACTING: act.step,
    Status.VERIFYING: verify.look,
    Status.SIMULATED: conclude.await_dry_run_off,
    Status.ESCALATED: act.put_back,
}
# Until something has been done, a signal that clears needs nothing more. From then on only evidence counts.
ENDS_WHEN_CLEARED: Mapping[str, ResolvedBy] = {
    Status.DETECTED: ResolvedBy.ITSELF,
    Status.DIAGNOSED: ResolvedBy.ITSELF,
    Status.AWAITING_APPROVAL: ResolvedBy.ITSELF,
    Status.SIMULATED: ResolvedBy.ITSELF,
    Status.ESCALATED: ResolvedBy.PERSON,
}
MAX_ATTEMPTS = 5
LEASE = timedelta(seconds=settings.TASK_LEASE_S)


def advance(event_id: int) -> None:
    """Runs the event's next stage, if it is due and nobody else is at it."""
    at = now()
    event = claim(event_id, at)
    if event is None:
        return
    with structlog.contextvars.bound_contextvars(event=event.pk, stage=event.status):
        try:
            _settle_or_hand_over(event, run_stage(event, at))
        except LostClaimError as lost:
            log.warning("claim lost", why=str(lost))


def claim(event_id: int, at: datetime) -> SignalEvent | None:
    """Takes the event for one stage, by compare-and-swap with a lease. None when there is nothing to do now."""
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=at)
    token = uuid4()
    claimed = SignalEvent.objects.filter(free, pk=event_id, due_at__lte=at).update(
        lease_token=token, lease_until=at + LEASE
    )
    if claimed:
        return SignalEvent.objects.get(pk=event_id)
    _come_back(event_id, at)
    return None


def _come_back(event_id: int, at: datetime) -> None:
    """When it is due, or when the lease ends of a worker that may have died: its task's lease ended before that."""
    then = SignalEvent.objects.filter(pk=event_id, due_at__isnull=False).values_list(
        Greatest("due_at", Coalesce("lease_until", "due_at")), flat=True
    )
    for free_at in then:
        enqueue_advance(event_id, max((free_at - at).total_seconds(), 0.0))


def run_stage(event: SignalEvent, at: datetime) -> Move:
    """The stage's own answer; or, when it failed, a retry or a hand-over. Nothing is swallowed."""
    try:
        if event.cleared_at is not None and event.status in ENDS_WHEN_CLEARED and not act.owed(event):
            return conclude.cleared(event, ENDS_WHEN_CLEARED[event.status])
        return STAGES[event.status](event, at)
    except LostClaimError:
        raise
    except Temporary as error:
        return _again(event, str(error), error.delay_s)
    except BytePortError as error:
        return Move(to=Status.ESCALATED, reason=str(error))
    except Exception as error:
        log.exception("stage failed")
        told = mask_secrets(str(error))  # not written for people, as the errors of BytePort's own are
        return _again(event, f"An internal error in stage {event.status}: {type(error).__name__}: {told}", 5.0)


def _again(event: SignalEvent, why: str, delay_s: float) -> Move:
    if event.stage_attempts + 1 >= MAX_ATTEMPTS:
        return Move(to=Status.ESCALATED, reason=f"{why} (tried {MAX_ATTEMPTS} times)")
    return Move(reason=why, delay_s=delay_s * 2**event.stage_attempts, retry=True)


def _settle_or_hand_over(event: SignalEvent, move: Move) -> None:
    """An answer that PostgreSQL does not take, for a NUL in what a stranger wrote say, ends with a person: trying again
    would end in the same way, unseen."""
    status = Status(event.status)
    try:
        settle(event, move)
    except DataError as error:
        if Status.ESCALATED not in ARROWS[status]:
            raise
        log.exception("a stage's answer cannot be kept")
        why = f"What came of stage {status} cannot be kept: {type(error.__cause__ or error).__name__}"
        settle(SignalEvent.objects.get(pk=event.pk), Move(to=Status.ESCALATED, reason=f"{why}. BytePort's log has it."))


def settle(event: SignalEvent, move: Move) -> None:
    """Writes a stage's answer, releases the claim and enqueues the next stage, all in one transaction."""
    at, token = now(), event.lease_token
    with transaction.atomic():
        if move.to == Status.RESOLVED and _has_fired_again(event):
            move = Move(rows=move.rows)
        for model, rows in groupby(move.rows, key=attrgetter("_meta.model")):
            model.objects.bulk_create(rows)
        if move.to is None:
            _stay(event, move, at, token)
        elif move.to == Status.RESOLVED:
            conclude.resolve(event, move, at=at, token=token)
        elif move.to == Status.ESCALATED:
            conclude.escalate(event, move, at=at, token=token)
        else:
            transition(event, move.to, actor="byteport", reason=move.reason, at=at, token=token, **move.fields)
        _release(event, move, at, token)
    log.info("advanced", to=event.status, reason=move.reason)


def _has_fired_again(event: SignalEvent) -> bool:
    """Since the stage began. Whoever said so was told that it is kept, and may not say it again: it is not to end with
    the incident that took note of it. The row is held, so that what fires from here on opens another."""
    held = SignalEvent.objects.select_for_update(of=("self",)).filter(pk=event.pk)
    return list(held.values_list("repeats", flat=True)) != [event.repeats]


def _stay(event: SignalEvent, move: Move, at: datetime, token: UUID | None) -> None:
    """The event stays where it is; a new reason for that goes to the timeline, the same one only once."""
    attempts = event.stage_attempts + 1 if move.retry else 0
    conclude.stay(event, reason=move.reason, at=at, token=token, stage_attempts=attempts, **move.fields)


def _release(event: SignalEvent, move: Move, at: datetime, token: UUID | None) -> None:
    goes_on = event.status not in conclude.AT_REST or _has_more(event)
    due_at = at + timedelta(seconds=move.delay_s) if goes_on else None
    if not SignalEvent.objects.filter(pk=event.pk, lease_token=token).update(
        lease_token=None, lease_until=None, due_at=due_at
    ):
        raise LostClaimError(f"event {event.pk} was taken over by another worker")
    if goes_on:
        enqueue_advance(event.pk, move.delay_s)


def _has_more(event: SignalEvent) -> bool:
    """Whether an event at rest still owes something; or its signal is over, which was said while BytePort was at it:
    nobody would wake it for that any more."""
    if event.status == Status.RESOLVED:
        return False
    if event.status == Status.ESCALATED and act.owed(event) is not None:
        return True
    return SignalEvent.objects.filter(pk=event.pk, cleared_at__isnull=False).exists()


def sweep() -> int:
    """Finds whatever was left lying: events that are due, with nobody at them. Returns how many were taken up again."""
    operate.wake_unheld()
    at = now()
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=at)
    overdue = SignalEvent.objects.filter(free, due_at__lt=at - timedelta(seconds=10)).order_by("due_at")
    found = list(overdue.values_list("pk", flat=True)[:1000])
    enqueue_many(ADVANCE, found, dedup_prefix=ONE_WAITS)
    return len(found)
