"""The reading client of PostgreSQL servers.

Real: the server (the tests' own, see tests/monitored.py), its roles, passwords and sessions, the sockets between.
Not real: a pooler and a server that falls silent are a relay of the tests' own between client and server, which
changes or holds back what passes.
"""

import re
import socket
import struct
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from byteport.clients.postgres import connection as connection_module
from byteport.clients.postgres import inventory, reader, statements
from byteport.clients.postgres.connection import conversation
from byteport.clients.postgres.inventory import Target, checked, target_for, target_of
from byteport.core.clock import now
from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase
from tests.monitored import HOSTILE, PASSWORD, ROLE, Server, until

SHOP = ResourceRef("postgres", "prod", "database", "shop")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LEAST_IDLE_S", 0)


@pytest.fixture
def monitored(server: Server, db: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as a row of the inventory, with every session that is idle in a transaction counting at once."""
    monkeypatch.setenv("PROD_DSN", server.agent_dsn())
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN", idle_limit_s=0)
    return server


def target(server: Server, idle_limit_s: int = 0, **changed: object) -> Target:
    return Target("prod", server.agent_dsn(**changed), idle_limit_s)


def counts(server: Server, idle_limit_s: int = 0) -> dict[str, tuple[int, int]]:
    return {row.database: (row.sessions, row.writing) for row in reader.databases(target(server, idle_limit_s))}


# --- what is read


def test_sessions_that_are_idle_in_a_transaction_are_counted_in_each_database_of_the_server(server):
    server.session("SELECT 1")
    server.session("INSERT INTO orders VALUES (1)")
    server.session("SELECT 1", dbname="postgres")
    server.session("SELECT 1").commit()
    server.session("SELECT pg_sleep(0)")
    found = counts(server)
    assert (found["shop"], found["postgres"]) == ((3, 1), (1, 0))
    assert "template1" not in found


def test_only_the_time_since_its_last_change_of_state_counts(server):
    session = server.session("SELECT 1")
    time.sleep(1.1)
    assert counts(server, 1)["shop"] == (1, 0)
    session.execute("SELECT 2")  # the transaction is old, and at work
    assert counts(server, 1)["shop"] == (0, 0)


def test_a_transaction_that_has_failed_counts_too(server):
    session = server.session("SELECT 1")
    with pytest.raises(psycopg.errors.DivisionByZero):
        session.execute("SELECT 1 / 0")
    assert counts(server)["shop"] == (1, 0)


def test_the_share_of_connections_and_the_oldest_are_told(server):
    server.session("SELECT 1")
    [row] = [row for row in reader.databases(target(server)) if row.database == "shop"]
    assert (row.max_connections, row.role) == (40, ROLE)
    assert 0 < row.oldest_s < 60


def test_names_come_through_as_they_are_whatever_is_in_them(monitored):
    for statement in ("CREATE ROLE {} LOGIN", "CREATE DATABASE {}"):
        monitored.admin(statement, HOSTILE)
    session = monitored.session("SELECT 'it''s'", user=HOSTILE, dbname=HOSTILE, application="x'; $(id) --")
    [found] = reader.sessions(ResourceRef("postgres", "prod", "database", HOSTILE))
    assert (found.pid, found.user, found.application) == (session.info.backend_pid, HOSTILE, "x'; $(id) --")
    assert (found.query, found.state, found.why_left) == ("SELECT 'it''s'", "idle in transaction", "")
    assert counts(monitored)[HOSTILE] == (1, 0)
    monitored.close_all()
    for statement in ("DROP DATABASE {}", "DROP ROLE {}"):
        monitored.admin(statement, HOSTILE)


def test_text_in_another_encoding_does_not_stop_the_reading(monitored):
    monitored.admin("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    session = monitored.session("SELECT 'caf\xe9'", user="postgres", dbname="latin", client_encoding="LATIN1")
    [found] = reader.sessions(ResourceRef("postgres", "prod", "database", "latin"))
    assert found.query == "SELECT 'caf\ufffd'"
    session.rollback()
    session.autocommit = True
    session.execute('CREATE DATABASE "caf\xe9"')
    assert "caf\ufffd" in counts(monitored)
    session.execute('DROP DATABASE "caf\xe9"')
    monitored.close_all()
    monitored.admin("DROP DATABASE latin")


def test_who_waits_for_a_session_is_counted(monitored):
    holder = monitored.session("SELECT * FROM orders")
    waiting = monitored.opened.enter_context(psycopg.connect(monitored.dsn(dbname="shop"), autocommit=True))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        waiting.execute("SET lock_timeout = '1ms'; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    thread = threading.Thread(target=_lock_exclusively, args=[waiting], daemon=True)
    thread.start()
    until(lambda: [row.blocks for row in reader.sessions(SHOP) if row.pid == holder.info.backend_pid] == [1])
    holder.rollback()
    thread.join(20)


def _lock_exclusively(session):
    session.execute("SET lock_timeout = 0")
    with suppress(psycopg.Error), session.transaction():
        session.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")


@pytest.mark.parametrize(
    ("value", "words"),
    [("connections", ["connections"]), (" disk , connections", ["disk", "connections"]), ("off", ["off"]), ("", [])],
)
def test_the_opt_in_is_read_from_the_databases_own_setting(monitored, value, words):
    monitored.admin(f"ALTER DATABASE shop SET byteport.auto_remediate = '{value}'")
    assert reader.opt_in(SHOP).words == words
    monitored.admin("ALTER DATABASE shop SET byteport.auto_remediate = 'connections'")


def test_a_database_without_the_setting_is_not_opted_in(monitored):
    found = reader.opt_in(ResourceRef("postgres", "prod", "database", "postgres"))
    assert (found.words, found.present) == ([], False)


def test_the_opt_in_of_a_database_that_is_not_there_is_an_error(monitored):
    with pytest.raises(Permanent, match="There is no database nix in prod"):
        reader.opt_in(ResourceRef("postgres", "prod", "database", "nix"))


# --- rights


def wait_until_empty(server: Server) -> None:
    """Until what an earlier test has closed is gone: a server notices that in its own time."""
    clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = 'shop'"
    until(lambda: not server.admin(clients))


def test_the_documented_rights_are_enough_and_each_is_missed(server):
    assert reader.rights(target(server)).lacks == []
    server.admin("CREATE ROLE bare LOGIN")
    bare = Target("prod", server.dsn(user="bare", dbname="shop"), 0)
    assert reader.rights(bare).lacks == ["pg_read_all_stats", "pg_signal_backend"]
    wait_until_empty(server)
    server.session("SELECT 1")
    with pytest.raises(Permanent, match=r'bare may not see what 1 sessions do. As a superuser: GRANT .* TO "bare";'):
        reader.databases(bare)
    server.admin("GRANT pg_read_all_stats TO bare")
    assert {row.database: row.sessions for row in reader.databases(bare)}["shop"] == 1
    server.admin("DROP ROLE bare")


def test_a_process_of_the_server_itself_is_no_hidden_session(server):
    server.admin("CREATE ROLE bare LOGIN")
    slow = "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    server.admin(f"CREATE TABLE dust WITH ({slow}) AS SELECT generate_series(1, 50000) AS id", dbname="shop")
    server.admin("DELETE FROM dust", dbname="shop")
    server.admin("ALTER SYSTEM SET autovacuum_naptime = 1")
    server.admin("SELECT pg_reload_conf()")
    workers = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = 'shop'"
    wait_until_empty(server)
    try:
        until(lambda: server.admin(workers))
        assert reader.databases(Target("prod", server.dsn(user="bare", dbname="shop"), 0))
        assert server.admin(workers), "it has looked while that process was there"
    finally:
        server.admin("ALTER SYSTEM RESET autovacuum_naptime")
        server.admin("SELECT pg_reload_conf()")
        server.admin("DROP TABLE dust", dbname="shop")
        server.admin("DROP ROLE bare")


def test_what_a_server_says_of_itself_is_one_line_for_people(server):
    told = reader.rights(target(server)).told
    assert re.fullmatch(rf"PostgreSQL [\d.]+ as {ROLE}; opted in: shop", told)


# --- reading only


def test_a_statement_that_is_not_one_of_the_reading_ones_is_not_sent(server):
    with conversation(target(server)) as connection:
        for statement in ("SELECT 1", "SELECT pg_terminate_backend(1)", statements.DATABASES + " "):
            with pytest.raises(Refused, match="not a reading statement"):
                reader.read(connection, statement, statements.LeftRow, {})


def test_no_reading_statement_calls_what_changes_something():
    for statement in statements.READS:
        assert not re.search(
            r"\b(pg_terminate|pg_cancel|insert|update|delete|drop|truncate|alter|set)\b", statement, re.I
        )


@pytest.mark.parametrize("statement", ["CREATE TABLE t (i int)", "INSERT INTO orders VALUES (1)", "DROP TABLE orders"])
def test_a_conversation_can_change_nothing_even_as_a_superuser(server, statement):
    superuser = Target("prod", server.dsn(dbname="shop"), 0)
    with pytest.raises(Permanent, match="read-only transaction"), conversation(superuser) as connection:
        connection.execute(statement)


def test_it_goes_by_its_own_name_and_with_time_outs(server):
    with conversation(target(server)) as connection:
        row = connection.execute(
            "SELECT current_setting('application_name'), current_setting('statement_timeout'),"
            " current_setting('idle_in_transaction_session_timeout')"
        ).fetchone()
    assert row == ("byteport", "5s", "10s")


def test_options_of_the_dsns_own_stay_and_cannot_take_back_ours(server):
    own = target(server, options="-c work_mem=1MB -c default_transaction_read_only=off")
    with conversation(own) as connection:
        row = connection.execute("SHOW work_mem").fetchone()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE t (i int)")
    assert row == ("1MB",)


# --- where the DSN stands


def row(**fields: str) -> MonitoredDatabase:
    return MonitoredDatabase(name="prod", **fields)


def test_a_dsn_is_read_from_a_file_anew_each_time(tmp_path):
    file = tmp_path / "dsn"
    for host in ("one", "two"):
        file.write_text(f"postgresql://{host}/shop\n")
        assert target_of(row(connection_file=str(file))).conninfo == f"postgresql://{host}/shop"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file"),
        ("", "is empty"),
        ("hunter2 and more", "cannot be understood"),
        ("postgresql://u:hunter2%zz@h/d", "cannot be understood"),
        ("postgresql://u:x@hunter2@h/d", "@ or / in its password"),
        ("postgresql://u:x/hunter2@h/d", "@ or / in its password"),
        ("postgresql://u:hunter2/d", "port that is no number"),
        ("hunter2=" + "x" * 20_000, "too long"),
        ("host=h password=hunter2\x00", "is empty, or too long"),
    ],
)
def test_a_dsn_that_is_none_is_refused_without_a_word_of_what_it_holds(tmp_path, text, why):
    file = tmp_path / "dsn"
    if text is not None:
        file.write_text(text)
    with pytest.raises(Permanent, match=why) as refused:
        target_of(row(connection_file=str(file)))
    assert str(file) in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_a_missing_environment_variable_is_named(monkeypatch):
    monkeypatch.delenv("PROD_DSN", raising=False)
    with pytest.raises(Permanent, match=r"\(environment variable PROD_DSN\) is not set"):
        target_of(row(connection_variable="PROD_DSN"))


def test_a_password_with_every_special_character_written_as_it_must_be_is_accepted():
    assert checked("postgresql://u:%40%2F%3A%3F@h:5432,g:5433/d?sslmode=require", where="it")
    assert checked("host=h user=u password='a@b/c' dbname=d", where="it")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "resource", ["host/prod/mount/%2F", "postgres/prod/table/shop", "postgres/nowhere/database/shop"]
)
def test_what_is_no_known_database_is_not_reached(resource):
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN", enabled=False)
    with pytest.raises(Permanent):
        target_for(ResourceRef.parse(resource))


@pytest.mark.django_db
def test_what_passes_itself_off_as_a_drill_is_not_reached(monitored):
    for place, name in (("prod", "byteport_drill_0a0a0a0a_0b0b0b"), ("byteport", "shop"), ("byteport", "byteport")):
        with pytest.raises(Permanent, match="was not made by a drill"):
            target_for(ResourceRef("postgres", place, "drill", name))
    with pytest.raises(Permanent, match="is not treated as a database"):
        target_for(ResourceRef("postgres", "prod", "database", "byteport_drill_0a0a0a0a_0b0b0b"))


# --- secrets


def test_the_password_is_in_no_error_and_no_representation(server):
    wrong = target(server, password="wr0ng-horse-9")
    with pytest.raises(Permanent, match="password authentication failed") as refused:
        reader.databases(wrong)
    told = "".join(traceback.format_exception(refused.value)) + repr(wrong) + str(wrong) + repr([wrong])
    assert "wr0ng-horse-9" not in told
    assert PASSWORD not in repr(target(server))


def test_the_drivers_own_error_which_holds_the_connection_does_not_travel_along(server):
    with pytest.raises(Permanent) as refused:
        reader.databases(target(server, password="wr0ng-horse-9"))
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


# --- faults


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dbname": "nix"}, 'database "nix" does not exist'),
        ({"user": "nobody_at_all", "password": None}, 'role "nobody_at_all" does not exist'),
        ({"user": "outsider", "password": None}, 'permission denied for database "shop"'),
        ({"user": "locked", "password": None}, "not permitted to log in"),
    ],
)
def test_who_is_not_let_in_stays_out_until_a_person_does_something(server, changed, why):
    server.admin("CREATE ROLE outsider LOGIN")
    server.admin("CREATE ROLE locked NOLOGIN")
    server.admin("REVOKE CONNECT ON DATABASE shop FROM PUBLIC")
    try:
        with pytest.raises(Permanent, match=re.escape(why)):
            reader.databases(target(server, **changed))
    finally:
        server.admin("GRANT CONNECT ON DATABASE shop TO PUBLIC")
        server.admin("DROP ROLE outsider, locked")


@pytest.mark.parametrize("host", ["/nonexistent", "127.0.0.1"])
def test_a_server_that_is_away_may_come_back(server, host):
    with pytest.raises(Temporary, match="prod: "):
        reader.databases(target(server, host=host, port=1))


def test_a_server_without_a_free_connection_is_a_passing_fault(server):
    server.admin("ALTER DATABASE shop CONNECTION LIMIT 0")
    try:
        with pytest.raises(Temporary, match="too many connections"):
            reader.databases(target(server))
    finally:
        server.admin("ALTER DATABASE shop CONNECTION LIMIT -1")


def test_a_statement_that_takes_too_long_is_a_passing_fault(server):
    with pytest.raises(Temporary, match="statement timeout"), conversation(target(server)) as connection:
        connection.execute("SET statement_timeout = '20ms'; SELECT pg_sleep(5)")


def test_a_right_that_is_missing_is_told_with_the_statement_that_gives_it(server):
    with pytest.raises(Permanent, match=f'GRANT .* TO "{ROLE}";'), conversation(target(server)) as connection:
        connection.execute("SELECT pg_read_file('/etc/hostname')")


# --- what stands between


class Relay:
    """Passes bytes between client and server. `startup` may change the client's first message, or be its answer."""

    def __init__(self, folder: Path, server: str, startup=lambda message: message) -> None:
        self._server, self._startup = server, startup
        self.silent = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / ".s.PGSQL.5432"))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._talk, args=[client], daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        size = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))[0]
        answer = self._startup(client.recv(size - 4, socket.MSG_WAITALL))
        if answer[:1] == b"E":
            client.sendall(answer)
            client.close()
            return
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(self._server)
        upstream.sendall(struct.pack("!I", len(answer) + 4) + answer)
        threading.Thread(target=self._pass, args=[client, upstream], daemon=True).start()
        self._pass(upstream, client)

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if not self.silent.is_set():
                    to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)  # also when silent: else the server keeps the session, and other tests see it


