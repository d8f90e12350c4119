"""The admin through Django's test client. Real: PostgreSQL, every form, view, template, query and middleware.

Not real: no browser runs the pages' scripts; the loop does not run, incidents are the rows of `tests.incidents.scenes`.
"""

import json
import re
from datetime import UTC, datetime

import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from byteport import adminkit, seeds
from byteport.core.clock import now
from byteport.models import AuditEntry, MonitoredDatabase, QueuedTask
from byteport.sealing import unseal
from runbooks.models import AgentSettings, MaintenanceWindow, RunbookPolicy
from signals.models import AlertMapping, Sample, Series, SignalPolicy, Source, TimelineEntry, WebhookDelivery
from signals.policy import forget
from signals.source import SOURCES
from signals.untrusted import UnauthenticatedError
from tests.incidents import scenes
from tests.monitored import PASSWORD
from tests.standin import Platform, installed

pytestmark = pytest.mark.django_db
MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
RECORDS = [model for model in MODELS if isinstance(admin.site._registry[model], adminkit.RecordAdmin)]
LABEL = {"ids": lambda model: model._meta.label}


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    """What this process keeps of the policies for a few seconds ends with each test."""
    yield
    forget()


@pytest.fixture
def operator(client: Client) -> Client:
    """Signed in as `anna`, who may do everything."""
    client.force_login(User.objects.create_superuser("anna", password="right-horse-9"))
    seeds.plant()
    return client


@pytest.fixture
def viewer() -> Client:
    """Signed in as `ben`, who may look at everything and change nothing."""
    ben = User.objects.create_user("ben", password="right-horse-9", is_staff=True)
    ben.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(ben)
    return client


