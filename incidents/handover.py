"""What the console, `doctor` and the metrics say of the outbox: who was told, who was not, and what to do about it."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

import msgspec
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from byteport.core.errors import BytePortError
from incidents.escalation.channel import CHANNELS, Message
from incidents.models import Delivery, Told
from incidents.outbox.note import DRILLS, note_of
from incidents.outgoing.trouble import REMEDY, deaf_webhooks
from signals.models import SignalEvent, Status

LONG = timedelta(minutes=15)  # an outage of the far end that people should know of
SHOWN = 200
STILL_OPEN = (Told.WAITING.value, Told.SENDING.value, Told.HELD.value, Told.FAILED.value)


class Trouble(msgspec.Struct, frozen=True):
    """A channel, or outgoing webhook, that does not get through: how much waits for it, and the latest reason."""

    channel: str  # its title
    count: int
    error: str
    remedy: str
    events: tuple[int, ...]  # the latest of them
    what: str = "hand-over"


class HandOver(msgspec.Struct, frozen=True):
    """Whether people can be told. `untold`: escalated incidents that nobody was told of, for lack of a channel."""

    ready: tuple[str, ...]  # titles of the channels that are set up
    untold: int
    troubles: tuple[Trouble, ...]


def hand_over(at: datetime) -> HandOver:
    """Three queries."""
    ready = tuple(channel.title for channel in CHANNELS.values() if channel.setup().ready)
    return HandOver(ready, 0 if ready else _untold().count(), (*_troubles(at), *_deaf(at)))


def _untold() -> QuerySet[SignalEvent]:
    """Handed over, and nobody has heard of it. Of drills nobody would."""
    told = Delivery.objects.filter(event=OuterRef("pk"), status=Told.SENT)
    return SignalEvent.objects.filter(~Exists(told), status=Status.ESCALATED).exclude(fleet=DRILLS)


def what_to_set() -> str:
    """What would set up a channel, for each that is not."""
    unset = ((channel.title, channel.setup().missing) for channel in CHANNELS.values())
    ways = [f"{', '.join(names)} ({title})" for title, names in unset if names]
    return f"Set {', or '.join(ways)}: docs/escalation.md says how." if ways else "See docs/escalation.md."


def _troubles(at: datetime) -> Iterator[Trouble]:
    stuck = Q(status=Told.FAILED) | Q(status__in=Delivery.PENDING, failing_since__lt=at - LONG)
    rows = list(Delivery.objects.filter(stuck).defer("body").order_by("channel", "-pk")[:SHOWN])
    for name, group in groupby(rows, key=attrgetter("channel")):
        found = list(group)
        events = tuple(dict.fromkeys(row.event_id for row in found))[:5]
        yield Trouble(title_of(name), len(found), found[0].error, found[0].remedy, events)


def _deaf(at: datetime) -> Iterator[Trouble]:
    for deaf in deaf_webhooks(at, LONG):
        yield Trouble(f"Webhook {deaf.name}", deaf.count, deaf.error, REMEDY, deaf.incidents, "event")


def open_deliveries() -> dict[tuple[str, str], int]:
    """How many have not arrived, by channel and status; 0 where there is none of a channel."""
    counts = {(name, status): 0 for name in CHANNELS for status in STILL_OPEN}
    rows = Delivery.objects.filter(status__in=STILL_OPEN).order_by().values_list("channel", "status")
    return counts | {(channel, status): n for channel, status, n in rows.annotate(n=Count("pk"))}


def title_of(channel: str) -> str:
    return CHANNELS[channel].title if channel in CHANNELS else channel


class Handed(msgspec.Struct, frozen=True):
    """One delivery with what it says: as it was sent, or as it would be sent now."""

    row: Delivery
    title: str  # the channel's
    message: Message | None


def told(event: SignalEvent) -> list[dict[str, object]]:
    """The deliveries of one incident as plain data."""
    columns = ("channel", "kind", "status", "attempts", "error", "remedy", "url", "created_at", "due_at", "sent_at")
    return list(Delivery.objects.filter(event=event).order_by("pk").values(*columns)[:SHOWN])


def handed(event: SignalEvent, at: datetime) -> Sequence[Handed]:
    """What people were told of one incident, and what they would be."""
    rows = Delivery.objects.filter(event=event).select_related("event").order_by("pk")
    return [Handed(row, title_of(row.channel), _message(row, at)) for row in rows[:SHOWN]]


def _message(row: Delivery, at: datetime) -> Message | None:
    if row.body or row.channel not in CHANNELS:
        return Message(row.title, row.body) if row.body else None
    try:
        return CHANNELS[row.channel].message(note_of(row, at))
    except (BytePortError, ValueError, LookupError, TypeError, AttributeError):
        return None  # a record that cannot be told keeps nobody from the page
