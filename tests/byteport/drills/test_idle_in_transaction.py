"""`drill idle_in_transaction`, in the PostgreSQL that BytePort itself uses. Real: that server, the drill's database and
sessions, the source, every stage of the loop. Not real: the times, which are short."""

from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
import time_machine
from django.conf import settings as django_settings

from byteport import embedded, loop
from byteport.clients.postgres import inventory, reader
from byteport.clients.postgres.inventory import own_conninfo, target_for
from byteport.core.clock import now
from byteport.core.errors import Permanent, Refused
from byteport.core.resource import ResourceRef
from byteport.drills.idle_in_transaction import IdleInTransaction
from runbooks import policy
from runbooks.actions import drill_database
from runbooks.actions.drill_database import CHANGES, DrillDatabase
from runbooks.actions.fence import Permit, opened
from runbooks.models import AgentAction, RunbookPolicy
from signals.ingest import ingest
from signals.models import SignalEvent, Source
from signals.source import SOURCES, SourceConfig
from tests.monitored import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not django_settings.EMBEDDED_POSTGRES, reason="needs BytePort's own PostgreSQL"),
]
OURS = uuid4().hex[:6]  # the end of our drills' names: other tests on this machine make some, too


@pytest.fixture
def drill(monkeypatch):
    monkeypatch.setattr(inventory, "DRILL_IDLE_LIMIT_S", 0.05)
    monkeypatch.setattr(policy, "DRILL_VERIFY", {"verify_delay_s": 0, "verify_interval_s": 0, "verify_deadline_s": 30})
    monkeypatch.setattr("runbooks.actions.drill_database.secrets.token_hex", lambda count: OURS)
    made = IdleInTransaction()
    yield made
    made.remove()


def as_superuser(statement: str) -> list[tuple]:
    with psycopg.connect(own_conninfo(user=embedded.SUPERUSER), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def made() -> set[str]:
    """The databases and roles of our drills that there are now."""
    names = as_superuser("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles")
    return {name for (name,) in names if name.startswith("byteport_drill_") and name.endswith(OURS)}


def test_it_is_seen_treated_and_proven_and_the_work_of_one_session_outlives_it(drill):
    said: list[str] = []
    RunbookPolicy.objects.create(runbook="terminate_idle_connections", cooldown_s=0, verify_deadline_s=120)
    Source.objects.create(slug="postgres", kind="postgres_sessions")
    resource = drill.prepare(said.append)
    assert (resource.is_drill, resource.fleet) == (True, "drills")
    assert drill.figures() == {"idle_sessions": 4, "committed_sales": 0}
    ingest(r for r in SOURCES["postgres_sessions"].poll(SourceConfig("postgres"), now()) if r.resource == resource)
    event = SignalEvent.objects.get(resource=str(resource))

    def ended() -> bool:
        loop.advance(event.pk)
        event.refresh_from_db()
        return event.status in ("resolved", "escalated")

    until(ended)
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert "(till): it has uncommitted work" in event.plan["summary"]
    assert AgentAction.objects.get().result["ended"] == 3
    assert drill.figures() == {"idle_sessions": 0, "committed_sales": 1}
    assert len(said) == 2


def test_it_leaves_nothing_behind_and_may_be_removed_twice(drill):
    resource = drill.prepare(lambda line: None)
    assert made() == {resource.name}, "the database and the role have one name"
    drill.remove()
    drill.remove()
    assert made() == set()
    assert drill.figures() == {}


def test_one_that_is_removed_before_it_was_treated_ends_its_sessions_itself(drill):
    resource = drill.prepare(lambda line: None)
    drill.remove()
    assert as_superuser(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{resource.name}'") == []


def test_what_a_dead_drill_has_left_goes_with_the_next_and_a_living_one_stays(drill):
    dead, role = f"byteport_drill_00000001_{OURS}", f"byteport_drill_00000002_{OURS}"
    for statement in (f"CREATE ROLE {dead}", f"CREATE DATABASE {dead} OWNER {dead}", f"CREATE ROLE {role}"):
        as_superuser(statement)
    assert inventory.drill_ref(dead) not in inventory.drills(now())
    living = drill.prepare(lambda line: None)
    with time_machine.travel(now() + timedelta(minutes=5)):
        young = drill_database.make("connections")
    assert made() == {living.name, young.name}
    young.remove()


# --- what it may touch


@pytest.mark.parametrize(
    "name", ["byteport", "postgres", "shop", "byteport_drill_1", "byteport_drill_0a0a0a0a_0b0b0b; DROP DATABASE x", ""]
)
def test_no_other_database_is_ever_removed(name):
    with pytest.raises(Refused, match="nothing but a database of its own"):
        DrillDatabase(name, "x").remove()


def test_a_change_needs_the_fence_for_itself():
    with opened(Permit("postgres", "byteport", "make the role", "x")), pytest.raises(Refused, match="one at a time"):
        DrillDatabase("byteport_drill_0a0a0a0a_0b0b0b", "x").remove()


def test_the_changes_are_a_constant_list():
    assert {str(change.as_string()).split(" {")[0] for change in CHANGES.values()} == {
        "CREATE ROLE",
        "GRANT",
        "CREATE DATABASE",
        "ALTER DATABASE",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname =",
        "DROP DATABASE IF EXISTS",
        "DROP ROLE IF EXISTS",
    }


def test_byteports_role_gets_a_hold_of_the_drills_role_and_of_no_other(drill):
    resource = drill.prepare(lambda line: None)
    rights = reader.rights(target_for(resource))
    assert (rights.is_superuser, rights.lacks) == (False, ["pg_read_all_stats", "pg_signal_backend"])
    members = as_superuser("SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'byteport'::regrole")
    assert (resource.name,) in members
    assert all(role.startswith("byteport_drill_") for (role,) in members)


def test_the_password_of_its_role_is_in_no_representation():
    assert "hunter2" not in repr(DrillDatabase("byteport_drill_0a0a0a0a_0b0b0b", "hunter2"))


def test_a_drill_of_another_name_or_place_is_no_drill(drill):
    resource = drill.prepare(lambda line: None)
    for other in (ResourceRef("postgres", "prod", "drill", resource.name), inventory.drill_ref("byteport")):
        with pytest.raises(Permanent):
            target_for(other)


# --- with DATABASE_URL


@contextmanager
def rights_of_the_role():
    """Gives BytePort's role what the drill says it needs."""
    as_superuser("ALTER ROLE byteport CREATEROLE; GRANT SET ON PARAMETER byteport.auto_remediate TO byteport")
    try:
        yield
    finally:
        as_superuser("ALTER ROLE byteport NOCREATEROLE; REVOKE SET ON PARAMETER byteport.auto_remediate FROM byteport")


def test_with_a_database_of_ones_own_the_missing_rights_are_told_and_are_enough(drill, settings):
    settings.EMBEDDED_POSTGRES = False
    with pytest.raises(Permanent, match='ALTER ROLE "byteport" CREATEDB CREATEROLE; GRANT SET ON PARAMETER'):
        drill.prepare(lambda line: None)
    assert made() == set()
    with rights_of_the_role():
        drill.prepare(lambda line: None)
        assert drill.figures() == {"idle_sessions": 4, "committed_sales": 0}
        drill.remove()
    assert made() == set()
