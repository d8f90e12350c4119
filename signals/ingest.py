"""ingest(): the one way in for readings. A batch is a handful of set-based statements in one transaction.

When it returns inside no outer transaction, everything is durable: series, samples, opened and cleared events, and
the loop's next tasks, which are enqueued in the same transaction.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
import psycopg
from django.db import connection, transaction

from byteport.core.clock import now
from byteport.queue import enqueue_many
from signals.happening import Happening
from signals.lifecycle import ADVANCE
from signals.outgoing import publish
from signals.policy import rule_for, rules
from signals.reading import Reading
from signals.router import Routed, Rule, Track, Why, route

FUTURE_SKEW = timedelta(minutes=5)

# In the order of their keys, so that two batches never wait for each other in a circle.
LOCK_SERIES = """
    SELECT place, last_at, last_value, breach_since, clear_since
    FROM unnest(%s::uuid[]) WITH ORDINALITY AS key (fingerprint, place) JOIN series USING (fingerprint)
    ORDER BY fingerprint FOR UPDATE OF series"""

# Two writers that both meet a new series: one inserts, the other waits for it here and then locks what it wrote.
CLAIM_NEW_SERIES = """
    INSERT INTO series (fingerprint, signal, resource, detail, fleet, unit, source)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    ON CONFLICT (fingerprint) DO NOTHING"""

# What most batches come to, in one statement: the series move on, the samples are kept, what is over is cleared.
KEEP = """
    WITH moved AS (
        UPDATE series SET last_at = new.last_at, last_value = new.last_value, breach_since = new.breach_since,
                          clear_since = new.clear_since, source = new.source
        FROM unnest(%s::uuid[], %s::timestamptz[], %s::float8[], %s::timestamptz[], %s::timestamptz[], %s::text[])
             AS new (fingerprint, last_at, last_value, breach_since, clear_since, source)
        WHERE series.fingerprint = new.fingerprint
    ), kept AS (
        INSERT INTO samples (fingerprint, at, value)
        SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::float8[]) ON CONFLICT DO NOTHING
    )
    UPDATE signal_events SET cleared_at = %s, due_at = %s
    WHERE fingerprint = ANY(%s::uuid[]) AND status <> 'resolved' AND cleared_at IS NULL
    RETURNING id, translate(fingerprint::text, '-', '')"""

# An open event takes note of a further firing at most every ten seconds, or when it gets worse.
_IS_NEWS = """
    (given.last_seen_at > event.last_seen_at + interval '10 seconds'
     OR event.cleared_at IS NOT NULL
     OR (given.severity = 'critical' AND event.severity <> 'critical')
     OR (given.severity = 'warning' AND event.severity = 'info'))"""

# Which of them are no news, in the order of their keys. Their events are held until the commit, so that nobody ends one
# between this look and the end of the batch; one that is just being ended is waited for, and is then not found.
NO_NEWS = f"""
    SELECT place FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[]) WITH ORDINALITY
        AS given (fingerprint, last_seen_at, severity, place)
    JOIN signal_events AS event USING (fingerprint)
    WHERE event.status <> 'resolved' AND NOT {_IS_NEWS}
    ORDER BY fingerprint FOR NO KEY UPDATE OF event"""  # noqa: S608 (a constant)

OPEN_EVENTS = f"""
    INSERT INTO signal_events AS event (fingerprint, signal, resource, fleet, neighbourhood, unit, detail, source,
                                        severity, value, threshold, labels, detected_at, last_seen_at, due_at)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                         %s::text[], %s::float8[], %s::float8[], %s::jsonb[], %s::timestamptz[], %s::timestamptz[],
                         %s::timestamptz[])
    ON CONFLICT (fingerprint) WHERE status <> 'resolved' DO UPDATE
    SET repeats = event.repeats + 1, value = excluded.value, cleared_at = NULL,
        last_seen_at = greatest(event.last_seen_at, excluded.last_seen_at),
        severity = CASE WHEN excluded.severity = 'critical' OR event.severity = 'info'
                   THEN excluded.severity ELSE event.severity END
    WHERE {_IS_NEWS.replace("given.", "excluded.")}
    RETURNING id, repeats = 0 AS opened, translate(fingerprint::text, '-', ''), detected_at"""  # noqa: S608

NOTE_OPENED = """
    INSERT INTO timeline_entries (event_id, at, actor, kind, message, data)
    SELECT id, at, actor, 'detected', message, '{}'::jsonb
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::text[]) AS line (id, at, actor, message)"""


class Ingested(msgspec.Struct, frozen=True):
    """What a batch led to. `why` counts the readings by the router's answer."""

    opened: tuple[int, ...] = ()
    cleared: tuple[int, ...] = ()
    why: dict[str, int] = {}