def page(model, kind, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{kind}", args=args)


def form_of(client, url):
    """What a browser would send back if nothing were touched, with the hidden first values."""
    form = client.get(url).context["adminform"].form
    values = {name: form[name].value() for name in form.fields}
    sent = {name: value for name, value in values.items() if value not in (None, False)}
    hidden = {
        form[name].html_initial_name: values[name] for name, field in form.fields.items() if field.show_hidden_initial
    }
    return {key: "" if value is None else value for key, value in (sent | hidden).items()}


def change(client, row, **values):
    url = page(type(row), "change", row.pk)
    sent = {key: value for key, value in (form_of(client, url) | values).items() if value is not False}
    return client.post(url, sent)


def latest():
    return AuditEntry.objects.order_by("pk").last()


def fill_record():
    event = scenes.awaiting_approval()
    scenes.gates(event, 1, dry_run="The agent is in dry-run.")
    scenes.action(event, "journal", "done", "freed 1 MB")
    scenes.look(event, 60, 70.0, "good")
    scenes.alive("worker")
    source = Source.objects.get(slug="host")
    WebhookDelivery.objects.create(source=source, delivery_id="ab12")
    QueuedTask.objects.create(queue="byteport", payload="x", dedup_key="advance:1")
    AuditEntry.objects.create(actor="anna", action="change", target="agent", before={"a": 1}, after={"a": 2})
    AccessAttempt.objects.create(username="mallory", ip_address="203.0.113.9", failures_since_start=11)
    window = {"name": "Upgrade", "starts_at": now(), "ends_at": now() + scenes.timedelta(hours=1)}
    MaintenanceWindow.objects.create(**window)
    series = Series.objects.create(
        fingerprint=event.fingerprint, signal=event.signal, resource=event.resource, fleet="host", unit="host/web-1"
    )
    Sample.objects.create(fingerprint=series.fingerprint, at=now(), value=91.5)
    Group.objects.create(name="on call")
    return event


# --- every page


def test_every_page_opens(operator):
    fill_record()
    for model in MODELS:
        assert operator.get(page(model, "changelist"), follow=True).status_code == 200, model
        for row in model._default_manager.all()[:1]:
            assert operator.get(page(model, "change", row.pk)).status_code == 200, model


@pytest.mark.parametrize("model", MODELS, **LABEL)
def test_nobody_sees_a_page_without_signing_in(client, model):
    assert client.get(page(model, "changelist")).url.startswith(reverse("admin:login"))


@pytest.mark.parametrize("model", MODELS, **LABEL)
def test_every_list_can_be_searched(operator, model):
    assert admin.site._registry[model].search_fields or model is AgentSettings
    assert operator.get(page(model, "changelist"), {"q": "nothing like it"}, follow=True).status_code == 200


@pytest.mark.parametrize("model", RECORDS, **LABEL)
def test_the_record_can_be_neither_added_to_nor_changed_nor_deleted(operator, model):
    fill_record()
    rows = model._default_manager
    key = rows.values_list("pk", flat=True).first()
    before = list(rows.values())
    assert operator.post(page(model, "add"), {}).status_code == 403
    if key is not None:
        assert operator.post(page(model, "change", key), {}).status_code == 403
        assert operator.post(page(model, "delete", key), {"post": "yes"}).status_code == 403
    assert list(rows.values()) == before


def test_an_incident_shows_all_that_belongs_to_it(operator):
    event = fill_record()
    text = operator.get(page(type(event), "change", event.pk)).content.decode()
    for part in (
        "It is awaiting_approval.",
        "The agent is in dry-run.",
        "freed 1 MB",
        "70.0 % used",
        "6.3 GB can be freed",
    ):
        assert part in text


def test_a_series_shows_its_samples(operator):
    fill_record()
    series = Series.objects.get()
    assert "91.5 (" in operator.get(page(Series, "change", series.pk)).content.decode()


# --- large tables


@pytest.mark.parametrize("model", RECORDS, **LABEL)
def test_no_list_of_the_record_counts_a_whole_table_or_offers_to_sort_it(operator, model):
    fill_record()
    with CaptureQueriesContext(connection) as queries:
        reply = operator.get(page(model, "changelist"))
    counts = [
        query["sql"]
        for query in queries
        if f'FROM "{model._meta.db_table}"' in query["sql"] and "COUNT(" in query["sql"]
    ]
    assert counts
    assert all("LIMIT" in sql for sql in counts)
    assert "?o=" not in reply.content.decode()


def test_the_list_of_incidents_leaves_the_wide_columns_alone(operator):
    scenes.planned("escalated")
    with CaptureQueriesContext(connection) as queries:
        operator.get(page(type(scenes.incident()), "changelist"))
    listed = [
        query["sql"] for query in queries if 'FROM "signal_events"' in query["sql"] and "COUNT" not in query["sql"]
    ]
    assert listed
    assert not any("postmortem_md" in sql for sql in listed)


def test_a_page_of_a_large_table_counts_to_its_limit_and_then_takes_the_planners_word():
    class Short(adminkit.BoundedPaginator):
        limit = 5

    event = scenes.incident()
    rows = [TimelineEntry(event=event, at=now(), actor="x", kind="note", message="x") for _ in range(500)]
    TimelineEntry.objects.bulk_create(rows)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE timeline_entries")
    with CaptureQueriesContext(connection) as queries:
        many = Short(TimelineEntry.objects.order_by("-pk"), 50).count
    assert 400 <= many <= 600
    assert all("LIMIT 5" in query["sql"] for query in queries if "COUNT" in query["sql"])
    assert Short(TimelineEntry.objects.filter(kind="note", actor="y").order_by("-pk"), 50).count == 0


# --- changes are audited


def test_a_change_is_audited_with_who_from_and_to(operator):
    policy = SignalPolicy.objects.get(pk="disk_pressure")
    assert change(operator, policy, clear="79").status_code == 302
    policy.refresh_from_db()
    assert policy.clear == 79
    entry = latest()
    assert (entry.actor, entry.action, entry.target) == ("anna", "change", "policy disk_pressure")
    assert (entry.before, entry.after) == ({"clear": 80.0}, {"clear": 79.0})


def test_saving_without_a_change_is_not_a_change(operator):
    change(operator, RunbookPolicy.objects.get(pk="cleanup_logs"))
    assert not AuditEntry.objects.exists()


def test_what_is_not_valid_is_refused_at_its_field_and_changes_nothing(operator):
    policy = SignalPolicy.objects.get(pk="disk_pressure")
    reply = change(operator, policy, clear="99")
    assert reply.context["adminform"].form.errors == {"clear": ["Must not be above the threshold (85)."]}
    policy.refresh_from_db()
    assert policy.clear == 80
    assert not AuditEntry.objects.exists()


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(operator):
    settings = AgentSettings.objects.get()
    loaded = form_of(operator, page(AgentSettings, "change", 1))
    AgentSettings.objects.update(paused=True, paused_reason="a fire")
    reply = operator.post(page(AgentSettings, "change", 1), loaded | {"max_concurrent": "9"})
    assert set(reply.context["adminform"].form.errors) == {"paused", "paused_reason"}
    settings.refresh_from_db()
    assert settings.paused
    assert settings.max_concurrent == 5


def test_dry_run_that_the_deployment_forces_cannot_be_switched_here(operator, settings):
    loaded = form_of(operator, page(AgentSettings, "change", 1))
    settings.FORCE_DRY_RUN = True
    operator.post(page(AgentSettings, "change", 1), {k: v for k, v in loaded.items() if k != "dry_run"})
    assert AgentSettings.objects.get().dry_run
    assert "dry_run" not in form_of(operator, page(AgentSettings, "change", 1))


def test_a_corrected_mistake_is_not_taken_for_somebody_elses_change(operator):
    policy = SignalPolicy.objects.get(pk="disk_pressure")
    url = page(SignalPolicy, "change", policy.pk)
    form = operator.post(url, form_of(operator, url) | {"clear": "99"}).context["adminform"].form
    hidden = dict(re.findall(r'name="(initial-\w+)" value="([^"]*)"', "".join(str(form[name]) for name in form.fields)))
    again = {name: form[name].value() for name in form.fields} | hidden | {"clear": "70"}
    assert operator.post(url, again).status_code == 302
    policy.refresh_from_db()
    assert policy.clear == 70


def test_a_new_row_and_its_end_are_audited(operator):
    times = {"starts_at_0": "2026-12-01", "starts_at_1": "10:00", "ends_at_0": "2026-12-01", "ends_at_1": "11:00"}
    operator.post(page(MaintenanceWindow, "add"), {"name": "Upgrade", "resources": "host/web-1/*", **times})
    window = MaintenanceWindow.objects.get()
    assert latest().action == "create"
    assert latest().after["resources"] == "host/web-1/*"
    operator.post(page(MaintenanceWindow, "delete", window.pk), {"post": "yes"})
    assert (latest().action, latest().target) == ("delete", "maintenance window Upgrade")
    assert latest().before["name"] == "Upgrade"


def test_a_window_that_ends_before_it_starts_is_refused(operator):
    times = {"starts_at_0": "2026-12-01", "starts_at_1": "10:00", "ends_at_0": "2026-12-01", "ends_at_1": "09:00"}
    reply = operator.post(page(MaintenanceWindow, "add"), {"name": "Upgrade", "resources": "*", **times})
    assert reply.context["adminform"].form.errors == {"ends_at": ["Must be after the start."]}


def test_rows_that_are_deleted_together_are_audited_one_by_one(operator):
    for name in ("a", "b"):
        Group.objects.create(name=name)
    chosen = {
        "action": "delete_selected",
        "_selected_action": [group.pk for group in Group.objects.filter(name__in=("a", "b"))],
        "post": "yes",
    }
    operator.post(page(Group, "changelist"), chosen)
    assert set(AuditEntry.objects.values_list("action", "target")) == {("delete", "group a"), ("delete", "group b")}
    assert not Group.objects.filter(name__in=("a", "b")).exists()


def test_whoever_may_only_look_changes_nothing(operator, viewer):
    loaded = form_of(operator, page(AgentSettings, "change", 1))
    assert viewer.get(page(AgentSettings, "change", 1)).status_code == 200
    del loaded["dry_run"]
    assert viewer.post(page(AgentSettings, "change", 1), loaded).status_code == 403
    assert AgentSettings.objects.get().dry_run


# --- agent and policies


def test_there_is_one_row_of_settings(operator):
    assert operator.get(page(AgentSettings, "changelist")).url == page(AgentSettings, "change", 1)
    assert operator.get(page(AgentSettings, "add")).status_code == 403
    assert operator.post(page(AgentSettings, "delete", 1), {"post": "yes"}).status_code == 403
    AgentSettings.objects.all().delete()
    assert operator.get(page(AgentSettings, "add")).status_code == 200


@pytest.mark.parametrize("model", [AgentSettings, RunbookPolicy], **LABEL)
def test_switching_dry_run_off_wakes_what_was_only_simulated(operator, model):
    model.objects.update(dry_run=True)
    event = scenes.planned("simulated")
    change(operator, model.objects.order_by("pk").first(), dry_run=False)
    assert latest().after == {"dry_run": False}
    event.refresh_from_db()
    assert event.due_at is not None
    assert QueuedTask.objects.filter(dedup_key=f"advance:{event.pk}").exists()


def test_another_change_wakes_nothing(operator):
    event = scenes.planned("simulated")
    change(operator, AgentSettings.objects.get(), max_concurrent="9")
    event.refresh_from_db()
    assert event.due_at is None


def test_a_policy_says_its_defaults_and_units(operator):
    text = operator.get(page(SignalPolicy, "change", "disk_pressure")).content.decode()
    assert "Default: 85 %." in text
    assert "Default: 60 s." in text


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (SignalPolicy, ["Sustain (s)", "Max gap (s)"]), (RunbookPolicy, ["Cooldown (s)", "Verify deadline (s)"]),
        (MonitoredDatabase, ["Idle limit (s)"]),
    ],
)  # fmt: skip
def test_a_column_of_seconds_is_headed_as_in_the_form(operator, model, heads):
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN")
    text = operator.get(page(model, "changelist")).content.decode()
    for head in heads:
        assert head in text


