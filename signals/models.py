"""The tables of DETECT: sources, series and samples, signal events and their timeline."""

from collections.abc import Sequence
from typing import ClassVar

import pgtrigger
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Now

from byteport.core.destination import URL_CHARS, destination_of
from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.catalog import CATALOG
from signals.happening import Happening
from signals.mapping import Rule, resource_fault, template_fault
from signals.source import SOURCES
from signals.untrusted import SIGNAL_CHARS


def signal_names() -> list[tuple[str, str]]:
    return [(name, signal.title) for name, signal in CATALOG.items()]


def source_kinds() -> list[tuple[str, str]]:
    return [(name, source.title) for name, source in SOURCES.items()]


class Source(models.Model):
    """Where readings come from."""

    slug = models.SlugField(
        unique=True, max_length=64, help_text="Its name in addresses: a webhook is called at /hooks/ and this name."
    )
    kind = models.TextField(choices=source_kinds, help_text="What it speaks.")
    enabled = models.BooleanField(default=True, help_text="Off: it is not asked, and its webhook answers 404.")
    options = models.JSONField(
        default=dict, blank=True, help_text="Settings of this kind, as JSON. Never a credential."
    )
    sealed_secret = models.TextField(blank=True, editable=False, help_text="The webhook's secret, encrypted.")
    created_at = models.DateTimeField(auto_now_add=True)

    last_success_at = models.DateTimeField(null=True, editable=False)
    last_reading_at = models.DateTimeField(null=True, editable=False)
    last_error_at = models.DateTimeField(null=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)
    readings_total = models.BigIntegerField(default=0, editable=False)
    read_until = models.DateTimeField(null=True, editable=False, help_text="All that was measured before is read.")
    calls_on = models.DateField(null=True, editable=False, help_text="The day (UTC) of the latest call.")
    calls_today = models.PositiveBigIntegerField(db_default=0, editable=False, help_text="Calls on that day.")
    calls_yesterday = models.PositiveBigIntegerField(
        db_default=0, editable=False, help_text="Calls on the last day before that had any."
    )

    class Meta:
        db_table = "sources"
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class AlertMapping(models.Model):
    """An operator's rule for what a foreign sender's alert is about. It goes before those that BytePort knows."""

    name = models.CharField(max_length=100, unique=True, help_text="For people: what the rule is for.")
    position = models.PositiveIntegerField(
        default=100, help_text="The rule with the lowest position that applies counts."
    )
    enabled = models.BooleanField(default=True, help_text="Off: the rule is passed over.")
    source = models.ForeignKey(
        Source, on_delete=models.CASCADE, null=True, blank=True, help_text="The source it is for; empty: all of them."
    )
    alert = models.CharField(
        max_length=512,
        default="*",
        help_text="The alert's name, as a shell-style pattern; several separated by |. `!` before them: none of these.",
    )
    labels = models.JSONField(
        default=dict,
        blank=True,
        help_text='Labels that have to fit, as JSON: {"env": "prod|staging", "fstype": "!tmpfs"}.',
    )
    signal = models.CharField(
        max_length=SIGNAL_CHARS, help_text="The signal it becomes: one of BytePort's own, or a name of yours."
    )
    resource = models.CharField(
        max_length=512,
        help_text="What it is about: platform/place/kind/name or platform/place/namespace/kind/name, with {label} for "
        "a label's value, {a|b|=text} for the first that is there, {instance:host} for the value without its port.",
    )
    detail = models.CharField(
        max_length=256, blank=True, help_text="What tells two incidents of one resource apart, e.g. {container|=}."
    )

    class Meta:
        db_table = "alert_mappings"
        ordering = ["position", "pk"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        faults = {"resource": resource_fault(self.resource), "detail": template_fault(self.detail)}
        labels = self.labels
        if not isinstance(labels, dict) or not all(isinstance(pattern, str) for pattern in labels.values()):
            faults["labels"] = 'write a JSON object of patterns, e.g. {"env": "prod"}'
        if any(faults.values()):
            raise ValidationError({field: f"Not as expected: {fault}." for field, fault in faults.items() if fault})

    def rule(self) -> Rule:
        """The rule as the mapping takes it."""
        return Rule(
            name=self.name,
            alert=self.alert,
            labels=tuple(sorted(self.labels.items())),
            signal=self.signal,
            resource=self.resource,
            detail=self.detail,
        )


class SourceStream(models.Model):
    """How one stream of a source that BytePort follows fares, as its watcher reported last."""

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="streams")
    name = models.TextField(help_text="e.g. prod/pods")
    contact_at = models.DateTimeField(null=True, help_text="when the far end last said anything")
    event_at = models.DateTimeField(null=True, help_text="when the latest event came in")
    lag_s = models.FloatField(null=True, help_text="seconds from when that happened to when it came in")
    events = models.BigIntegerField(default=0, help_text="since the stream began")
    error = models.TextField(blank=True, help_text="empty: it is well")
    note = models.TextField(blank=True)
    reported_at = models.DateTimeField()

    class Meta:
        db_table = "source_streams"
        ordering = ["source", "name"]
        constraints = [models.UniqueConstraint(fields=["source", "name"], name="one_row_a_stream")]

    def __str__(self) -> str:
        return self.name


