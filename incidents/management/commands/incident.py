"""`manage.py incident ID`: everything about one incident."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from byteport.cli import Report, ReportCommand, figure, pairs, positive, section, stamp, table
from incidents.record import Deed, Record, Word, record_of
from incidents.report import event_of, incident_document


class Command(ReportCommand):
    help = "Shows one incident: timeline, gates, plan, actions, verification samples."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("id", type=positive, help="The incident's number.")

    def report(self, **options: Any) -> Report:
        event = event_of(options["id"])
        record = record_of(event)
        document = incident_document(event, record)
        return Report(document, list(_lines(record, event.plan_hash, document["deliveries"])))


def _lines(record: Record, plan_hash: str, deliveries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"Incident {record.id}: {record.title}, {record.label}"
    yield ""
    yield from pairs(_head(record))
    yield from section("Diagnosis", _diagnosis(record))
    yield from section(f"Plan {plan_hash}", _plan(record))
    yield from section("Gates", _gates(record))
    yield from section("Approval", [_approval(word) for word in record.approvals])
    yield from section("Actions", [_action(deed) for deed in record.deeds])
    samples = [(stamp(s.at), s.look, figure(s.value, record.unit), s.message) for s in record.looks]
    yield from section("Verification", table(("at (UTC)", "look", "value", ""), samples) if samples else [])
    yield from section("Timeline", [f"{stamp(e.at)}  {e.who}: {e.kind}: {e.message}" for e in record.timeline])
    yield from section("Hand-over", [_delivery(row) for row in deliveries])
    yield from section("To do by hand", [f"{step.title}: {step.command}" for step in record.advice])


def _delivery(row: Mapping[str, Any]) -> str:
    where = " ".join(filter(None, (row["url"], row["error"], row["remedy"])))
    return (
        f"{stamp(row['created_at'])}  {row['channel']}: {row['kind']}: {row['status']}{f': {where}' if where else ''}"
    )


def _head(record: Record) -> Iterator[tuple[str, str]]:
    by = f" by {record.resolved_by}" if record.resolved_by else ""
    against = f" (threshold {figure(record.threshold, record.unit)})" if record.judged_by_value else ""
    yield "status", f"{record.status.replace('_', ' ')}{by}"
    yield "why", record.reason
    yield "severity", record.severity
    yield (
        "value",
        f"{figure(record.value_last, record.unit)}{against}" if record.value_last is not None else "",
    )
    yield "resource", record.resource
    yield "source", record.source
    yield "runbook", record.runbook
    yield "detected", stamp(record.detected_at)
    yield "acted", stamp(record.acted_at)
    yield "escalated", stamp(record.escalated_at)
    yield "resolved", stamp(record.resolved_at)


def _diagnosis(record: Record) -> list[str]:
    if record.diagnosis is None:
        return []
    guess = "" if record.diagnosis.confident else " (a guess)"
    return [f"{record.diagnosis.inference}{guess}", *(f"- {line}" for line in record.diagnosis.evidence)]


def _plan(record: Record) -> list[str]:
    return (
        [f"{n}. {step.summary} ({step.action})" for n, step in enumerate(record.plan.steps, 1)] if record.plan else []
    )


def _gates(record: Record) -> list[str]:
    """The latest round; `--json` has them all."""
    latest = max((gate.round for gate in record.gates), default=0)
    rows = [
        (gate.name.replace("_", " "), "allows" if gate.allowed else "REFUSES", gate.reason)
        for gate in record.gates
        if gate.round == latest
    ]
    return table(("gate", "verdict", "reason"), rows) if rows else []


def _approval(word: Word) -> str:
    asked = f"asked {stamp(word.requested_at)}, lapses {stamp(word.expires_at)}"
    if word.approved is None:
        return f"{asked}: nobody has decided"
    return f"{asked}: {'yes' if word.approved else 'no'} by {word.by}. {word.why}".rstrip()


def _action(deed: Deed) -> str:
    simulated = "would have been: " if deed.dry_run else ""
    return f"{stamp(deed.started_at)}  {deed.status}  {simulated}{deed.summary}: {deed.message}".rstrip(": ")