def test_a_policy_is_added_only_where_there_is_none_and_starts_from_the_defaults(operator):
    assert operator.get(page(SignalPolicy, "add")).status_code == 403
    SignalPolicy.objects.filter(pk="memory_pressure").delete()
    form = operator.get(page(SignalPolicy, "add")).context["adminform"].form
    assert [value for value, _ in form.fields["signal"].choices if value] == ["memory_pressure"]
    assert (form["threshold"].value(), form["clear"].value()) == (90, 85)


def test_a_new_runbook_needs_no_migration_and_can_be_chosen(operator):
    with installed(Platform()):
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)
        assert "Stand-in" in operator.get(page(RunbookPolicy, "add")).content.decode()


# --- sources


def new_webhook(client, **values):
    sent = {"slug": "pager", "kind": "generic", "enabled": "on", "options": "{}"} | values
    return client.post(page(Source, "add"), sent)


def test_a_new_webhooks_secret_is_shown_once_and_kept_nowhere_else(operator):
    text = new_webhook(operator).content.decode()
    source = Source.objects.get(slug="pager")
    secret = unseal(source.sealed_secret)
    assert len(secret) == 43
    assert secret in text
    assert "/hooks/pager" in text
    assert secret not in operator.get(page(Source, "change", source.pk)).content.decode()
    assert secret not in str(list(AuditEntry.objects.values()))
    assert source.sealed_secret not in str(list(AuditEntry.objects.values()))
    assert secret not in str(dict(operator.session)) + str(operator.cookies)


