"""The API through DRF's client. Real: PostgreSQL, tokens, roles, every view; the loop does not run."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.core.management import call_command
from django.urls import reverse
from rest_framework.test import APIClient

from byteport import seeds
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry, QueuedTask
from incidents.api import idempotency
from incidents.models import ApiToken, IdempotentCall
from incidents.roles import SCOPES, Deed, Role, Scope
from runbooks.models import AgentSettings, Approval
from signals.models import SignalEvent, Status
from signals.policy import forget
from tests.incidents import scenes

pytestmark = pytest.mark.django_db
FIRING = {"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "status": "firing"}
LISTS = (
    "incidents",
    "actions",
    "approvals",
    "postmortems",
    "sources",
    "webhooks",
    "hosts",
    "databases",
    "audit",
    "policies",
    "agent",
)


@pytest.fixture(autouse=True)
def _planted(db):
    cache.clear()
    seeds.plant()
    yield
    forget()


def person(role: Role | None, name: str = "") -> User:
    user = User.objects.create_user(name or f"{role or 'nobody'}-1")
    if role:
        user.groups.add(Group.objects.get(name=role))
    return user


def calling(role: Role | None = Role.ADMINISTRATOR, *scopes: Scope) -> APIClient:
    """A client with a token of that role and those scopes (all, when none is given)."""
    _, token = ApiToken.objects.create(person(role), name="test", scopes=[*(scopes or Scope)])
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def assert_problem(response, status: int) -> str:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    document = json.loads(response.content)
    assert document["status"] == status
    assert document["detail"]
    return document["detail"]


# --- who may do what (by role: tests/incidents/test_roles.py)

DEEDS = {
    Deed.VIEW: lambda client: client.get("/api/v1/incidents/"),
    Deed.SIGNAL: lambda client: client.post("/api/v1/signals/", FIRING, format="json"),
    Deed.APPROVE: lambda client: client.post("/api/v1/incidents/1/approve/", {"plan_hash": "x"}, format="json"),
    Deed.OPERATE: lambda client: client.patch("/api/v1/agent/", {"paused": True}, format="json"),
    Deed.CONFIGURE: lambda client: client.patch("/api/v1/policies/disk_pressure/", {"threshold": 86}, format="json"),
}


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("deed", list(DEEDS))
def test_a_tokens_scope_narrows_its_users_role(scope, deed):
    allowed = DEEDS[deed](calling(Role.ADMINISTRATOR, scope)).status_code != 403
    assert allowed == (deed in SCOPES[scope])


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "Bearer a b", "Basic eDp5", "Bearer \xff"])
def test_without_a_good_token_nothing_is_told(token):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=token)
    for name in LISTS:
        assert_problem(client.get(f"/api/v1/{name}/"), 401)
    assert_problem(client.post("/api/v1/signals/", FIRING, format="json"), 401)
    assert not SignalEvent.objects.exists()


def test_a_token_that_has_expired_or_whose_user_is_gone_lets_nobody_in():
    _, expired = ApiToken.objects.create(
        person(Role.VIEWER, "a"), name="t", scopes=["read"], expiry=-timedelta(seconds=1)
    )
    user = person(Role.VIEWER, "b")
    _, orphan = ApiToken.objects.create(user, name="t", scopes=["read"])
    User.objects.filter(pk=user.pk).update(is_active=False)
    for token in (expired, orphan):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        assert_problem(client.get("/api/v1/incidents/"), 401)


def test_who_guesses_tokens_is_held_off():
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Bearer wrong")
    for _ in range(30):
        client.get("/api/v1/incidents/")
    response = client.get("/api/v1/incidents/")
    assert_problem(response, 429)
    assert int(response["Retry-After"]) > 0


def test_only_the_tokens_hash_is_kept():
    kept, token = ApiToken.objects.create(person(Role.VIEWER), name="t", scopes=["read"])
    assert token not in str(ApiToken.objects.values().get())
    assert kept.digest != token


def test_a_session_needs_its_csrf_token():
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(person(Role.ADMINISTRATOR))
    assert client.get("/api/v1/incidents/").status_code == 200
    assert_problem(client.patch("/api/v1/agent/", {"paused": True}, format="json"), 403)
    assert not AgentSettings.objects.get().paused


# --- reads


@pytest.mark.parametrize("name", LISTS)
def test_each_list_can_be_read(name):
    scenes.planned("escalated")
    assert calling(Role.VIEWER).get(f"/api/v1/{name}/").status_code == 200


def test_lists_come_in_pages_whose_cursors_lead_on():
    for number in range(5):
        scenes.incident(resource=ResourceRef("host", f"web-{number}", "mount", "/var"))
    client = calling()
    seen, url = [], "/api/v1/incidents/?page_size=2"
    while url:
        page = client.get(url).json()
        seen += [row["id"] for row in page["results"]]
        url = page["next"]
    assert seen == sorted(SignalEvent.objects.values_list("pk", flat=True), reverse=True)


@pytest.mark.parametrize("cursor", ["abc", "cD1h", "cD0x&", "%F3%AF", "cD0lMDA="])
def test_a_cursor_that_byteport_did_not_give_is_no_fault_of_its_own(cursor):
    assert calling().get(f"/api/v1/incidents/?cursor={cursor}").status_code in (200, 404)


def test_incidents_can_be_filtered_and_a_wrong_filter_is_refused_in_words():
    event = scenes.incident()
    client = calling()
    assert [row["id"] for row in client.get("/api/v1/incidents/?open=true&signal=disk_pressure").json()["results"]] == [
        event.pk
    ]
    assert client.get("/api/v1/incidents/?open=false").json()["results"] == []
    assert client.get("/api/v1/incidents/?open=false&page_size=5&format=json").json()["results"] == []
    assert "status" in assert_problem(client.get("/api/v1/incidents/?status=nonsense"), 400)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("incidents/?statuss=resolved", "status"),
        ("incidents/?open=maybe", "true or false"),
        ("postmortems/?postmortem_final=x", "true or false"),
        ("audit/?who=ben", "actor"),
    ],
)
def test_a_filter_that_is_misspelt_or_says_nothing_does_not_give_everything(asked, told):
    assert told in assert_problem(calling().get(f"/api/v1/{asked}"), 400)


def test_a_record_and_a_postmortem_can_be_read():
    event = scenes.planned("escalated")
    client = calling()
    record = client.get(f"/api/v1/incidents/{event.pk}/record/").json()
    assert (record["id"], record["signal"]) == (event.pk, event.signal)
    assert client.get(f"/api/v1/postmortems/{event.pk}/").json()["markdown"].startswith("#")


@pytest.mark.parametrize("name", [*LISTS, "policies/disk_pressure"])
def test_who_has_it_already_is_spared_it(name):
    scenes.incident()
    client, path = calling(Role.VIEWER), f"/api/v1/{name}/"
    first = client.get(path)
    assert client.get(path, headers={"If-None-Match": first["ETag"]}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_source_tells_no_secret():
    text = calling().get("/api/v1/sources/").content.decode()
    assert "sealed" not in text
    assert "options" not in text


@pytest.mark.parametrize("path", ["/api/v1/nothing/", "/api/", "/api/v1/incidents/999/", "/api/v1/policies/nothing/"])
def test_what_is_not_there_is_a_problem_document(path):
    assert_problem(calling().get(path), 404)


def test_a_method_that_is_not_there_is_a_problem_document():
    assert_problem(calling().delete("/api/v1/agent/"), 405)
    assert_problem(APIClient().delete("/api/v1/agent/"), 401)


# --- signals


def test_signals_go_the_ordinary_way():
    answer = calling(Role.RESPONDER).post("/api/v1/signals/", [FIRING], format="json")
    assert answer.status_code == 202
    event = SignalEvent.objects.get()
    assert answer.json() == {"accepted": 1, "opened": [event.pk], "cleared": [], "why": {"fires": 1}}
    assert event.source == "api:responder-1"
    assert QueuedTask.objects.count() == 1


@pytest.mark.parametrize(
    "body", ["", "{}", "[1]", '{"signal": 1}', "nonsense", '{"signal": "x", "resource": "y", "odd": 1}']
)
def test_what_is_no_signal_is_refused_and_nothing_is_kept(body):
    assert_problem(calling().generic("POST", "/api/v1/signals/", body, content_type="application/json"), 400)
    assert not SignalEvent.objects.exists()


def test_what_is_no_json_is_refused():
    assert_problem(calling().generic("POST", "/api/v1/signals/", "a=1", content_type="text/plain"), 415)


# --- the same write twice


def test_a_write_under_one_key_is_carried_out_once_and_answered_alike():
    client = calling()
    key = {"Idempotency-Key": "k1"}
    first = client.post("/api/v1/signals/", FIRING, format="json", headers=key)
    again = client.post("/api/v1/signals/", FIRING, format="json", headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again["Idempotent-Replayed"] == "true"
    assert IdempotentCall.objects.count() == 1


def test_one_key_for_two_calls_is_refused():
    client = calling()
    key = {"Idempotency-Key": "k1"}
    client.post("/api/v1/signals/", FIRING, format="json", headers=key)
    other = client.post("/api/v1/signals/", {**FIRING, "status": "resolved"}, format="json", headers=key)
    assert_problem(other, 422)


def test_a_call_that_failed_may_be_made_again_under_its_key():
    client, key = calling(), {"Idempotency-Key": "k1"}
    assert_problem(client.post("/api/v1/incidents/1/approve/", {"plan_hash": "x"}, format="json", headers=key), 404)
    assert not IdempotentCall.objects.exists()


def test_keys_are_dropped_after_a_day():
    calling().post("/api/v1/signals/", FIRING, format="json", headers={"Idempotency-Key": "k1"})
    assert idempotency.purge() == 0
    IdempotentCall.objects.update(created_at=now() - timedelta(hours=25))
    assert idempotency.purge() == 1


# --- deeds


def waiting() -> SignalEvent:
    event = scenes.awaiting_approval()
    assert event.status == Status.AWAITING_APPROVAL
    return event


def test_a_plan_is_approved_by_its_hash_and_no_other():
    event = waiting()
    client = calling(Role.RESPONDER)
    path = f"/api/v1/incidents/{event.pk}/approve/"
    assert "changed" in assert_problem(client.post(path, {"plan_hash": "other"}, format="json"), 409)
    assert client.post(path, {"plan_hash": event.plan_hash}, format="json").status_code == 200
    approval = Approval.objects.get(event=event)
    assert (approval.approved, approval.decided_by) == (True, "responder-1")


def test_a_refusal_needs_its_reason():
    event = waiting()
    client, path = calling(Role.RESPONDER), f"/api/v1/incidents/{event.pk}/refuse/"
    assert "why" in assert_problem(client.post(path, {"plan_hash": event.plan_hash}, format="json"), 400)
    assert client.post(path, {"plan_hash": event.plan_hash, "why": "not now"}, format="json").status_code == 200
    assert Approval.objects.get(event=event).why == "not now"


def test_the_agent_is_switched_and_it_is_audited():
    client = calling(Role.RESPONDER)
    assert client.patch("/api/v1/agent/", {"paused": True, "why": "storm"}, format="json").json()["paused"] is True
    assert client.patch("/api/v1/agent/", {"dry_run": False, "paused": False}, format="json").json()["dry_run"] is False
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {"pause", "resume", "dry-run off"}


@pytest.mark.parametrize("body", [{"pause": True}, {"paused": True, "reason": "we are moving racks"}])
def test_a_misspelt_kill_switch_does_not_pass_for_a_pause(body):
    assert "paused" in assert_problem(calling().patch("/api/v1/agent/", body, format="json"), 400)
    assert not AgentSettings.objects.get().paused


def test_a_policy_is_changed_only_if_it_is_still_the_one_that_was_read():
    client, path = calling(), "/api/v1/policies/disk_pressure/"
    read = client.get(path)
    changed = client.patch(path, {"threshold": 88}, format="json", headers={"If-Match": read["ETag"]})
    assert changed.status_code == 200
    assert next(one for one in changed.json()["settings"] if one["key"] == "threshold")["value"] == 88
    assert_problem(client.patch(path, {"threshold": 89}, format="json", headers={"If-Match": read["ETag"]}), 412)
    assert AuditEntry.objects.latest("pk").actor == "administrator-1"


@pytest.mark.parametrize("body", [{"threshold": "much"}, {"nothing": 1}, {"clear": 99}, {}, [], {"threshold": {}}])
def test_a_policy_that_makes_no_sense_is_refused_in_words(body):
    response = calling().patch("/api/v1/policies/disk_pressure/", body, format="json")
    assert response.status_code in (400, 409)
    assert_problem(response, response.status_code)


# --- tokens


def test_a_token_is_made_listed_and_revoked_by_command(capsys):
    person(Role.VIEWER, "ben")
    call_command("token", "create", "dashboards", "--user", "ben", "--scope", "read", "--json")
    made = json.loads(capsys.readouterr().out)
    assert AuditEntry.objects.latest("pk").target == f"token {made['key']} (dashboards)"
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {made['token']}")
    assert client.get("/api/v1/incidents/").status_code == 200
    call_command("token", "list")
    listed = capsys.readouterr().out
    assert "dashboards: ben, read" in listed
    assert made["token"] not in listed
    call_command("token", "revoke", made["key"])
    assert_problem(client.get("/api/v1/incidents/"), 401)


def test_the_admin_shows_a_new_token_once(client):
    client.force_login(User.objects.create_superuser("root"))
    ben = person(Role.VIEWER, "ben")
    url = reverse("admin:incidents_apitoken_add")
    assert "How many days" in client.get(url).content.decode()
    page = client.post(url, {"name": "dashboards", "user": ben.pk, "scopes": ["read"], "days": "30"}).content.decode()
    row = ApiToken.objects.get()
    assert (row.name, row.user, row.scopes) == ("dashboards", ben, ["read"])
    assert row.token_key in page
    assert row.token_key not in client.get(reverse("admin:incidents_apitoken_changelist")).content.decode().replace(
        row.token_key[:8], "", 1
    )
    assert AuditEntry.objects.latest("pk").action == "create"
