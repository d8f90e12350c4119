"""The admin of outgoing webhooks: who is called, what became of it, and what a person can do about it."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from byteport.adminkit import FreshForm, RecordAdmin, SecretAdmin, choice_filter, column, health_of
from incidents.outgoing import courier
from signals.models import OutgoingEvent, OutgoingWebhook, all_of_them, happenings, subscribable

HEALTH = ("last_success_at", "last_error_at", "last_error", "failing_since", "paused_until", "created_at")
SHOWN, TESTS_SHOWN = 10, 5
STATE_COLOURS = {"sent": "success", "failed": "danger", "held": "warning", "waiting": "info", "sending": "info"}


def states() -> list[tuple[str, str]]:
    return list(OutgoingEvent.State.choices)


def webhook_names() -> list[tuple[str, str]]:
    return [(name, name) for name in OutgoingWebhook.objects.values_list("name", flat=True)]


class OutgoingWebhookForm(FreshForm):
    kinds = forms.MultipleChoiceField(
        choices=subscribable,
        initial=all_of_them,
        label="Events",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What it is told. docs/outgoing.md describes each.",
    )

    def clean(self) -> dict[str, Any] | None:
        if self.instance._state.adding and not courier.has_room():
            most = courier.MOST_WEBHOOKS
            raise ValidationError(f"There are {most} outgoing webhooks already, which is as many as there may be.")
        return super().clean()


class OutgoingWebhookAdmin(SecretAdmin):
    """A program that is told of incidents."""

    form = OutgoingWebhookForm
    audit_noun = "outgoing webhook"
    list_display = ("name", "enabled", "health", "last_success_at", "last_error_at")
    list_filter = ("enabled",)
    search_fields = ("name",)
    actions_detail = ("send_test", "send_again", "new_secret")
    readonly_fields = ("latest", *HEALTH)
    fieldsets = (
        (None, {"fields": ("name", "url", "enabled", "kinds", "private")}),
        ("Health", {"fields": ("latest", *HEALTH), "description": "Written by BytePort each time that it is called."}),
    )
    add_fieldsets = ((None, {"fields": ("name", "url", "enabled", "kinds", "private")}),)

    @column("Health", label={"ok": "success", "failing": "danger", "off": "warning", "never called": "info"})
    def health(self, obj: OutgoingWebhook) -> str:
        return health_of(obj, "never called")

    @column("Latest events")
    def latest(self, obj: OutgoingWebhook) -> str:
        """With a link to all of them."""
        rows = [(row.at.strftime("%H:%M:%S"), row.kind, row.status, row.answer) for row in obj.events.all()[:SHOWN]]
        lines = format_html_join("", "<li>{} {}: {} {}</li>", rows)
        every = reverse("admin:signals_outgoingevent_changelist", query={"webhook": obj.name})
        return format_html('<ul>{}</ul><a href="{}" class="text-link">All of them</a>', lines, every)

    def get_deleted_objects(
        self, objs: Iterable[OutgoingWebhook], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Its events go with it: counted, since they can be very many, and nobody may delete one by itself."""
        webhooks = list(objs)
        events = OutgoingEvent.objects.filter(webhook__in=webhooks).count()
        counts = {"outgoing webhooks": len(webhooks), "outgoing events": events}
        return [self.audit_target(webhook) for webhook in webhooks], counts, set(), []

    # --- the secret

    def response_add(
        self, request: HttpRequest, obj: OutgoingWebhook, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The secret goes into this one reply."""
        return self._page(request, obj, "secret", secret=self.new_secret_of(request))

    @action(  # type: ignore[untyped-decorator]
        description="Make a new secret",
        url_path="new-secret",
        permissions=["change"],
        icon="key",
        variant=ActionVariant.DANGER,
    )
    def new_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks first, on GET; makes and shows it on POST."""
        webhook = self._changeable(request, object_id)
        secret = self.renewed(request, webhook.pk) if request.method == "POST" else ""
        return self._page(request, webhook, "secret", secret=secret)

    # --- what a person can have sent

    @action(  # type: ignore[untyped-decorator]
        description="Send a test event", url_path="send-test", permissions=["change"], icon="science"
    )
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Shows what became of the latest ones, on GET; has another sent on POST."""
        webhook = self._changeable(request, object_id)
        if request.method == "POST":
            self._test(request, webhook)
            return HttpResponseRedirect(request.path)
        tests = webhook.events.filter(kind="test")[:TESTS_SHOWN]
        return self._page(request, webhook, "test", tests=tests)

    @transaction.atomic
    def _test(self, request: HttpRequest, webhook: OutgoingWebhook) -> None:
        row = courier.send_test(webhook)
        self.record(request, "send test", webhook, {"delivery": None}, {"delivery": str(row.uid)})

    @action(  # type: ignore[untyped-decorator]
        description="Send again what failed", url_path="send-again", permissions=["change"], icon="replay"
    )
    def send_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Says how many on GET; has them sent on POST."""
        webhook = self._changeable(request, object_id)
        if request.method == "POST":
            self._again(request, webhook)
            return HttpResponseRedirect(self._address(webhook))
        failed = webhook.events.filter(status=OutgoingEvent.State.FAILED).count()
        return self._page(request, webhook, "again", failed=failed)

    @transaction.atomic
    def _again(self, request: HttpRequest, webhook: OutgoingWebhook) -> None:
        self.record(request, "send again", webhook, {"sent again": 0}, {"sent again": courier.send_again(webhook)})

    # --- their pages

    def _changeable(self, request: HttpRequest, object_id: str) -> OutgoingWebhook:
        webhook = OutgoingWebhook.objects.filter(pk=object_id).first() if object_id.isdecimal() else None
        if webhook is None:
            raise Http404
        if not self.has_change_permission(request, webhook):
            raise PermissionDenied
        return webhook

    def _address(self, webhook: OutgoingWebhook) -> str:
        return reverse("admin:signals_outgoingwebhook_change", args=[webhook.pk])

    def _page(self, request: HttpRequest, webhook: OutgoingWebhook, page: str, **shown: Any) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"Outgoing webhook {webhook.name}",
            "opts": self.opts,
            "webhook": webhook,
            "back": self._address(webhook),
            "page": page,
            **shown,
        }
        reply = TemplateResponse(request, "admin/signals/outgoingwebhook/page.html", context)
        reply["Cache-Control"] = "no-store"
        return reply


class OutgoingEventAdmin(RecordAdmin):
    """What was told whom, and what waits: kept for 30 days."""

    list_display = ("at", "kind", "webhook", "incident_id", "state", "attempts", "answer")
    list_select_related = ("webhook",)
    search_fields = ("uid",)
    search_help_text = "A delivery's id"
    list_filter = (
        choice_filter("status", "status", states),
        choice_filter("kind", "kind", happenings),
        choice_filter("webhook", "webhook__name", webhook_names),
    )

    @column("Status", label=STATE_COLOURS)
    def state(self, obj: OutgoingEvent) -> str:
        return obj.status
