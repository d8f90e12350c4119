"""What terminate_idle_connections sees, concludes, plans and advises: from plain data; and its whole story in the loop.

Real in the stories: PostgreSQL, both servers, with every session and role; each stage and gate; psql, where it is
installed. Time is moved by hand, and an idle session counts at once.
"""

import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
import time_machine

from byteport import loop
from byteport.clients.postgres import inventory
from byteport.clients.postgres.statements import DatabaseRow, OptInRow, SessionRow
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase
from incidents.postmortem import render
from runbooks.library.terminate_idle_connections import RUNBOOK, facts_of, opt_in_of
from runbooks.models import AgentAction, AgentSettings, GateVerdict
from runbooks.runbook import CannotPlan, Diagnosis, EventView, Look, Plan, Timing
from signals.ingest import ingest
from signals.models import SignalEvent, Source
from signals.reading import Reading
from signals.source import SOURCES, SourceConfig
from tests.monitored import HOSTILE, PASSWORD, Server, alive

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=1)
SHOP = ResourceRef("postgres", "prod", "database", "shop")
ADDRESS = {"host": "db.example.com", "port": "5432"}


def event(name: str = "shop") -> EventView:
    return EventView(
        id=1, signal="idle_in_transaction", resource=ResourceRef("postgres", "prod", "database", name), detail="",
        severity="warning", value=3.0, threshold=0.0, detected_at=NOW, source="postgres",
    )  # fmt: skip


def session(pid: int, **fields: Any) -> SessionRow:
    values = {
        "backend_start": NOW - timedelta(hours=1), "state_change": NOW - timedelta(minutes=10), "user": "clerk",
        "application": "sidekiq", "client": "10.0.0.3", "state": "idle in transaction", "idle_s": 600.0,
        "transaction_s": 601.0, "xid": None, "xmin_age": None, "blocks": 0, "raw_query": b"SELECT 1", "why_left": "",
        "total": 1, **fields,
    }  # fmt: skip
    return SessionRow(pid=pid, **values)


def facts(*sessions: SessionRow) -> dict[str, Any]:
    row = DatabaseRow(
        database="shop", role="byteport_agent", sessions=3, writing=0, oldest_s=600, hidden=0, max_connections=100
    )
    rows = [msgspec.structs.replace(one, total=max(len(sessions), one.total)) for one in sessions]
    return msgspec.json.decode(msgspec.json.encode(facts_of(300, row, rows, ADDRESS)))


def diagnosed(*sessions: SessionRow, name: str = "shop") -> Diagnosis:
    return RUNBOOK.diagnose(event(name), facts(*sessions))


def planned(*sessions: SessionRow) -> Plan | CannotPlan:
    return RUNBOOK.plan(event(), diagnosed(*sessions), TIMING)


WRITING = "it has uncommitted work (transaction id 7)"

# --- what is concluded


def test_the_evidence_says_how_many_how_long_whose_and_what_they_hold_up():
    text = "\n".join(
        diagnosed(
            session(11, xmin_age=12_000),
            session(12, idle_s=3120.0, blocks=2),
            session(13, application="", user="ann", why_left=WRITING),
        ).evidence
    )
    for fact in (
        "3 sessions are idle in a transaction of database shop in prod for more than 5 min, the oldest for 52 min",
        "3.0 % of 100 connections",
        "2 of clerk, application sidekiq, from 10.0.0.3: idle for 10 min to 52 min; latest statement: SELECT ?",
        "1 of ann, an application without a name, from 10.0.0.3",
        "the last 12,000 transactions",
        "wait for locks that they hold: 2 sessions",
        f"Left alone: pid 13 of ann: {WRITING}.",
    ):
        assert fact in text


def test_one_application_that_holds_most_of_them_looks_like_a_leak_and_that_is_called_a_guess():
    found = diagnosed(*(session(pid) for pid in (1, 2, 3)), session(4, application="psql"))
    assert "3 of 4 are of clerk, application sidekiq" in found.inference
    assert "(a leak)" in found.inference
    assert not found.confident


def test_two_sessions_are_no_leak():
    assert "No single application stands out" in diagnosed(session(1), session(2)).inference


def test_a_statement_is_kept_without_its_values_and_cut():
    raw = b"SELECT * FROM cards WHERE number = '4111 1111' AND cvc = 123 AND token='hunter2' /*" + b"x" * 900
    [seen] = facts(session(1, raw_query=raw))["sessions"]
    assert seen["statement"].startswith("SELECT * FROM cards WHERE number = ? AND cvc = ? AND token=")
    assert len(seen["statement"]) == 160
    assert "4111" not in str(seen)
    assert "hunter2" not in str(seen)


# --- what is planned