def test_a_sender_that_signs_by_itself_is_shown_no_secret(operator):
    text = new_webhook(operator, slug="alarms", kind="sns").content.decode()
    assert "aws sns subscribe" in text
    assert unseal(Source.objects.get(slug="alarms").sealed_secret) not in text
    assert "only time" not in text


class Outsider:
    """A webhook from outside, of before one could say whether its sender needs the secret; its snippet is quoted."""

    name, title, permissions = "outsider", "Outsider", ()

    def authenticate(self, config, call, now):
        raise UnauthenticatedError("it is never called here")

    def parse(self, config, call, now):
        return []

    def snippet(self, url, secret):
        return f"send {url} {'-'.join(secret)}"


class Signer(Outsider):
    name, title, needs_secret = "signer", "Signer", False


@pytest.fixture
def outsiders(monkeypatch):
    monkeypatch.setitem(vars(SOURCES), "_found", {**SOURCES, "outsider": Outsider(), "signer": Signer()})


@pytest.mark.parametrize(("kind", "shown"), [("outsider", True), ("signer", False)])
def test_a_webhook_from_outside_is_shown_its_secret_unless_it_says_that_it_needs_none(operator, outsiders, kind, shown):
    text = new_webhook(operator, slug="mine", kind=kind).content.decode()
    assert (unseal(Source.objects.get(slug="mine").sealed_secret) in text) == shown
    assert ("only time" in text) == shown


