"""Readings ingested a second, beside the bare SQL upsert of the same rows in the same run.

The bare upsert is what PostgreSQL alone needs to keep the same readings: the sample and the series' latest
value, in one statement, without locks, thresholds or events. Both run on one connection and commit each batch durably.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.db import connection, transaction

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from signals.ingest import ingest
from signals.maintenance import make_partitions
from signals.reading import Reading

RESOURCES = 1000
BATCHES = {1: 1500, 100: 150, 1000: 40}

BARE = """
    WITH given AS (
        SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                             %s::timestamptz[], %s::float8[])
            AS row (fingerprint, signal, resource, detail, fleet, unit, source, at, value)
    ), kept AS (
        INSERT INTO samples (fingerprint, at, value) SELECT fingerprint, at, value FROM given ON CONFLICT DO NOTHING
    )
    INSERT INTO series (fingerprint, signal, resource, detail, fleet, unit, source, last_at, last_value)
    SELECT * FROM given
    ON CONFLICT (fingerprint) DO UPDATE SET last_at = excluded.last_at, last_value = excluded.last_value"""


def run() -> Iterator[dict[str, Any]]:
    """Yields one line a batch size."""
    make_partitions()
    for size, batches in BATCHES.items():
        clock = now() - timedelta(seconds=batches * (RESOURCES // size + 2) * 3)
        prepared = [readings(size, number, clock) for number in range(2 * batches)]
        ingest(prepared[0])
        # Turn about, so that both see the same table, caches and checkpoints.
        ours = bare = 0.0
        for first, second in zip(prepared[::2], prepared[1::2], strict=True):
            ours += timed(ingest, first)
            bare += timed(bare_upsert, columns_of(second))
        yield line(f"ingest_batch_{size}", size * batches / ours, size * batches / bare)


def readings(size: int, number: int, start: datetime) -> list[Reading]:
    """One batch over the same thousand resources, each later than the one before."""
    at = start + timedelta(seconds=number)
    return [
        Reading(
            signal="disk_pressure",
            resource=ResourceRef("host", f"web-{(number * size + n) % RESOURCES}", "mount", "/var"),
            at=at,
            value=40.0 + n % 30,
            source="bench",
        )
        for n in range(size)
    ]


def columns_of(batch: list[Reading]) -> list[str]:
    """The bare statement's parameters as array literals, made ready outside of what is timed."""
    rows = [
        (
            r.fingerprint,
            r.signal,
            str(r.resource),
            r.detail,
            r.resource.fleet,
            r.resource.unit,
            r.source,
            r.at,
            r.value,
        )
        for r in sorted(batch, key=lambda reading: reading.fingerprint)
    ]
    return ["{" + ",".join(f'"{item}"' for item in column) + "}" for column in zip(*rows, strict=True)]


def bare_upsert(columns: list[str]) -> None:
    """What PostgreSQL alone would need to keep the same rows."""
    with transaction.atomic():
        psycopg.Cursor(connection.connection).execute(BARE, columns, prepare=True)


def timed(work: Callable[[Any], Any], batch: Any) -> float:
    start = time.perf_counter()
    work(batch)
    return time.perf_counter() - start


def line(name: str, ours: float, bare: float) -> dict[str, Any]:
    return {
        "name": name,
        "per_second": round(ours),
        "bare_sql_per_second": round(bare),
        "ratio": round(ours / bare, 2),
    }
