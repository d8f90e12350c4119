"""Which PostgreSQL servers there are and where each one's DSN stands; and the databases of drills.

A DSN is read anew for each use, from where its row says. It is in no log, error or representation of an object.
"""

import os
import re
from datetime import datetime
from pathlib import Path

import msgspec
import psycopg
from django.db import connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase

MAX_DSN_BYTES = 16_384
LEAST_IDLE_S = 60  # whatever a row says: a pause between two statements of a client at work is no trouble

# A drill's database lies in the server that BytePort itself uses, and is owned by a role of the same name.
DRILL_PLACE = "byteport"
DRILL_NAME = r"byteport_drill_[0-9a-f]{8}_[0-9a-f]{6}"
DRILL_LIFE_S = 3600
DRILL_IDLE_LIMIT_S = 2.0  # a drill shows the whole loop within a minute


class Target(msgspec.Struct, frozen=True):
    """How one server is reached, and after how long (seconds) a session that is idle in a transaction counts there."""

    place: str
    conninfo: str
    idle_limit_s: float

    def __repr__(self) -> str:
        return f"Target({self.place!r})"


def is_known(place: str) -> bool:
    """Whether BytePort looks at a server of this name."""
    return MonitoredDatabase.objects.filter(name=place, enabled=True).exists()


def monitored() -> list[MonitoredDatabase]:
    return list(MonitoredDatabase.objects.filter(enabled=True))


def target_for(resource: ResourceRef) -> Target:
    """The way to the server of a database. Raises Permanent when there is none, or when it may not be used so."""
    if (resource.platform, resource.namespace) != ("postgres", ""):
        raise Permanent(f"{resource.label} is no database of a PostgreSQL server.")
    if resource.is_drill:
        return _drill_target(resource)
    if resource.kind != "database" or is_drill_name(resource.name):
        raise Permanent(f"{resource.label} is not treated as a database.")
    row = MonitoredDatabase.objects.filter(name=resource.place, enabled=True).first()
    if row is None:
        raise Permanent(
            f"BytePort knows no PostgreSQL server {resource.place}: add it under Monitored databases in the admin."
        )
    return target_of(row)


def target_of(row: MonitoredDatabase) -> Target:
    """Reads the row's DSN. Raises Permanent with the remedy."""
    return Target(row.name, checked(_dsn(row), where=_where(row)), max(row.idle_limit_s, LEAST_IDLE_S))


def _where(row: MonitoredDatabase) -> str:
    place = f"environment variable {row.connection_variable}" if row.connection_variable else row.connection_file
    return f"the DSN of {row.name} ({place})"


def _dsn(row: MonitoredDatabase) -> str:
    if row.connection_variable:
        dsn = os.environ.get(row.connection_variable, "").strip()
        if not dsn:
            raise Permanent(f"{_where(row)} is not set, or not for this process: every process of BytePort needs it.")
        return dsn
    try:
        with Path(row.connection_file).open("rb") as file:
            raw = file.read(MAX_DSN_BYTES + 1)
    except OSError as error:
        raise Permanent(f"{_where(row)} cannot be read: {error.strerror}.") from None
    return raw.decode(errors="replace").strip()


def checked(dsn: str, *, where: str) -> str:
    """The DSN, if it is one. Says nothing of what it holds: what does not parse may be any secret."""
    if not dsn or len(dsn) > MAX_DSN_BYTES or "\x00" in dsn:
        raise Permanent(f"{where} is empty, or too long for one.")
    expected = "expected postgresql://user:password@host/database, or host=… dbname=… user=…"
    if _at_in_password(dsn):
        raise Permanent(f"{where} has an @ or / in its password: write them as %40 and %2F.")
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise Permanent(f"{where} cannot be understood: {expected}.") from None
    if not re.fullmatch(r"[0-9, ]*", str(parts.get("port", ""))):
        raise Permanent(f"{where} has a port that is no number: {expected}.")
    return dsn


def _at_in_password(dsn: str) -> bool:
    """Whether libpq would take the end of the password for the host, and then show it in its errors."""
    scheme, mark, rest = dsn.partition("://")
    if not mark or scheme not in ("postgres", "postgresql"):
        return False
    authority, _, path = rest.partition("?")[0].partition("/")
    return authority.count("@") > 1 or "@" in path


def noted(name: str, *, at: datetime, error: str = "") -> None:
    """Keeps how the latest look at a server went. The text is shown to operators."""
    fields = {"last_error_at": at, "last_error": error[:2000]} if error else {"last_success_at": at, "last_error": ""}
    MonitoredDatabase.objects.filter(name=name).update(**fields)


# --- drills


def is_drill_name(database: str) -> bool:
    return re.fullmatch(DRILL_NAME, database) is not None


def drill_ref(database: str) -> ResourceRef:
    return ResourceRef("postgres", DRILL_PLACE, "drill", database)


def drills(now: datetime) -> list[ResourceRef]:
    """The databases of the drills of the last hour, in the server that BytePort uses."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{DRILL_NAME}$"])
        names = [str(name) for (name,) in cursor.fetchall()]
    return [drill_ref(name) for name in names if now.timestamp() - born_at(name) < DRILL_LIFE_S]


def born_at(drill: str) -> int:
    """When a drill's database was made, which its name says: seconds since 1970."""
    return int(drill.split("_")[2], 16)


def _drill_target(resource: ResourceRef) -> Target:
    """BytePort's own connection: its role is made a member of the drill's, and so can end just that one's sessions."""
    if resource.place != DRILL_PLACE or not is_drill_name(resource.name):
        raise Permanent(f"{resource.label} was not made by a drill.")
    return Target(DRILL_PLACE, own_conninfo(), DRILL_IDLE_LIMIT_S)


def own_conninfo(**changed: str) -> str:
    """How BytePort reaches its own database, as a DSN; with parts of it changed."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    own = {key: value for key, value in connection.get_connection_params().items() if key in known}
    return make_conninfo(**{**own, **changed})


def own_application_names() -> list[str]:
    """By what name BytePort's other sessions go, where DATABASE_URL gives them one of its own."""
    return [str(connection.settings_dict["OPTIONS"].get("application_name", "byteport"))]
