"""What a delivery goes by: all that its channel gets to know, and whether it may be sent at all."""

from datetime import datetime

from django.conf import settings

from incidents.escalation.channel import CHANNELS, Channel, Earlier, Kind, Link, Note
from incidents.models import Delivery, Told
from incidents.outbox.write import SAME_TROUBLE, same_trouble
from incidents.record import record_of
from runbooks.policy import agent_settings
from signals.models import SignalEvent

LINKS = 10
DRILLS = "drills"  # the fleet of what is a drill's (byteport.core.resource)


def note_of(row: Delivery, at: datetime) -> Note:
    """From a dozen queries."""
    earlier = _earlier(row, at)
    return Note(
        id=row.uid,
        kind=Kind(row.kind),
        fingerprint=row.fingerprint,
        severity=row.severity,
        record=record_of(row.event),
        at=at,
        since=at - SAME_TROUBLE,
        earlier=earlier,
        before=None if earlier else _before(row),
        links=_links(row),
        began_at=row.began_at,
        target=row.target,
    )


def _earlier(row: Delivery, at: datetime) -> Earlier | None:
    """Where people have it: this very event, however long ago; or else the same trouble, lately."""
    lately = same_trouble(row.channel, row.fingerprint, at).filter(severity=row.severity)
    this = Delivery.objects.filter(event=row.event_id, channel=row.channel, status=Told.SENT)
    for told in (this, lately):
        latest = told.filter(pk__lt=row.pk).exclude(target="").order_by("-pk").first()
        if latest is not None:
            return Earlier(latest.target, latest.url)
    return None


def _before(row: Delivery) -> Earlier | None:
    """Where people had the same trouble, however long ago and however bad."""
    told = Delivery.objects.filter(channel=row.channel, fingerprint=row.fingerprint, status=Told.SENT, pk__lt=row.pk)
    latest = told.exclude(target="").order_by("-pk").first()
    return Earlier(latest.target, latest.url) if latest is not None else None


def _links(row: Delivery) -> tuple[Link, ...]:
    """Where the other channels have it."""
    elsewhere = Delivery.objects.filter(event=row.event_id, status=Told.SENT).exclude(channel=row.channel)
    latest = {other.channel: other.url for other in elsewhere.exclude(url="").order_by("pk")[:LINKS]}
    return tuple(Link(CHANNELS[name].title if name in CHANNELS else name, url) for name, url in latest.items())


def why_held(row: Delivery, channel: Channel | None) -> str:
    """Why it is not sent as things are; empty when it may go."""
    if channel is None:
        return f"The channel {row.channel} is not installed any more."
    if not channel.setup().ready:
        return f"{channel.title} is not set up."
    return why_silent(row.event)


def why_silent(event: SignalEvent) -> str:
    """Why nobody is told of this event, by whatever way; empty when they may be."""
    if settings.TELL_IN_DRY_RUN:
        return ""
    if event.fleet == DRILLS:
        return "It is a drill: nobody is told of those."
    return "The agent is in dry-run: nobody is told." if agent_settings().dry_run else ""
