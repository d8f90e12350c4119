"""The admin of ACT and VERIFY: maintenance windows, and the record of verdicts, approvals, actions and samples."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesDropdownFilter

from byteport.adminkit import AuditedAdmin, FreshForm, RecordAdmin, choice_filter, column
from runbooks.action import ACTIONS
from runbooks.guards import GATES
from runbooks.models import AgentAction, Approval, GateVerdict, MaintenanceWindow, VerificationSample

RESULT_COLOURS = {
    "done": "success",
    "failed": "danger",
    "refused": "danger",
    "unknown": "danger",
    "skipped": "warning",
    "started": "info",
}
LOOK_COLOURS = {"good": "success", "bad": "danger", "inconclusive": "warning"}


def action_names() -> list[tuple[str, str]]:
    return [(name, action.title) for name, action in ACTIONS.items()]


def gate_names() -> list[tuple[str, str]]:
    return [(gate.__name__, gate.__name__.replace("_", " ")) for gate in GATES]


class OfIncident:
    """Shows which incident a row belongs to without reading it, since incidents are wide rows."""

    @column("Incident")
    def incident(self, obj: Any) -> str:
        return format_html(
            '<a href="{}" class="text-link">#{}</a>',
            reverse("admin:signals_signalevent_change", args=[obj.event_id]),
            obj.event_id,
        )


class WindowForm(FreshForm):
    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        starts_at, ends_at = self.cleaned_data.get("starts_at"), self.cleaned_data.get("ends_at")
        if starts_at and ends_at and ends_at <= starts_at:
            self.add_error("ends_at", ValidationError("Must be after the start."))
        return cleaned


@admin.register(MaintenanceWindow)
class MaintenanceWindowAdmin(AuditedAdmin):
    """Times (UTC) in which BytePort keeps its hands off something."""

    form = WindowForm
    audit_noun = "maintenance window"
    one_line = ("name", "resources")
    list_display = ("name", "starts_at", "ends_at", "resources")
    search_fields = ("name", "resources")
    date_hierarchy = "starts_at"
    fieldsets = (
        (None, {"fields": ("name", "resources")}),
        ("When", {"fields": ("starts_at", "ends_at"), "description": "Times are in UTC."}),
    )


@admin.register(GateVerdict)
class GateVerdictAdmin(OfIncident, RecordAdmin):
    """Why something was done, or not: each gate's answer."""

    list_display = ("incident", "round", "gate", "verdict", "reason", "at")
    list_display_links = ("gate",)
    list_filter = (("allowed", BooleanRadioFilter), choice_filter("gate", "gate", gate_names))
    search_fields = ("reason",)

    @column("Verdict", label={"allowed": "success", "refused": "danger"})
    def verdict(self, obj: GateVerdict) -> str:
        return "allowed" if obj.allowed else "refused"


@admin.register(Approval)
class ApprovalAdmin(OfIncident, RecordAdmin):
    """Plans that wait for a person's word, or got it. The word itself is given in the console or at the terminal."""

    list_display = ("incident", "state", "requested_at", "expires_at", "decided_by", "decided_at", "why")
    list_display_links = ("state",)
    list_filter = (("approved", BooleanRadioFilter),)
    search_fields = ("decided_by", "why", "plan_hash__startswith")
    date_hierarchy = "requested_at"

    @column("Word", label={"approved": "success", "refused": "danger", "none yet": "info"})
    def state(self, obj: Approval) -> str:
        return "none yet" if obj.approved is None else "approved" if obj.approved else "refused"


@admin.register(AgentAction)
class AgentActionAdmin(OfIncident, RecordAdmin):
    """Every change to infrastructure, written before it was made and completed after it."""

    list_display = ("incident", "summary", "result_label", "dry_run", "target", "started_at", "finished_at")
    list_display_links = ("summary",)
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("dry_run", BooleanRadioFilter),
        choice_filter("action", "action", action_names),
    )
    search_fields = ("target", "summary", "message")

    @column("Status", label=RESULT_COLOURS)
    def result_label(self, obj: AgentAction) -> str:
        return obj.status


@admin.register(VerificationSample)
class VerificationSampleAdmin(OfIncident, RecordAdmin):
    """Each look at a signal after an action: the evidence that it helped, or did not."""

    list_display = ("incident", "look_label", "value", "message", "at")
    list_display_links = ("look_label",)
    list_filter = (("look", ChoicesDropdownFilter),)
    search_fields = ("message",)

    @column("Look", label=LOOK_COLOURS)
    def look_label(self, obj: VerificationSample) -> str:
        return obj.look
