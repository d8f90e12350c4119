"""What is written into the outbox, and when. All of it is part of the caller's transaction."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.db.models import QuerySet

from byteport.queue import enqueue
from incidents.escalation.channel import CHANNELS, Kind
from incidents.models import Delivery, Told
from signals.models import ResolvedBy, SignalEvent

DELIVER = "byteport.tasks.deliver"
SAME_TROUBLE = timedelta(hours=24)  # within it, the same is told where it was told before


def write_escalated(event: SignalEvent, at: datetime) -> None:
    """The event was handed over. Where no channel is set up, it is kept for the first that will be."""
    able = {name: channel for name, channel in CHANNELS.items() if Kind.ESCALATED in channel.kinds}
    ready = [name for name, channel in able.items() if channel.setup().ready]
    for name in ready or able:
        write(event, name, Kind.ESCALATED, at)


def write_cleared(event: SignalEvent, at: datetime) -> None:
    """The event is over. Whoever was told of it hears so; whoever was not need not be told any more."""
    untold = Delivery.objects.filter(event=event, status__in=[Told.HELD, Told.FAILED])
    untold.update(status=Told.WITHDRAWN)
    for name, channel in CHANNELS.items():
        if Kind.CLEARED in channel.kinds and _knows_of(event, name, at):
            write(event, name, Kind.CLEARED, at)


def _knows_of(event: SignalEvent, channel: str, at: datetime) -> bool:
    """Whether the far end has heard of this event, or lately of the same trouble that BytePort itself has ended now."""
    if event.escalated_at is not None:
        told = Delivery.objects.filter(event=event, channel=channel, kind=Kind.ESCALATED)
        return told.exclude(status=Told.WITHDRAWN).exists()
    return event.resolved_by == ResolvedBy.BYTEPORT and same_trouble(channel, event.fingerprint, at).exists()


def same_trouble(channel: str, fingerprint: UUID, at: datetime) -> QuerySet[Delivery]:
    """What was told of the same trouble through this channel lately."""
    return Delivery.objects.filter(
        channel=channel, fingerprint=fingerprint, status=Told.SENT, sent_at__gte=at - SAME_TROUBLE
    )


def write(event: SignalEvent, channel: str, kind: Kind, at: datetime, ordinal: int = 0) -> None:
    row = Delivery.objects.create(
        event=event,
        channel=channel,
        kind=kind,
        ordinal=ordinal,
        uid=uuid4(),
        fingerprint=event.fingerprint,
        severity=event.severity,
        created_at=at,
        due_at=at,
    )
    enqueue_delivery(row.pk)


def enqueue_delivery(delivery_id: int, delay_s: float = 0.0) -> None:
    """Has a delivery tried after `delay_s`; one such task waits at most."""
    enqueue(DELIVER, delivery_id, delay_s=delay_s, dedup_key=f"deliver:{delivery_id}")