@pytest.fixture
def relayed(server, tmp_path_factory):
    """A DSN that leads through a relay."""
    relays = []

    def relay(**how):
        folder = tmp_path_factory.mktemp("relay")
        host = psycopg.conninfo.conninfo_to_dict(server.dsn())["host"]
        relays.append(Relay(folder, f"{host}/.s.PGSQL.5432", **how))
        return relays[-1], target(server, host=str(folder))

    yield relay
    for made in relays:
        made.listener.close()


def test_a_relay_that_changes_nothing_is_no_hindrance(relayed):
    assert reader.rights(relayed()[1]).lacks == []


def test_a_server_that_falls_silent_is_given_up(relayed):
    relay, through = relayed()
    started = time.monotonic()
    with pytest.raises(Temporary), conversation(through, deadline_s=0.3) as connection:  # noqa: PT012
        relay.silent.set()
        connection.execute("SELECT 1")
    assert time.monotonic() - started < 15


def test_a_server_that_does_not_even_greet_is_given_up(relayed, monkeypatch):
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT_S", 1)
    relay, through = relayed()
    relay.silent.set()
    with pytest.raises(Temporary, match="timeout"):
        reader.rights(through)


def without_options(message: bytes) -> bytes:
    version, pairs = message[:4], message[4:].split(b"\x00")
    kept = [pair for pair in zip(pairs[::2], pairs[1::2], strict=False) if pair[0] not in (b"options", b"")]
    return version + b"".join(name + b"\x00" + value + b"\x00" for name, value in kept) + b"\x00"


def refusing(message: bytes) -> bytes:
    fields = b"SFATAL\x00C08P01\x00Munsupported startup parameter: options\x00\x00"
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


@pytest.mark.parametrize("startup", [without_options, refusing])
def test_a_pooler_in_between_is_noticed_and_told(relayed, startup):
    with pytest.raises(Permanent, match=r"connection pooler .* docs/databases\.md"):
        reader.rights(relayed(startup=startup)[1])


# --- drills


@pytest.mark.django_db
def test_drills_are_reached_by_byteports_own_connection():
    drill = inventory.drill_ref("byteport_drill_0a0a0a0a_0b0b0b")
    assert reader.databases(target_for(drill), drill) == []
    assert inventory.drills(now()) == []
