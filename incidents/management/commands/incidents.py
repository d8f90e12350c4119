"""`manage.py incidents`: the list."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import QuerySet

from byteport.cli import Report, ReportCommand, figure, positive, stamp, table
from byteport.core.outcome import Severity
from incidents.queries import HEAVY
from signals.catalog import CATALOG
from signals.models import SignalEvent, Status

OPEN = "open"
MOST = 1000


class IncidentLine(msgspec.Struct, frozen=True):
    """`resource` is the reference, `label` what people call it; `value` is in `unit`."""

    id: int
    signal: str
    resource: str
    label: str
    severity: Severity
    status: str
    resolved_by: str
    reason: str
    value: float | None
    unit: str
    runbook: str
    detected_at: datetime
    resolved_at: datetime | None


class Command(ReportCommand):
    help = "Lists incidents, the newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--status", choices=[OPEN, *Status.values], help="Only those; `open` is all but resolved.")
        parser.add_argument("--signal", help="Only those of this signal, e.g. disk_pressure.")
        parser.add_argument("--limit", type=positive, default=20, help="How many at most (default: %(default)s).")

    def report(self, **options: Any) -> Report:
        rows = matching(options["status"], options["signal"])
        lines = [_line_of(event) for event in rows[: min(options["limit"], MOST)]]
        return Report(lines, _table_of(lines) if lines else ["There are none."])


def matching(status: str | None, signal: str | None) -> QuerySet[SignalEvent]:
    rows = SignalEvent.objects.defer(*HEAVY).order_by("-pk")
    if status:
        rows = rows.filter(status__in=SignalEvent.OPEN if status == OPEN else [status])
    return rows.filter(signal=signal) if signal else rows


def _line_of(event: SignalEvent) -> IncidentLine:
    known = CATALOG.get(event.signal)
    return IncidentLine(
        id=event.pk,
        signal=event.signal,
        resource=event.resource,
        label=event.ref.label,
        severity=Severity(event.severity),
        status=event.status,
        resolved_by=event.resolved_by,
        reason=event.reason,
        value=event.value,
        unit=known.unit if known else "",
        runbook=event.runbook,
        detected_at=event.detected_at,
        resolved_at=event.resolved_at,
    )


def _table_of(lines: list[IncidentLine]) -> list[str]:
    header = ("id", "detected (UTC)", "severity", "status", "signal", "resource", "value")
    return table(header, [_row(line) for line in lines])


def _row(line: IncidentLine) -> tuple[str, ...]:
    status = f"{line.status} by {line.resolved_by}" if line.resolved_by else line.status.replace("_", " ")
    value = figure(line.value, line.unit)
    return (str(line.id), stamp(line.detected_at), line.severity, status, line.signal, line.label, value)
