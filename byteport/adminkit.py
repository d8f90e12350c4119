"""What the admin's classes share: records that can only be read, settings whose every change is audited.

The admin's pages are the only ones whose scripts (Alpine.js) evaluate expressions; `ContentSecurityPolicy`
allows that below the admin's address and nowhere else.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from csp.constants import UNSAFE_EVAL
from csp.middleware import CSPMiddleware, PolicyParts
from django import forms
from django.contrib.admin import ShowFacets
from django.contrib.auth.models import AbstractBaseUser
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import DateTimeField, Field, ManyToManyField, Model, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse_lazy
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from byteport import audit
from byteport.core.health import is_failing
from byteport.sealing import seal
from byteport.snapshot import snapshot

F = TypeVar("F", bound=Callable[..., Any])


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts up to `limit` rows; beyond, PostgreSQL's estimate will do, so that no page reads a whole table."""

    limit = 10_000
    object_list: QuerySet[Any]

    @cached_property
    def count(self) -> int:
        rows = self.object_list.order_by()
        counted = rows[: self.limit].count()
        return counted if counted < self.limit else max(estimated_count(rows), self.limit)


def estimated_count(rows: QuerySet[Any]) -> int:
    """How many rows the planner expects."""
    return int(json.loads(rows.explain(format="json"))[0]["Plan"]["Plan Rows"])


class ReadOnly:
    """Nothing can be added, changed or deleted: BytePort's record is evidence."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class RecordAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """A table that only BytePort writes. Lists go by the key, since nothing else is sure to be indexed."""

    paginator = BoundedPaginator
    show_full_result_count = False
    ordering = ("-pk",)
    list_per_page = 50
    actions = None
    list_filter_submit = True
    show_facets = ShowFacets.NEVER  # they would count the whole table, once a choice
    sortable_by: Sequence[str] = ()  # nor is there an index for any other order


class RecordInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """Rows of the record on the page of what they belong to."""

    extra = 0
    per_page = 25
    can_delete = False
    tab = True
    hide_title = True


def column(description: str, *, label: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """A method as a list's column. `label`: the colour of each value (success, info, warning, danger)."""
    colours = dict(label) if label is not None else None
    decorated: Callable[[F], F] = display(description=description, label=colours)
    return decorated


def seconds(name: str) -> Callable[[Model], Any]:
    """A field of seconds as a list's column, headed as in the form: `Cooldown (s)`."""

    @display(description=f"{name.removesuffix('_s').replace('_', ' ').capitalize()} (s)", ordering=name)  # type: ignore[untyped-decorator]
    def shown(obj: Model) -> Any:
        return getattr(obj, name)

    return shown  # type: ignore[no-any-return]


def choice_filter(title_: str, column: str, choices: Callable[[], Iterable[tuple[str, str]]]) -> type[DropdownFilter]:
    """A filter whose choices come from a registry, so that the table need not be searched for them."""

    class Filter(DropdownFilter):  # type: ignore[misc]
        title = title_
        parameter_name = column

        def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
            return list(choices())

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{column: self.value()}) if self.value() else queryset

    return Filter


# --- settings: every change is audited