class _Firing(msgspec.Struct, frozen=True, gc=False):
    reading: Reading
    routed: Routed
    rule: Rule


class _Given(msgspec.Struct, frozen=True, gc=False):
    """A reading and the number of the call that brought it."""

    reading: Reading
    call: int


class _Batch:
    """The readings of some calls, folded: one new track a series, the samples, what fires and what clears."""

    def __init__(self, calls: int) -> None:
        self.tracks: dict[str, tuple[Track, str]] = {}
        self.samples: list[tuple[str, datetime, float]] = []
        self.firing: dict[str, _Firing] = {}
        self.clearing: set[str] = set()
        self.why: list[list[str]] = [[] for _ in range(calls)]
        self.caller: dict[str, int] = {}  # by series: the call whose reading was judged last

    def take(self, key: str, given: _Given, routed: Routed, rule: Rule) -> None:
        reading, why = given.reading, routed.why
        self.why[given.call].append(why)
        if why is Why.UNKNOWN_STATE or why is Why.NO_VALUE:
            return
        if reading.value is not None:
            self.samples.append((key, reading.at, reading.value))
        if why is Why.LATE:
            return
        self.tracks[key] = (routed.track, reading.source)
        self.caller[key] = given.call
        self.clearing.discard(key)
        if why is Why.FIRES:
            self.firing[key] = _Firing(reading, routed, rule)
        elif why is Why.CLEARS:
            self.clearing.add(key)


def ingest(readings: Iterable[Reading]) -> Ingested:
    """Judges and keeps a batch, opens and clears events. Raises Django's OperationalError when PostgreSQL is away."""
    return ingest_together([readings])[0]


def ingest_together(calls: Sequence[Iterable[Reading]]) -> list[Ingested]:
    """`ingest` for several calls in one transaction; what each of them led to. All are kept, or none is.

    Within a transaction of the caller's, an error ends that one as well.
    """
    batch = _Batch(len(calls))
    by_series = _by_series(calls, batch)
    if not by_series:
        return [Ingested(why=Counter(why)) for why in batch.why]
    known_rules = rules()
    with transaction.atomic(savepoint=False), connection.wrap_database_errors:
        connection.ensure_connection()
        cursor = psycopg.Cursor(connection.connection)  # server-side parameters: arrays travel as they are
        _judge(batch, by_series, _locked_tracks(cursor, by_series), known_rules)
        opened = _open(cursor, _news(cursor, batch.firing)) if batch.firing else {}
        cleared = _keep(cursor, batch)
        if opened or cleared:
            enqueue_many(ADVANCE, [*opened, *cleared])
    return [
        Ingested(_of_call(call, opened, batch), _of_call(call, cleared, batch), Counter(why))
        for call, why in enumerate(batch.why)
    ]


def _of_call(call: int, events: dict[int, str], batch: _Batch) -> tuple[int, ...]:
    return tuple(pk for pk, key in events.items() if batch.caller[key] == call)


def _by_series(calls: Sequence[Iterable[Reading]], batch: _Batch) -> dict[str, list[_Given]]:
    latest = now() + FUTURE_SKEW
    by_series: dict[str, list[_Given]] = defaultdict(list)
    for call, readings in enumerate(calls):
        for reading in readings:
            if reading.at > latest:
                batch.why[call].append(Why.FROM_THE_FUTURE)
            else:
                by_series[reading.fingerprint].append(_Given(reading, call))
    return by_series


def _locked_tracks(cursor: psycopg.Cursor[Any], by_series: dict[str, list[_Given]]) -> dict[str, Track]:
    keys = sorted(by_series)
    tracks = _lock(cursor, keys)
    missing = [key for key in keys if key not in tracks]
    if missing:
        rows = [_series_row(key, by_series[key][0].reading) for key in missing]
        cursor.execute(CLAIM_NEW_SERIES, _columns(rows))
        tracks |= _lock(cursor, missing)
    return tracks


def _series_row(key: str, reading: Reading) -> tuple[str, ...]:
    resource = reading.resource
    texts = (reading.signal, str(resource), reading.detail, resource.fleet, resource.unit, reading.source)
    return (key, *map(text, texts))


def _lock(cursor: psycopg.Cursor[Any], keys: Sequence[str]) -> dict[str, Track]:
    cursor.execute(LOCK_SERIES, [array(keys)], prepare=True, binary=True)
    return {keys[place - 1]: Track(*track) for place, *track in cursor.fetchall()}