class StreamState(models.Model):
    """What the next watcher of a stream source has to know, so that nothing is lost between the two."""

    source = models.ForeignKey(Source, on_delete=models.CASCADE)
    key = models.TextField()
    state = models.BinaryField()
    saved_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "stream_states"
        constraints = [models.UniqueConstraint(fields=["source", "key"], name="one_state_a_key")]

    def __str__(self) -> str:
        return self.key


class SignalPolicy(models.Model):
    """The thresholds of one signal. Times are seconds, percentages 0 to 100."""

    signal = models.TextField(primary_key=True, choices=signal_names, help_text="The signal.")
    enabled = models.BooleanField(default=True, help_text="Off: readings are kept, but never open an event.")
    threshold = models.FloatField(help_text="Fires above this value (in the signal's unit, % for usage).")
    critical = models.FloatField(help_text="From this value on, the severity is critical instead of warning.")
    clear = models.FloatField(
        help_text="Counts as cleared below this value. Lower than the threshold, so that it does not flap."
    )
    sustain_s = models.PositiveIntegerField(
        help_text="Seconds that the value has to stay above the threshold to fire, and below `clear` to clear.",
        validators=[MaxValueValidator(86_400)],
    )
    max_gap_s = models.PositiveIntegerField(
        help_text="Seconds without a reading after which the sustained window starts again.",
        validators=[MinValueValidator(1), MaxValueValidator(86_400)],
    )

    class Meta:
        db_table = "signal_policies"
        ordering = ["signal"]
        verbose_name_plural = "signal policies"

    def __str__(self) -> str:
        return self.signal

    def clean(self) -> None:
        if self.threshold is not None and self.clear is not None and CATALOG[self.signal].sends_values:
            if self.clear > self.threshold and self.signal != "idle_in_transaction":
                raise ValidationError({"clear": f"Must not be above the threshold ({self.threshold:g})."})
            if self.critical < self.threshold:
                raise ValidationError({"critical": f"Must not be below the threshold ({self.threshold:g})."})


class Series(models.Model):
    """What is known of one signal of one resource: the latest value, and since when it is above or below its bounds."""

    fingerprint = models.UUIDField(primary_key=True)
    signal = models.TextField()
    resource = models.TextField(help_text="text form of the resource reference")
    detail = models.TextField(blank=True)
    fleet = models.TextField(help_text="the group that shares an action budget")
    unit = models.TextField(help_text="the host, server or workload that the storm brake counts")
    source = models.TextField(blank=True, help_text="slug of the source that sent the latest reading")
    last_at = models.DateTimeField(null=True)
    last_value = models.FloatField(null=True)
    breach_since = models.DateTimeField(null=True, help_text="above the threshold without a break since")
    clear_since = models.DateTimeField(null=True, help_text="below the clear threshold without a break since")

    class Meta:
        db_table = "series"
        verbose_name_plural = "series"
        indexes = [
            # No index holds a column that a reading moves, so that its update stays within the page (HOT).
            models.Index(fields=["signal"], name="series_signal"),
            models.Index(fields=["fleet", "unit"], name="series_fleet"),
        ]

    def __str__(self) -> str:
        return f"{self.signal} {self.resource}"


class Sample(models.Model):
    """One measured value. The table is partitioned by day (see the migrations) and old days are dropped whole."""

    pk = models.CompositePrimaryKey("fingerprint", "at")
    fingerprint = models.UUIDField()
    at = models.DateTimeField()
    value = models.FloatField()

    class Meta:
        db_table = "samples"

    def __str__(self) -> str:
        return f"{self.value:g} at {self.at:%H:%M:%S}"


class Status(models.TextChoices):
    """Where an event stands in the loop. See docs/architecture.md for the arrows between them."""

    DETECTED = "detected"
    DIAGNOSED = "diagnosed"
    AWAITING_APPROVAL = "awaiting_approval"
    SIMULATED = "simulated"
    ACTING = "acting"
    VERIFYING = "verifying"
    RESOLVED = "resolved"
    ESCALATED = "escalated"


class ResolvedBy(models.TextChoices):
    BYTEPORT = "byteport"
    PERSON = "person"
    ITSELF = "itself"


