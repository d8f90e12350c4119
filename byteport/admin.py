"""The admin of the inventory, of the machinery (processes, queue, audit trail) and of people (users, groups, failed
logins)."""

import json
from collections.abc import Iterator
from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.contrib.auth.views import PasswordChangeView
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse_lazy
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.contrib.filters.admin import BooleanRadioFilter
from unfold.forms import AdminOwnPasswordChangeForm, AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from byteport import audit
from byteport.adminkit import AuditedAdmin, FreshForm, RecordAdmin, actor_of, choice_filter, column, seconds
from byteport.clients.hosts.inventory import as_address, local_name, transport_to
from byteport.clients.hosts.protocol import Scope
from byteport.clients.postgres import inventory, reader
from byteport.core.clock import now
from byteport.core.errors import BytePortError
from byteport.core.ways import WAYS
from byteport.heartbeats import ALIVE_S
from byteport.models import AuditEntry, Heartbeat, Host, MonitoredDatabase, QueuedTask, ways
from byteport.snapshot import masked
from incidents.roles import is_role

ROLES = ("web", "worker", "watch")
PAGE_PATIENCE_S = 5.0  # what a page waits for a host to answer
# The queue is BytePort's own: of django-q2's pages, those of failures and schedules remain.
for replaced in (Success, Failure, OrmQ, Schedule, AccessAttempt, AccessFailureLog, AccessLog, User, Group):
    if admin.site.is_registered(replaced):
        admin.site.unregister(replaced)


@admin.register(AuditEntry)
class AuditEntryAdmin(RecordAdmin):
    """Who changed what, when, from what and to what."""

    list_display = ("at", "actor", "action", "target", "changes")
    list_display_links = ("at",)
    search_fields = ("actor", "action", "target")
    search_help_text = "An operator's name, or what was changed"
    date_hierarchy = "at"

    @column("From → to")
    def changes(self, obj: AuditEntry) -> str:
        return format_html_join(mark_safe("<br>"), "{}: {} → {}", changes_of(obj))


def changes_of(entry: AuditEntry) -> Iterator[tuple[str, str, str]]:
    """Field, from, to; without the fields that a new row merely left empty."""
    for key, after in entry.after.items():
        before = entry.before.get(key)
        if before or after or (before is not None and after is not None):
            yield key, _shown(before), _shown(after)


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "") else json.dumps(value, ensure_ascii=False)


