"""What the API gives and takes. Times are ISO 8601 in UTC; a secret is in none of these."""

from typing import Any

from rest_framework import serializers

from byteport.models import AuditEntry, Host, MonitoredDatabase
from incidents.report import postmortem_text
from runbooks.models import AgentAction, Approval
from signals.models import OutgoingWebhook, SignalEvent, Source

JSON = serializers.JSONField


class IncidentSerializer(serializers.ModelSerializer[SignalEvent]):
    """An incident in a list."""

    resolved_by = serializers.SerializerMethodField(help_text="byteport, person or itself; null while it is open")
    resource_label = serializers.CharField(source="ref.label", read_only=True, help_text="the resource, for people")

    class Meta:
        model = SignalEvent
        fields = (
            "id", "signal", "resource", "resource_label", "detail", "source", "severity", "status", "resolved_by",
            "reason", "value", "threshold", "repeats", "runbook", "detected_at", "last_seen_at", "acted_at",
            "escalated_at", "resolved_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_resolved_by(self, event: SignalEvent) -> str | None:
        return event.resolved_by or None


class ActionSerializer(serializers.ModelSerializer[AgentAction]):
    """One step of a plan, carried out or simulated."""

    class Meta:
        model = AgentAction
        fields = (
            "id", "event", "uid", "plan_hash", "step", "action", "target", "summary", "dry_run", "status", "message",
            "result", "started_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class ApprovalSerializer(serializers.ModelSerializer[Approval]):
    """A plan that waits for a word, or got it."""

    class Meta:
        model = Approval
        fields = (
            "id", "event", "plan_hash", "requested_at", "expires_at", "approved", "decided_by", "decided_at", "why",
        )  # fmt: skip
        read_only_fields = fields


class SourceSerializer(serializers.ModelSerializer[Source]):
    """Where readings come from, and how it is."""

    class Meta:
        model = Source
        fields = (
            "id", "slug", "kind", "enabled", "last_success_at", "last_reading_at", "last_error_at", "last_error",
            "readings_total",
        )  # fmt: skip
        read_only_fields = fields


class WebhookSerializer(serializers.ModelSerializer[OutgoingWebhook]):
    """A program that is told of incidents, and how it takes that."""

    class Meta:
        model = OutgoingWebhook
        fields = (
            "id", "name", "url", "enabled", "kinds", "private", "last_success_at", "last_error_at", "last_error",
            "failing_since",
        )  # fmt: skip
        read_only_fields = fields


class HostSerializer(serializers.ModelSerializer[Host]):
    """A host of the inventory, and how it is reached."""

    class Meta:
        model = Host
        fields = (
            "id", "name", "enabled", "way", "suggested", "seen_at", "last_success_at", "last_error_at", "last_error",
        )  # fmt: skip
        read_only_fields = fields


class DatabaseSerializer(serializers.ModelSerializer[MonitoredDatabase]):
    """A monitored database server."""

    class Meta:
        model = MonitoredDatabase
        fields = ("id", "name", "enabled", "idle_limit_s", "last_success_at", "last_error_at", "last_error")
        read_only_fields = fields


class AuditSerializer(serializers.ModelSerializer[AuditEntry]):
    """One change that an operator made."""

    class Meta:
        model = AuditEntry
        fields = ("id", "at", "actor", "action", "target", "before", "after")
        read_only_fields = fields


class PostmortemSerializer(serializers.ModelSerializer[SignalEvent]):
    """A postmortem: final once the incident has ended, a draft before."""

    event_id = serializers.IntegerField(source="pk", read_only=True)
    final = serializers.BooleanField(source="postmortem_final", read_only=True)
    markdown = serializers.SerializerMethodField()

    class Meta:
        model = SignalEvent
        fields = (
            "event_id",
            "signal",
            "resource",
            "severity",
            "status",
            "detected_at",
            "resolved_at",
            "final",
            "markdown",
        )
        read_only_fields = fields

    def get_markdown(self, event: SignalEvent) -> str:
        return postmortem_text(event)


class SignalsAnswer(serializers.Serializer[Any]):
    """What a batch of signals led to. `why` counts them by what each led to, or why it led to nothing."""

    accepted = serializers.IntegerField()
    opened = serializers.ListField(child=serializers.IntegerField())
    cleared = serializers.ListField(child=serializers.IntegerField())
    why = serializers.DictField(child=serializers.IntegerField())


class ResourceMessage(serializers.Serializer[Any]):
    """One signal, as docs/webhooks.md describes it."""

    signal = serializers.CharField(min_length=1, max_length=128)
    resource = serializers.CharField(max_length=1024, help_text="text form, e.g. host/web-1/mount/%2Fvar")
    value = serializers.FloatField(required=False)
    status = serializers.ChoiceField(choices=["firing", "resolved", "measured"], required=False)
    at = serializers.DateTimeField(required=False)
    detail = serializers.CharField(max_length=256, required=False)
    labels = serializers.DictField(child=serializers.CharField(max_length=4096), required=False)
    severity = serializers.ChoiceField(choices=["info", "warning", "critical"], required=False)


class AgentState(serializers.Serializer[Any]):
    """How the agent as a whole behaves."""

    dry_run = serializers.BooleanField()
    dry_run_is_forced = serializers.BooleanField(read_only=True, help_text="by the deployment, whatever is set here")
    paused = serializers.BooleanField()
    paused_reason = serializers.CharField(read_only=True)


class AgentChange(serializers.Serializer[Any]):
    """What to switch; what is left out stays as it is."""

    dry_run = serializers.BooleanField(required=False)
    paused = serializers.BooleanField(required=False)
    why = serializers.CharField(required=False, max_length=1000, help_text="with `paused`: shown to everybody")


class Approve(serializers.Serializer[Any]):
    """`plan_hash`: the plan that was shown; a yes for another one is refused."""

    plan_hash = serializers.CharField(max_length=64)


class Refuse(serializers.Serializer[Any]):
    plan_hash = serializers.CharField(max_length=64)
    why = serializers.CharField(max_length=1000)


class PolicySetting(serializers.Serializer[Any]):
    key = serializers.CharField()
    value = JSON()
    default = JSON()
    unit = serializers.CharField(allow_blank=True)
    help = serializers.CharField(allow_blank=True)


class PolicySerializer(serializers.Serializer[Any]):
    """A signal's or runbook's policy. `stored`: whether it was ever set."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["signal", "runbook"])
    title = serializers.CharField()
    stored = serializers.BooleanField()
    settings = PolicySetting(many=True)


class Problem(serializers.Serializer[Any]):
    """RFC 9457."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
