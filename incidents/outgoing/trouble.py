"""What console and doctor say of outgoing webhooks that do not get through."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from django.db.models import F, Q, QuerySet

from signals.models import OutgoingEvent, OutgoingWebhook

LATEST = 5
REMEDY = (
    "Look at it under Outgoing webhooks in the admin: `Send a test event` shows what it answers, and `Send again what"
    " failed` sends what it has missed."
)


class Deaf(msgspec.Struct, frozen=True):
    """A webhook that has refused its latest event, or has not answered for long."""

    name: str
    count: int  # events that have not arrived since it last took one
    error: str
    incidents: tuple[int, ...]  # the latest of them


def deaf_webhooks(at: datetime, long: timedelta) -> Iterator[Deaf]:
    """One query while all is well."""
    refused = Q(failing_since=None) & (Q(last_success_at=None) | Q(last_error_at__gt=F("last_success_at")))
    deaf = Q(failing_since__lt=at - long) | refused
    for webhook in OutgoingWebhook.objects.filter(deaf, enabled=True, last_error_at__isnull=False):
        missed = _missed(webhook)
        incidents = missed.exclude(incident=None).values_list("incident_id", flat=True)[:LATEST]
        yield Deaf(webhook.name, missed.count(), webhook.last_error, tuple(dict.fromkeys(incidents)))


def _missed(webhook: OutgoingWebhook) -> QuerySet[OutgoingEvent]:
    missed = webhook.events.filter(status__in=(*OutgoingEvent.PENDING, OutgoingEvent.State.FAILED))
    return missed.filter(at__gt=webhook.last_success_at) if webhook.last_success_at else missed
