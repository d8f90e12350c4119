"""The reading client of PostgreSQL servers: it sends nothing but the statements of `statements.READS`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from byteport.clients.postgres import inventory, statements
from byteport.clients.postgres.connection import conversation, grants
from byteport.clients.postgres.inventory import Target, target_for
from byteport.clients.postgres.statements import (
    DatabaseRow,
    JudgedRow,
    LeftRow,
    OptInRow,
    RightsRow,
    SessionRow,
)
from byteport.core.errors import Permanent, Refused
from byteport.core.resource import ResourceRef

Row = TypeVar("Row")


def read(
    connection: psycopg.Connection[Any], statement: str, shape: type[Row], parameters: Mapping[str, Any]
) -> list[Row]:
    """The rows of one reading statement. Raises Refused for any other, psycopg.Error."""
    if statement not in statements.READS:
        raise Refused("This is not a reading statement; the reading client does not send it.")
    return connection.cursor(row_factory=class_row(shape)).execute(statement, parameters).fetchall()


def databases(target: Target, only: ResourceRef | None = None) -> list[DatabaseRow]:
    """Each database of a server, or one, with its sessions that are idle in a transaction for too long.

    Raises Temporary or Permanent; also where sessions are hidden, since nobody could tell that all is well then.
    """
    parameters = {
        "limit_s": target.idle_limit_s,
        "only": only.name if only else None,
        "drills": f"^{inventory.DRILL_NAME}$",
    }
    with conversation(target) as connection:
        rows = read(connection, statements.DATABASES, DatabaseRow, parameters)
    _require_sight(target, rows)
    return rows


def _require_sight(target: Target, rows: Sequence[DatabaseRow]) -> None:
    hidden = sum(row.hidden for row in rows)
    if hidden:
        role = rows[0].role
        raise Permanent(
            f"{target.place}: the role {role} may not see what {hidden} sessions do. As a superuser: {grants(role)}"
        )


def sessions(resource: ResourceRef) -> list[SessionRow]:
    """A database's sessions that are idle in a transaction for too long, the oldest first, each with why it would be
    left. At most `statements.MAX_SESSIONS`. Raises Temporary or Permanent."""
    target = target_for(resource)
    parameters = {"database": resource.name, **rule_parameters(target)}
    with conversation(target) as connection:
        return read(connection, statements.SESSIONS, SessionRow, parameters)


def rule_parameters(target: Target) -> dict[str, Any]:
    """What the rules by which sessions are left refer to."""
    return {"limit_s": target.idle_limit_s, "own": inventory.own_application_names()}


def opt_in(resource: ResourceRef) -> OptInRow:
    """The opt-in of a database, as it stands now. Raises Temporary, or Permanent when there is no such database."""
    with conversation(target_for(resource)) as connection:
        rows = read(connection, statements.OPT_IN, OptInRow, {"database": resource.name})
    if not rows:
        raise Permanent(f"There is no {resource.label}.")
    return rows[0]


def rights(target: Target) -> RightsRow:
    """What BytePort may do on a server. Raises Temporary or Permanent."""
    with conversation(target) as connection:
        return read(connection, statements.RIGHTS, RightsRow, {})[0]


def judge(connection: psycopg.Connection[Any], parameters: Mapping[str, Any]) -> JudgedRow | None:
    """One session judged by all rules; None when it is gone."""
    return next(iter(read(connection, statements.JUDGE, JudgedRow, parameters)), None)


def still_there(
    connection: psycopg.Connection[Any], given: Iterable[tuple[int, datetime]]
) -> set[tuple[int, datetime]]:
    """Those of the given sessions (process id, and when it began) that have not ended."""
    pids, starts = zip(*given, strict=True)
    parameters = {"pids": list(pids), "backend_starts": list(starts)}
    return {(row.pid, row.backend_start) for row in read(connection, statements.STILL_THERE, LeftRow, parameters)}
