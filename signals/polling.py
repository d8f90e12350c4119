"""Asks the poll sources and follows the streams: each in a thread of its own, each on one machine only.

Which process does is settled by PostgreSQL: whoever holds the source's advisory lock does. When that
process dies, its locks go with its connection and another takes over.
"""

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg
import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from byteport import pulse
from byteport.core.backoff import backoff_s
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.heartbeats import farewell, heartbeat
from signals import health
from signals.following import Follow
from signals.ingest import Ingested, ingest
from signals.models import Source
from signals.reading import State
from signals.source import SOURCES, MetricSource, PollSource, StreamSource
from signals.source_thread import SourceThread

log = structlog.get_logger()

REFRESH_S = 2.0  # how often the list of sources and the leadership are looked at
FAULT_BACKOFF_S = (5.0, 300.0)  # after a failed poll: the first pause, the longest


def poll_once(row: Source, at: datetime) -> Ingested:
    """Asks one source and ingests what it says. Raises Temporary or Permanent after noting it at the source."""
    source = SOURCES.get(row.kind)
    if not isinstance(source, PollSource):
        why = "manage.py watch follows it" if isinstance(source, StreamSource) else "it calls BytePort by itself"
        raise Permanent(f"{row.slug} is not a source that can be polled: {why}.")
    config = health.config_of(row)
    try:
        readings = source.poll(config, at)
    except BytePortError as error:
        health.failed(row.slug, at=at, error=str(error))
        raise
    finally:
        health.spent(row.slug, config.progress, at=at)
    ingested = ingest(readings)
    latest = max((each.at for each in readings if each.state is State.MEASURED), default=None)  # a state may be old
    read_until = config.progress.read_until
    health.succeeded(row.slug, at=at, readings=len(readings), latest=latest, read_until=read_until)
    return ingested


class Leadership:
    """The advisory locks of the sources that this process asks, on one connection that is used for nothing else."""

    def __init__(self) -> None:
        self._connection: psycopg.Connection | None = None
        self.held: set[str] = set()

    def claim(self, slugs: Iterable[str]) -> set[str]:
        """Takes what is free of `slugs`, gives up the rest, and returns what is held now. Raises psycopg.Error."""
        if self._connection is None or self._connection.closed:
            self.held = set()
            self._connection = psycopg.connect(**_connection_params())
        wanted = set(slugs)
        self._connection.execute("SELECT 1")
        for slug in self.held - wanted:
            self._connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [_lock_name(slug)])
        self.held &= wanted
        for slug in sorted(wanted - self.held):
            if self._try(slug):
                self.held.add(slug)
        return set(self.held)

    def _try(self, slug: str) -> bool:
        assert self._connection is not None
        taken = self._connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [_lock_name(slug)])
        row = taken.fetchone()
        return bool(row and row[0])

    def lose(self) -> set[str]:
        """The connection is gone, and every lock with it."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection, self.held = None, set()
        return set()


def _connection_params() -> dict[str, Any]:
    """Django's own, for a connection beside its pool."""
    params = dict(connection.get_connection_params())
    return {**params, "autocommit": True, "cursor_factory": psycopg.Cursor}


def _lock_name(slug: str) -> str:
    return f"byteport.source:{slug}"


class Poller(SourceThread):
    """Asks one source, again and again, until it is told to stop."""

    def turn(self, faults: int) -> tuple[float, int]:
        started = now()
        pause, faults = self._ask(started, faults)
        elapsed = (now() - started).total_seconds()
        return max(pause - elapsed, 0.1), faults

    def _ask(self, at: datetime, faults: int) -> tuple[float, int]:
        """Asks once. Returns the seconds from then to the next time and the number of faults in a row."""
        try:
            close_old_connections()
            row = Source.objects.get(slug=self.slug)
            ingested = poll_once(row, at)
        except (Temporary, Permanent, DatabaseError, Source.DoesNotExist) as error:
            log.warning("source failed", source=self.slug, error=str(error), faults=faults + 1)
            asked_s = error.delay_s if isinstance(error, Temporary) else 0.0
            return max(backoff_s(faults, *FAULT_BACKOFF_S), asked_s), faults + 1
        if ingested.opened or ingested.cleared:
            log.info("readings", source=self.slug, opened=ingested.opened, cleared=ingested.cleared)
        return pause_s(row), 0


def pause_s(row: Source) -> float:
    """Seconds from the beginning of one good poll to the next."""
    source = SOURCES[row.kind]
    if isinstance(source, MetricSource):
        return source.every_s(row.options)
    return source.interval_s() if isinstance(source, PollSource) else REFRESH_S


class Watch:
    """Runs a thread for each enabled source that this process leads: a poller, or one that follows."""

    def __init__(self) -> None:
        self._leadership = Leadership()
        self._threads: dict[str, SourceThread] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. PostgreSQL being away only pauses it."""
        while not stop.is_set():
            pulse.beat("watch", "alive")
            self._adjust(self._led())
            stop.wait(REFRESH_S)
        self._adjust({})
        self._leadership.lose()  # another may take over now, and need not wait until this process has ended
        with suppress(DatabaseError):
            farewell("watch")

    def _led(self) -> Mapping[str, type[SourceThread]]:
        """The sources that this process leads now, with what each needs."""
        try:
            close_old_connections()
            kinds: dict[str, type[SourceThread]] = dict.fromkeys(poll_slugs(), Poller)
            kinds |= dict.fromkeys(stream_slugs(), Follow)
            led = self._leadership.claim(kinds)
            heartbeat("watch", {"sources": sorted(led), "console": settings.PUBLIC_URL})
            pulse.beat("watch", "ready")
        except (psycopg.Error, DatabaseError) as error:
            log.warning("PostgreSQL is away; nothing is polled until it is back", error=str(error).strip())
            self._leadership.lose()
            return {}
        return {slug: kinds[slug] for slug in led}

    def _adjust(self, led: Mapping[str, type[SourceThread]]) -> None:
        for slug in [slug for slug, thread in self._threads.items() if slug not in led or not thread.is_alive()]:
            self._threads.pop(slug).stop()
        for slug in led.keys() - self._threads.keys():
            self._threads[slug] = led[slug](slug)
            self._threads[slug].start()
            log.info("watching", source=slug)


def poll_slugs() -> list[str]:
    """The enabled sources that BytePort asks."""
    kinds = [name for name, source in SOURCES.items() if isinstance(source, PollSource)]
    return list(Source.objects.filter(enabled=True, kind__in=kinds).values_list("slug", flat=True))


def stream_slugs() -> list[str]:
    """The enabled sources that BytePort follows."""
    kinds = [name for name, source in SOURCES.items() if isinstance(source, StreamSource)]
    return list(Source.objects.filter(enabled=True, kind__in=kinds).values_list("slug", flat=True))