def test_only_sessions_that_hold_nothing_are_planned_and_the_others_are_named():
    plan = planned(session(12), session(11), session(13, why_left=WRITING))
    assert isinstance(plan, Plan)
    [step] = plan.steps
    assert [one["pid"] for one in step.params["sessions"]] == [11, 12]
    assert step.params["sessions"][0] == {
        "pid": 11, "backend_start": "2026-02-28T23:00:00+00:00", "state_change": "2026-02-28T23:50:00+00:00",
    }  # fmt: skip
    assert step.summary == "End 2 sessions (2 of clerk, application sidekiq, from 10.0.0.3)"
    assert plan.summary == (
        f"end 2 sessions that hold nothing. 1 session is left alone: pid 13 of clerk (sidekiq): {WRITING}."
    )


def test_a_step_ends_twenty_at_most_and_a_plan_all_that_were_looked_at():
    plan = planned(*(session(pid) for pid in range(1, 46)))
    assert isinstance(plan, Plan)
    assert [len(step.params["sessions"]) for step in plan.steps] == [20, 20, 5]
    assert [step.key for step in plan.steps] == ["sessions-1", "sessions-2", "sessions-3"]


def test_where_none_may_be_ended_people_get_their_names():
    plan = planned(*(session(pid, why_left=WRITING) for pid in range(1, 13)))
    assert isinstance(plan, CannotPlan)
    assert plan.reason.startswith(f"None may be ended of 12 sessions. pid 1 of clerk (sidekiq): {WRITING}; pid 2 ")
    assert plan.reason.endswith("; and 2 more.")


# --- how it is judged


@pytest.mark.parametrize(
    ("value", "look"), [(0.0, Look.GOOD), (1.0, Look.BAD), (20.0, Look.BAD), (None, Look.INCONCLUSIVE)]
)
def test_a_look_is_good_only_when_none_is_left(value, look):
    labels = {"sessions": f"pid 13 of ann: {WRITING}"}
    reading = Reading(signal="idle_in_transaction", resource=SHOP, at=NOW, value=value, labels=labels)
    judged = RUNBOOK.judge(event(), reading, TIMING)
    assert (judged.look, judged.hopeless) == (look, False)
    assert look is not Look.BAD or f"left: pid 13 of ann: {WRITING}" in judged.message


def test_no_reading_is_inconclusive():
    assert RUNBOOK.judge(event(), None, TIMING).look is Look.INCONCLUSIVE


# --- the opt-in


@pytest.mark.parametrize(
    ("words", "given"),
    [(["connections"], True), (["disk", "connections"], True), (["connections", "off"], False), (["connection"], False),
     ([], False), (["off"], False), ([""], False)],
)  # fmt: skip
def test_the_opt_in_needs_its_very_word_and_no_off(words, given):
    assert opt_in_of(OptInRow(words=words, present=True), SHOP, "connections").given is given


def test_the_opt_in_says_how_to_give_it_with_the_words_that_are_there_and_the_name_as_it_must_be_written():
    found = opt_in_of(
        OptInRow(words=["disk"], present=True), ResourceRef("postgres", "p", "database", 'a"b'), "connections"
    )
    assert found.remedy == (
        """as a superuser: ALTER DATABASE "a""b" SET byteport.auto_remediate = 'disk,connections';"""
    )


# --- the manual steps


def test_the_manual_steps_name_the_session_that_is_left_and_the_role_that_leaks():
    found = diagnosed(session(1), session(2), session(3, why_left=WRITING))
    look, end, time_out = RUNBOOK.advise(event(), found)
    assert look.command.startswith("psql 'host=db.example.com port=5432 dbname=shop' -X -c 'SELECT ")
    assert f"pid 3 of clerk (sidekiq): {WRITING}" in end.title
    assert shlex.split(end.command)[-1] == (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = 3"
        " AND backend_start = '2026-02-28T23:00:00+00:00' AND datname = 'shop'"
    )
    assert shlex.split(time_out.command)[-1] == (
        """ALTER ROLE "clerk" IN DATABASE "shop" SET idle_in_transaction_session_timeout = '5min'"""
    )


def test_the_manual_steps_need_no_diagnosis():
    for step in RUNBOOK.advise(event(), None):
        assert step.command.startswith("psql dbname=shop -X -c ")


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_the_manual_steps_do_just_what_they_say_with_hostile_names(server: Server):
    for statement in ("CREATE ROLE {} LOGIN", "CREATE DATABASE {}"):
        server.admin(statement, HOSTILE)
    leaking = server.session("SELECT 1", user=HOSTILE, dbname=HOSTILE)
    [row] = server.admin(f"SELECT backend_start FROM pg_stat_activity WHERE pid = {leaking.info.backend_pid}")
    found = diagnosed(session(leaking.info.backend_pid, backend_start=row[0], user=HOSTILE), name=HOSTILE)
    address = psycopg.conninfo.conninfo_to_dict(server.dsn())
    found.facts.update(host=address["host"], port=address.get("port", "5432"))
    answers = [
        subprocess.run(
            ["sh", "-c", step.command],
            capture_output=True,
            text=True,
            check=True,
            env={"PGUSER": "postgres", "PATH": "/usr/bin:/bin"},
        ).stdout
        for step in RUNBOOK.advise(event(HOSTILE), found)
    ]
    assert "shop" in answers[0]
    assert not alive(leaking)
    later = server.opened.enter_context(psycopg.connect(server.dsn(user=HOSTILE, dbname=HOSTILE), autocommit=True))
    assert later.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("5min",)
    server.close_all()
    for statement in ("DROP DATABASE {}", "DROP ROLE {}"):
        server.admin(statement, HOSTILE)


