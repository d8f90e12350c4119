"""The admin of DETECT: sources, series, webhook deliveries."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.enums import ActionVariant

from byteport.adminkit import (
    AuditedAdmin,
    FreshForm,
    RecordAdmin,
    RecordInline,
    SecretAdmin,
    choice_filter,
    column,
    health_of,
)
from byteport.core.clock import now
from byteport.core.units import human_duration
from signals.models import (
    AlertMapping,
    Sample,
    Series,
    SignalEvent,
    Source,
    SourceStream,
    WebhookDelivery,
    signal_names,
    source_kinds,
)
from signals.source import SOURCES, MetricSource, Optioned, StreamSource, WebhookSource, needs_secret
from signals.trial import trial
from signals.webhook import LIMIT_BYTES

HEALTH = ("last_success_at", "last_reading_at", "readings_total", "last_error_at", "last_error", "created_at")
METERED = ("lag", "read_until", "calls_on", "calls_today", "calls_yesterday")
SAMPLES_SHOWN = 30
NEW_SECRET = "new-secret"  # noqa: S105 (a path)
SECRET = "SECRET"  # noqa: S105 (what stands for the secret where it is not known any more)
PLANTED = frozenset({"host", "kubernetes", "postgres"})


def webhook_of(source: Source) -> WebhookSource | None:
    """What speaks for a source that calls BytePort; None for one that BytePort asks."""
    known = SOURCES.get(source.kind)
    return known if isinstance(known, WebhookSource) else None


def webhook_or_404(pk: str) -> tuple[Source, WebhookSource]:
    """The source and what speaks for it. Raises Http404 where there is none, or BytePort asks it itself."""
    source = Source.objects.filter(pk=pk).first()
    webhook = webhook_of(source) if source else None
    if source is None or webhook is None:
        raise Http404
    return source, webhook


def source_slugs() -> list[tuple[str, str]]:
    return [(slug, slug) for slug in Source.objects.values_list("slug", flat=True)[:200]]


class SourceForm(FreshForm):
    def clean_options(self) -> dict[str, Any]:
        options = self.cleaned_data["options"]
        if not isinstance(options, dict):
            raise ValidationError('Write a JSON object, e.g. {"region": "eu-central-1"}, or {} for none.')
        kind: object = SOURCES.get(self.cleaned_data.get("kind") or self.instance.kind)
        if isinstance(kind, Optioned) and (fault := kind.fault(options)):
            raise ValidationError(f"Not as {kind.title} needs it: {fault}")
        return options


class Streams(RecordInline):
    """How each stream of a source that BytePort follows fares, as its watcher reported last."""

    model = SourceStream
    fields = ("name", "contact_at", "event_at", "lag_s", "events", "note", "error")


@admin.register(Source)
class SourceAdmin(SecretAdmin):
    """Where readings come from. A webhook has a secret."""

    form = SourceForm
    audit_noun = "source"
    list_display = ("slug", "kind", "enabled", "health", "last_success_at", "readings_total")
    list_filter = ("enabled", choice_filter("kind", "kind", source_kinds))
    list_filter_submit = True
    search_fields = ("slug",)
    actions_detail = ("new_secret", "at_the_sender", "try_it")
    readonly_fields = ("address", *HEALTH, *METERED)
    fieldsets = (
        (None, {"fields": ("slug", "kind", "enabled", "options", "address")}),
        (
            "Health",
            {"fields": HEALTH, "description": "Written by BytePort each time that the source is read or calls."},
        ),
        (
            "Reading of metrics",
            {"fields": METERED, "description": "For sources that BytePort asks for metrics, each call at a price."},
        ),
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": ("slug", "kind", "enabled", "options"),
                "description": "Which options a kind has: docs/webhooks.md, docs/clouds.md.",
            },
        ),
    )

    @column("Health", label={"ok": "success", "failing": "danger", "off": "warning", "silent": "info"})
    def health(self, obj: Source) -> str:
        return health_of(obj, "silent")

    @column("Address")
    def address(self, obj: Source) -> str:
        return address_of(obj) if webhook_of(obj) else "BytePort asks or follows this source by itself."

    @column("Lag")
    def lag(self, obj: Source) -> str:
        """How old the newest measurement is that is known."""
        if obj.last_reading_at is None:
            return "—"
        return human_duration(max((now() - obj.last_reading_at).total_seconds(), 0))

    def get_fieldsets(self, request: HttpRequest, obj: Source | None = None) -> Any:
        """What reading costs concerns those alone that BytePort asks for metrics."""
        shown = super().get_fieldsets(request, obj)
        return shown if obj is None or isinstance(SOURCES.get(obj.kind), MetricSource) else shown[:-1]

    def get_inlines(self, request: HttpRequest, obj: Source | None) -> list[type[Streams]]:
        return [Streams] if obj and isinstance(SOURCES.get(obj.kind), StreamSource) else []

    def get_readonly_fields(self, request: HttpRequest, obj: Source | None = None) -> tuple[str, ...]:
        """Events and senders know a source by its slug, so that it stays."""
        return (*self.readonly_fields, "slug", "kind") if obj else self.readonly_fields

    def has_delete_permission(self, request: HttpRequest, obj: Source | None = None) -> bool:
        """BytePort's own sources can be switched off, and would be made again if they were missing."""
        return bool(super().has_delete_permission(request, obj)) and not (obj and obj.slug in PLANTED)

    def get_deleted_objects(
        self, objs: Iterable[Source], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Its mappings go with it, and its deliveries: these are counted, and nobody may delete one by itself."""
        sources = list(objs)
        mappings = [f"alert mapping {each}" for each in AlertMapping.objects.filter(source__in=sources)]
        deliveries = WebhookDelivery.objects.filter(source__in=sources).count()
        counts = {"sources": len(sources), "alert mappings": len(mappings), "webhook deliveries": deliveries}
        kept = {"source" for each in sources if not self.has_delete_permission(request, each)}
        return [*map(self.audit_target, sources), *mappings], counts, kept, []

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """Its incidents stay; who deletes it has to know that nobody may be left to say that they are over."""
        slugs = Source.objects.filter(pk__in=[object_id] if object_id.isdecimal() else []).values("slug")
        count = SignalEvent.objects.filter(status__in=SignalEvent.OPEN, source__in=slugs).count()
        if count and request.method != "POST":
            are = "incident is" if count == 1 else "incidents are"
            told = (
                f"{count} {are} open that came from it. What nobody else reports the end of, end by hand on its page."
            )
            messages.warning(request, told)
        return super().delete_view(request, object_id, extra_context)

    def has_secret(self, obj: Source) -> bool:
        return webhook_of(obj) is not None

    def response_add(self, request: HttpRequest, obj: Source, post_url_continue: str | None = None) -> HttpResponse:
        """A new webhook's secret goes into this one reply."""
        secret = self.new_secret_of(request)
        if secret:
            return self._show_secret(request, obj, secret)
        reply: HttpResponse = super().response_add(request, obj, post_url_continue)
        return reply

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        source = Source.objects.filter(pk=object_id).first()
        webhook = webhook_of(source) if source else None
        if webhook is None:
            return []
        actions: list[Any] = super().get_actions_detail(request, object_id)
        return [each for each in actions if needs_secret(webhook) or each.path != NEW_SECRET]

    @action(  # type: ignore[untyped-decorator]
        description="Make a new secret",
        url_path=NEW_SECRET,
        permissions=["change"],
        icon="key",
        variant=ActionVariant.DANGER,
    )
    def new_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks first, on GET; makes and shows it on POST."""
        source, webhook = webhook_or_404(object_id)
        if not needs_secret(webhook):
            raise Http404
        if not self.has_change_permission(request, source):
            raise PermissionDenied
        if request.method != "POST":
            return self._secret_page(request, source, {"secret": ""})
        return self._show_secret(request, source, self.renewed(request, source.pk))

    @action(  # type: ignore[untyped-decorator]
        description="At the sender",
        url_path="at-the-sender",
        permissions=["view"],
        icon="content_paste",
    )
    def at_the_sender(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What to paste at the sender once more, without the secret."""
        source, webhook = webhook_or_404(object_id)
        snippet = webhook.snippet(address_of(source), SECRET)
        shown = {"secret": SECRET, "snippet": snippet, "needs_secret": False, "lacks_secret": needs_secret(webhook)}
        return self._secret_page(request, source, shown)

    @action(  # type: ignore[untyped-decorator]
        description="Try it",
        url_path="try-it",
        permissions=["view"],
        icon="science",
    )
    def try_it(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Shows what a pasted payload would become and why. Keeps nothing, and asks for no proof of the sender."""
        source, webhook = webhook_or_404(object_id)
        payload = request.POST.get("payload", "")[:LIMIT_BYTES]
        context = {
            **self.admin_site.each_context(request),
            "title": f"Try it: {source.slug}",
            "opts": self.opts,
            "source": source,
            "back": reverse("admin:signals_source_change", args=[source.pk]),
            "payload": payload,
            "trial": trial(webhook, source, payload) if payload else None,
        }
        return TemplateResponse(request, "admin/signals/source/try_it.html", context)

    def _show_secret(self, request: HttpRequest, source: Source, secret: str) -> HttpResponse:
        webhook = webhook_of(source)
        assert webhook is not None
        snippet = webhook.snippet(address_of(source), secret)
        shown = {"secret": secret, "snippet": snippet, "needs_secret": needs_secret(webhook)}
        return self._secret_page(request, source, shown)

    def _secret_page(self, request: HttpRequest, source: Source, shown: dict[str, Any]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"Secret of {source.slug}",
            "opts": self.opts,
            "source": source,
            "address": address_of(source),
            "back": reverse("admin:signals_source_change", args=[source.pk]),
            **shown,
        }
        return TemplateResponse(request, "admin/signals/source/secret.html", context)


def address_of(source: Source) -> str:
    """Where a webhook is called."""
    return f"{settings.PUBLIC_URL}/hooks/{source.slug}"


@admin.register(AlertMapping)
class AlertMappingAdmin(AuditedAdmin):
    """What foreign senders' alerts are about, where the standard rules do not know them or should not decide."""

    audit_noun = "mapping"
    list_display = ("name", "position", "enabled", "source", "alert", "signal", "resource")
    list_select_related = ("source",)
    list_filter = ("enabled", choice_filter("source", "source__slug", source_slugs))
    list_filter_submit = True
    search_fields = ("name", "alert", "signal", "resource")
    fieldsets = (
        (None, {"fields": ("name", "enabled", "position", "source")}),
        ("Which alerts", {"fields": ("alert", "labels")}),
        ("What they are about", {"fields": ("signal", "resource", "detail")}),
    )


@admin.register(Series)
class SeriesAdmin(RecordAdmin):
    """What is known of each signal of each resource, with its latest samples; those have no page of their own."""

    list_display = ("signal", "what", "last_value", "last_at", "breach_since", "clear_since", "source")
    list_filter = (
        choice_filter("signal", "signal", signal_names),
        choice_filter("source", "source", source_slugs),
    )
    search_fields = ("resource",)
    search_help_text = "Part of a resource reference, e.g. web-1"
    ordering = ("fingerprint",)
    readonly_fields = ("samples",)

    @column("Resource")
    def what(self, obj: Series) -> str:
        return obj.resource

    @column("Latest samples")
    def samples(self, obj: Series) -> str:
        latest = Sample.objects.filter(fingerprint=obj.fingerprint).order_by("-at")[:SAMPLES_SHOWN]
        return ", ".join(f"{sample.value:g} ({sample.at:%H:%M:%S})" for sample in latest) or "none"


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(RecordAdmin):
    """The signed calls of the last half hour, kept so that a replay is refused."""

    list_display = ("received_at", "source", "delivery_id")
    list_select_related = ("source",)
    list_filter = (choice_filter("source", "source__slug", source_slugs),)
    search_fields = ("delivery_id__startswith",)
