"""A PostgreSQL server for BytePort to look at: real, of the tests' own, with whatever roles and sessions they make.

It is a second one of the embedded kind, beside BytePort's own, in which any role may sign in.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from byteport import embedded

PATIENCE_S = 20.0
ROLE, PASSWORD = "byteport_agent", "right horse@9/battery"
OWN_SETTINGS = ("max_prepared_transactions = 4", "max_connections = 40", "max_wal_senders = 2")
# As BytePort itself does, its role has a password; the others are let in as they are.
HBA = f"local all postgres peer map=byteport\nlocal all {ROLE} scram-sha-256\nlocal all all trust\n"
HOSTILE = "ro\"b'; $(touch /tmp/byteport-was-here) \\`ü\n\t%s x"


class Server:
    """A running server, and everything that a test has opened in it."""

    def __init__(self, superuser_dsn: str) -> None:
        self._superuser_dsn = superuser_dsn
        self.opened = ExitStack()

    def dsn(self, **changed: Any) -> str:
        parts = {**conninfo_to_dict(self._superuser_dsn), "requirepeer": None, **changed}
        return make_conninfo(**{key: value for key, value in parts.items() if value is not None})

    def agent_dsn(self, **changed: Any) -> str:
        """The one that is given to BytePort."""
        return self.dsn(**{"user": ROLE, "password": PASSWORD, "dbname": "shop", **changed})

    def admin(self, statement: str, *names: str, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement as the superuser, with quoted names for `{}`."""
        with psycopg.connect(self.dsn(dbname=dbname), autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
            return cursor.fetchall() if cursor.description else []

    def session(
        self, *statements: str, user: str = "clerk", dbname: str = "shop", application: str = "shop", **more: Any
    ) -> psycopg.Connection[Any]:
        """A session that has run these statements in a transaction and is idle in it."""
        dsn = self.dsn(user=user, dbname=dbname, application_name=application, **more)
        connection = psycopg.connect(dsn)
        self.opened.callback(connection.close)
        for statement in statements or ("SELECT 1",):
            connection.execute(statement)
        until(lambda: self.state_of(connection).startswith("idle in transaction"))
        return connection

    def state_of(self, session: psycopg.Connection[Any]) -> str:
        found = self.admin(f"SELECT state FROM pg_stat_activity WHERE pid = {session.info.backend_pid}")
        return found[0][0] if found else "gone"

    def close_all(self) -> None:
        """Ends all that a test has opened, whatever became of it."""
        self.opened.close()
        self.opened = ExitStack()


def alive(session: psycopg.Connection[Any]) -> bool:
    """Whether a session can still work, as its application would find out."""
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def until(true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.02)


@contextmanager
def running(state: Path) -> Iterator[Server]:
    """BytePort's own version; or that of the programs in BYTEPORT_TEST_POSTGRES, e.g. /usr/lib/postgresql/15/bin."""
    programs = os.environ.get("BYTEPORT_TEST_POSTGRES")
    with of_these_programs(Path(programs), state) if programs else embedded_one(state) as server:
        yield server


@contextmanager
def of_these_programs(programs: Path, state: Path) -> Iterator[Server]:
    """Any role may sign in as it is, but for BytePort's. As root, the server runs as `nobody`."""
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as home:
        data = f"{home}/data"
        user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if user:
            shutil.chown(home, "nobody")
        settings = " ".join(f"-c {setting.replace(' ', '')}" for setting in OWN_SETTINGS)
        options = f"-k {home} -c listen_addresses='' {settings}"
        start = ["-w", "-o", options, "-l", f"{home}/log", "start"]
        for program, words in (("initdb", ["-U", "postgres", "--encoding=UTF8", "--locale=C"]), ("pg_ctl", start)):
            argv = [programs / program, "-D", data, *words]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/", **user)
            Path(data, "pg_hba.conf").write_text(HBA.replace("peer map=byteport", "trust"))
        try:
            yield Server(f"host={home} user=postgres dbname=postgres")
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=True, cwd="/", **user)


@contextmanager
def embedded_one(state: Path) -> Iterator[Server]:
    with embedded.running(state) as started, psycopg.connect(started.superuser_dsn, autocommit=True) as connection:
        for setting in OWN_SETTINGS:
            connection.execute(f"ALTER SYSTEM SET {setting}")
    with embedded.running(state) as started:
        (embedded.status(state).data.parent / "pg_hba.conf").write_text(HBA)
        with psycopg.connect(started.superuser_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        yield Server(started.superuser_dsn)


def set_up(server: Server) -> None:
    """BytePort's role with just the documented rights, an application's role, and its database, opted in."""
    server.admin(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
    server.admin(f"GRANT pg_read_all_stats, pg_signal_backend TO {ROLE}")
    server.admin("CREATE ROLE clerk LOGIN")
    server.admin("CREATE DATABASE shop OWNER clerk")
    server.admin("ALTER DATABASE shop SET byteport.auto_remediate = 'connections'")
    server.admin("CREATE TABLE orders (id int)", dbname="shop")
    server.admin("GRANT ALL ON orders TO clerk", dbname="shop")


@pytest.fixture(scope="session")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("monitored") / "state"
    try:
        with running(state) as server:
            until(lambda: server.admin("SELECT 1"))
            set_up(server)
            yield server
            server.close_all()
    finally:
        status = embedded.status(state)
        shutil.rmtree(status.data.parent, ignore_errors=True)
        shutil.rmtree(status.socket_dir, ignore_errors=True)


@pytest.fixture
def server(one_server: Server) -> Iterator[Server]:
    """The server, without sessions of other tests."""
    yield one_server
    one_server.close_all()
