"""Full-text search over the postmortems that are kept, by PostgreSQL: as web search engines have it, in English.

Names are found by their parts: `cart` finds `shop/cart`, `shop` finds `shop.service`. A migration of `signals` makes
the column `postmortem_words` and its index; only what is here reads them.
"""

import html
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from django.db import connection
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from incidents.queries import HEAVY
from signals.models import SignalEvent

PAGE = 20
RANKED = 2000  # of the matches, so many of the latest are ranked
QUERY_CHARS = 200
ZWJ = "\u200d"  # with which markup.md_escape parts mentions
BEGIN, END = "\x02", "\x03"  # around a hit; no postmortem holds a control character

# The parts of a name are words of their own here, in the column, and in what is asked for.
PARTED = "replace(replace({text}, '/', ' / '), '.', ' . ')"
ASKED = f"websearch_to_tsquery('english', {PARTED.format(text='%(query)s')})"
# Materialised, or else the planner may walk through all incidents by id rather than use the index.
FIND = f"""
    WITH hits AS MATERIALIZED (SELECT id FROM signal_events WHERE postmortem_words @@ {ASKED}),
    latest AS (SELECT id FROM hits ORDER BY id DESC LIMIT {RANKED}),
    ranked AS (
        SELECT id, ts_rank(postmortem_words, {ASKED}, 1)::float8 AS rank
        FROM signal_events JOIN latest USING (id)
    )
    SELECT id, rank, (SELECT count(*) FROM hits) FROM ranked
    WHERE (rank, id) < (%(rank)s, %(id)s)
    ORDER BY rank DESC, id DESC LIMIT {PAGE + 1}"""  # noqa: S608 (constants of this module)
# The same for a filter, by position.
MATCHING = f"""
    WITH hits AS MATERIALIZED (SELECT id FROM signal_events WHERE postmortem_words @@ {ASKED})
    SELECT id FROM hits""".replace("%(query)s", "%s")  # noqa: S608
LIST = f"""
    SELECT id, 0::float8, 0 FROM signal_events
    WHERE postmortem_md <> '' AND id < %(id)s ORDER BY id DESC LIMIT {PAGE + 1}"""  # noqa: S608
SHOW = f"""
    SELECT id, ts_headline('english', {PARTED.format(text="left(postmortem_md, 100000)")}, {ASKED},
        'StartSel="{BEGIN}", StopSel="{END}", MaxFragments=2, MaxWords=24, MinWords=12, FragmentDelimiter=" … "')
    FROM signal_events WHERE id = ANY(%(ids)s)"""  # noqa: S608

_MARK = re.compile(f"[{BEGIN}{END}]")
_PARTED = re.compile(r" ([/.]) ")
_MARKUP = re.compile(r"(?<![\\&])[|*`#]+|-{3,}")
_ESCAPED = re.compile(r"\\([^A-Za-z0-9\s])")
_SPACES = re.compile(r"\s+")


class Cursor(msgspec.Struct, frozen=True):
    """The last one of a page; the next page begins behind it."""

    rank: float = math.inf
    id: int = 2**63 - 1

    def __str__(self) -> str:
        return f"{self.rank!r}_{self.id}"


class Piece(msgspec.Struct, frozen=True):
    """A stretch of plain text, as foreign as what it was taken from; `hit`: it is what was asked for."""

    text: str
    hit: bool = False


class Hit(msgspec.Struct, frozen=True):
    """A postmortem that matches. Its event comes without what is heavy."""

    event: SignalEvent
    pieces: tuple[Piece, ...] = ()


class HitPage(msgspec.Struct, frozen=True):
    """`after`: where the next page begins. `cut`: only the latest matches were ranked."""

    hits: tuple[Hit, ...]
    after: Cursor | None = None
    cut: bool = False


def cursor_of(text: str) -> Cursor | None:
    """What str() of a cursor gave; None for anything else."""
    rank, _, number = text.partition("_")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return None
    try:
        cursor = Cursor(float(rank), int(number))
    except ValueError:
        return None
    return None if math.isnan(cursor.rank) else cursor


def asked_for(query: str) -> str:
    """What is asked for, in what PostgreSQL takes."""
    return query.replace("\0", "")[:QUERY_CHARS].strip()


def matching(rows: QuerySet[SignalEvent], query: str) -> QuerySet[SignalEvent]:
    """Those whose postmortem matches, in their own order; all of them without a query."""
    asked = asked_for(query)
    return rows.filter(pk__in=RawSQL(MATCHING, [asked])) if asked else rows  # noqa: S611 (a constant of this module)


def search(query: str, after: Cursor | None = None) -> HitPage:
    """The best matches first; without a query all postmortems, the newest first."""
    asked, start = asked_for(query), after or Cursor()
    rows = _rows(FIND if asked else LIST, query=asked, rank=start.rank, id=start.id)
    shown = rows[:PAGE]
    ids = [row[0] for row in shown]
    snippets = dict(_rows(SHOW, query=asked, ids=ids)) if asked and ids else {}
    events = SignalEvent.objects.defer(*HEAVY).in_bulk(ids)
    return HitPage(
        tuple(Hit(events[pk], tuple(pieces_of(snippets.get(pk, "")))) for pk in ids if pk in events),
        Cursor(shown[-1][1], shown[-1][0]) if len(rows) > PAGE else None,
        cut=bool(rows) and rows[0][2] > RANKED,
    )


def _rows(sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def pieces_of(headline: str) -> Iterator[Piece]:
    """What PostgreSQL cut out of the Markdown, as plain text: markup is taken out, what was escaped is itself again."""
    for place, part in enumerate(_MARK.split(_PARTED.sub(r"\1", headline))):
        if text := _plain(part):
            yield Piece(text, hit=place % 2 == 1)


def _plain(markdown: str) -> str:
    bare = html.unescape(_ESCAPED.sub(r"\1", _MARKUP.sub(" ", markdown)))
    return _SPACES.sub(" ", bare.replace(ZWJ, ""))
