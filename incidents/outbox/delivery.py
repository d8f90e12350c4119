"""One attempt at one delivery: claimed by lease, written ahead, and settled in one transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from byteport.core.backoff import as_long_again_s
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Temporary
from byteport.queue import enqueue_many
from incidents.escalation.channel import CHANNELS, Channel, Limited, Receipt, Undeliverable
from incidents.models import Delivery, Told
from incidents.outbox.note import note_of, why_held
from incidents.outbox.write import DELIVER, enqueue_delivery
from signals.lifecycle import LostClaimError, note

log = structlog.get_logger()

LEASE = timedelta(seconds=settings.TASK_LEASE_S)
PATIENCE = timedelta(minutes=2)  # with a channel that another would like to link to
DELAY_S = (10.0, 900.0)  # until the next attempt: at least, at most
WOKEN = 500
WELL: dict[str, Any] = {"failing_since": None, "blocked_until": None, "error": "", "remedy": ""}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one look at a delivery: the columns to set, and seconds until the next where there is to be one."""

    fields: dict[str, Any] = {}
    delay_s: float | None = None
    receipt: Receipt | None = None


def deliver(delivery_id: int) -> None:
    """One attempt at one delivery, if it is due and nobody else is at it."""
    at = now()
    row = claim(delivery_id, at)
    if row is None:
        return
    with structlog.contextvars.bound_contextvars(incident=row.event_id, channel=row.channel, kind=row.kind):
        try:
            settle(row, attempt(row, at))
        except LostClaimError as lost:
            log.warning("claim lost", why=str(lost))


def claim(delivery_id: int, at: datetime) -> Delivery | None:
    """Takes the delivery for one attempt, by compare-and-swap with a lease. None when there is nothing to do now."""
    pending = Delivery.objects.filter(pk=delivery_id, status__in=Delivery.PENDING)
    lease = {"lease_token": uuid4(), "lease_until": at + LEASE}
    if pending.filter(free_at(at), due_at__lte=at).update(**lease):
        return Delivery.objects.select_related("event").get(pk=delivery_id)
    for due_at, lease_until in pending.values_list("due_at", "lease_until"):
        again_at = max(due_at or at, lease_until or at)
        enqueue_delivery(delivery_id, (again_at - at).total_seconds() + 0.1)
    return None


def free_at(at: datetime) -> Q:
    """Nobody is at it."""
    return Q(lease_until__isnull=True) | Q(lease_until__lt=at)


# --------------------------------------------------------------------------------------------- the attempt


def attempt(row: Delivery, at: datetime) -> Outcome:
    """Sends it, or says why not and when to try again. Nothing is swallowed."""
    wait_s = turn_in_s(row, at)
    if wait_s > 0:
        return Outcome(delay_s=wait_s)
    channel = CHANNELS.get(row.channel)
    why = why_held(row, channel)
    if channel is None or why:
        return Outcome(fields={**WELL, "status": Told.HELD, "error": why})
    try:
        return _arrived(_transfer(row, channel, at))
    except LostClaimError:
        raise
    except Temporary as error:
        return _again(row, channel, error)
    except BytePortError as error:
        remedy = error.remedy if isinstance(error, Undeliverable) else ""
        fields = {"status": Told.FAILED, "error": str(error), "remedy": remedy, "setup": channel.setup().version}
        return Outcome(fields=fields)
    except Exception as error:
        log.exception("delivery failed")
        return _again(row, channel, Temporary(f"An internal error: {type(error).__name__}: {error}"))


def _transfer(row: Delivery, channel: Channel, at: datetime) -> Receipt | None:
    """The call itself, written ahead. None: the far end need not be told."""
    told = note_of(row, at)
    arrived = channel.probe(told) if row.began_at is not None else None
    if arrived is not None:
        return arrived
    target = channel.aim(told)
    if target is None:
        return None
    told = msgspec.structs.replace(told, target=target)
    message = channel.message(told)
    _begin(row, at, target=target, title=message.title, body=message.markdown)
    return channel.send(told)


def _begin(row: Delivery, at: datetime, **fields: Any) -> None:
    """Committed before the call: from here on, an attempt that nobody has seen the end of is probed."""
    fields = {**fields, "status": Told.SENDING, "attempts": row.attempts + 1, "began_at": row.began_at or at}
    if not Delivery.objects.filter(pk=row.pk, lease_token=row.lease_token).update(**fields):
        raise LostClaimError(f"delivery {row.pk} was taken over by another worker")
    for name, value in fields.items():
        setattr(row, name, value)


