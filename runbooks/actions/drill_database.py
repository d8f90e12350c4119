"""What a drill may change in the PostgreSQL that BytePort itself uses: one database, one role, and their removal.

Both bear a name that nothing else has. BytePort's role becomes a member of the drill's role: so it may see and end that
role's sessions, and no others. Like every change, each statement passes the fence.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import msgspec
import psycopg
from django.conf import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from byteport import embedded
from byteport.clients.postgres.connection import CONNECT_TIMEOUT_S, fault
from byteport.clients.postgres.inventory import (
    DRILL_NAME,
    DRILL_PLACE,
    Target,
    born_at,
    is_drill_name,
    own_conninfo,
)
from byteport.core.errors import Permanent, Refused
from runbooks.actions.fence import Permit, admit, opened

STATEMENT_TIMEOUT = "30s"
UNUSED_S = 60  # so long a drill may take from its database's birth to its first session

# `name` is the drill's own, a database and a role; `own` is BytePort's role.
CHANGES: Mapping[str, sql.SQL] = MappingProxyType(
    {
        "make the role": sql.SQL("CREATE ROLE {name} LOGIN PASSWORD {password}"),
        "join the role": sql.SQL("GRANT {name} TO {own}"),
        "make the database": sql.SQL("CREATE DATABASE {name} OWNER {name}"),
        "opt it in": sql.SQL("ALTER DATABASE {name} SET byteport.auto_remediate = {words}"),
        # FORCE would be refused while a worker of autovacuum is there; without it PostgreSQL ends that one itself.
        "end its sessions": sql.SQL(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = {database} AND backend_type = 'client backend'"
        ),
        "remove the database": sql.SQL("DROP DATABASE IF EXISTS {name}"),
        "remove the role": sql.SQL("DROP ROLE IF EXISTS {name}"),
    }
)
# Those that a drill has left behind: nobody is in them, and they are too old for one that is just being made.
LEFTOVERS = """
    SELECT name FROM (SELECT datname::text FROM pg_database UNION SELECT rolname::text FROM pg_roles) AS made (name)
    WHERE name ~ %(drills)s AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datname = name)"""


class DrillDatabase(msgspec.Struct, frozen=True):
    """A database that a drill has made, and the password of its role."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"DrillDatabase({self.name!r})"

    def conninfo(self, application: str) -> str:
        """How an application of the drill's own gets in, as the drill's role."""
        return own_conninfo(user=self.name, dbname=self.name, password=self.password, application_name=application)

    def remove(self) -> None:
        """Removes both, if they are there. Raises Temporary or Permanent."""
        with _administrator() as connection:
            _remove(connection, self.name)


def make(word: str) -> DrillDatabase:
    """A new database with its role, opted in to `word`. Removes what dead drills have left. Raises as `remove` does."""
    made = DrillDatabase(f"byteport_drill_{int(time.time()):08x}_{secrets.token_hex(3)}", secrets.token_urlsafe(24))
    with _administrator() as connection:
        _remove_leftovers(connection)
        try:
            _send(connection, "make the role", made.name, password=made.password)
            _send(connection, "join the role", made.name)
            _send(connection, "make the database", made.name)
            _send(connection, "opt it in", made.name, words=word)
        except BaseException:
            with suppress(psycopg.Error):
                _remove(connection, made.name)
            raise
    return made


def _remove_leftovers(connection: psycopg.Connection[Any]) -> None:
    for (name,) in connection.execute(LEFTOVERS, {"drills": f"^{DRILL_NAME}$"}).fetchall():
        if time.time() - born_at(name) > UNUSED_S:
            _remove(connection, name)


def _remove(connection: psycopg.Connection[Any], name: str) -> None:
    _send(connection, "end its sessions", name, database=name)
    _send(connection, "remove the database", name)
    _send(connection, "remove the role", name)


def _send(connection: psycopg.Connection[Any], change: str, name: str, **values: str) -> None:
    """The one place from which a drill's change leaves. Raises Refused for any name that is no drill's."""
    if not is_drill_name(name):
        raise Refused(f"A drill may change nothing but a database of its own, and {name} is none.")
    permit = Permit("postgres", DRILL_PLACE, change, name)
    literals = {key: sql.Literal(value) for key, value in values.items()}
    own = sql.Identifier(str(conninfo_to_dict(own_conninfo())["user"]))
    with opened(permit):
        admit(permit)
        connection.execute(CHANGES[change].format(name=sql.Identifier(name), own=own, **literals))


@contextmanager
def _administrator() -> Iterator[psycopg.Connection[Any]]:
    """As the superuser of BytePort's own PostgreSQL; with DATABASE_URL as its role, which then needs the rights."""
    conninfo = own_conninfo(user=embedded.SUPERUSER) if settings.EMBEDDED_POSTGRES else own_conninfo()
    target = Target(DRILL_PLACE, conninfo, 0)
    try:
        with closing(
            psycopg.connect(
                conninfo,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                options=f"-c statement_timeout={STATEMENT_TIMEOUT}",
            )
        ) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise Permanent(f"{str(error).splitlines()[0].capitalize()}. {_rights(target)}") from None
    except psycopg.Error as error:
        raise fault(target, error) from None


def _rights(target: Target) -> str:
    role = sql.Identifier(str(conninfo_to_dict(target.conninfo)["user"]))
    rights = sql.SQL("ALTER ROLE {role} CREATEDB CREATEROLE; GRANT SET ON PARAMETER byteport.auto_remediate TO {role};")
    needed = rights.format(role=role).as_string()
    return f"The drill needs more than the role of DATABASE_URL may do. As a superuser: {needed}"
