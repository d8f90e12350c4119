"""`manage.py postmortems [QUERY]`: search over all postmortems."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

import msgspec

from byteport.cli import Report, ReportCommand, stamp
from byteport.core.errors import Refused
from incidents.search import Cursor, Hit, cursor_of, search


class HitLine(msgspec.Struct, frozen=True):
    """`snippet`: plain text around the matches, each of which stands between «»."""

    id: int
    signal: str
    resource: str
    label: str
    status: str
    resolved_by: str
    final: bool
    detected_at: datetime
    resolved_at: datetime | None
    snippet: str


class Found(msgspec.Struct, frozen=True):
    """`after`: where the next page begins; empty: this is the last."""

    postmortems: list[HitLine]
    after: str
    cut: bool


class Command(ReportCommand):
    help = "Searches the postmortems, the best match first; without a query lists them, the newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("query", nargs="?", default="", help='Words, "a phrase", -without, or.')
        parser.add_argument("--after", default="", help="Where the page before has said that the next one begins.")

    def report(self, **options: Any) -> Report:
        page = search(options["query"], _start(options["after"]))
        after = str(page.after) if page.after else ""
        lines = [_line_of(hit) for hit in page.hits]
        told = [text for line in lines for text in _told(line)] or ["There are none."]
        more = ["", f"More: --after {after}"] if after else []
        return Report(Found(lines, after, page.cut), [*told, *more])


def _start(text: str) -> Cursor | None:
    cursor = cursor_of(text)
    if text and cursor is None:
        raise Refused(f"No page begins at {text!r}.")
    return cursor


def _line_of(hit: Hit) -> HitLine:
    event = hit.event
    return HitLine(
        id=event.pk,
        signal=event.signal,
        resource=event.resource,
        label=event.ref.label,
        status=event.status,
        resolved_by=event.resolved_by,
        final=event.postmortem_final,
        detected_at=event.detected_at,
        resolved_at=event.resolved_at,
        snippet="".join(f"«{piece.text}»" if piece.hit else piece.text for piece in hit.pieces).strip(),
    )


def _told(line: HitLine) -> list[str]:
    draft = "" if line.final else ", draft"
    head = f"{line.id}  {stamp(line.detected_at)}  {line.signal}, {line.label}{draft}"
    return [head, f"    {line.snippet}"] if line.snippet else [head]
