"""What `manage.py doctor` says of databases and hosts. Real: PostgreSQL, the monitored server, its roles, this host."""

import pytest

from byteport.clients.hosts.inventory import local_name
from byteport.management.commands.doctor import databases, hosts, reads_of
from byteport.models import Host, MonitoredDatabase
from tests.monitored import PASSWORD


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("dsn", "state", "told"),
    [
        ({}, "ok", "as byteport_agent; opted in: shop"),
        ({"user": "bare", "password": None}, "fail", "without pg_read_all_stats and pg_signal_backend"),
        ({"user": "postgres", "password": None}, "warn", "a superuser, which BytePort need not be"),
        ({"host": "/nonexistent"}, "fail", "prod: connection"),
    ],
)
def test_each_server_is_looked_at(server, monkeypatch, dsn, state, told):
    server.admin("CREATE ROLE bare LOGIN")
    monkeypatch.setenv("PROD_DSN", server.agent_dsn(**dsn))
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN")
    [finding] = databases()
    server.admin("DROP ROLE bare")
    assert (finding.name, finding.state) == ("database prod", state)
    assert told in finding.detail
    assert PASSWORD not in finding.detail
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.django_db
def test_a_role_without_the_rights_is_told_the_statement_that_gives_them(server, monkeypatch):
    server.admin("CREATE ROLE bare LOGIN")
    monkeypatch.setenv("PROD_DSN", server.dsn(user="bare", dbname="shop"))
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN")
    [finding] = databases()
    server.admin("DROP ROLE bare")
    assert finding.fix == 'As a superuser: GRANT pg_read_all_stats, pg_signal_backend TO "bare";'


def test_the_rights_that_are_asked_for_are_those_of_the_process(settings):
    watch, worker = set(reads_of("watch")), set(reads_of("worker"))
    assert "events: list, watch" in watch - worker
    assert "pods/log: get" in worker - watch
    assert set(reads_of("")) == watch | worker
    settings.RUNBOOKS_ON = frozenset()
    assert set(reads_of("worker")) == set()


@pytest.mark.django_db(transaction=True)  # hosts are looked at in threads
def test_each_host_has_a_line_and_those_that_are_only_seen_share_one():
    Host.objects.create(name="away", way="ssh", address="127.0.0.1", port=1, user="root", key_file="/nowhere")
    Host.objects.create(name="seen")
    found = {finding.name: finding for finding in hosts()}
    assert found[f"host {local_name()}"].state == "ok"
    assert (found["host away"].state, found["host away"].fix) == (
        "fail", "docs/hosts.md says what the way “ssh” needs."
    )  # fmt: skip
    assert "/nowhere cannot be read" in found["host away"].detail
    assert "host away, opt-in" not in found
    assert found["hosts"].detail.endswith(": seen")