def test_what_reading_costs_is_shown_where_byteport_asks(operator):
    new_webhook(operator)
    assert (
        "Calls today" not in operator.get(page(Source, "change", Source.objects.get(slug="pager").pk)).content.decode()
    )
    new_webhook(operator, slug="dog", kind="datadog")
    assert "Calls today" in operator.get(page(Source, "change", Source.objects.get(slug="dog").pk)).content.decode()


def test_what_has_a_name_of_capitals_keeps_them(operator):
    assert "API tokens" in operator.get(reverse("admin:index")).content.decode()


def test_times_are_shown_to_the_second_and_with_their_zone(operator):
    row = Source.objects.create(slug="late", kind="generic", last_success_at=datetime(2026, 3, 1, 19, 5, 9, tzinfo=UTC))
    for address in (page(Source, "changelist"), page(Source, "change", row.pk)):
        assert "2026-03-01 19:05:09 UTC" in operator.get(address).content.decode()


def test_a_source_that_byteport_asks_has_no_secret(operator):
    new_webhook(operator, slug="more-hosts", kind="host")
    source = Source.objects.get(slug="more-hosts")
    assert not source.sealed_secret
    assert "Make a new secret" not in operator.get(page(Source, "change", source.pk)).content.decode()
    assert operator.get(reverse("admin:signals_source_new_secret", args=[source.pk])).status_code == 404


def test_what_to_paste_at_the_sender_can_be_seen_again_without_the_secret(operator, viewer):
    new_webhook(operator, slug="shop", kind="alertmanager")
    row = Source.objects.get(slug="shop")
    text = viewer.get(reverse("admin:signals_source_at_the_sender", args=[row.pk])).content.decode()
    assert "/hooks/shop" in text
    assert "Put the secret where it says SECRET" in text
    assert unseal(row.sealed_secret) not in text


def test_a_sender_that_signs_by_itself_is_given_no_secret_to_replace(operator):
    new_webhook(operator, slug="aws", kind="sns")
    row = Source.objects.get(slug="aws")
    assert "Make a new secret" not in operator.get(page(Source, "change", row.pk)).content.decode()
    assert operator.get(reverse("admin:signals_source_new_secret", args=[row.pk])).status_code == 404
    text = operator.get(reverse("admin:signals_source_at_the_sender", args=[row.pk])).content.decode()
    assert "aws sns subscribe" in text
    assert "Put the secret" not in text


def test_a_new_secret_is_made_only_after_asking(operator):
    new_webhook(operator)
    source = Source.objects.get(slug="pager")
    first, url = source.sealed_secret, reverse("admin:signals_source_new_secret", args=[source.pk])
    assert "stops working at once" in operator.get(url).content.decode()
    source.refresh_from_db()
    assert source.sealed_secret == first
    text = operator.post(url).content.decode()
    source.refresh_from_db()
    assert unseal(source.sealed_secret) in text
    assert unseal(source.sealed_secret) != unseal(first)
    assert (latest().action, latest().target, set(latest().after)) == ("new secret", "source pager", {"sealed_secret"})
    assert latest().before != latest().after


def test_whoever_may_only_look_makes_no_secret(operator, viewer):
    new_webhook(operator)
    source = Source.objects.get(slug="pager")
    assert viewer.post(reverse("admin:signals_source_new_secret", args=[source.pk])).status_code == 403
    before = source.sealed_secret
    source.refresh_from_db()
    assert source.sealed_secret == before