class FreshForm(forms.ModelForm):  # type: ignore[type-arg]
    """Refuses to overwrite what somebody else has changed since the page was loaded; its values come along, hidden."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        for name in self._changed_meanwhile():
            now = self.get_initial_for_field(self.fields[name], name)
            self.add_error(name, f"Somebody has changed this meanwhile, to {now}. Load the page again and look at it.")
        return cleaned

    def _changed_meanwhile(self) -> Iterator[str]:
        for name, field in self.fields.items() if not self.instance._state.adding else ():
            seen = self[name].html_initial_name
            if seen in self.data and field.has_changed(self.get_initial_for_field(field, name), self.data[seen]):
                yield name


class AuditedAdmin(ModelAdmin):  # type: ignore[misc]
    """A table of settings. Each change is audited in its own transaction: who, when, from, to."""

    form = FreshForm
    warn_unsaved_form = True
    show_full_result_count = False
    audit_noun = ""  # how the audit trail calls a row: "policy", say
    one_line: Sequence[str] = ()  # text fields that take no more than a line

    def audit_target(self, obj: Model) -> str:
        return f"{self.audit_noun or obj._meta.verbose_name} {obj}"

    def changed(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """What else a change has to lead to. Runs in its transaction."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Model | None:
        """On a POST, locked: what the form is compared with is what it changes."""
        if request.method == "POST" and transaction.get_connection().in_atomic_block:
            name = from_field or self.model._meta.pk.name
            value = self.model._meta.get_field(name).to_python(object_id)
            list(self.model._base_manager.select_for_update().filter(**{name: value}))
        found: Model | None = super().get_object(request, object_id, from_field)
        return found

    def formfield_for_dbfield(self, db_field: "Field[Any, Any]", request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.one_line:
            kwargs["widget"] = UnfoldAdminTextInputWidget()
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None:
            # Not for what is spread over several inputs: Django does not carry its first value past an error.
            field.show_hidden_initial = not isinstance(db_field, ManyToManyField | DateTimeField)
            field.label = label_of(db_field)
        return field

    @transaction.atomic
    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        before = snapshot(self.model._base_manager.get(pk=obj.pk)) if change else {}
        super().save_model(request, obj, form, change)
        self.record(request, "change" if change else "create", obj, before, snapshot(obj))

    @transaction.atomic
    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        before = related_names(form.instance)
        super().save_related(request, form, formsets, change)
        self.record(request, "change", form.instance, before, related_names(form.instance))

    @transaction.atomic
    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        before, target = snapshot(obj), self.audit_target(obj)
        super().delete_model(request, obj)
        audit.record(actor=actor_of(request), action="delete", target=target, before=before, after={})
        self.changed(before, {})

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for obj in queryset:
            self.delete_model(request, obj)

    def record(
        self, request: HttpRequest, action: str, obj: Model, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        audit.record(actor=actor_of(request), action=action, target=self.audit_target(obj), before=before, after=after)
        self.changed(before, after)


class SecretAdmin(AuditedAdmin):
    """A table of what shares a secret with BytePort (`sealed_secret`), which is kept encrypted.

    It is shown once, in the reply that makes it: neither a cookie nor the session ever holds it.
    """

    show_once = "byteport_secret"  # the attribute of a request that carries a new secret to its one reply

    def has_secret(self, obj: Any) -> bool:
        """Whether this row takes one."""
        return True

    @transaction.atomic
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change and self.has_secret(obj):
            setattr(request, self.show_once, renew_secret(obj))
        super().save_model(request, obj, form, change)

    def new_secret_of(self, request: HttpRequest) -> str:
        """That of the row which this request has just made; empty where it takes none."""
        return str(getattr(request, self.show_once, ""))

    @transaction.atomic
    def renewed(self, request: HttpRequest, pk: int) -> str:
        """The new secret of a row that was there, audited."""
        obj: Any = self.model._base_manager.select_for_update().get(pk=pk)
        before, secret = snapshot(obj), renew_secret(obj)
        obj.save(update_fields=["sealed_secret"])
        self.record(request, "new secret", obj, before, snapshot(obj))
        return secret


def renew_secret(obj: Any) -> str:
    """Gives a row a new secret and returns it; nobody can read it from the row."""
    secret = secrets.token_urlsafe(32)
    obj.sealed_secret = seal(secret)
    return secret


def health_of(obj: Any, unheard: str) -> str:
    """`ok`, `failing` or `off`, by when it last went well and when not; `unheard`: neither has been yet."""
    if not obj.enabled:
        return "off"
    if is_failing(obj):
        return "failing"
    return "ok" if obj.last_success_at else unheard


def label_of(field: "Field[Any, Any]") -> str:
    """The field's name for people, with the unit of a time: `Cooldown (s)`."""
    label = str(field.verbose_name)
    label = f"{label.removesuffix(' s')} (s)" if field.name.endswith("_s") else label
    return label[:1].upper() + label[1:]


def actor_of(request: HttpRequest) -> str:
    """The operator's name, as the audit trail keeps it. The admin lets nobody in without one."""
    assert isinstance(request.user, AbstractBaseUser)
    return request.user.get_username()


def related_names(row: Model) -> dict[str, Any]:
    """What the row is tied to by its many-to-many fields, by name."""
    return {
        field.name: sorted(str(other) for other in getattr(row, field.name).all()) for field in row._meta.many_to_many
    }


# --- the site


class ContentSecurityPolicy(CSPMiddleware):
    """The settings' policy; on the admin's own pages also `unsafe-eval`, for Alpine.js, and no more than that."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        match = request.resolver_match
        if match is not None and "admin" in match.app_names:
            parts.update = {"script-src": [UNSAFE_EVAL]}
        return parts


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar, with what this operator may see (UNFOLD["SIDEBAR"]["navigation"])."""
    groups = [
        {
            "title": title,
            "separator": True,
            "items": [_item(*entry) for entry in entries if _may_see(request, entry[1])],
        }
        for title, entries in PAGES.items()
    ]
    return [CONSOLE, *(group for group in groups if group["items"])]


def _item(title: str, model: str, icon: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{model.replace('.', '_')}_changelist")}


def _may_see(request: HttpRequest, model: str) -> bool:
    app, name = model.split(".")
    return any(request.user.has_perm(f"{app}.{deed}_{name}") for deed in ("view", "change"))


CONSOLE: dict[str, Any] = {"items": [{"title": "Console", "icon": "arrow_back", "link": "/", "active": False}]}
PAGES: dict[str, Sequence[tuple[str, str, str]]] = {  # title, model, icon
    "Policies": (
        ("Agent settings", "runbooks.agentsettings", "tune"),
        ("Signal policies", "signals.signalpolicy", "show_chart"),
        ("Runbook policies", "runbooks.runbookpolicy", "menu_book"),
        ("Maintenance windows", "runbooks.maintenancewindow", "event_busy"),
    ),
    "Sources": (
        ("Sources", "signals.source", "sensors"),
        ("Mappings of alerts", "signals.alertmapping", "alt_route"),
        ("Hosts", "byteport.host", "dns"),
        ("Monitored databases", "byteport.monitoreddatabase", "database"),
        ("Series", "signals.series", "timeline"),
        ("Webhook deliveries", "signals.webhookdelivery", "webhook"),
    ),
    "Telling programs": (
        ("Outgoing webhooks", "signals.outgoingwebhook", "outbound"),
        ("Outgoing events", "signals.outgoingevent", "outgoing_mail"),
    ),
    "Record": (
        ("Incidents", "signals.signalevent", "crisis_alert"),
        ("Actions", "runbooks.agentaction", "build"),
        ("Gate verdicts", "runbooks.gateverdict", "rule"),
        ("Approvals", "runbooks.approval", "how_to_reg"),
        ("Verification samples", "runbooks.verificationsample", "fact_check"),
        ("Audit trail", "byteport.auditentry", "history"),
    ),
    "Machinery": (
        ("Processes", "byteport.heartbeat", "monitor_heart"),
        ("Queued tasks", "byteport.queuedtask", "list_alt"),
        ("Failed tasks", "django_q.failure", "error"),
        ("Schedules", "django_q.schedule", "schedule"),
    ),
    "People": (
        ("Users", "auth.user", "person"),
        ("Tokens for the API", "incidents.apitoken", "key"),
        ("Groups", "auth.group", "group"),
        ("Failed logins", "axes.accessattempt", "lock"),
    ),
}
