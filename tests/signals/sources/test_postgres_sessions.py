"""The source of sessions that are idle in a transaction. Real: PostgreSQL, BytePort's own and a monitored one with its
sessions, the router and the rows. Not real: time, which does not wait five minutes."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from byteport.clients.postgres import inventory
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase
from signals.ingest import ingest
from signals.models import SignalEvent, Source
from signals.polling import poll_once
from signals.source import SOURCES, SourceConfig
from signals.sources.postgres_sessions import idle_reading
from tests.monitored import PASSWORD, Server

SHOP = ResourceRef("postgres", "prod", "database", "shop")
CONFIG = SourceConfig("postgres")
pytestmark = pytest.mark.django_db


@pytest.fixture
def monitored(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(inventory, "LEAST_IDLE_S", 0)
    monkeypatch.setenv("PROD_DSN", server.agent_dsn())
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN", idle_limit_s=0)
    Source.objects.create(slug="postgres", kind="postgres_sessions")
    return server


def poll():
    return {reading.resource: reading for reading in SOURCES["postgres_sessions"].poll(CONFIG, now())}


def test_each_database_of_a_server_is_a_reading_of_how_many_of_its_sessions_are_idle_in_a_transaction(monitored):
    monitored.session("SELECT 1")
    monitored.session("INSERT INTO orders VALUES (1)")
    reading = poll()[SHOP]
    assert (reading.signal, reading.value, reading.source) == ("idle_in_transaction", 2.0, "postgres")
    assert reading.labels["connections_percent"] == "5.0"
    assert reading.labels["with_uncommitted_work"] == "1"
    assert float(reading.labels["oldest_s"]) < 60
    assert poll()[ResourceRef("postgres", "prod", "database", "postgres")].value == 0


def test_one_session_fires_and_none_clears(monitored):
    session = monitored.session("SELECT 1")
    assert len(poll_once(Source.objects.get(slug="postgres"), now()).opened) == 1
    event = SignalEvent.objects.get()
    assert (event.resource, event.severity, event.threshold) == (str(SHOP), "warning", 0)
    assert (event.fleet, event.neighbourhood) == ("postgres", "postgres/prod")
    session.rollback()
    assert poll_once(Source.objects.get(slug="postgres"), now()).cleared == (event.pk,)


def test_twenty_sessions_are_critical(monitored):
    for _ in range(20):
        monitored.session("SELECT 1")
    ingest(poll().values())
    assert SignalEvent.objects.get().severity == "critical"


def test_looking_again_names_the_sessions_and_what_they_hold(monitored):
    one = monitored.session("SELECT 1", application="sidekiq")
    other = monitored.session("INSERT INTO orders VALUES (1)")
    reading = idle_reading(SHOP, now())
    assert reading.value == 2
    first, second = reading.labels["sessions"].split("; ", 1)
    assert first == f"pid {one.info.backend_pid} of clerk (sidekiq)"
    assert second.startswith(f"pid {other.info.backend_pid} of clerk (shop): it has uncommitted work (transaction id ")


def test_a_database_that_is_gone_has_no_reading(monitored):
    assert idle_reading(ResourceRef("postgres", "prod", "database", "nix"), now()) is None


def test_a_server_that_cannot_be_read_does_not_hide_the_others(monitored):
    MonitoredDatabase.objects.create(name="dev", connection_variable="NO_SUCH_DSN")
    MonitoredDatabase.objects.create(name="away", connection_file="/nonexistent/dsn")
    MonitoredDatabase.objects.create(name="off", connection_variable="NO_SUCH_DSN", enabled=False)
    assert SHOP in poll()
    errors = dict(MonitoredDatabase.objects.values_list("name", "last_error"))
    assert "NO_SUCH_DSN) is not set" in errors["dev"]
    assert "cannot be read" in errors["away"]
    assert errors["prod"] == errors["off"] == ""
    assert MonitoredDatabase.objects.get(name="prod").last_success_at


def test_the_source_fails_when_no_server_can_be_read_and_tells_when_one_is_well_again(monitored, monkeypatch):
    monkeypatch.setenv("PROD_DSN", monitored.agent_dsn(host="/nonexistent"))
    with pytest.raises(Temporary):
        poll_once(Source.objects.get(slug="postgres"), now())
    row = MonitoredDatabase.objects.get()
    assert row.last_error
    assert PASSWORD not in row.last_error + Source.objects.get(slug="postgres").last_error
    monkeypatch.setenv("PROD_DSN", monitored.agent_dsn())
    poll()
    row.refresh_from_db()
    assert row.last_error == ""


def test_without_a_server_there_is_nothing_to_read_and_nothing_wrong():
    assert poll() == {}


def test_hidden_sessions_are_an_error_and_not_a_zero(monitored, monkeypatch):
    monitored.session("SELECT 1")
    monitored.admin("CREATE ROLE bare LOGIN")
    monkeypatch.setenv("PROD_DSN", monitored.dsn(user="bare", dbname="shop"))
    with pytest.raises(Permanent, match="GRANT pg_read_all_stats"):
        poll()
    monitored.admin("DROP ROLE bare")


# --- the rows


def test_a_dsn_stands_in_one_place():
    for places in ({}, {"connection_variable": "A", "connection_file": "/b"}):
        with pytest.raises(ValidationError, match="Name either"):
            MonitoredDatabase(name="prod", **places).full_clean()
        with pytest.raises(IntegrityError), transaction.atomic():
            MonitoredDatabase.objects.create(name="prod", **places)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connection_variable", "postgresql://u:hunter2@h/d"),
        ("connection_variable", "A B"),
        ("connection_file", "dsn"),
        ("name", "Prod/1"),
        ("name", "-prod"),
        ("idle_limit_s", 59),
    ],
)
def test_what_is_not_valid_is_refused(field, value):
    fields = {"name": "prod", "connection_variable": "" if field == "connection_file" else "A", field: value}
    with pytest.raises(ValidationError) as refused:
        MonitoredDatabase(**fields).full_clean()
    assert set(refused.value.message_dict) == {field}
