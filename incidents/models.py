"""The table of CONCLUDE: what people have to be told, and whether they were."""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from knox.models import AbstractAuthToken

from incidents.escalation.channel import CHANNELS, Kind
from incidents.roles import Scope
from signals.models import SignalEvent


def channel_names() -> list[tuple[str, str]]:
    return [(name, channel.title) for name, channel in CHANNELS.items()]


class Told(models.TextChoices):
    """Where a delivery stands."""

    WAITING = "waiting"
    SENDING = "sending"  # an attempt was begun; how it ended is not known, so it is probed before the next
    SENT = "sent"
    HELD = "held"  # not to be sent as things are: dry-run, or no channel that is set up
    FAILED = "failed"  # not to be had without a person
    WITHDRAWN = "withdrawn"  # nobody needs to be told any more


class Delivery(models.Model):
    """One thing to tell through one channel. Written in the transaction that makes it necessary."""

    PENDING: ClassVar = (Told.WAITING, Told.SENDING)

    event = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.TextField(choices=channel_names)
    kind = models.TextField(choices=[(kind.value, kind.value) for kind in Kind])
    ordinal = models.PositiveIntegerField(default=0, help_text="tells several of a kind apart: reminders")
    uid = models.UUIDField(unique=True, help_text="The id that travels with it, and by which it is recognised.")
    fingerprint = models.UUIDField(help_text="the event's: what is told of one trouble keeps its order")
    severity = models.TextField(help_text="when it was written")
    status = models.TextField(choices=Told.choices, default=Told.WAITING)
    created_at = models.DateTimeField()
    due_at = models.DateTimeField(null=True, help_text="when to try; empty: nothing to do")
    attempts = models.PositiveIntegerField(default=0)
    began_at = models.DateTimeField(null=True, help_text="when the first attempt was begun")
    failing_since = models.DateTimeField(null=True)
    blocked_until = models.DateTimeField(null=True, help_text="the far end's own pause, for the whole channel")
    error = models.TextField(blank=True, help_text="what went wrong last, or why it is held")
    remedy = models.TextField(blank=True, help_text="what a person can do about it")
    target = models.TextField(blank=True, help_text="where it goes, or is: an issue's number, a message's id")
    url = models.TextField(blank=True)
    title = models.TextField(blank=True, help_text="as it was sent")
    body = models.TextField(blank=True, help_text="as it was sent, in Markdown")
    sent_at = models.DateTimeField(null=True)
    confirm_at = models.DateTimeField(null=True, help_text="when to ask whether it has reached anybody")
    setup = models.TextField(blank=True, db_default="", help_text="the channel's settings with which it failed")
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)

    class Meta:
        db_table = "deliveries"
        ordering = ["id"]
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["channel", "fingerprint", "-id"], name="deliveries_trouble"),
            models.Index(fields=["due_at"], condition=models.Q(due_at__isnull=False), name="deliveries_due"),
            models.Index(
                fields=["status"], condition=~models.Q(status__in=["sent", "withdrawn"]), name="deliveries_open"
            ),
            models.Index(
                fields=["confirm_at"], condition=models.Q(confirm_at__isnull=False), name="deliveries_confirm"
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["event", "channel", "kind", "ordinal"], name="one_delivery_of_a_kind"),
            models.CheckConstraint(condition=models.Q(status__in=Told.values), name="known_delivery_status"),
            models.CheckConstraint(
                condition=~models.Q(status="sent") | models.Q(sent_at__isnull=False), name="sent_has_a_time"
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=["waiting", "sending"], due_at__isnull=False)
                | (~models.Q(status__in=["waiting", "sending"]) & models.Q(due_at__isnull=True)),
                name="pending_is_due_some_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.channel}: {self.kind} of incident {self.event_id}"

    @property
    def is_pending(self) -> bool:
        return self.status in self.PENDING


def scope_names() -> list[tuple[str, str]]:
    return [(scope.value, scope.value) for scope in Scope]


class ApiToken(AbstractAuthToken):  # type: ignore[misc]
    """A token for the API. Only its hash is kept; the token itself is shown once, when it is made."""

    name = models.CharField(max_length=100, help_text="What it is for, e.g. `grafana dashboards`.")
    scopes = ArrayField(
        models.TextField(choices=scope_names),
        help_text="What it is for; it never allows more than its user's role does.",
    )

    class Meta:
        db_table = "api_tokens"
        ordering = ["-created"]
        verbose_name = "API token"

    def __str__(self) -> str:
        return self.name


class IdempotentCall(models.Model):
    """One write by the API under a key, and its answer; kept for a day."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    key = models.CharField(max_length=255)
    request_hash = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True, help_text="empty while it is being carried out")
    answer = models.JSONField(null=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "idempotent_calls"
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="one_call_per_key")]

    def __str__(self) -> str:
        return self.key