def _judge(batch: _Batch, by_series: dict[str, list[_Given]], tracks: dict[str, Track], known: dict[str, Rule]) -> None:
    for key, given in sorted(by_series.items(), key=itemgetter(0)):  # neighbours in the index are written together
        track = tracks[key]
        rule = rule_for(given[0].reading.signal, given[0].reading.resource, known)
        for one in sorted(given, key=attrgetter("reading.at")) if len(given) > 1 else given:
            routed = route(track, one.reading, rule)
            track = routed.track
            batch.take(key, one, routed, rule)


def _keep(cursor: psycopg.Cursor[Any], batch: _Batch) -> dict[int, str]:
    """Writes what the batch has come to. Returns the events that it clears, with their series."""
    moved = [track for track, _ in batch.tracks.values()]
    at = now()
    values = [
        array(batch.tracks),
        array([iso(track.last_at) for track in moved]),
        array([number(track.last_value) for track in moved]),
        array([iso(track.breach_since) for track in moved]),
        array([iso(track.clear_since) for track in moved]),
        array([name(source) for _, source in batch.tracks.values()]),
        array([key for key, _, _ in batch.samples]),
        array([iso(when) for _, when, _ in batch.samples]),
        array([number(value) for _, _, value in batch.samples]),
        at,
        at,
        array(batch.clearing),
    ]
    cursor.execute(KEEP, values, prepare=True)
    return dict(cursor.fetchall())


def array(items: Iterable[str]) -> str:
    """PostgreSQL's literal of an array whose items need no quotes: far cheaper to make than a list is to adapt."""
    return "{" + ",".join(items) + "}"


def text(item: str) -> str:
    """An item of `array` that may hold whatever a text can."""
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


name = lru_cache(maxsize=1024)(text)  # of which a batch has few different ones


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows' columns, each as an array. Their items are made by `text`, `iso` and `number`, or need no quotes."""
    return [array(column) for column in zip(*rows, strict=True)]


@lru_cache(maxsize=1024)  # a batch has few different times
def iso(at: datetime | None) -> str:
    return at.isoformat() if at else "NULL"


def number(value: float | None) -> str:
    return "NULL" if value is None else repr(value)


def _news(cursor: psycopg.Cursor[Any], firing: dict[str, _Firing]) -> dict[str, _Firing]:
    """What fires and is not open yet, or has something to tell to its open event: in a storm, next to nothing."""
    keys = sorted(firing)
    given = [(key, iso(firing[key].reading.at), firing[key].routed.severity.value) for key in keys]
    cursor.execute(NO_NEWS, _columns(given), prepare=True)
    old = {keys[place - 1] for (place,) in cursor.fetchall()}
    return {key: firing[key] for key in keys if key not in old}


def _open(cursor: psycopg.Cursor[Any], firing: dict[str, _Firing]) -> dict[int, str]:
    """Opens what fires and is not open yet; the others take note. Returns the new events, with their series."""
    if not firing:
        return {}
    cursor.execute(OPEN_EVENTS, _columns(_event_row(key, one) for key, one in firing.items()))
    opened = [(row[0], row[2], row[3]) for row in cursor.fetchall() if row[1]]
    if opened:
        cursor.execute(NOTE_OPENED, _columns(_note_row(pk, at, firing[key]) for pk, key, at in opened))
        publish(Happening.OPENED, [pk for pk, _, _ in opened], now())
    return {pk: key for pk, key, _ in opened}


def _note_row(pk: int, at: datetime, firing: _Firing) -> tuple[str, ...]:
    return (str(pk), iso(at), text(firing.reading.source or "byteport"), text(_opening_line(firing)))


def _event_row(key: str, firing: _Firing) -> tuple[str, ...]:
    reading, resource, at = firing.reading, firing.reading.resource, iso(firing.reading.at)
    return (
        key, text(reading.signal), text(str(resource)), text(resource.fleet), text(resource.neighbourhood),
        text(resource.unit), text(reading.detail), text(reading.source), firing.routed.severity.value,
        number(reading.value), number(_stored(firing.rule.threshold)),
        text(msgspec.json.encode(reading.labels).decode()), at, at, iso(now()),
    )  # fmt: skip


def _stored(threshold: float) -> float | None:
    """An infinite threshold is none."""
    return threshold if isfinite(threshold) else None


def _opening_line(firing: _Firing) -> str:
    reading, rule = firing.reading, firing.rule
    if reading.value is None:
        return f"{reading.signal} reported as firing by {reading.source or 'its source'}."
    return f"{reading.value:.1f} is above the threshold of {rule.threshold:g}" + (
        f", for {rule.sustain_s:g} s on end." if rule.sustain_s else "."
    )