def test_a_payload_can_be_tried_and_nothing_of_it_is_kept(operator):
    operator.post(page(Source, "add"), {"slug": "alerts", "kind": "alertmanager", "enabled": "on", "options": "{}"})
    url = reverse("admin:signals_source_try_it", args=[Source.objects.get(slug="alerts").pk])
    assert "Nothing of it is kept" in operator.get(url).content.decode()
    labels = {"alertname": "HostOutOfDiskSpace", "instance": "web-1:9100", "mountpoint": "/var"}
    known = operator.post(url, {"payload": json.dumps({"alerts": [{"status": "firing", "labels": labels}]})})
    text = known.content.decode()
    assert "disk_pressure of /var on web-1" in text
    assert "node-mixin: file system: applies" in text
    assert "Mapped by the rule node-mixin: file system." in text
    del labels["mountpoint"]
    unknown = operator.post(url, {"payload": json.dumps({"alerts": [{"status": "firing", "labels": labels}]})})
    assert "the alert has no label mountpoint" in unknown.content.decode()
    assert "Mapped by no rule: it keeps its own name." in unknown.content.decode()
    broken = operator.post(url, {"payload": "<script>alert(1)</script>"}).content.decode()
    assert "It would be refused" in broken
    assert "<script>alert(1)" not in broken
    assert not Series.objects.exists()


def test_what_names_its_own_resource_is_not_told_of_rules(operator):
    operator.post(page(Source, "add"), {"slug": "checks", "kind": "generic", "enabled": "on", "options": "{}"})
    url = reverse("admin:signals_source_try_it", args=[Source.objects.get(slug="checks").pk])
    message = {"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "status": "firing"}
    text = operator.post(url, {"payload": json.dumps(message)}).content.decode()
    assert "disk_pressure of /var on web-1" in text
    assert "rules that have to do with it" not in text


MAPPING = {
    "name": "ours", "position": "1", "enabled": "on", "alert": "Disk*", "labels": "{}", "signal": "disk_pressure",
    "resource": "host/{host}/mount/{path|=/}", "detail": "", "source": "",
}  # fmt: skip


def test_a_mapping_is_audited(operator):
    operator.post(page(AlertMapping, "add"), MAPPING)
    assert AlertMapping.objects.get().rule().resource == "host/{host}/mount/{path|=/}"
    assert latest().target == "mapping ours"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("resource", "host/{host}"), ("resource", "host//mount/x"), ("resource", "host/{host/mount/x"),
        ("resource", "host/{a b}/mount/x"), ("detail", "{}"), ("detail", "}"), ("labels", "[]"), ("labels", '{"a": 1}'),
    ],
)  # fmt: skip
def test_a_mapping_that_could_not_work_is_refused_in_words(operator, field, wrong):
    reply = operator.post(page(AlertMapping, "add"), {**MAPPING, field: wrong})
    assert "Not as expected" in reply.content.decode()
    assert not AlertMapping.objects.exists()


def test_the_options_of_a_source_are_an_object(operator):
    reply = new_webhook(operator, options="[1]")
    assert "Write a JSON object" in str(reply.context["adminform"].form.errors["options"])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sns", '{"topic": ["arn:aws:sns:eu-central-1:1:alarms"]}'),
        ("alertmanager", '{"reports_end": "true"}'),
        ("generic", '{"max_per_second": "fast"}'),
        ("generic", '{"max_per_second": -1}'),
        ("generic", '{"max_per_second": null}'),
        ("alertmanager", '{"reports_end": null}'),
        ("cloudevents", '{"firing": "com.example.full"}'),
        ("grafana", '{"signature-header": "X-Signature"}'),
    ],
)
def test_an_option_that_a_webhook_does_not_know_or_cannot_read_is_refused_in_words(operator, kind, options):
    form = {"slug": "it", "kind": kind, "enabled": "on", "options": options}
    errors = operator.post(page(Source, "add"), form).context["adminform"].form.errors
    assert next(iter(json.loads(options))) in str(errors["options"])
    assert not Source.objects.filter(slug="it").exists()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sns", '{"topics": ["arn:aws:sns:eu-central-1:1:alarms"], "reports_end": false}'),
        ("generic", '{"max_per_second": 5, "reports_end": true}'),
        ("cloudevents", '{"firing": ["*.full"], "resolved": ["*.ok"], "origins": ["events.example.com"]}'),
        ("grafana", '{"signature_header": "X-Signature", "timestamp_header": "X-Time"}'),
    ],
)
def test_the_options_that_the_documents_name_are_taken(operator, kind, options):
    operator.post(page(Source, "add"), {"slug": "it", "kind": kind, "enabled": "on", "options": options})
    assert Source.objects.get(slug="it").options == json.loads(options)


