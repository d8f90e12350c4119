"""Who may do what, cell by cell: each role, at each address of console, API and admin, by real requests.

Real: PostgreSQL, sessions, tokens, every view and its answer. What each address takes is written down here once more,
by hand, so that neither a view nor the table can change without this page.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.cache import cache
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django_q.models import Failure
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from byteport import seeds
from byteport.core.clock import now
from byteport.models import Host, MonitoredDatabase
from incidents import roles
from incidents.models import ApiToken
from incidents.outgoing.courier import send_test
from incidents.roles import PERMISSIONS, TABLE, Deed, Role, Scope
from incidents.urls import urlpatterns
from runbooks.models import AgentSettings, RunbookPolicy
from signals.models import AlertMapping, SignalPolicy, Source
from signals.policy import forget
from tests.byteport.test_admin import fill_record
from tests.incidents import scenes
from tests.incidents.outgoing.receiver import webhook

pytestmark = pytest.mark.django_db
VIEW, SIGNAL, APPROVE, OPERATE, CONFIGURE, ADMINISTER = Deed
WHO = [None, *Role]


@pytest.fixture(autouse=True)
def _planted(db):
    cache.clear()
    seeds.plant()
    yield
    forget()


def person(role: Role | None) -> User:
    user = User.objects.create_user(f"{role or 'nobody'}-1", is_staff=True)
    if role:
        user.groups.add(Group.objects.get(name=role))
    return user


def allowed_to(role: Role | None) -> frozenset[Deed]:
    """Whoever is signed in may look."""
    return TABLE[role] if role else frozenset({VIEW})


# --- the table itself


def test_the_table_is_the_one_that_the_documentation_has():
    assert {role: set(deeds) for role, deeds in TABLE.items()} == {
        Role.VIEWER: {VIEW},
        Role.RESPONDER: {VIEW, SIGNAL, APPROVE, OPERATE},
        Role.ADMINISTRATOR: {VIEW, SIGNAL, APPROVE, OPERATE, CONFIGURE, ADMINISTER},
    }
    assert PERMISSIONS.keys() == set(Deed) - {VIEW}


@pytest.mark.parametrize("role", WHO)
def test_a_role_may_do_what_the_table_says_and_nothing_else(role):
    user = person(role)
    assert {deed for deed in Deed if roles.may(user, deed)} == allowed_to(role)


def test_a_superuser_is_an_administrator_and_whoever_is_switched_off_is_nobody():
    root, gone = User.objects.create_superuser("root"), person(Role.ADMINISTRATOR)
    gone.is_active = False
    assert all(roles.may(root, deed) for deed in Deed)
    assert not any(roles.may(gone, deed) for deed in Deed)


def test_every_permission_of_byteports_tables_is_part_of_one_deed():
    for permission in Permission.objects.select_related("content_type"):
        app = permission.content_type.app_label
        deed = roles.deed_of(app, permission.codename)
        assert (deed is None) == (app not in (*roles.APPS, *roles.PEOPLE)), permission


def test_the_roles_follow_the_table_whatever_their_groups_held_before():
    viewers = Group.objects.get(name=Role.VIEWER)
    right = set(viewers.permissions.values_list("pk", flat=True))
    viewers.permissions.set(Permission.objects.filter(codename__startswith="delete_"))
    seeds.plant()
    assert set(viewers.permissions.values_list("pk", flat=True)) == right


def test_a_group_of_ones_own_stays_as_it_is():
    ours = Group.objects.create(name="on call")
    ours.permissions.add(Permission.objects.get(codename="view_source"))
    seeds.plant()
    assert ours.permissions.get().codename == "view_source"


# --- the console

CONSOLE: Mapping[str, Deed] = {
    **dict.fromkeys(("overview", "top", "incidents", "incident", "postmortem", "postmortems", "agent"), VIEW),
    **dict.fromkeys(("runbooks", "runbook"), VIEW),
    **dict.fromkeys(("incident-approve", "incident-refuse"), APPROVE),
    **dict.fromkeys(("send-again", "agent-dry-run", "agent-pause", "agent-resume"), OPERATE),
    "incident-end": SIGNAL,
    "theme": VIEW,
}
READ = {name for name, deed in CONSOLE.items() if deed is VIEW and name != "theme"}


def test_every_address_of_the_console_is_in_this_table():
    assert {str(pattern.name) for pattern in urlpatterns} == set(CONSOLE)


@pytest.mark.parametrize("role", WHO)
def test_in_the_console_a_role_may_do_what_the_table_says_and_nothing_else(role):
    event, client = scenes.awaiting_approval(), Client()
    client.force_login(person(role))
    values = {"pk": event.pk, "event_id": event.pk, "delivery": 1, "name": "cleanup_logs"}
    answers = {}
    for pattern in urlpatterns:
        wanted = {name: values[name] for name in pattern.pattern.converters}
        url = reverse(pattern.name, kwargs=wanted)
        answers[pattern.name] = (client.get(url) if pattern.name in READ else client.post(url)).status_code
    assert {code for code in answers.values() if code not in (200, 302, 403)} == set()
    assert {name for name, code in answers.items() if code != 403} == {
        name for name, deed in CONSOLE.items() if deed in allowed_to(role)
    }


# --- the API


def api_deed(method: str, path: str) -> Deed:
    if method == "get":
        return VIEW
    ends = {"signals/": SIGNAL, "approve/": APPROVE, "refuse/": APPROVE, "agent/": OPERATE, "{name}/": CONFIGURE}
    return next(deed for end, deed in ends.items() if path.endswith(end))


def operations() -> Iterator[tuple[str, str]]:
    for path, item in SchemaGenerator().get_schema(public=True)["paths"].items():
        yield from ((method, path) for method in item if method in ("get", "post", "put", "patch", "delete"))


@pytest.mark.parametrize("role", WHO)
def test_in_the_api_a_role_may_do_what_the_table_says_and_nothing_else(role):
    event = fill_record()
    _, token = ApiToken.objects.create(person(role), name="t", scopes=[*Scope])
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    answers = {}
    for method, path in operations():
        url = path.format(id=event.pk, name="disk_pressure")
        answers[method, path] = client.generic(method.upper(), url, "{}", "application/json").status_code
    assert len(answers) > 20
    assert {at for at, code in answers.items() if code in (401, 405) or code >= 500} == set()
    assert {at for at, code in answers.items() if code != 403} == {
        (method, path) for method, path in answers if api_deed(method, path) in allowed_to(role)
    }


# --- the admin: to view, to add, to change, to delete; None: nobody may

SETTINGS = (VIEW, CONFIGURE, CONFIGURE, CONFIGURE)
RECORD = (VIEW, None, None, None)
POLICY = (VIEW, CONFIGURE, CONFIGURE, None)  # a missing row means the defaults
ADMIN: Mapping[str, tuple[Deed | None, ...]] = {
    "runbooks.AgentSettings": (VIEW, None, OPERATE, None),
    "signals.SignalPolicy": POLICY,
    "runbooks.RunbookPolicy": POLICY,
    "runbooks.MaintenanceWindow": SETTINGS,
    "signals.Source": SETTINGS,
    "signals.AlertMapping": SETTINGS,
    "signals.OutgoingWebhook": SETTINGS,
    "signals.OutgoingEvent": RECORD,
    "byteport.Host": SETTINGS,
    "byteport.MonitoredDatabase": SETTINGS,
    "signals.Series": RECORD,
    "signals.WebhookDelivery": RECORD,
    "signals.SignalEvent": RECORD,
    "runbooks.AgentAction": RECORD,
    "runbooks.GateVerdict": RECORD,
    "runbooks.Approval": RECORD,
    "runbooks.VerificationSample": RECORD,
    "byteport.AuditEntry": RECORD,
    "byteport.Heartbeat": RECORD,
    "byteport.QueuedTask": RECORD,
    "django_q.Failure": RECORD,
    "django_q.Schedule": RECORD,
    "auth.User": (ADMINISTER, ADMINISTER, ADMINISTER, ADMINISTER),
    "auth.Group": (ADMINISTER, ADMINISTER, ADMINISTER, ADMINISTER),
    "incidents.ApiToken": (ADMINISTER, ADMINISTER, None, ADMINISTER),
    "axes.AccessAttempt": (ADMINISTER, None, None, ADMINISTER),
}
MODELS = {model._meta.label: model for model in admin.site._registry}


def test_every_table_of_the_admin_is_in_this_table():
    assert set(MODELS) == set(ADMIN)


def one_of_each() -> dict[str, Model]:
    """A row of each table, each such that it may be deleted where any may."""
    fill_record()
    SignalPolicy.objects.filter(pk="memory_pressure").delete()
    RunbookPolicy.objects.filter(pk="scale_up").delete()
    carl = User.objects.create_user("carl")
    called = webhook("https://example.com/")
    Failure.objects.create(id="f", name="f", func="f", started=now(), stopped=now(), success=False)
    own = {
        "signals.Source": Source.objects.create(slug="pager", kind="generic"),
        "signals.AlertMapping": AlertMapping.objects.create(name="ours", signal="x", resource="host/a/b/c"),
        "signals.OutgoingWebhook": called,
        "signals.OutgoingEvent": send_test(called),
        "byteport.Host": Host.objects.create(name="web-9"),
        "byteport.MonitoredDatabase": MonitoredDatabase.objects.create(name="dev", connection_variable="NO_DSN"),
        "incidents.ApiToken": ApiToken.objects.create(carl, name="t", scopes=["read"], expiry=timedelta(days=1))[0],
        "auth.User": carl,
        "auth.Group": Group.objects.get(name="on call"),
    }
    rows = {label: own.get(label) or model._default_manager.first() for label, model in MODELS.items()}
    assert all(rows.values()), [label for label, row in rows.items() if row is None]
    return rows


def page(row: Model, kind: str, *args: object) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{kind}", args=args)


# A change is posted, the others are asked for: the page of each is refused where the deed itself would be.
WAYS: tuple[Callable[[Client, Model], int], ...] = (
    lambda client, row: client.get(page(row, "changelist"), follow=True).status_code,
    lambda client, row: client.get(page(row, "add")).status_code,
    lambda client, row: client.post(page(row, "change", row.pk), {"nothing": "of note"}).status_code,
    lambda client, row: client.get(page(row, "delete", row.pk)).status_code,
)


@pytest.mark.parametrize("role", WHO)
def test_in_the_admin_a_role_may_do_what_the_table_says_and_nothing_else(role):
    rows, client = one_of_each(), Client()
    client.force_login(person(role))
    found = {label: tuple(way(client, rows[label]) != 403 for way in WAYS) for label in ADMIN}
    deeds = TABLE[role] if role else frozenset()  # here, who has no role has nothing
    assert found == {label: tuple(deed in deeds for deed in needed) for label, needed in ADMIN.items()}


@pytest.mark.parametrize("role", WHO)
def test_what_is_chosen_in_a_list_is_deleted_only_by_whom_the_table_lets(role):
    source, client = Source.objects.create(slug="pager", kind="generic"), Client()
    client.force_login(person(role))
    chosen = {"action": "delete_selected", "_selected_action": [source.pk], "post": "yes"}
    client.post(page(source, "changelist"), chosen)
    assert Source.objects.filter(slug="pager").exists() == (role is not Role.ADMINISTRATOR)


@pytest.mark.parametrize("role", WHO)
def test_a_sources_own_buttons_are_held_to_the_same(role):
    source = Source.objects.create(slug="pager", kind="generic")
    client = Client()
    client.force_login(person(role))
    asked = {
        name: client.get(reverse(f"admin:signals_source_{name}", args=[source.pk])) for name in ("new_secret", "try_it")
    }
    deeds = TABLE[role] if role else frozenset()
    assert {name: answer.status_code == 200 for name, answer in asked.items()} == {
        "new_secret": CONFIGURE in deeds,
        "try_it": VIEW in deeds,
    }


def test_a_responder_switches_the_agent_in_the_admin_and_leaves_its_bounds():
    client = Client()
    client.force_login(person(Role.RESPONDER))
    url = reverse("admin:runbooks_agentsettings_change", args=[1])
    assert set(client.get(url).context["adminform"].form.fields) == {"dry_run", "paused", "paused_reason"}
    sent = {"dry_run": "on", "paused": "on", "paused_reason": "a storm", "max_per_hour": "999"}
    assert client.post(url, sent).status_code == 302
    agent = AgentSettings.objects.get()
    assert (agent.dry_run, agent.paused, agent.paused_reason, agent.max_per_hour) == (True, True, "a storm", 20)


def test_whoever_configures_and_does_not_operate_leaves_the_switches():
    user = User.objects.create_user("carl", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["change_agentsettings", "view_agentsettings"]))
    client = Client()
    client.force_login(user)
    form = client.get(reverse("admin:runbooks_agentsettings_change", args=[1])).context["adminform"].form
    assert "max_per_hour" in form.fields
    assert not {"dry_run", "paused", "paused_reason"} & set(form.fields)


@pytest.mark.parametrize("role", list(Role))
def test_the_roles_themselves_can_be_neither_changed_nor_deleted(role):
    client, group = Client(), Group.objects.get(name=role)
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(page(group, "change", group.pk)).status_code == 200
    assert client.post(page(group, "change", group.pk), {"name": "other"}).status_code == 403
    assert client.post(page(group, "delete", group.pk), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"}
    client.post(page(group, "changelist"), chosen)
    assert Group.objects.filter(name=role).exists()
