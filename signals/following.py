"""Follows the stream sources: each in a thread of its own, on one machine only (see `signals.polling`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import structlog
from django.db import DataError, close_old_connections
from django.db import Error as DatabaseError

from byteport.core.backoff import backoff_s
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals import health
from signals.ingest import ingest
from signals.models import SignalEvent, Source, SourceStream, Status, StreamState
from signals.reading import Reading
from signals.source import SOURCES, OpenSeries, StreamHealth, StreamSource
from signals.source_thread import SourceThread

log = structlog.get_logger()

FAULT_PAUSE_S = (2.0, 60.0)  # after a fault of a source as a whole: the first pause, the longest
MOST_OPEN = 10_000
ERROR_CHARS = 2000


class DatabaseChannel:
    """What a stream source speaks through: readings, memory and health go into PostgreSQL."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._taken, self._latest = 0, datetime.min.replace(tzinfo=now().tzinfo)

    def emit(self, readings: Sequence[Reading]) -> None:
        with _away_is_temporary():
            try:
                self._take(readings)
            except DataError:  # PostgreSQL does not take one of them: it must not hold back the others for ever
                self._take_each(readings)

    def _take_each(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            try:
                self._take([reading])
            except DataError as error:
                of = {"signal": reading.signal, "resource": str(reading.resource)}
                log.error("a reading cannot be kept", **of, error=str(error).strip())

    def _take(self, readings: Sequence[Reading]) -> None:
        ingested = ingest(readings)
        self._taken += len(readings)
        self._latest = max([self._latest, *(reading.at for reading in readings)])
        if ingested.opened or ingested.cleared:
            slug = self._source.slug
            log.info("readings", source=slug, opened=ingested.opened, cleared=ingested.cleared)

    def recall(self, key: str) -> bytes:
        with _away_is_temporary():
            row = StreamState.objects.filter(source=self._source, key=key).first()
        return bytes(row.state) if row else b""

    def remember(self, key: str, state: bytes) -> None:
        with _away_is_temporary():
            StreamState.objects.update_or_create(source=self._source, key=key, defaults={"state": state})

    def report(self, streams: Sequence[StreamHealth]) -> None:
        at = now()
        rows = [_row(self._source, stream, at) for stream in streams]
        with _away_is_temporary():
            SourceStream.objects.bulk_create(
                rows,
                update_conflicts=True,
                unique_fields=["source", "name"],
                update_fields=["contact_at", "event_at", "lag_s", "events", "error", "note", "reported_at"],
            )
            SourceStream.objects.filter(source=self._source, reported_at__lt=at).delete()
            self._note_health(streams, at)

    def _note_health(self, streams: Sequence[StreamHealth], at: datetime) -> None:
        errors = "; ".join(f"{stream.name}: {stream.error}" for stream in streams if stream.error)
        if errors:
            health.failed(self._source.slug, at=at, error=errors)
        else:
            latest = self._latest if self._taken else None
            health.succeeded(self._source.slug, at=at, readings=self._taken, latest=latest)
            self._taken = 0

    def open_series(self) -> Sequence[OpenSeries]:
        mine = SignalEvent.objects.filter(source=self._source.slug, cleared_at=None).exclude(status=Status.RESOLVED)
        with _away_is_temporary():
            rows = list(mine.values_list("signal", "resource", "detail")[:MOST_OPEN])
        return [OpenSeries(signal, ResourceRef.parse(resource), detail) for signal, resource, detail in rows]


@contextmanager
def _away_is_temporary() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        close_old_connections()  # a broken one: the next attempt gets another
        raise Temporary(f"PostgreSQL: {str(error).strip()}") from error


def _row(source: Source, stream: StreamHealth, at: datetime) -> SourceStream:
    return SourceStream(
        source=source,
        name=stream.name,
        contact_at=stream.contact_at,
        event_at=stream.event_at,
        lag_s=stream.lag_s,
        events=stream.events,
        error=stream.error[:ERROR_CHARS],
        note=stream.note,
        reported_at=at,
    )


class Follow(SourceThread):
    """Follows one source until it is told to stop, and begins anew where it cannot."""

    def turn(self, faults: int) -> tuple[float, int]:
        began = now()
        try:
            self._follow()
        except (Temporary, Permanent, DatabaseError, Source.DoesNotExist) as error:
            self._failed(error)
        if (now() - began).total_seconds() > FAULT_PAUSE_S[1]:
            faults = 0  # it went well for a while: this is the first fault of a new row
        return backoff_s(faults, *FAULT_PAUSE_S), faults + 1

    def _follow(self) -> None:
        close_old_connections()
        row = Source.objects.get(slug=self.slug)
        source = SOURCES.get(row.kind)
        if not isinstance(source, StreamSource):
            raise Permanent(f"{row.slug} is not a source that can be followed.")
        source.follow(health.config_of(row), DatabaseChannel(row), self.stop_asked)

    def _failed(self, error: Exception) -> None:
        log.warning("source failed", source=self.slug, error=str(error))
        try:
            health.failed(self.slug, at=now(), error=str(error))
        except DatabaseError as away:
            log.warning("a source's health could not be noted", source=self.slug, error=str(away).strip())