class SignalEvent(models.Model):
    """One incident: a signal of one resource, from its detection to its postmortem.

    `status` is written by `signals.lifecycle.transition` alone.
    """

    OPEN: ClassVar[Sequence[str]] = [status for status in Status.values if status != Status.RESOLVED]

    fingerprint = models.UUIDField()
    signal = models.TextField()
    resource = models.TextField(help_text="text form of the resource reference")
    fleet = models.TextField(help_text="the group that shares an action budget")
    neighbourhood = models.TextField(help_text="the smaller group with a budget of its own")
    unit = models.TextField(help_text="the host, server or workload that the storm brake counts")
    detail = models.TextField(blank=True)
    source = models.TextField(blank=True, help_text="slug of the source that opened it")
    severity = models.TextField(choices=[(s.value, s.value) for s in Severity])
    value = models.FloatField(null=True, help_text="latest value, in the signal's unit")
    threshold = models.FloatField(null=True)
    labels = models.JSONField(default=dict)
    repeats = models.PositiveIntegerField(db_default=0, help_text="further times it fired while open")

    status = models.TextField(choices=Status.choices, db_default=Status.DETECTED)
    resolved_by = models.TextField(choices=ResolvedBy.choices, blank=True, db_default="")
    reason = models.TextField(blank=True, db_default="", help_text="why it stands where it stands")
    detected_at = models.DateTimeField(help_text="when the signal fired")
    last_seen_at = models.DateTimeField(help_text="latest reading that still fires")
    cleared_at = models.DateTimeField(null=True, help_text="when its source said that it is over")
    acted_at = models.DateTimeField(null=True, help_text="when the runbook began to act")
    escalated_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)

    runbook = models.TextField(blank=True, db_default="")
    diagnosis = models.JSONField(null=True, help_text="evidence and inference, as the runbook found them")
    plan = models.JSONField(null=True, help_text="the plan, frozen when diagnosed")
    plan_hash = models.TextField(blank=True, db_default="")

    stage_attempts = models.PositiveIntegerField(db_default=0, help_text="failed tries of the present stage")
    lease_token = models.UUIDField(null=True, help_text="the worker that holds it now")
    lease_until = models.DateTimeField(null=True)
    due_at = models.DateTimeField(
        null=True, db_default=Now(), help_text="when its next stage is due; empty: nothing to do"
    )

    postmortem_md = models.TextField(blank=True, db_default="")
    postmortem_final = models.BooleanField(db_default=False)

    class Meta:
        db_table = "signal_events"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["status", "-id"], name="events_status"),
            models.Index(fields=["due_at"], condition=models.Q(due_at__isnull=False), name="events_due"),
            models.Index(fields=["fingerprint", "-id"], name="events_fingerprint"),
            models.Index(fields=["resource", "-id"], name="events_resource"),
            models.Index(  # for senders that end an incident by naming their own key of it
                KeyTextTransform("byteport.incident", "labels"),
                condition=~models.Q(status="resolved"),
                name="events_open_by_key",
            ),
            models.Index(
                fields=["-resolved_at"],
                include=["resolved_by", "detected_at"],
                condition=models.Q(resolved_at__isnull=False),
                name="events_resolved",
            ),
            models.Index(fields=["fleet", "acted_at"], condition=models.Q(acted_at__isnull=False), name="events_acted"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["fingerprint"], condition=~models.Q(status="resolved"), name="one_open_event"
            ),
            models.CheckConstraint(condition=models.Q(status__in=Status.values), name="known_status"),
            models.CheckConstraint(
                condition=models.Q(status="resolved", resolved_by__in=ResolvedBy.values, resolved_at__isnull=False)
                | (~models.Q(status="resolved") & models.Q(resolved_by="", resolved_at__isnull=True)),
                name="resolved_says_by_whom",
            ),
        ]
        triggers = [
            pgtrigger.Trigger(
                name="postmortem_is_final_once",
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__postmortem_final=True)
                & (
                    pgtrigger.Q(old__postmortem_md__df=pgtrigger.F("new__postmortem_md"))
                    | pgtrigger.Q(new__postmortem_final=False)
                ),
                func="RAISE EXCEPTION 'a final postmortem is never written again';",
            )
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.signal} {self.ref.label}"

    @property
    def ref(self) -> ResourceRef:
        return ResourceRef.parse(self.resource)

    @property
    def is_open(self) -> bool:
        return self.status != Status.RESOLVED

    @property
    def title(self) -> str:
        known = CATALOG.get(self.signal)
        return known.title if known else self.signal


class TimelineEntry(models.Model):
    """One line of an event's history: what happened, who did it, and why."""

    event = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, related_name="timeline")
    at = models.DateTimeField()
    actor = models.TextField(help_text="byteport, a source's slug, or a person's name")
    kind = models.TextField(help_text="a status that was entered, or note, action, sample, approval")
    message = models.TextField()
    data = models.JSONField(default=dict)

    class Meta:
        db_table = "timeline_entries"
        ordering = ["id"]
        verbose_name_plural = "timeline entries"

    def __str__(self) -> str:
        return self.message


