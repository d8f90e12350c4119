"""Deliveries that come in at the same time share a commit: what waits for the disk once could wait for it together.

Whoever finds nobody at it keeps what all have brought so far, in one transaction, while those that come meanwhile wait
for the next. Each is answered after the commit that holds its own.
"""

import threading
from collections import deque
from collections.abc import Sequence

from django.db import DataError, IntegrityError, connection, transaction

from byteport.core.errors import BytePortError
from signals.endings import with_endings
from signals.ingest import Ingested, ingest_together
from signals.models import Source
from signals.reading import Reading
from signals.source import Ending

MOST_READINGS = 5000  # in one transaction

# The sources' rows are held, so that none can be deleted before its delivery is committed. In one order for everybody.
KEEP_DELIVERIES = """
    INSERT INTO webhook_deliveries (source_id, delivery_id)
    SELECT sources.id, given.delivery_id
    FROM unnest(%s::bigint[], %s::text[]) AS given (source_id, delivery_id)
    JOIN sources ON sources.id = given.source_id
    ORDER BY 1, 2 FOR KEY SHARE OF sources
    ON CONFLICT DO NOTHING RETURNING source_id, delivery_id"""


class ReplayError(BytePortError):
    """This very delivery was kept before."""


class SourceGoneError(BytePortError):
    """The source was deleted meanwhile."""


class Delivery:
    """One call's readings on their way into the database, and what came of it."""

    def __init__(self, source_id: int, slug: str, delivery_id: str | None, said: Sequence[Reading | Ending]) -> None:
        self.source_id, self.slug, self.delivery_id, self.said = source_id, slug, delivery_id, said
        self.ingested: Ingested | None = None
        self.error: Exception | None = None

    @property
    def is_settled(self) -> bool:
        return self.ingested is not None or self.error is not None


class Intake:
    """Where the requests of one process meet."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._is_led = False  # somebody is at it
        self._settled = threading.Condition()

    def keep(self, delivery: Delivery) -> Ingested:
        """Returns once it is committed. Raises ReplayError, SourceGoneError or DatabaseError: nothing of it is kept."""
        with self._settled:
            self._waiting.append(delivery)
        while not delivery.is_settled:
            self._lead_or_wait(delivery)
        if delivery.ingested is None:
            assert delivery.error is not None
            raise delivery.error
        return delivery.ingested

    def _lead_or_wait(self, delivery: Delivery) -> None:
        """Whoever is settled goes at once, and need not wait for those of the next turn."""
        with self._settled:
            self._settled.wait_for(lambda: delivery.is_settled or not self._is_led)
            if delivery.is_settled:
                return
            taken = self._next()
            self._is_led = True
        try:
            _settle(taken)
        finally:
            with self._settled:
                self._is_led = False
                self._settled.notify_all()

    def _next(self) -> list[Delivery]:
        taken, size = [self._waiting.popleft()], 0
        while self._waiting and size + len(self._waiting[0].said) <= MOST_READINGS:
            size += len(self._waiting[0].said)
            taken.append(self._waiting.popleft())
        return taken


INTAKE = Intake()


def _settle(deliveries: Sequence[Delivery]) -> None:
    """All in one transaction; or each in its own, when one of them is such that PostgreSQL does not take it."""
    try:
        _keep(deliveries)
    except (DataError, IntegrityError) as error:
        if len(deliveries) == 1:
            deliveries[0].error = error
            return
        for one in deliveries:
            _settle([one])
    except Exception as error:  # noqa: BLE001 (told to each that waits for it, who raises it)
        for one in deliveries:
            one.error = error


def _keep(deliveries: Sequence[Delivery]) -> None:
    with transaction.atomic():
        new = _new(deliveries)
        results = ingest_together([with_endings(one.slug, one.said) for one in new])
    for one, ingested in zip(new, results, strict=True):  # it is committed: no later fault may say otherwise
        one.ingested = ingested
    old = [one for one in deliveries if one not in new]
    there = (
        set(Source.objects.filter(pk__in={one.source_id for one in old}).values_list("pk", flat=True)) if old else ()
    )
    for one in old:
        one.error = ReplayError("it was kept before") if one.source_id in there else SourceGoneError("it is no more")


def _new(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Those that are no replays. A twin in another process waits here until the first one is committed."""
    named = [one for one in deliveries if one.delivery_id is not None]
    if not named:
        return list(deliveries)
    with connection.cursor() as cursor:
        cursor.execute(KEEP_DELIVERIES, [[one.source_id for one in named], [one.delivery_id for one in named]])
        kept = {tuple(row) for row in cursor.fetchall()}
    new = []
    for one in deliveries:
        key = (one.source_id, one.delivery_id)
        if one.delivery_id is None or key in kept:
            kept.discard(key)  # of two twins in one transaction, the first is new
            new.append(one)
    return new
