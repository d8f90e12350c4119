"""What `manage.py doctor` says of the monitored databases. Real: PostgreSQL, the monitored server, its roles."""

import pytest

from byteport.management.commands.doctor import databases, reads_of
from byteport.models import MonitoredDatabase
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
