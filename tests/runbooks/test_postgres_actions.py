"""Ending sessions: what is ended, what never is, and what is said of each.

Real: the server with its roles, locks and transactions, every session, the fence. Each reason to leave a session is
tried on a session that has it. Not real: an idle session counts at once, not only after a minute.
"""

import os
import random
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress
from uuid import uuid4

import msgspec
import psycopg
import pytest

from byteport.clients.postgres import inventory, reader
from byteport.clients.postgres.connection import conversation
from byteport.clients.postgres.inventory import target_for
from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.outcome import Result
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase
from runbooks.action import ActionCall, ProbeState
from runbooks.actions import postgres
from runbooks.actions.fence import Permit, opened
from runbooks.actions.postgres import CHANGES, EndIdleSessions, Session
from runbooks.models import AgentSettings
from tests.monitored import HOSTILE, ROLE, Server, alive, until

SHOP = ResourceRef("postgres", "prod", "database", "shop")
ACTION = EndIdleSessions()
LONG_AGO = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def shop(server: Server, db: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    AgentSettings.objects.create(dry_run=False)
    monkeypatch.setattr(inventory, "LEAST_IDLE_S", 0)
    monkeypatch.setenv("PROD_DSN", server.agent_dsn())
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN", idle_limit_s=0)
    return server


def as_it_is(server: Server, *sessions: psycopg.Connection) -> list[dict]:
    """The sessions as a plan would name them."""
    found = []
    for session in sessions:
        pid = session.info.backend_pid
        [row] = server.admin(f"SELECT backend_start, state_change FROM pg_stat_activity WHERE pid = {pid}")
        found.append({"pid": pid, "backend_start": row[0].isoformat(), "state_change": row[1].isoformat()})
    return found


def call_for(server: Server, *sessions: psycopg.Connection, target: ResourceRef = SHOP, **changed) -> ActionCall:
    named = [session | changed for session in as_it_is(server, *sessions)]
    return ActionCall(str(uuid4()), ACTION.name, target, {"sessions": named})


@contextmanager
def without(server: Server, right: str):
    """BytePort's role lacks a right for a while."""
    server.admin(f"REVOKE {right} FROM {ROLE}")
    try:
        yield
    finally:
        server.admin(f"GRANT {right} TO {ROLE}")


# --- what is ended


def transaction_failed(server):
    session = server.session("SELECT 1")
    with suppress(psycopg.Error):
        session.execute("SELECT 1 / 0")
    return session


def cursor_open(server):
    session = server.session("SELECT 1")
    session.cursor("c").execute("SELECT generate_series(1, 100)")
    return session


ENDED = {
    "one that has only read": lambda server: server.session("SELECT * FROM orders"),
    "one that has done nothing": lambda server: server.session("SELECT 1"),
    "one whose snapshot holds back vacuum": lambda server: server.session(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM orders"
    ),
    "one whose transaction has failed": transaction_failed,
    "one with an open cursor": cursor_open,
    "one with more locks than the fast path holds": lambda server: server.session(
        "SELECT * FROM pg_stat_activity, pg_locks, pg_roles, information_schema.columns LIMIT 1"
    ),
}


@pytest.mark.parametrize("which", list(ENDED))
def test_it_ends(shop, which):
    session = ENDED[which](shop)
    call = call_for(shop, session)
    assert ACTION.simulate(call).message == f"would end 1 session (pid {session.info.backend_pid})"
    assert shop.state_of(session) != "gone"
    outcome = ACTION.execute(call)
    assert (outcome.result, outcome.message) == (Result.DONE, f"ended 1 session (pid {session.info.backend_pid})")
    assert outcome.data == {"ended": 1, "left": 0, "gone": 0, "why_left": {}}
    assert not alive(session)


def test_it_ends_a_session_that_waits_for_nothing_and_leaves_its_neighbour_alone(shop):
    session, neighbour = shop.session("SELECT 1"), shop.session("SELECT 1")
    ACTION.execute(call_for(shop, session))
    assert alive(neighbour)


def test_what_was_committed_before_stays(shop):
    session = shop.session("INSERT INTO orders VALUES (4711)")
    session.commit()
    session.execute("SELECT 1")
    assert ACTION.execute(call_for(shop, session)).result is Result.DONE
    assert shop.admin("DELETE FROM orders WHERE id = 4711 RETURNING id", dbname="shop") == [(4711,)]


# --- what is left, and named


def savepoint_failed(server):
    session = server.session("INSERT INTO orders VALUES (1)", "SAVEPOINT s")
    with suppress(psycopg.Error):
        session.execute("SELECT 1 / 0")
    return session


def with_prepared(server):
    session = server.session("INSERT INTO orders VALUES (1)")
    session.execute("PREPARE TRANSACTION 'half'")
    session.execute("ROLLBACK; BEGIN; SELECT 1")
    server.opened.callback(server.admin, "ROLLBACK PREPARED 'half'", dbname="shop")
    return session


def woken(server):
    return server.session("SELECT 1")


def at_work(server):
    session = server.session("SELECT 1")
    thread = threading.Thread(target=_sleep, args=[session], daemon=True)
    thread.start()
    server.opened.callback(thread.join, 20)
    server.opened.callback(server.admin, f"SELECT pg_cancel_backend({session.info.backend_pid})")
    until(lambda: server.state_of(session) == "active")
    return session


def _sleep(session):
    with suppress(psycopg.Error):
        session.execute("SELECT pg_sleep(20)")


def done(server):
    session = server.session("SELECT 1")
    session.commit()
    return session


def replicating(server):
    server.admin("ALTER ROLE clerk REPLICATION")
    server.opened.callback(server.admin, "ALTER ROLE clerk NOREPLICATION")
    return server.session("SELECT 1", replication="database")


def with_slot(server):
    server.admin("ALTER ROLE clerk REPLICATION")
    server.opened.callback(server.admin, "ALTER ROLE clerk NOREPLICATION")
    session = server.session("SELECT pg_create_physical_replication_slot('s', true, true)")
    session.commit()
    session.execute("SELECT 1")
    return session


def opted_out(setting):
    def made(server):
        server.admin(f"ALTER ROLE clerk {setting} SET byteport.auto_remediate = 'off'")
        server.opened.callback(server.admin, f"ALTER ROLE clerk {setting} RESET byteport.auto_remediate")
        return server.session("SELECT 1")

    return made


def writing(*statements):
    return lambda server: server.session(*statements)


LEFT = {
    "a row it has inserted": (
        writing("INSERT INTO orders VALUES (1)"),
        r"it has uncommitted work \(transaction id \d+\); it holds RowExclusiveLock on orders",
    ),
    "a transaction id alone": (
        writing("SELECT pg_current_xact_id()"),
        r"it has uncommitted work \(transaction id \d+\)$",
    ),
    "work before a failed savepoint": (savepoint_failed, r"it has uncommitted work \(transaction id \d+\)"),
    "rows locked for update": (
        writing("SELECT * FROM orders FOR UPDATE"),
        "it holds RowShareLock on orders",
    ),
    "a table lock, and nothing written": (
        writing("LOCK TABLE orders IN ROW SHARE MODE"),
        "it holds RowShareLock on orders$",
    ),
    "an exclusive lock": (
        writing("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"),
        "it holds AccessExclusiveLock on orders",
    ),
    "a temporary table": (writing("CREATE TEMP TABLE t (i int)"), "it has uncommitted work"),
    "what a serialisable transaction has read": (
        writing("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT * FROM orders"),
        "it holds SIReadLock on orders",
    ),
    "an advisory lock of its transaction": (
        writing("SELECT pg_advisory_xact_lock(7)"),
        "it holds an advisory lock$",
    ),
    "an advisory lock of its session": (
        writing("SELECT pg_advisory_lock(7)", "COMMIT", "BEGIN", "SELECT 1"),
        "it holds an advisory lock$",
    ),
    "a user with a prepared transaction": (
        with_prepared,
        "its user has a prepared transaction in this database$",
    ),
    "a superuser": (lambda server: server.session("SELECT 1", user="postgres"), "it is a superuser's$"),
    "a replication connection": (replicating, "it is a walsender$"),
    "a replication slot": (with_slot, "it uses a replication slot$"),
    "byteport's role": (
        lambda server: server.opened.enter_context(psycopg.connect(server.agent_dsn(application_name="x"))),
        "it is BytePort's own",
    ),
    "byteport's name": (
        lambda server: server.session("SELECT 1", application="byteport 2"),
        "it is BytePort's own$",
    ),
    "pg_dump": (
        lambda server: server.session("SELECT 1", application="pg_dump"),
        r"something else relies on it \(pg_dump\)$",
    ),
    "postgres_fdw": (
        lambda server: server.session("SELECT 1", application="postgres_fdw"),
        r"something else relies on it \(postgres_fdw\)$",
    ),
    "a role that is opted out": (opted_out(""), "its user is opted out$"),
    "a role that is opted out here": (opted_out("IN DATABASE shop"), "its user is opted out$"),
    "work that it is at": (at_work, "it is active now; it does not wait for its client$"),
    "no transaction any more": (done, "it is idle now$"),
}


@pytest.mark.parametrize("which", list(LEFT))
def test_it_leaves_one_with(shop, which):
    make, why = LEFT[which]
    session = make(shop)
    if which == "byteport's role":
        session.execute("SELECT 1")
    pid, call = session.info.backend_pid, call_for(shop, session)
    assert re.search(rf"would leave 1 \(pid {pid}: .*{why.rstrip('$')}", ACTION.simulate(call).message)
    outcome = ACTION.execute(call)
    assert outcome.result is Result.SKIPPED
    assert re.search(why, outcome.data["why_left"][str(pid)]), outcome.data
    assert shop.state_of(session) != "gone"
    assert [row.why_left for row in reader.sessions(SHOP) if row.pid == pid and not row.why_left] == []


def test_work_that_was_left_can_still_be_committed(shop):
    session = shop.session("INSERT INTO orders VALUES (4712)")
    ACTION.execute(call_for(shop, session))
    session.commit()
    assert shop.admin("DELETE FROM orders WHERE id = 4712 RETURNING id", dbname="shop") == [(4712,)]


def test_a_session_that_has_woken_up_since_is_left(shop):
    session = shop.session("SELECT 1")
    call = call_for(shop, session)
    session.execute("SELECT 2")
    until(lambda: shop.state_of(session) == "idle in transaction")
    assert ACTION.execute(call).data["why_left"] == {str(session.info.backend_pid): "it has woken up since"}
    assert alive(session)


def test_another_session_of_the_same_process_id_is_left(shop):
    session = shop.session("SELECT 1")
    outcome = ACTION.execute(call_for(shop, session, backend_start=LONG_AGO))
    assert outcome.data["why_left"] == {str(session.info.backend_pid): "another session has its process id now"}
    assert alive(session)


def test_a_session_of_another_database_is_left(shop):
    session = shop.session("SELECT 1", dbname="postgres")
    outcome = ACTION.execute(call_for(shop, session))
    assert "it is in another database" in outcome.data["why_left"][str(session.info.backend_pid)]
    assert alive(session)


@pytest.mark.parametrize("setting", ["RESET byteport.auto_remediate", "SET byteport.auto_remediate = 'off'"])
@pytest.mark.parametrize("words", ["disk", "connection", "connections,off", ""])
def test_a_database_whose_opt_in_was_taken_back_is_left(shop, setting, words):
    session = shop.session("SELECT 1")
    call = call_for(shop, session)
    shop.admin(
        f"ALTER DATABASE shop SET byteport.auto_remediate = '{words}'" if words else f"ALTER DATABASE shop {setting}"
    )
    outcome = ACTION.execute(call)
    shop.admin("ALTER DATABASE shop SET byteport.auto_remediate = 'connections'")
    assert outcome.data["why_left"] == {str(session.info.backend_pid): "its database is not opted in any more"}
    assert alive(session)


def test_a_session_that_is_idle_for_less_than_a_minute_is_left_whatever_the_row_says(shop, monkeypatch):
    monkeypatch.setattr(inventory, "LEAST_IDLE_S", 60)
    session = shop.session("SELECT 1")
    outcome = ACTION.execute(call_for(shop, session))
    why = "it has been idle in this transaction for a short time only"
    assert outcome.data["why_left"] == {str(session.info.backend_pid): why}
    assert alive(session)


@pytest.mark.parametrize("switch", ["paused", "dry_run"])
def test_what_is_switched_off_after_the_gates_were_asked_ends_nothing(shop, switch):
    session = shop.session("SELECT 1")
    AgentSettings.objects.update(**{switch: True})
    with pytest.raises(Temporary, match="right before the change would have left"):
        ACTION.execute(call_for(shop, session))
    assert alive(session)


def test_what_may_not_be_seen_is_left(shop, monkeypatch):
    session = shop.session("SELECT 1")
    call = call_for(shop, session)
    with without(shop, "pg_read_all_stats"):
        outcome = ACTION.execute(call)
    assert "it is not clear what it does" in outcome.data["why_left"][str(session.info.backend_pid)]
    assert alive(session)


def test_of_several_each_is_told_by_itself(shop):
    idle, busy, gone = (shop.session(s) for s in ("SELECT 1", "INSERT INTO orders VALUES (1)", "SELECT 1"))
    call = call_for(shop, idle, busy, gone)
    pids = [session.info.backend_pid for session in (idle, busy)]
    shop.admin(f"SELECT pg_terminate_backend({gone.info.backend_pid}, 5000)")
    outcome = ACTION.execute(call)
    assert outcome.result is Result.DONE
    assert outcome.message.startswith(
        f"ended 1 session (pid {pids[0]}); left 1 (pid {pids[1]}: it has uncommitted work"
    )
    assert outcome.message.endswith("gone already")
    assert {key: outcome.data[key] for key in ("ended", "left", "gone")} == {"ended": 1, "left": 1, "gone": 1}


def test_hostile_names_of_users_databases_and_applications_change_nothing(shop):
    for statement in ("CREATE ROLE {} LOGIN", "CREATE DATABASE {}"):
        shop.admin(statement, HOSTILE)
    target = ResourceRef("postgres", "prod", "database", HOSTILE)
    assert ResourceRef.parse(str(target)) == target
    session = shop.session("SELECT 1", user=HOSTILE, dbname=HOSTILE, application="'; DROP TABLE x --")
    assert ACTION.execute(call_for(shop, session, target=target)).result is Result.SKIPPED
    shop.admin("ALTER DATABASE {} SET byteport.auto_remediate = 'connections'", HOSTILE)
    assert ACTION.execute(call_for(shop, session, target=target)).result is Result.DONE
    for statement in ("DROP DATABASE {}", "DROP ROLE {}"):
        shop.admin(statement, HOSTILE)
    assert not os.path.exists("/tmp/byteport-was-here")


# --- at the same time


def test_sessions_that_are_at_work_all_the_time_lose_nothing_while_idle_ones_beside_them_are_ended(shop):
    end, lost, finished = time.monotonic() + 2.0, [], []

    def application() -> None:
        with psycopg.connect(shop.dsn(user="clerk", dbname="shop"), autocommit=True) as session:
            while time.monotonic() < end:
                for step in ("BEGIN; INSERT INTO orders VALUES (9)", "SELECT 1", "SELECT 2", "COMMIT"):
                    try:
                        session.execute(step)
                    except psycopg.OperationalError:
                        lost.append(step)
                        return
                    time.sleep(random.uniform(0, 0.01))
                finished.append(1)

    threads = [threading.Thread(target=application) for _ in range(3)]
    for thread in threads:
        thread.start()
    ended = 0
    while time.monotonic() < end:
        shop.session("SELECT 1")
        named = [
            {"pid": s.pid, "backend_start": s.backend_start.isoformat(), "state_change": s.state_change.isoformat()}
            for s in reader.sessions(SHOP)
        ]
        ended += ACTION.execute(ActionCall(str(uuid4()), ACTION.name, SHOP, {"sessions": named})).data["ended"]
    for thread in threads:
        thread.join(20)
    assert ended > 0
    assert len(finished) > 10
    assert lost == []
    kept = shop.admin("WITH d AS (DELETE FROM orders WHERE id = 9 RETURNING 1) SELECT count(*) FROM d", dbname="shop")
    assert kept == [(len(finished),)]


# --- rights and faults


def test_without_the_right_to_signal_it_says_so_and_ends_nothing(shop):
    session = shop.session("SELECT 1")
    call = call_for(shop, session)
    with without(shop, "pg_signal_backend"), pytest.raises(Permanent, match=f'GRANT .*pg_signal_backend TO "{ROLE}";'):
        ACTION.execute(call)
    assert alive(session)


def test_a_session_that_does_not_go_is_no_success(shop, monkeypatch):
    monkeypatch.setattr(postgres, "GONE_WITHIN_S", 0.2)
    session = shop.session("SELECT 1")
    pid, call = session.info.backend_pid, call_for(shop, session)
    os.kill(pid, signal.SIGSTOP)
    try:
        outcome = ACTION.execute(call)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert outcome.result is Result.SKIPPED
    assert outcome.data["why_left"] == {str(pid): "it was told to end, and is still there"}


def test_a_server_that_is_away_leaves_the_action_to_be_looked_into(shop, monkeypatch):
    call = call_for(shop, shop.session("SELECT 1"))
    monkeypatch.setenv("PROD_DSN", shop.agent_dsn(host="/nonexistent"))
    for method in (ACTION.execute, ACTION.simulate, lambda call: ACTION.probe(call, None)):
        with pytest.raises(Temporary):
            method(call)


# --- what became of it


def test_a_probe_finds_what_was_done_and_lets_do_what_was_not(shop):
    one, other = shop.session("SELECT 1"), shop.session("SELECT 1")
    call = call_for(shop, one, other)
    assert ACTION.probe(call, None).state is ProbeState.ABSENT
    shop.admin(f"SELECT pg_terminate_backend({one.info.backend_pid}, 5000)")
    assert ACTION.probe(call, None).state is ProbeState.ABSENT
    again = ACTION.execute(call)
    assert (again.result, again.data["ended"], again.data["gone"]) == (Result.DONE, 1, 1)
    probe = ACTION.probe(call, None)
    assert (probe.state, probe.outcome.result) == (ProbeState.FINISHED, Result.DONE)
    assert probe.outcome.message.startswith("2 sessions (pid ")


def test_doing_it_twice_ends_nothing_twice(shop):
    session = shop.session("SELECT 1")
    call = call_for(shop, session)
    assert ACTION.execute(call).data["ended"] == 1
    again = ACTION.execute(call)
    assert (again.result, again.data["ended"], again.data["gone"]) == (Result.DONE, 0, 1)


def test_it_goes_by_the_actions_id(shop):
    with conversation(target_for(SHOP), application="byteport 1b4e28ba-2fa1-11d2-883f-0016d3cca427") as connection:
        assert connection.execute("SHOW application_name").fetchone() == (
            "byteport 1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        )


# --- the fence


def test_nothing_is_sent_without_a_permit_for_this_very_session(shop):
    one, other = (msgspec.convert(named, Session) for named in as_it_is(shop, shop.session(), shop.session()))
    target = target_for(SHOP)
    with conversation(target) as connection:
        with pytest.raises(Refused, match="does not admit end_session on postgres/prod"):
            postgres._send(connection, target, SHOP, one)
        with opened(postgres._permit(SHOP, other)), pytest.raises(Refused):
            postgres._send(connection, target, SHOP, one)
        with opened(Permit("host", "prod", "end_session", "x")), pytest.raises(Refused):
            postgres._send(connection, target, SHOP, one)
    assert len(reader.sessions(SHOP)) == 2


def test_the_list_of_changes_is_constant_and_holds_no_statement_that_changes_data():
    assert list(CHANGES) == ["end_session"]
    with pytest.raises(TypeError):
        CHANGES["drop"] = "DROP TABLE orders"
    for statement in CHANGES.values():
        assert ";" not in re.sub(r"'[^']*'", "", statement), "one statement"
        assert set(re.findall(r"\bpg_(?:terminate|cancel)\w*", statement)) == {"pg_terminate_backend"}
        assert not re.search(
            r"\b(insert|update|delete|drop|truncate|alter|create|grant|copy|call|do|set)\s", statement, re.I
        )


@pytest.mark.parametrize(
    "sessions",
    [
        [],
        None,
        [{"pid": 1, "backend_start": LONG_AGO, "state_change": LONG_AGO}] * 21,
        [{"pid": 0, "backend_start": LONG_AGO, "state_change": LONG_AGO}],
        [{"pid": "1; DROP TABLE x", "backend_start": LONG_AGO, "state_change": LONG_AGO}],
        [{"pid": 1, "backend_start": "2026-01-01T00:00:00", "state_change": LONG_AGO}],
        [{"pid": 1, "backend_start": LONG_AGO}],
        [{"pid": 1, "backend_start": LONG_AGO, "state_change": LONG_AGO, "sql": "DROP TABLE x"}],
    ],
)
def test_parameters_that_are_not_as_they_should_be_are_refused(shop, sessions):
    call = ActionCall(str(uuid4()), ACTION.name, SHOP, {"sessions": sessions})
    for method in (ACTION.execute, ACTION.simulate):
        with pytest.raises(Permanent, match="cannot be read"):
            method(call)


@pytest.mark.parametrize(
    "target", ["postgres/nowhere/database/shop", "postgres/prod/drill/shop", "host/prod/mount/%2F"]
)
def test_a_target_that_is_no_monitored_database_is_not_reached(shop, target):
    call = call_for(shop, shop.session("SELECT 1"), target=ResourceRef.parse(target))
    with pytest.raises(Permanent):
        ACTION.execute(call)
