"""The admin of incidents with all that belongs to them; and of the settings that hold them back."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminIntegerFieldWidget

from byteport.adminkit import AuditedAdmin, RecordAdmin, RecordInline, choice_filter, column, seconds
from incidents import tokens
from incidents.models import ApiToken, Delivery, scope_names
from incidents.outgoing.admin import OutgoingEventAdmin, OutgoingWebhookAdmin
from incidents.policies import Policy, after_change, default_row, fields_of, unit_of
from incidents.queries import HEAVY
from incidents.roles import Deed, may
from runbooks.models import (
    AgentAction,
    AgentSettings,
    Approval,
    GateVerdict,
    RunbookPolicy,
    VerificationSample,
    runbook_names,
)
from signals.admin import source_slugs
from signals.models import OutgoingEvent, OutgoingWebhook, SignalEvent, SignalPolicy, TimelineEntry, signal_names

STATUS_COLOURS = {
    "resolved": "success",
    "escalated": "danger",
    "awaiting_approval": "warning",
    "acting": "info",
    "verifying": "info",
}


TIMES = ("detected_at", "last_seen_at", "acted_at", "cleared_at", "escalated_at", "resolved_at")
LOOP = ("stage_attempts", "due_at", "lease_until", "lease_token", "fingerprint", "fleet", "neighbourhood", "unit")


class Timeline(RecordInline):
    model = TimelineEntry
    fields = ("at", "actor", "kind", "message")
    readonly_fields = fields
    ordering = ("pk",)


class Gates(RecordInline):
    model = GateVerdict
    fields = ("round", "gate", "allowed", "reason", "at")
    readonly_fields = fields
    ordering = ("-round", "ordinal")


class Actions(RecordInline):
    model = AgentAction
    fields = ("summary", "status", "message", "dry_run", "started_at", "finished_at")
    readonly_fields = fields
    ordering = ("pk",)


class Samples(RecordInline):
    model = VerificationSample
    fields = ("at", "look", "value", "message")
    readonly_fields = fields
    ordering = ("pk",)
    verbose_name_plural = "verification samples"


class Approvals(RecordInline):
    model = Approval
    fields = ("requested_at", "expires_at", "approved", "decided_by", "decided_at", "why")
    readonly_fields = fields
    ordering = ("pk",)


class Deliveries(RecordInline):
    model = Delivery
    fields = ("channel", "kind", "status", "attempts", "error", "url", "created_at", "sent_at")
    readonly_fields = fields
    ordering = ("pk",)


class OutgoingEvents(RecordInline):
    model = OutgoingEvent
    fields = ("webhook", "kind", "status", "attempts", "answer", "at", "sent_at")
    readonly_fields = fields
    ordering = ("pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutgoingEvent]:
        rows: QuerySet[OutgoingEvent] = super().get_queryset(request)
        return rows.select_related("webhook").defer("body", "snapshot")


@admin.register(SignalEvent)
class SignalEventAdmin(RecordAdmin):
    """Incidents, from detection to postmortem. What can be done about one is done in the console."""

    list_display = ("number", "what", "severity_label", "status_label", "value", "detected_at", "resolved_by")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("severity", ChoicesDropdownFilter),
        ("resolved_by", ChoicesDropdownFilter),
        choice_filter("signal", "signal", signal_names),
        choice_filter("runbook", "runbook", runbook_names),
        choice_filter("source", "source", source_slugs),
    )
    search_fields = ("resource", "reason")
    search_help_text = "Part of a resource reference or of a reason"
    inlines = (Timeline, Gates, Actions, Samples, Approvals, Deliveries, OutgoingEvents)
    fieldsets = (
        (None, {"fields": ("console", "signal", "resource", "severity", "status", "resolved_by", "reason")}),
        ("Values", {"fields": ("value", "threshold", "repeats", "source", "detail", "labels")}),
        ("Times", {"fields": TIMES}),
        ("Diagnosis and plan", {"fields": ("runbook", "diagnosis", "plan", "plan_hash")}),
        ("Postmortem", {"fields": ("postmortem_final", "postmortem_md"), "classes": ("collapse",)}),
        ("The loop's own", {"fields": LOOP, "classes": ("collapse",)}),
    )
    readonly_fields = ("console",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[SignalEvent]:
        rows: QuerySet[SignalEvent] = super().get_queryset(request)
        match = request.resolver_match
        is_list = match is not None and match.url_name == "signals_signalevent_changelist"
        return rows.defer(*HEAVY) if is_list else rows

    @column("Incident")
    def number(self, obj: SignalEvent) -> str:
        return f"#{obj.pk} {obj.title}"

    @column("Resource")
    def what(self, obj: SignalEvent) -> str:
        return obj.ref.label

    @column("Severity", label={"critical": "danger", "warning": "warning", "info": "info"})
    def severity_label(self, obj: SignalEvent) -> str:
        return obj.severity

    @column("Status", label=STATUS_COLOURS)
    def status_label(self, obj: SignalEvent) -> tuple[str, str]:
        return obj.status, obj.get_status_display()

    @column("In the console")
    def console(self, obj: SignalEvent) -> str:
        return format_html('<a href="/incidents/{0}/" class="text-link">Incident {0}</a>', obj.pk)


class PolicyAdmin(AuditedAdmin):
    """One row a signal or runbook. The form says each field's default and unit."""

    audit_noun = "policy"
    list_per_page = 200

    def changed(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        after_change(before, after)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A missing row means the defaults: to delete one would look like switching off, and be the contrary."""
        return False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(super().has_add_permission(request)) and bool(self.missing())

    def missing(self) -> list[tuple[str, str]]:
        """The names that have no row yet."""
        key = self.model._meta.pk
        known = set(self.model._default_manager.values_list("pk", flat=True))
        return [(name, title) for name, title in key.flatchoices if name not in known]

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return super().formfield_for_choice_field(db_field, request, choices=self.missing(), **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """A new row begins with the defaults of the first name that has none."""
        default = default_row(self.missing()[0][0])
        return {
            default._meta.pk.name: default.pk,
            **{key: getattr(default, key) for key in fields_of(default)},
        }

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Sequence[str]:
        return (self.model._meta.pk.name,) if obj else ()

    def get_form(self, request: HttpRequest, obj: Policy | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if obj is not None:
            _say_defaults(form.base_fields, str(obj.pk))
        return form


def _say_defaults(fields: dict[str, Any], name: str) -> None:
    default = default_row(name)
    for key, field in fields.items():
        value = getattr(default, key)
        shown = ("off", "on")[value] if isinstance(value, bool) else f"{value:g} {unit_of(name, key)}".strip()
        field.help_text = f"{field.help_text} Default: {shown}."


@admin.register(SignalPolicy)
class SignalPolicyAdmin(PolicyAdmin):
    search_fields = ("signal",)
    list_display = ("signal", "enabled", "threshold", "critical", "clear", seconds("sustain_s"), seconds("max_gap_s"))
    fieldsets = (
        (None, {"fields": ("signal", "enabled")}),
        ("Thresholds", {"fields": ("threshold", "critical", "clear")}),
        ("Window", {"fields": ("sustain_s", "max_gap_s")}),
    )


@admin.register(RunbookPolicy)
class RunbookPolicyAdmin(PolicyAdmin):
    search_fields = ("runbook",)
    list_display = (
        "runbook",
        "enabled",
        "dry_run",
        "needs_approval",
        seconds("cooldown_s"),
        seconds("verify_deadline_s"),
        "good_samples",
    )
    fieldsets = (
        (None, {"fields": ("runbook", "enabled", "dry_run", "needs_approval", "cooldown_s", "step")}),
        (
            "Verification",
            {"fields": ("verify_delay_s", "verify_interval_s", "verify_deadline_s", "good_samples")},
        ),
    )


@admin.register(AgentSettings)
class AgentSettingsAdmin(AuditedAdmin):
    """The one row that governs the agent as a whole. Who operates the agent may switch it; its bounds take more."""

    switches = ("dry_run", "paused", "paused_reason")
    one_line = ("paused_reason",)

    fieldsets = (
        ("What it may do", {"fields": ("dry_run", "paused", "paused_reason", "approval_ttl_s")}),
        ("Budgets", {"fields": ("max_concurrent", "max_per_hour", "max_per_neighbourhood_hour")}),
        ("Storm brake", {"fields": ("storm_percent", "storm_minimum")}),
        (
            "Fixes that do not last",
            {"fields": ("refire_window_s", "ineffective_limit", "ineffective_window_s")},
        ),
    )

    def audit_target(self, obj: Model) -> str:
        return "agent"

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Sequence[Any]:
        """Where the deployment forces dry-run, switching it here would have no effect, and later an unexpected one."""
        forced = isinstance(obj, AgentSettings) and obj.dry_run_is_forced
        fields = [field for _, options in self.fieldsets for field in options["fields"]]
        held = (
            *(("dry_run",) if forced else ()),
            *(() if may(request.user, Deed.OPERATE) else self.switches),
            *(() if may(request.user, Deed.CONFIGURE) else (name for name in fields if name not in self.switches)),
        )
        return (*super().get_readonly_fields(request, obj), *dict.fromkeys(held))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return may(request.user, Deed.OPERATE) or may(request.user, Deed.CONFIGURE)

    def changed(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        after_change(before, after)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(super().has_add_permission(request)) and not AgentSettings.objects.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """There is one row, so that its form is what the list shows."""
        if AgentSettings.objects.exists():
            return HttpResponseRedirect(reverse("admin:runbooks_agentsettings_change", args=[1]))
        page: HttpResponse = super().changelist_view(request, extra_context)
        return page


class ApiTokenForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new token. What it is for is chosen once; to change it, make another and revoke this one."""

    scopes = forms.MultipleChoiceField(
        choices=scope_names,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="read: look; signal: send signals; approve: look, approve and refuse; administer: all of it.",
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=tokens.MOST_DAYS,
        initial=tokens.DAYS,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="How many days it is good.",
    )

    class Meta:
        model = ApiToken
        fields = ("name", "user", "scopes")


@admin.register(ApiToken)
class ApiTokenAdmin(AuditedAdmin):
    """Tokens for the API. Each is shown once, in the reply that makes it; deleting it makes it void at once."""

    form = ApiTokenForm  # type: ignore[assignment]  # nothing of a token is ever changed
    audit_noun = "token"
    list_display = ("name", "key", "user", "scopes", "created", "expiry")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    fields = ("name", "user", "scopes", "days")

    @column("Key")
    def key(self, obj: ApiToken) -> str:
        return str(obj.token_key[: tokens.KEY_CHARS])

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        given = form.cleaned_data
        made = tokens.make(
            given["user"],
            name=given["name"],
            scopes=given["scopes"],
            days=given["days"],
            actor=request.user.get_username(),
        )
        row, request.byteport_token = made  # type: ignore[attr-defined]
        for field in ApiToken._meta.concrete_fields:
            setattr(obj, field.attname, getattr(row, field.attname))

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        """The token goes into this one reply: neither into a cookie nor into the session."""
        context = {
            **self.admin_site.each_context(request),
            "title": f"Token {obj.name}",
            "opts": self.opts,
            "token": getattr(request, "byteport_token", ""),
            "address": settings.PUBLIC_URL,
        }
        reply = TemplateResponse(request, "admin/incidents/apitoken/shown.html", context)
        reply["Cache-Control"] = "no-store"
        return reply


admin.site.register(OutgoingWebhook, OutgoingWebhookAdmin)
admin.site.register(OutgoingEvent, OutgoingEventAdmin)