# --- the whole story


@pytest.fixture
def shop(server: Server, db: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(inventory, "LEAST_IDLE_S", 0)
    monkeypatch.setenv("PROD_DSN", server.agent_dsn())
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN", idle_limit_s=0)
    Source.objects.create(slug="postgres", kind="postgres_sessions")
    AgentSettings.objects.create(dry_run=False)
    return server


def detected() -> SignalEvent:
    ingest(SOURCES["postgres_sessions"].poll(SourceConfig("postgres"), datetime.now(UTC)))
    return SignalEvent.objects.get(resource=str(SHOP))


def story(opening: SignalEvent) -> SignalEvent:
    """Advances the event until it is at rest, moving the time on to whenever its next stage is due."""
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        for _ in range(60):
            opening.refresh_from_db()
            if opening.due_at is None:
                return opening
            clock.move_to(max(opening.due_at, datetime.now(UTC)))
            loop.advance(opening.pk)
    raise AssertionError(f"still {opening.status}: {opening.reason}")


def test_sessions_that_hold_nothing_are_ended_and_it_is_proven(shop):
    leaking = [shop.session("SELECT * FROM orders", application="sidekiq") for _ in range(3)]
    ended = story(detected())
    assert (ended.status, ended.resolved_by) == ("resolved", "byteport"), ended.reason
    assert not any(alive(one) for one in leaking)
    action = AgentAction.objects.get()
    assert action.status == "done"
    assert action.message.startswith("ended 3 sessions (pid ")
    assert ended.reason.endswith("no session is idle in a transaction for too long")
    assert PASSWORD not in ended.postmortem_md + str(ended.diagnosis) + str(ended.plan)


def test_a_session_with_uncommitted_work_outlives_it_and_people_get_its_name(shop):
    leaking, writing = shop.session("SELECT 1"), shop.session("INSERT INTO orders VALUES (4713)")
    pid = writing.info.backend_pid
    handed = story(detected())
    assert handed.status == "escalated"
    assert f"pid {pid} of clerk (shop): it has uncommitted work" in handed.reason
    assert not alive(leaking)
    assert alive(writing)
    writing.commit()
    assert shop.admin("DELETE FROM orders WHERE id = 4713 RETURNING id", dbname="shop") == [(4713,)]


def test_where_all_have_uncommitted_work_nothing_is_done(shop):
    writing = shop.session("INSERT INTO orders VALUES (1)")
    handed = story(detected())
    assert handed.status == "escalated"
    assert "None may be ended of 1 session." in handed.reason
    assert not AgentAction.objects.exists()
    assert alive(writing)


def test_without_the_opt_in_nothing_is_done_and_the_remedy_is_told(shop):
    session = shop.session("SELECT 1")
    opening = detected()
    shop.admin("ALTER DATABASE shop RESET byteport.auto_remediate")
    handed = story(opening)
    shop.admin("ALTER DATABASE shop SET byteport.auto_remediate = 'connections'")
    assert handed.status == "escalated"
    refused = GateVerdict.objects.get(gate="opt_in")
    assert "ALTER DATABASE \"shop\" SET byteport.auto_remediate = 'connections';" in refused.reason
    assert alive(session)


def test_in_dry_run_it_says_which_sessions_it_would_end(shop):
    AgentSettings.objects.update(dry_run=True)
    session = shop.session("SELECT 1")
    opening = story(detected())
    assert opening.status == "simulated"
    assert AgentAction.objects.get(dry_run=True).message == f"would end 1 session (pid {session.info.backend_pid})"
    assert alive(session)


def test_sessions_that_have_ended_by_themselves_meanwhile_need_nobody(shop):
    session = shop.session("SELECT 1")
    opening = detected()
    session.rollback()
    loop.advance(opening.pk)
    opening.refresh_from_db()
    assert opening.status == "detected"
    assert "any more" in opening.reason
    detected()
    opening.refresh_from_db()
    ended = story(opening)
    assert (ended.status, ended.resolved_by) == ("resolved", "itself")


def test_the_postmortem_of_hostile_names_is_text_and_nothing_else(shop):
    name = "</td><script>alert(1)</script>"
    shop.session("SELECT 1", application=name)
    shop.session("INSERT INTO orders VALUES (1)", application=name)
    opening = story(detected())
    assert "<script>" not in render(opening)