class WebhookDelivery(models.Model):
    """The id of a signed delivery, kept as long as its timestamp would be accepted, so that a replay is refused."""

    source = models.ForeignKey(Source, on_delete=models.CASCADE)
    delivery_id = models.CharField(max_length=128, validators=[RegexValidator(r"^[0-9a-f]+$")])
    received_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        db_table = "webhook_deliveries"
        verbose_name_plural = "webhook deliveries"
        constraints = [models.UniqueConstraint(fields=["source", "delivery_id"], name="one_delivery")]

    def __str__(self) -> str:
        return self.delivery_id


def happenings() -> list[tuple[str, str]]:
    return [(kind.value, kind.value) for kind in Happening]


def subscribable() -> list[tuple[str, str]]:
    """All but tests, which whoever asks for one gets."""
    return [(kind.value, kind.value) for kind in Happening if kind is not Happening.TEST]


def all_of_them() -> list[str]:
    return [kind for kind, _ in subscribable()]


class OutgoingWebhook(models.Model):
    """A program that is told what happens to incidents. docs/outgoing.md describes what it gets."""

    name = models.CharField(max_length=100, unique=True, help_text="For people: who is called.")
    url = models.CharField(
        max_length=URL_CHARS,
        verbose_name="URL",
        help_text="Called with POST: https://…, or http:// in a private network. Whoever may look at these pages"
        " sees it.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: nothing is written for it. What waits is sent if it is on again within a day."
    )
    kinds = ArrayField(
        models.TextField(choices=subscribable), default=all_of_them, help_text="What it is told.", verbose_name="events"
    )
    private = models.BooleanField(
        default=False,
        verbose_name="in a private network",
        help_text="Allow addresses of private networks and of this machine, and http:// to these. Link-local"
        " addresses and clouds' metadata are refused all the same.",
    )
    sealed_secret = models.TextField(blank=True, editable=False, help_text="What its calls are signed with, encrypted.")
    created_at = models.DateTimeField(auto_now_add=True)

    last_success_at = models.DateTimeField(null=True, editable=False)
    last_error_at = models.DateTimeField(null=True, editable=False)
    last_error = models.TextField(blank=True, db_default="", editable=False)
    failing_since = models.DateTimeField(null=True, editable=False)
    paused_until = models.DateTimeField(null=True, editable=False, help_text="It is left alone until then.")

    class Meta:
        db_table = "outgoing_webhooks"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        try:
            destination = destination_of(self.url)
        except ValueError as error:
            raise ValidationError({"url": f"Not an address to call: {error}."}) from error
        if not destination.is_encrypted and not self.private:
            raise ValidationError({"url": "Use https://; http:// is for private networks only."})


class OutgoingEvent(models.Model):
    """One event for one webhook. Written in the transaction in which it happens."""

    PENDING: ClassVar = ("waiting", "sending")

    class State(models.TextChoices):
        WAITING = "waiting"
        SENDING = "sending"  # an attempt was begun; when its time is over, it is made again under the same id
        SENT = "sent"
        HELD = "held"  # dry-run, or a drill
        FAILED = "failed"  # refused, or given up

    webhook = models.ForeignKey(OutgoingWebhook, on_delete=models.CASCADE, related_name="events")
    uid = models.UUIDField(unique=True, help_text="The delivery's id: the same however often it is sent.")
    happening = models.UUIDField(help_text="The event's id: the same for every webhook.")
    kind = models.TextField(choices=happenings)
    incident = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, null=True, related_name="outgoing")
    action_id = models.BigIntegerField(null=True, help_text="the row of agent_actions that it is about")
    snapshot = models.JSONField(default=dict, help_text="what may change of an incident, as it was then")
    at = models.DateTimeField(help_text="when it happened")
    status = models.TextField(choices=State.choices, db_default=State.WAITING)
    due_at = models.DateTimeField(null=True, help_text="when to try; empty: nothing to do")
    attempts = models.PositiveIntegerField(db_default=0)
    body = models.TextField(blank=True, db_default="", help_text="as it was first sent")
    answer = models.TextField(blank=True, db_default="", help_text="its beginning, masked; or why there is none")
    sent_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "outgoing_events"
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["webhook", "due_at"], condition=models.Q(due_at__isnull=False), name="outgoing_events_due"
            ),
            models.Index(fields=["webhook", "-id"], name="outgoing_events_webhook"),
            models.Index(fields=["at"], name="outgoing_events_at"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=["waiting", "sending"], due_at__isnull=False)
                | (models.Q(status__in=["sent", "held", "failed"]) & models.Q(due_at__isnull=True)),
                name="outgoing_event_is_due_or_over",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} for {self.webhook_id}"
