"""Outgoing webhooks in the admin, through Django's test client. Real: PostgreSQL, every form, view and template, and
HTTP to the far end where one is called."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from byteport import tasks
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry
from byteport.sealing import unseal
from incidents.outgoing import courier
from runbooks.models import AgentSettings
from signals.models import OutgoingEvent, OutgoingWebhook
from tests.incidents.escalation.wire import Answer, Fault
from tests.incidents.outgoing.receiver import receiver, webhook
from tests.incidents.scenes import incident

pytestmark = pytest.mark.django_db
ADD = "admin:signals_outgoingwebhook_add"
PATIENCE_S = 30.0
KINDS = ["incident.opened", "incident.resolved"]
ELSEWHERE = ResourceRef("host", "elsewhere", "mount", "/var")


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("anna"))
    return client


@pytest.fixture
def viewer() -> Client:
    ben = User.objects.create_user("ben", is_staff=True)
    ben.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(ben)
    return client


def add(client: Client, **values):
    sent = {"name": "pager", "url": "https://example.com/hook", "enabled": "on", "kinds": KINDS} | values
    return client.post(reverse(ADD), {key: value for key, value in sent.items() if value is not None})


def page(name: str, row: OutgoingWebhook) -> str:
    return reverse(f"admin:signals_outgoingwebhook_{name}", args=[row.pk])


def latest() -> AuditEntry:
    return AuditEntry.objects.latest("pk")


def test_a_new_webhooks_secret_is_shown_once_and_kept_nowhere_else(operator):
    reply = add(operator)
    row = OutgoingWebhook.objects.get()
    secret = unseal(row.sealed_secret)
    assert len(secret) == 43
    assert secret in reply.content.decode()
    assert "no-store" in reply["Cache-Control"]
    assert row.kinds == KINDS
    for name in ("change", "new_secret", "send_test", "send_again"):
        assert secret not in operator.get(page(name, row)).content.decode()
    audited = str(list(AuditEntry.objects.values()))
    assert "https://example.com/hook" in audited
    assert secret not in audited
    assert row.sealed_secret not in audited
    assert secret not in str(dict(operator.session)) + str(operator.cookies)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"url": "http://example.com/"}, "Use https"),
        ({"url": "https://u:p@example.com/"}, "name or password"),
        ({"url": "javascript:alert(1)"}, "https://"),
        ({"kinds": None}, "required"),
        ({"kinds": ["test"]}, "valid choice"),
    ],
)
def test_what_cannot_be_called_is_not_saved(operator, values, word):
    assert word in add(operator, **values).content.decode()
    assert not OutgoingWebhook.objects.exists()


def test_there_is_an_end_to_how_many_there_may_be(operator, monkeypatch):
    monkeypatch.setattr(courier, "MOST_WEBHOOKS", 1)
    webhook("https://example.com/")
    assert "as many as there may be" in add(operator, name="another").content.decode()


@pytest.mark.django_db(transaction=True)
def test_of_two_who_take_the_last_place_at_once_one_is_told_that_there_is_none(operator, monkeypatch):
    monkeypatch.setattr(courier, "MOST_WEBHOOKS", 1)
    with ThreadPoolExecutor(1) as elsewhere:
        with transaction.atomic():
            assert courier.has_room()
            late = elsewhere.submit(on_a_connection_of_its_own, lambda: add(operator, name="late"))
            wait_until_somebody_waits()
            webhook("https://example.com/")
        assert "as many as there may be" in late.result(PATIENCE_S).content.decode()
    assert OutgoingWebhook.objects.count() == 1


def on_a_connection_of_its_own(work):
    try:
        return work()
    finally:
        connection.close()


def wait_until_somebody_waits() -> None:
    """For an advisory lock, in this database."""
    locks = "SELECT 1 FROM pg_locks JOIN pg_database AS d ON d.oid = database WHERE locktype = 'advisory'"
    until = time.monotonic() + PATIENCE_S
    with connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute(f"{locks} AND NOT granted AND datname = current_database()")
            if cursor.fetchone():
                return
            time.sleep(0.02)
    pytest.fail("nobody waits")


def test_a_change_is_audited_and_makes_no_new_secret(operator):
    row = webhook("https://example.com/")
    sent = {"name": "pager", "url": "https://example.com/", "kinds": ["incident.escalated"], "private": "on"}
    operator.post(page("change", row), sent)
    changed = OutgoingWebhook.objects.get()
    assert (changed.enabled, changed.kinds) == (False, ["incident.escalated"])
    assert changed.sealed_secret == row.sealed_secret
    assert (latest().actor, latest().target) == ("anna", "outgoing webhook pager")
    assert set(latest().after) == {"enabled", "kinds"}


def test_a_new_secret_is_made_only_after_asking(operator):
    row = webhook("https://example.com/")
    assert "will refuse them" in operator.get(page("new_secret", row)).content.decode()
    assert OutgoingWebhook.objects.get().sealed_secret == row.sealed_secret
    text = operator.post(page("new_secret", row)).content.decode()
    changed = OutgoingWebhook.objects.get()
    assert unseal(changed.sealed_secret) in text
    assert changed.sealed_secret != row.sealed_secret
    assert (latest().action, set(latest().after)) == ("new secret", {"sealed_secret"})


def test_a_test_event_is_sent_in_dry_run_too_and_its_end_shown(operator):
    AgentSettings.objects.create(dry_run=True)
    with receiver() as far:
        row = webhook(far.base)
        assert "None was sent yet" in operator.get(page("send_test", row)).content.decode()
        far.faults.append(Fault("POST", ".*", answer=Answer(401, b"<b>who are you?</b>")))
        for _ in range(2):
            operator.post(page("send_test", row))
            tasks.send_events()
    assert [body["type"] for body in far.bodies] == ["test"]
    assert "incident" not in far.bodies[0]
    text = operator.get(page("send_test", row)).content.decode()
    assert "It answers 401 &lt;b&gt;who are you?&lt;/b&gt;" in text
    assert "<strong>sent</strong>" in text
    assert (latest().action, latest().target) == ("send test", "outgoing webhook pager")


def test_what_failed_is_sent_again_after_asking(operator):
    with receiver() as far:
        row = webhook(far.base)
        far.faults.append(Fault("POST", ".*", answer=Answer(404)))
        courier.send_test(row)
        tasks.send_events()
        assert "1 event was" in operator.get(page("send_again", row)).content.decode()
        operator.post(page("send_again", row))
        tasks.send_events()
    assert OutgoingEvent.objects.get().status == "sent"
    assert latest().after == {"sent again": 1}


@pytest.mark.parametrize("name", ["new_secret", "send_test", "send_again"])
def test_whoever_may_only_look_has_nothing_sent(viewer, name):
    row = webhook("https://example.com/")
    assert viewer.get(page("change", row)).status_code == 200
    assert viewer.post(page(name, row)).status_code == 403
    assert not OutgoingEvent.objects.exists()


def test_the_pages_show_foreign_text_as_text(operator):
    row = webhook("https://example.com/", name="<script>alert(1)</script>")
    OutgoingEvent.objects.create(
        webhook=row, uid="0" * 32, happening="0" * 32, kind="test", at=row.created_at, status="failed",
        answer="<script>alert(2)</script>",
    )  # fmt: skip
    pages = [page(name, row) for name in ("change", "new_secret", "send_test", "send_again")]
    for url in (*pages, reverse("admin:signals_outgoingevent_changelist")):
        text = operator.get(url).content.decode()
        assert "<script>alert(" not in text


def test_the_console_says_at_the_top_what_does_not_get_through(operator):
    with receiver() as far:
        far.faults.append(Fault("POST", ".*", answer=Answer(401, b"<i>who?</i>")))
        courier.send_test(webhook(far.base))
        tasks.send_events()
    text = operator.get("/").content.decode()
    assert "Webhook pager does not get through" in text
    assert "1 event is not delivered: It answers 401 &lt;i&gt;who?&lt;/i&gt;" in text


def test_a_webhook_is_deleted_with_the_events_that_it_was_told(operator):
    row = webhook("https://example.com/hook")
    courier.send_test(row)
    courier.send_test(row)
    assert "Outgoing events: 2" in operator.get(page("delete", row)).content.decode()
    operator.post(page("delete", row), {"post": "yes"})
    assert not OutgoingWebhook.objects.exists()
    assert not OutgoingEvent.objects.exists()
    assert (latest().action, latest().target) == ("delete", "outgoing webhook pager")


def test_an_incidents_page_shows_which_webhooks_were_told_of_it_and_what_they_answered(operator):
    row, ours, other = webhook("https://example.com/", name="pager"), incident(), incident(resource=ELSEWHERE)
    for about, answer in ((ours, "404 Not <b>here</b>"), (other, "of another")):
        OutgoingEvent.objects.create(
            webhook=row, uid=uuid4(), happening=uuid4(), kind="incident.opened", incident=about, at=row.created_at,
            status="failed", answer=answer,
        )  # fmt: skip
    text = operator.get(reverse("admin:signals_signalevent_change", args=[ours.pk])).content.decode()
    assert "incident.opened" in text
    assert "404 Not &lt;b&gt;here&lt;/b&gt;" in text
    assert "of another" not in text
