"""The monitored PostgreSQL servers: sessions that are idle in a transaction for too long, counted per database."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

from byteport.clients.postgres import inventory, reader
from byteport.clients.postgres.inventory import Target
from byteport.clients.postgres.statements import DatabaseRow
from byteport.core.errors import BytePortError, Permanent
from byteport.core.resource import ResourceRef
from byteport.models import MonitoredDatabase
from signals.reading import Reading
from signals.source import SourceConfig

INTERVAL_S = 10.0
DRILL_INTERVAL_S = 1.0
AT_ONCE = 8  # servers that are asked at the same time: one that does not answer must not hold up the others
NAMED = 10  # sessions that a reading names


class PostgresSessionsSource:
    """Reads `pg_stat_activity` of each server, by `state_change`."""

    name = "postgres_sessions"
    title = "Sessions of the monitored PostgreSQL databases"
    permissions: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._drill_seen = False

    def interval_s(self) -> float:
        """Every ten seconds; every second while a drill's database exists, so that its story is told in a minute."""
        return DRILL_INTERVAL_S if self._drill_seen else INTERVAL_S

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        """Servers that cannot be read are noted as such, each by itself. Raises when none could be."""
        drills = inventory.drills(now)
        self._drill_seen = bool(drills)
        found_in = [(drill, row) for drill in drills for row in reader.databases(inventory.target_for(drill), drill)]
        faults: list[BytePortError] = []
        for place, found in _looked_at_all():
            if isinstance(found, BytePortError):
                inventory.noted(place, at=now, error=str(found))
                faults.append(found)
            else:
                inventory.noted(place, at=now)
                found_in += [(ResourceRef("postgres", place, "database", row.database), row) for row in found]
        if faults and not found_in:
            raise faults[0]
        return [reading_of(resource, row, now, config.slug) for resource, row in found_in]

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        return idle_reading(resource, now, config.slug)


def _looked_at_all() -> list[tuple[str, list[DatabaseRow] | BytePortError]]:
    """Every monitored server's name, with its databases or the reason why they could not be read."""
    targets = {row.name: _target(row) for row in inventory.monitored()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(zip(targets, pool.map(_looked_at, targets.values()), strict=True))


def _target(row: MonitoredDatabase) -> Target | BytePortError:
    try:
        return inventory.target_of(row)
    except Permanent as error:
        return error


def _looked_at(target: Target | BytePortError) -> list[DatabaseRow] | BytePortError:
    if isinstance(target, BytePortError):
        return target
    try:
        return reader.databases(target)
    except BytePortError as error:
        return error


def reading_of(resource: ResourceRef, row: DatabaseRow, now: datetime, source: str) -> Reading:
    """One database as a reading: the value is the number of its sessions that have been idle for too long."""
    return Reading(
        signal="idle_in_transaction",
        resource=resource,
        at=now,
        value=float(row.sessions),
        source=source,
        labels={
            "oldest_s": f"{row.oldest_s:.0f}",
            "connections_percent": f"{100 * row.sessions / row.max_connections:.1f}",
            "with_uncommitted_work": str(row.writing),
        },
    )


def idle_reading(resource: ResourceRef, now: datetime, source: str = "") -> Reading | None:
    """One database, read now, with its sessions named. None when there is no such database (any more)."""
    rows = reader.databases(inventory.target_for(resource), resource)
    if not rows:
        return None
    reading = reading_of(resource, rows[0], now, source)
    if reading.value:
        reading.labels["sessions"] = "; ".join(map(named, reader.sessions(resource)[:NAMED]))
    return reading


class Named(Protocol):
    """What is needed to name a session."""

    @property
    def pid(self) -> int: ...
    @property
    def user(self) -> str | None: ...
    @property
    def application(self) -> str: ...
    @property
    def why_left(self) -> str: ...


def named(session: Named) -> str:
    """`pid 4711 of shop (sidekiq)`, with the reason why it would be left, where there is one."""
    who = f"pid {session.pid} of {session.user or 'a role that is gone'}"
    application = f" ({session.application})" if session.application else ""
    return f"{who}{application}{': ' if session.why_left else ''}{session.why_left}"


SOURCE = PostgresSessionsSource()