class HostForm(FreshForm):
    """Asks for what the chosen way cannot do without."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        values = {**self.initial, **self.cleaned_data}
        way = WAYS.get(values.get("way") or "")
        for name in way.needs if way else ():
            if not values.get(name):
                self.add_error(name, f"A host that is reached by {values['way']} needs it.")
        if values.get("way") == "local" and values.get("name") != local_name():
            self.add_error("way", f"Only the host that BytePort runs on is local: {local_name() or 'none'}.")
        return cleaned


@admin.register(Host)
class HostAdmin(AuditedAdmin):
    """The inventory. It fills itself from what the sources see; how a host is reached, a person chooses."""

    form = HostForm
    audit_noun = "host"
    one_line = (
        "name", "address", "user", "key_file", "known_hosts_file", "instance_id", "region", "role_arn",
        "gce_instance", "cluster", "node",
    )  # fmt: skip
    list_display = ("name", "reached", "state", "last_success_at", "last_error")
    list_filter = (choice_filter("way", "way", ways), ("enabled", BooleanRadioFilter))
    list_filter_submit = True
    search_fields = ("name", "address", "instance_id", "gce_instance", "node")
    save_as = True
    readonly_fields = ("suggestion", "opted_in_to", "seen_at", "last_success_at", "last_error_at", "last_error")
    fieldsets = (
        (None, {"fields": ("name", "enabled", "way", "suggestion", "poll_s", "opted_in_to")}),
        ("SSH", {"fields": ("address", "port", "user", "key_file", "known_hosts_file", "use_sudo")}),
        ("AWS Systems Manager", {"fields": ("instance_id", "region", "role_arn")}),
        ("GCE instance (by SSH)", {"fields": ("gce_instance",)}),
        ("Node of a cluster", {"fields": ("cluster", "node")}),
        ("Health", {"fields": ("seen_at", "last_success_at", "last_error_at", "last_error")}),
    )

    @column("Reached by")
    def reached(self, obj: Host) -> str:
        return obj.way or (f"not at all ({obj.suggested} would suit)" if obj.suggested else "not at all")

    @column("State", label={"ok": "success", "failing": "danger", "off": "warning", "only seen": "info"})
    def state(self, obj: Host) -> str:
        if not obj.enabled:
            return "off"
        if not obj.way:
            return "only seen"
        if obj.last_error:
            return "failing"
        return "ok" if obj.last_success_at else "not looked at yet"

    @column("Suggested way")
    def suggestion(self, obj: Host) -> str:
        return WAYS[obj.suggested].title if obj.suggested in WAYS else "none"

    @column("Opted in to (read just now)")
    def opted_in_to(self, obj: Host) -> str:
        return opt_in_text(obj) if obj.pk else "known once it is saved"

    def get_readonly_fields(self, request: HttpRequest, obj: Host | None = None) -> tuple[str, ...]:
        """Readings and incidents know a host by its name, so that it stays."""
        return (*self.readonly_fields, "name") if obj else self.readonly_fields


def opt_in_text(host: Host) -> str:
    """What the host says itself at this moment, or why nothing can be said."""
    if not host.enabled or host.way not in WAYS:
        return "cannot be read: BytePort does not reach it"
    try:
        found = transport_to(as_address(host)).annotations(Scope("host"), timeout_s=PAGE_PATIENCE_S)
    except BytePortError as error:
        return f"cannot be read: {error}"
    words = ", ".join(found.words) or "nothing"
    return f"{words} ({found.where}{'' if found.present else ': there is none'})"


@admin.register(Heartbeat)
class HeartbeatAdmin(RecordAdmin):
    """The processes of the last day."""

    list_display = ("process", "role", "state", "started_at", "seen_at")
    list_filter = (choice_filter("role", "role", lambda: [(role, role) for role in ROLES]),)
    search_fields = ("process",)
    ordering = ("process",)

    @column("State", label={"alive": "success", "gone": "danger"})
    def state(self, obj: Heartbeat) -> str:
        return "alive" if (now() - obj.seen_at).total_seconds() <= ALIVE_S else "gone"


@admin.register(MonitoredDatabase)
class MonitoredDatabaseAdmin(AuditedAdmin):
    """PostgreSQL servers that BytePort looks at. It shows where a DSN stands, never what it says."""

    audit_noun = "monitored database"
    list_display = ("name", "enabled", "health", seconds("idle_limit_s"), "last_success_at")
    list_filter = (("enabled", BooleanRadioFilter),)
    list_filter_submit = True
    search_fields = ("name",)
    readonly_fields = ("now", "last_success_at", "last_error_at", "last_error")
    add_fieldsets = ((None, {"fields": ("name", "enabled", "connection_variable", "connection_file", "idle_limit_s")}),)
    fieldsets = (
        *add_fieldsets,
        ("Health", {"fields": readonly_fields, "description": "The first line was read for this page just now."}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: MonitoredDatabase | None = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: MonitoredDatabase | None = None) -> tuple[str, ...]:
        """Incidents know a server by its name, so that it stays."""
        return (*self.readonly_fields, "name") if obj else self.readonly_fields

    @column("Health", label={"ok": "success", "failing": "danger", "off": "warning", "silent": "info"})
    def health(self, obj: MonitoredDatabase) -> str:
        if not obj.enabled:
            return "off"
        if obj.last_error:
            return "failing"
        return "ok" if obj.last_success_at else "silent"

    @column("Now")
    def now(self, obj: MonitoredDatabase) -> str:
        """Who BytePort is there, what it may do, and which databases are opted in: read at this moment."""
        try:
            return reader.rights(inventory.target_of(obj)).told
        except BytePortError as error:
            return str(error)


@admin.register(QueuedTask)
class QueuedTaskAdmin(RecordAdmin):
    """What waits to run, or runs. A row goes when its task is done."""

    list_display = ("id", "queue", "dedup_key", "attempts", "visible_at", "enqueued_at")
    list_display_links = ("id",)
    search_fields = ("dedup_key__startswith",)
    search_help_text = "The beginning of a key, e.g. advance:12"
    exclude = ("payload",)


@admin.register(Failure)
class FailureAdmin(RecordAdmin):
    """Tasks that ended with an error. Whether a stage runs again, the loop decides by its own record."""

    list_display = ("name", "func", "started", "stopped", "attempt_count")
    search_fields = ("name", "func")
    fields = ("name", "func", "args", "started", "stopped", "attempt_count", "result")
    ordering = ("-stopped",)


@admin.register(Schedule)
class ScheduleAdmin(RecordAdmin):
    """What runs at fixed times. It is part of BytePort and set up by it."""

    list_display = ("name", "func", "schedule_type", "minutes", "next_run")
    search_fields = ("name", "func")
    fields = ("name", "func", "schedule_type", "minutes", "next_run", "cluster")


@admin.register(AccessAttempt)
class AccessAttemptAdmin(AuditedAdmin):
    """Failed logins of a name from an address. Deleting a row lifts the lock-out that they have led to."""

    audit_noun = "failed logins of"
    list_display = ("attempt_time", "username", "ip_address", "failures_since_start", "user_agent")
    search_fields = ("username", "ip_address")
    fields = ("attempt_time", "username", "ip_address", "failures_since_start", "user_agent", "path_info")
    readonly_fields = fields

    def audit_target(self, obj: Any) -> str:
        return f"{self.audit_noun} {obj.username} from {obj.ip_address}"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class UserForm(FreshForm, UserChangeForm):  # type: ignore[misc]
    """Unfold's form, which does not overwrite what somebody else has changed."""