def test_a_credential_that_strays_into_the_options_does_not_reach_the_audit_trail(operator):
    form = {"slug": "it", "kind": "host", "enabled": "on", "options": '{"auth": {"api_key": "hunter2-hunter2"}}'}
    operator.post(page(Source, "add"), form)
    assert "hunter2" not in str(list(AuditEntry.objects.values()))
    assert "a secret (mark" in str(latest().after["options"])


def test_a_sources_slug_kind_and_health_stay_as_they_are(operator):
    source = Source.objects.get(slug="host")
    change(operator, source, slug="other", kind="generic", readings_total="7", enabled=False)
    source.refresh_from_db()
    assert (source.slug, source.kind, source.readings_total, source.enabled) == ("host", "host", 0, False)


def test_a_source_that_has_called_just_now_is_deleted_with_its_mappings(operator):
    row = Source.objects.create(slug="shop", kind="generic")
    AlertMapping.objects.create(
        name="queues", alert="Queue*", signal="cpu_saturation", resource="host/{host}", source=row
    )
    WebhookDelivery.objects.create(source=row, delivery_id="ab")
    address = reverse("admin:signals_source_delete", args=[row.pk])
    assert "alert mapping queues" in operator.get(address).content.decode()
    assert operator.post(address, {"post": "yes"}).status_code == 302
    assert not Source.objects.filter(pk=row.pk).exists()
    chosen = {"action": "delete_selected", "_selected_action": [Source.objects.get(slug="host").pk], "post": "yes"}
    operator.post(reverse("admin:signals_source_changelist"), chosen)
    assert Source.objects.filter(slug="host").exists(), "BytePort's own"


def test_whoever_deletes_a_source_is_told_of_its_open_incidents(operator):
    row = Source.objects.create(slug="shop", kind="generic")
    address = reverse("admin:signals_source_delete", args=[row.pk])
    assert "open that came from it" not in operator.get(address).content.decode()
    scenes.incident("escalated", source="shop")
    scenes.incident("resolved", source="shop")
    assert "1 incident is open that came from it" in operator.get(address).content.decode()


def test_the_hosts_own_source_is_switched_off_but_not_deleted(operator):
    source = Source.objects.get(slug="host")
    assert operator.post(page(Source, "delete", source.pk), {"post": "yes"}).status_code == 403


# --- monitored databases


def test_a_monitored_database_says_what_byteport_may_do_there_and_audits_its_changes(operator, server, monkeypatch):
    monkeypatch.setenv("PROD_DSN", server.agent_dsn())
    sent = {"name": "prod", "enabled": "on", "connection_variable": "PROD_DSN", "idle_limit_s": "300"}
    assert operator.post(page(MonitoredDatabase, "add"), sent).status_code == 302
    assert latest().after["connection_variable"] == "PROD_DSN"
    row = MonitoredDatabase.objects.get()
    text = operator.get(page(MonitoredDatabase, "change", row.pk)).content.decode()
    assert "as byteport_agent; opted in: shop" in text
    assert PASSWORD not in text
    assert change(operator, row, idle_limit_s="120", name="other").status_code == 302
    row.refresh_from_db()
    assert (row.name, row.idle_limit_s) == ("prod", 120)
    assert (latest().target, latest().after) == ("monitored database prod", {"idle_limit_s": 120})