def _arrived(receipt: Receipt | None) -> Outcome:
    if receipt is None:
        return Outcome(fields={**WELL, "status": Told.WITHDRAWN})
    fields = {"status": Told.SENT, "target": receipt.target, "url": receipt.url, "error": receipt.warning}
    return Outcome(fields={**WELL, **fields}, receipt=receipt)


def _again(row: Delivery, channel: Channel, error: Temporary) -> Outcome:
    """Tries again for as long as it takes: after as long as it has failed so far."""
    at, pause_s = now(), error.delay_s if isinstance(error, Limited) else 0.0
    failing_since = row.failing_since or at
    delay_s = max(as_long_again_s(at - failing_since, *DELAY_S), pause_s, channel.settle_s)
    fields = {"error": str(error), "remedy": "", "failing_since": failing_since}
    blocked_until = at + timedelta(seconds=pause_s) if pause_s else None
    return Outcome(fields={**fields, "blocked_until": blocked_until}, delay_s=delay_s)


# -------------------------------------------------------------------------------------------------- its turn


def turn_in_s(row: Delivery, at: datetime) -> float:
    """Seconds until it may be its turn; 0 when it is."""
    waits_for = [
        *_before(row).values_list("due_at", flat=True)[:1],
        *_followed(row, at).values_list("due_at", flat=True)[:1],
    ]
    limited = Delivery.objects.filter(channel=row.channel, status__in=Delivery.PENDING, blocked_until__gt=at)
    waits_for += limited.exclude(pk=row.pk).order_by("-blocked_until").values_list("blocked_until", flat=True)[:1]
    return max((max((until - at).total_seconds(), 0.0) + 1.0 for until in waits_for if until), default=0.0)


def _before(row: Delivery) -> QuerySet[Delivery]:
    """What has to be told of the same trouble first."""
    same = Delivery.objects.filter(channel=row.channel, fingerprint=row.fingerprint, status__in=Delivery.PENDING)
    return same.filter(pk__lt=row.pk).order_by("-pk")


def _followed(row: Delivery, at: datetime) -> QuerySet[Delivery]:
    """The same on its way through channels that this one would like to link to, while that is worth waiting for."""
    channel = CHANNELS.get(row.channel)
    follows: Sequence[str] = channel.follows if channel is not None and at < row.created_at + PATIENCE else ()
    same = Delivery.objects.filter(event=row.event, kind=row.kind, status__in=Delivery.PENDING)
    return same.filter(channel__in=follows).order_by("-due_at")


# ----------------------------------------------------------------------------------------------- what came of it


def settle(row: Delivery, outcome: Outcome) -> None:
    """Writes what came of it, releases the claim, and has whatever waited for it go on."""
    at = now()
    due_at = at + timedelta(seconds=outcome.delay_s) if outcome.delay_s is not None else None
    fields = {**outcome.fields, "due_at": due_at, "lease_token": None, "lease_until": None}
    if outcome.receipt is not None:
        fields |= {"sent_at": at, "confirm_at": _confirm_at(row, at)}
    with transaction.atomic():
        if not Delivery.objects.filter(pk=row.pk, lease_token=row.lease_token).update(**fields):
            raise LostClaimError(f"delivery {row.pk} was taken over by another worker")
        if outcome.receipt is not None:
            _tell(row, outcome.receipt, at)
        if outcome.delay_s is not None:
            enqueue_delivery(row.pk, outcome.delay_s)
        else:
            _wake_those_behind(row, at)
    log.info("delivery", status=fields.get("status", row.status), error=fields.get("error", ""))


def _confirm_at(row: Delivery, at: datetime) -> datetime | None:
    channel = CHANNELS.get(row.channel)
    return at + timedelta(seconds=channel.confirm_s) if channel is not None and channel.confirm_s else None


def _tell(row: Delivery, receipt: Receipt, at: datetime) -> None:
    warning = f" ({receipt.warning})" if receipt.warning else ""
    data = {"channel": row.channel, "url": receipt.url}
    note(row.event, kind="note", actor="byteport", message=f"{receipt.words}{warning}.", at=at, data=data)


def _wake_those_behind(row: Delivery, at: datetime) -> None:
    behind = Delivery.objects.filter(
        Q(channel=row.channel, fingerprint=row.fingerprint) | Q(event=row.event), status=Told.WAITING, attempts=0
    )
    ids = list(behind.exclude(pk=row.pk).values_list("pk", flat=True)[:WOKEN])
    Delivery.objects.filter(free_at(at), pk__in=ids).update(due_at=at)
    enqueue_many(DELIVER, ids, dedup_prefix="deliver:")