@admin.register(User)
class UserAdmin(DjangoUserAdmin, AuditedAdmin):  # type: ignore[type-arg]
    """People. A password is never shown, and its change is audited as a change alone."""

    form = UserForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    audit_noun = "user"
    compressed_fields = False
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = (
        ("is_active", BooleanRadioFilter),
        ("is_staff", BooleanRadioFilter),
        ("is_superuser", BooleanRadioFilter),
    )
    list_filter_submit = True
    search_fields = ("username", "email")
    readonly_fields = ("last_login", "date_joined")

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        before = _password_mark(id)
        page: HttpResponse = super().user_change_password(request, id, form_url)
        after = _password_mark(id)
        if before != after:
            target = f"user {User.objects.get(pk=id).get_username()}"
            audit.record(actor=actor_of(request), action="set password", target=target, before=before, after=after)
        return page


def _password_mark(pk: str) -> dict[str, Any]:
    passwords = User.objects.filter(pk=pk).values_list("password", flat=True) if pk.isdigit() else []
    return {"password": masked("password", next(iter(passwords), ""))}


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, AuditedAdmin):  # type: ignore[misc]
    """Sets of permissions that users share. BytePort's own, the roles, are as its table has them."""

    audit_noun = "group"
    compressed_fields = False
    search_fields = ("name",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(super().has_change_permission(request, obj)) and not is_role(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(super().has_delete_permission(request, obj)) and not is_role(obj)


class OwnPasswordForm(AdminOwnPasswordChangeForm):  # type: ignore[misc]
    """Audits that the operator changed the password."""

    @transaction.atomic
    def save(self, commit: bool = True) -> User:
        before = masked("password", self.user.password)
        user: User = super().save(commit)
        after = masked("password", user.password)
        audit.record(
            actor=user.get_username(),
            action="set password",
            target=f"user {user.get_username()}",
            before={"password": before},
            after={"password": after},
        )
        return user


def change_own_password(request: HttpRequest) -> HttpResponseBase:
    """The admin's page for it, with a form that audits."""
    view = PasswordChangeView.as_view(
        form_class=OwnPasswordForm,
        template_name="registration/password_change_form.html",
        success_url=reverse_lazy("admin:password_change_done"),
        extra_context=admin.site.each_context(request),
    )
    return view(request)


def own_pages() -> list[URLPattern]:
    """These come before Unfold's of the same address."""
    return [path("password_change/", admin.site.admin_view(change_own_password), name="password_change")]


admin.site.extra_urls = own_pages  # type: ignore[attr-defined]