def test_a_monitored_database_says_why_it_cannot_be_read(operator):
    row = MonitoredDatabase.objects.create(name="dev", connection_variable="NO_SUCH_DSN")
    assert "NO_SUCH_DSN) is not set" in operator.get(page(MonitoredDatabase, "change", row.pk)).content.decode()


# --- people


def test_a_password_is_audited_as_a_change_alone(operator):
    ben = User.objects.create_user("ben", password="right-horse-9")
    new = {"password1": "left-donkey-8", "password2": "left-donkey-8", "usable_password": "true"}
    operator.post(reverse("admin:auth_user_password_change", args=[ben.pk]), new)
    ben.refresh_from_db()
    assert ben.check_password("left-donkey-8")
    assert (latest().action, latest().target) == ("set password", "user ben")
    assert ben.password not in str(list(AuditEntry.objects.values()))


def test_ones_own_password_is_audited_too(operator):
    new = {"old_password": "right-horse-9", "new_password1": "left-donkey-8", "new_password2": "left-donkey-8"}
    assert operator.post(reverse("admin:password_change"), new).status_code == 302
    assert (latest().actor, latest().action, latest().target) == ("anna", "set password", "user anna")


def test_a_refused_password_is_not_audited(operator):
    new = {"old_password": "wrong", "new_password1": "left-donkey-8", "new_password2": "left-donkey-8"}
    assert operator.post(reverse("admin:password_change"), new).status_code == 200
    assert not AuditEntry.objects.exists()


def test_a_new_user_and_the_groups_of_one_are_audited_by_name(operator):
    new = {"username": "carl", "password1": "left-donkey-8", "password2": "left-donkey-8", "usable_password": "true"}
    operator.post(page(User, "add"), new)
    carl = User.objects.get(username="carl")
    assert latest().target == "user carl"
    assert carl.password not in str(latest().after)
    group = Group.objects.create(name="on call")
    change(operator, carl, groups=[group.pk], user_permissions=[])
    assert (latest().before, latest().after) == ({"groups": []}, {"groups": ["on call"]})


def test_a_lock_out_is_lifted_by_deleting_its_failed_logins(operator):
    AccessAttempt.objects.create(username="mallory", ip_address="203.0.113.9", failures_since_start=11)
    operator.post(page(AccessAttempt, "delete", AccessAttempt.objects.get().pk), {"post": "yes"})
    assert not AccessAttempt.objects.exists()
    assert latest().target == "failed logins of mallory from 203.0.113.9"


# --- the site


def test_the_sidebar_leads_to_every_page_and_back_to_the_console(operator):
    request = RequestFactory().get("/admin/")
    request.user = User.objects.get(username="anna")
    links = {str(item["link"]) for group in adminkit.navigation(request) for item in group["items"]}
    assert links == {"/", *(page(model, "changelist") for model in MODELS)}
    assert all(apps.get_model(model) for entries in adminkit.PAGES.values() for _, model, _ in entries)


def test_the_sidebar_shows_only_what_one_may_see():
    request = RequestFactory().get("/admin/")
    request.user = User.objects.create_user("ben", is_staff=True)
    request.user.user_permissions.add(Permission.objects.get(codename="view_source"))
    items = [item["title"] for group in adminkit.navigation(request) for item in group["items"]]
    assert items == ["Console", "Sources"]


def test_the_scripts_of_the_admin_may_evaluate_and_those_of_the_console_may_not(operator):
    policies = [operator.get(url)["Content-Security-Policy"] for url in ("/admin/", "/admin/login/", "/agent/")]
    scripts = [re.search(r"script-src ([^;]*)", policy).group(1) for policy in policies]
    assert scripts == ["'self' 'unsafe-eval'", "'self' 'unsafe-eval'", "'self'"]


def test_the_audit_trail_shows_from_and_to_without_what_a_new_row_left_empty(operator):
    before, after = {"slug": None, "note": None}, {"slug": "x", "note": ""}
    AuditEntry.objects.create(actor="anna", action="create", target="source x", before=before, after=after)
    text = operator.get(page(AuditEntry, "changelist")).content.decode()
    assert "slug: nothing → &quot;x&quot;" in text
    assert "note:" not in text
