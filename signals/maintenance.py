"""Day partitions of `samples`, made ahead and dropped by age; what else has a time to live; and the inventory's rows
for hosts that were seen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta

import structlog
from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import sql
from psycopg.errors import LockNotAvailable

from byteport.core.clock import now
from signals import consumers, seen_hosts
from signals.kubernetes.revisions import STABLE
from signals.models import Series, WebhookDelivery

log = structlog.get_logger()

LOCK_PATIENCE = "500ms"
DAYS_AHEAD = 3
KEEP_DAYS = 35
SERIES_AT_ONCE = 10_000
KEEP_DELIVERIES = timedelta(minutes=30)  # longer than a signed timestamp is accepted


def run() -> None:
    """Does what is due. Safe to run late, twice, or at the same time as another."""
    if make_partitions():  # once a day: series have no index by age, which each reading would have to keep up
        forget_series()
    drop_partitions()
    seen_hosts.note()
    consumers.forget(now() - consumers.KEPT)
    WebhookDelivery.objects.filter(received_at__lt=now() - KEEP_DELIVERIES).delete()


@contextmanager
def _unless_in_use() -> Iterator[CursorWrapper]:
    """For what takes a whole table: left for the next time while somebody reads it for long, as a backup does. Whoever
    waited for that would have every sender wait behind it."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_PATIENCE)))
            yield cursor
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        log.info("the samples are in use; their days are looked after later")


def make_partitions() -> bool:
    """Makes the partitions of today and the next days, and says whether one was missing. What comes for another day
    lands in the default partition."""
    today = now().date()
    missing = _missing([today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)])
    for day in missing:
        _make(day)
    return bool(missing)


def _missing(days: Sequence[date]) -> list[date]:
    with connection.cursor() as cursor:
        names = [_name(day) for day in days]
        cursor.execute("SELECT to_regclass(name) IS NULL FROM unnest(%s::text[]) AS t(name)", [names])
        return [day for day, (is_missing,) in zip(days, cursor.fetchall(), strict=True) if is_missing]


def _make(day: date) -> None:
    name = _name(day)
    with _unless_in_use() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('byteport.partitions', 0)), to_regclass(%s)",
            [name],
        )
        if cursor.fetchone()[1] is not None:
            return
        bounds = {
            "name": sql.Identifier(name),
            "day": sql.Literal(day),
            "next": sql.Literal(day + timedelta(days=1)),
        }
        # What had already landed in the default partition moves along, since the new one could not be attached else.
        cursor.execute(sql.SQL("CREATE TABLE {name} (LIKE samples INCLUDING ALL)").format(**bounds))
        cursor.execute(
            sql.SQL(
                "WITH moved AS (DELETE FROM samples_default WHERE at >= {day} AND at < {next} RETURNING *)"
                " INSERT INTO {name} SELECT * FROM moved"
            ).format(**bounds)
        )
        cursor.execute(
            sql.SQL("ALTER TABLE samples ATTACH PARTITION {name} FOR VALUES FROM ({day}) TO ({next})").format(**bounds)
        )


def drop_partitions() -> None:
    """Drops whole days that are older than KEEP_DAYS; and what is as old of the default partition, where samples land
    that came while nobody made partitions, or long after they were measured."""
    first_kept = now().date() - timedelta(days=KEEP_DAYS)
    oldest = _name(first_kept)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'samples'::regclass"
            " AND inhrelid::regclass::text < %s AND inhrelid::regclass::text ~ '^samples_[0-9]{8}$'",
            [oldest],
        )
        names = [name for (name,) in cursor.fetchall()]
        cursor.execute("DELETE FROM samples_default WHERE at < %s", [datetime.combine(first_kept, time(), UTC)])
    for name in names:
        with _unless_in_use() as cursor:
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))


def forget_series() -> None:
    """Drops what is remembered of series that have been silent for as long as samples are kept: pods, hosts and a
    sender's alerts come and go. Which revisions have worked is told once, and stays."""
    silent = Series.objects.filter(last_at__lt=now() - timedelta(days=KEEP_DAYS)).exclude(signal=STABLE)
    while some := list(silent.values_list("pk", flat=True)[:SERIES_AT_ONCE]):
        silent.filter(pk__in=some).delete()


def _name(day: date) -> str:
    return f"samples_{day:%Y%m%d}"
