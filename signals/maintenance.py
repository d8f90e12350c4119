"""Day partitions of `samples`, made ahead and dropped by age; what else has a time to live; and the inventory's rows
for hosts that were seen."""

from datetime import date, timedelta

from django.db import connection, transaction
from psycopg import sql

from byteport.core.clock import now
from signals import consumers, seen_hosts
from signals.models import WebhookDelivery

DAYS_AHEAD = 3
KEEP_DAYS = 35
KEEP_DELIVERIES = timedelta(minutes=30)  # longer than a signed timestamp is accepted


def run() -> None:
    """Does what is due. Safe to run late, twice, or at the same time as another."""
    make_partitions()
    drop_partitions()
    seen_hosts.note()
    consumers.forget(now() - consumers.KEPT)
    WebhookDelivery.objects.filter(received_at__lt=now() - KEEP_DELIVERIES).delete()


def make_partitions() -> None:
    """Makes the partitions of today and the next days. What comes for another day lands in the default partition."""
    today = now().date()
    for ahead in range(-1, DAYS_AHEAD + 1):
        _make(today + timedelta(days=ahead))


def _make(day: date) -> None:
    name = _name(day)
    with transaction.atomic(), connection.cursor() as cursor:
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
    """Drops whole days that are older than KEEP_DAYS."""
    oldest = _name(now().date() - timedelta(days=KEEP_DAYS))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'samples'::regclass"
            " AND inhrelid::regclass::text < %s AND inhrelid::regclass::text ~ '^samples_[0-9]{8}$'",
            [oldest],
        )
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))


def _name(day: date) -> str:
    return f"samples_{day:%Y%m%d}"
