"""What other machines ask. Real: PostgreSQL; and where the database is away, a process that has none."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from byteport.core.clock import now
from byteport.middleware import DatabaseAway
from byteport.models import QueuedTask
from runbooks.models import AgentSettings
from signals.models import Source
from tests.incidents import scenes

ADDRESSES = ("/healthz", "/readyz", "/metrics")


def scrape(client: Client) -> dict[tuple[str, ...], float]:
    """The samples by name and label values."""
    families = text_string_to_metric_families(client.get("/metrics").content.decode())
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.django_db
@pytest.mark.parametrize("address", ADDRESSES)
def test_the_probes_need_neither_login_nor_a_known_host(client: Client, address: str) -> None:
    assert client.get(address, headers={"Host": "10.1.2.3:8000"}).status_code == 200


@pytest.mark.django_db
def test_it_is_ready_when_the_database_answers_and_is_migrated(client: Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert {name: part["ok"] for name, part in answer.json()["parts"].items()} == {
        "database": True,
        "migrations": True,
    }


@pytest.mark.django_db
def test_it_is_not_ready_while_a_migration_is_missing_and_names_it(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'signals'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    migrations = answer.json()["parts"]["migrations"]
    assert migrations["ok"] is False
    assert "signals.0" in migrations["detail"]
    assert "manage.py migrate" in migrations["detail"]


def test_without_a_database_it_is_alive_not_ready_and_says_so() -> None:
    script = """
import json, django; django.setup()
from django.test import Client
client = Client(raise_request_exception=False, headers={"host": "localhost"})
client.cookies["sessionid"] = "x" * 32
answers = {path: client.get(path) for path in ("/healthz", "/readyz", "/metrics", "/")}
print(json.dumps({
    "status": {path: answer.status_code for path, answer in answers.items()},
    "ready": answers["/readyz"].json(),
    "retry": answers["/"]["Retry-After"],
    "page": answers["/"].content.decode(),
}))
"""
    nowhere = {"DATABASE_URL": "postgres://nobody@%2Fnonexistent/none", "BYTEPORT_SECRET_KEY": "x" * 50}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=settings.BASE_DIR,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen = json.loads(ran.stdout)
    assert seen["status"] == {"/healthz": 200, "/readyz": 503, "/metrics": 503, "/": 503}
    assert seen["ready"]["parts"]["database"]["ok"] is False
    assert seen["retry"] == "5"
    assert "cannot reach PostgreSQL" in seen["page"]


def test_programs_get_the_503_as_plain_text_and_other_faults_stay_faults() -> None:
    middleware = DatabaseAway(lambda request: None)
    asked = RequestFactory().get("/", headers={"Accept": "application/json"})
    answer = middleware.process_exception(asked, OperationalError("gone"))
    assert answer.status_code == 503
    assert answer["Content-Type"] == "text/plain"
    assert middleware.process_exception(asked, ValueError("ours")) is None


@pytest.mark.django_db
def test_metrics_count_open_incidents_and_fold_unknown_signals_into_one(client: Client) -> None:
    scenes.incident("acting")
    scenes.incident("escalated")
    scenes.incident("escalated", signal="somebodys-own")
    scenes.incident("escalated", signal="another-ones")
    seen = scrape(client)
    assert seen["byteport_open_events", "disk_pressure", "acting"] == 1
    assert seen["byteport_open_events", "disk_pressure", "escalated"] == 1
    assert seen["byteport_open_events", "other", "escalated"] == 2
    assert seen["byteport_open_events", "disk_pressure", "verifying"] == 0
    assert not any("somebodys-own" in key for key in seen)


@pytest.mark.django_db
def test_metrics_count_the_last_day_only(client: Client) -> None:
    scenes.incident("resolved")
    scenes.incident("resolved", detected_at=now() - timedelta(days=3))
    event = scenes.planned("verifying")
    scenes.action(event, "new", "done", "")
    old = now() - timedelta(days=3)
    scenes.action(event, "old", "done", "", started_at=old, finished_at=old)
    scenes.action(event, "dry", "simulated", "", dry_run=True)
    seen = scrape(client)
    assert seen["byteport_events_resolved_last_day", "byteport"] == 1
    assert seen["byteport_events_resolved_last_day", "person"] == 0
    assert seen["byteport_actions_last_day", "false", "done"] == 1
    assert seen["byteport_actions_last_day", "true", "simulated"] == 1


@pytest.mark.django_db
def test_metrics_tell_the_state_of_agent_queue_processes_and_sources(client: Client) -> None:
    at = now()
    AgentSettings.objects.create(pk=1, dry_run=False, paused=True)
    for visible, attempts in ((-60, 0), (60, 0), (60, 1)):
        QueuedTask.objects.create(
            queue="byteport", payload="", visible_at=at + timedelta(seconds=visible), attempts=attempts
        )
    scenes.alive("worker")
    Source.objects.all().delete()
    Source.objects.create(slug="host", kind="host", last_success_at=at - timedelta(seconds=30))
    Source.objects.create(slug="off", kind="host", enabled=False)
    seen = scrape(client)
    assert (seen["byteport_dry_run",], seen["byteport_paused",]) == (0, 1)
    queue = [seen["byteport_queue_tasks", state] for state in ("ready", "running", "delayed")]
    assert queue == [1, 1, 1]
    assert seen["byteport_queue_oldest_due_seconds",] == pytest.approx(60, abs=5)
    assert (seen["byteport_processes", "worker"], seen["byteport_processes", "watch"]) == (1, 0)
    assert seen["byteport_source_lag_seconds", "host", "host"] == pytest.approx(30, abs=5)
    assert not any("off" in key for key in seen)


@pytest.mark.django_db
def test_every_metric_says_what_it_is(client: Client) -> None:
    families = list(text_string_to_metric_families(client.get("/metrics").content.decode()))
    assert len(families) >= 9
    assert all(family.documentation.endswith((".", "itself.")) for family in families)


@pytest.mark.django_db
def test_a_scrape_costs_the_same_however_much_there_is(client: Client) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            client.get("/metrics")
        return len(captured)

    scenes.incident("acting")
    once = cost()
    for _ in range(10):
        scenes.action(scenes.planned("verifying"), uuid4().hex, "done", "")
    assert cost() == once


@pytest.mark.django_db
def test_with_a_token_set_only_its_bearer_may_scrape(client: Client, settings) -> None:
    settings.METRICS_TOKEN = "s3cret"
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "s3cret"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200
