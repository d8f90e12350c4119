"""One short conversation with a server: read-only, with time-outs, under BytePort's name, its errors in our words."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Timer
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict

from byteport.clients.postgres.inventory import Target
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.core.masking import MASK, mask_secrets

APPLICATION = "byteport"
CONNECT_TIMEOUT_S = 5
DEADLINE_S = 30.0  # of a whole conversation, also when the server falls silent
STATEMENT_TIMEOUT_S = 5

# Given with the connection, not by SET: behind a pooler, a SET would stay behind for whoever comes next.
SETTINGS = (
    f"-c default_transaction_read_only=on -c statement_timeout={STATEMENT_TIMEOUT_S}s -c lock_timeout=2s"
    " -c idle_in_transaction_session_timeout=10s -c jit=off -c max_parallel_workers_per_gather=0"
)
KEEPALIVE: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}

POOLER = (
    "A connection pooler (PgBouncer, say) stands between BytePort and the server. Let the DSN lead to PostgreSQL"
    " itself: see docs/databases.md"
)
# What a server says to whom it does not let in; libpq hands on no error code then. In another language than
# English it counts as temporary, and is told to a person after a few tries.
NOT_LET_IN = re.compile(
    r"authentication failed|no pg_hba\.conf entry|does not exist|not permitted to log in|permission denied for database"
    r"|no password supplied|is not currently accepting connections|certificate verify failed|does not support SSL"
)
# SQLSTATE classes of faults that may pass: connection, resources, intervention, serialisation, object in use.
PASSING = ("08", "53", "57", "40", "55")


@contextmanager
def conversation(
    target: Target, *, application: str = APPLICATION, deadline_s: float = DEADLINE_S
) -> Iterator[psycopg.Connection[Any]]:
    """An open connection, each statement a transaction of its own. Raises Temporary or Permanent, also from within."""
    try:
        with closing(_opened(target, application)) as connection, _cut_off_after(connection, deadline_s):
            _require_settings(connection)
            yield connection
    except psycopg.Error as error:
        raise fault(target, error) from None  # the driver's own error holds the connection, and so the password


def _opened(target: Target, application: str) -> psycopg.Connection[Any]:
    given = conninfo_to_dict(target.conninfo)
    connection = psycopg.connect(
        target.conninfo,
        autocommit=True,
        prepare_threshold=None,
        application_name=application,
        connect_timeout=CONNECT_TIMEOUT_S,
        client_encoding="SQL_ASCII",  # bytes as they are: databases of other encodings show up in this one
        options=f"{given.get('options') or ''} {SETTINGS}".strip(),
        **KEEPALIVE,
    )
    for kind in ("text", "name", "varchar"):
        connection.adapters.register_loader(kind, _Text)
    return connection


class _Text(Loader):
    """Text as UTF-8. What is not (names and queries of a database with another encoding) is still something to read."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="replace")


@contextmanager
def _cut_off_after(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Ends a conversation whose server has fallen silent; no time-out of the server's own can do that."""
    line = socket.socket(fileno=os.dup(connection.fileno()))
    timer = Timer(seconds, _cut_off, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        line.close()


def _cut_off(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _require_settings(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute("SELECT current_setting('default_transaction_read_only')").fetchone()
    if row != ("on",):
        raise Permanent(f"The server does not keep to BytePort's settings for its own connection. {POOLER}.")


def fault(target: Target, error: psycopg.Error) -> BytePortError:
    """The driver's error in our words, without a password."""
    said = _said(target, error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return Permanent(f"{target.place}: {said}. {grants_for(target)}")
    if "unsupported startup parameter" in said:
        return Permanent(f"{target.place}: {said}. {POOLER}.")
    code = error.sqlstate or ""
    passing = code[:2] in PASSING if code else not NOT_LET_IN.search(said)
    return Temporary(f"{target.place}: {said}") if passing else Permanent(f"{target.place}: {said}")


def _said(target: Target, error: psycopg.Error) -> str:
    """The message on one line. Its parts that look like a credential, and the password itself, are masked."""
    text = mask_secrets(" ".join(str(error).split()))
    password = conninfo_to_dict(target.conninfo).get("password")
    return (text.replace(str(password), MASK) if password else text)[:500].rstrip(".") or type(error).__name__


def grants_for(target: Target) -> str:
    """The rights that BytePort's role needs, as the statement that gives them."""
    role = conninfo_to_dict(target.conninfo).get("user")
    return f"As a superuser: {grants(str(role) if role else 'byteport')}"


def grants(role: str) -> str:
    quoted = role.replace('"', '""')
    return f'GRANT pg_read_all_stats, pg_signal_backend TO "{quoted}";'
