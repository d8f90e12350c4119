"""The letter about one incident, from its record alone. Pure.

Lists are bounded here: the first and the last of a long one, and how many lie between.
"""

from collections.abc import Iterator, Sequence

from byteport.core.masking import mask_secrets
from byteport.core.resource import ResourceRef
from incidents.advice import general_steps
from incidents.escalation.channel import Kind, Note
from incidents.escalation.letter import Block, Bullets, Chart, Command, Excerpt, Grid, Letter, Prose, Section
from incidents.postmortem import refusals, span, stamp
from incidents.record import Deed, Record
from incidents.trend import Mark, figure

ENDS = 12  # shown of each end of a long list
LOG_LINES, LOG_CHARACTERS = 60, 4_000
LOG_READ = 65_536  # what is looked through for secrets
LATEST_LOOKS = 5
PLACES = {"host": "Host", "kubernetes": "Cluster", "postgres": "Database server"}


def letter_of(note: Note) -> Letter:
    """What there is to say when an incident is handed over, or still open."""
    record = note.record
    return Letter(
        title=f"{record.title}: {record.label} ({note.severity})",
        lead=_lead(note),
        facts=tuple((name, text) for name, text in _facts(record, note.severity) if text),
        sections=tuple(section for section in _sections(record) if section.blocks),
        links=tuple(_links(note)),
    )


def _lead(note: Note) -> str:
    if note.kind == Kind.REMINDER:
        open_for = span(note.record.escalated_at, note.at)
        return f"This is still open, {open_for} after it was handed over: {note.record.why_escalated}"
    if note.kind == Kind.WORSENED:
        return f"This is {note.severity} now, and was less when it was handed over: {note.record.why_escalated}"
    return f"BytePort hands this over to people: {note.record.why_escalated}"


def _links(note: Note) -> Iterator[tuple[str, str]]:
    yield f"Incident {note.record.id} in the console", f"{note.record.base_url}/incidents/{note.record.id}/"
    yield "Postmortem, a draft while it is open", f"{note.record.base_url}/incidents/{note.record.id}/postmortem"
    yield from ((link.title, link.url) for link in note.links)


# ------------------------------------------------------------------------------------------------- the facts


def _facts(record: Record, severity: str) -> Iterator[tuple[str, str]]:
    yield "Incident", str(record.id)
    yield "Signal", f"{record.title} ({record.signal})"
    yield "Severity", severity
    yield "Resource", f"{record.label} ({record.resource})"
    yield from _place(record.resource)
    yield "Detail", record.detail
    yield "Exit code", _exit_code(record)
    yield "Value", _value(record)
    yield "Value at detection", figure(record.value_then, record.unit) if record.judged_by_value else ""
    yield "Detected", f"{stamp(record.detected_at)} UTC"
    yield "Handed over", f"{stamp(record.escalated_at)} UTC" if record.escalated_at else ""
    yield "Reported by", record.source
    yield "Runbook", record.runbook or ("" if record.has_runbook else "none for this signal")


def _exit_code(record: Record) -> str:
    code = record.diagnosis.exit_code if record.diagnosis else None
    return str(code) if code is not None else ""


def _place(resource: str) -> Iterator[tuple[str, str]]:
    try:
        ref = ResourceRef.parse(resource)
    except ValueError:
        return
    yield PLACES.get(ref.platform, "Place"), ref.place
    yield "Namespace", ref.namespace


def _value(record: Record) -> str:
    """`96.1 % (threshold 85.0 %, clears below 80.0 %)`; nothing where the sender judges."""
    if not record.judged_by_value:
        return ""
    bounds = [
        f"{word} {figure(level, record.unit)}"
        for word, level in (("threshold", record.threshold), ("clears below", record.clear))
        if level is not None
    ]
    told = f" ({', '.join(bounds)})" if bounds else ""
    return f"{figure(record.value_last, record.unit)}{told}"


# ---------------------------------------------------------------------------------------------- the sections


def _sections(record: Record) -> Iterator[Section]:
    """In the order in which they are read. What is to be done is never left out."""
    yield Section("What BytePort tried", tuple(_tried(record)), weight=6)
    yield Section("What held it back", tuple(_held_back(record)), weight=5)
    yield Section("What you can do now", tuple(_by_hand(record)))
    yield Section("What was seen", tuple(_seen(record)), weight=3)
    yield Section("The end of the log", tuple(_log(record)), weight=4)
    yield Section("Trend", tuple(_trend(record)), weight=2)


def _tried(record: Record) -> Iterator[Block]:
    done = [deed for deed in record.deeds if not deed.dry_run]
    if done:
        rows = tuple((deed.summary or deed.name, _word(deed), deed.message, stamp(deed.started_at)) for deed in done)
        yield Grid(("Action", "Result", "What came of it", "Begun (UTC)"), _ends(rows))
    else:
        yield Prose("Nothing was changed." + (" It was only simulated, in dry-run." if record.deeds else ""))
    if record.looks:
        yield Prose("Then the signal was read again:")
        latest = record.looks[-LATEST_LOOKS:]
        yield Bullets(tuple(f"{stamp(look.at)} UTC, {look.look}: {look.message}" for look in latest))


def _word(deed: Deed) -> str:
    return deed.status if deed.is_over else "begun, and not ended yet"


def _held_back(record: Record) -> Iterator[Block]:
    said = tuple(f"{gate.name.replace('_', ' ')}: {gate.reason}" for gate in refusals(record.gates))
    refused = [word for word in record.approvals if word.approved is False]
    said += tuple(f"{word.by} refused the plan{f': {word.why}' if word.why else ''}" for word in refused)
    if said:
        yield Bullets(said[:ENDS])


def _seen(record: Record) -> Iterator[Block]:
    found = record.diagnosis
    if found is None:
        return
    if found.evidence:
        yield Bullets(found.evidence[:ENDS])
    guess = "" if found.confident else " (a guess: nothing has proven it)"
    if found.inference:
        yield Prose(f"What BytePort makes of it{guess}: {found.inference}")


def _log(record: Record) -> Iterator[Block]:
    """Its end. Masked as a whole, so that no secret is cut into two halves that look like none."""
    masked = mask_secrets((record.diagnosis.log if record.diagnosis else "")[-LOG_READ:])
    latest = "\n".join(masked.splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:]
    if latest.strip():
        yield Excerpt(latest)


def _trend(record: Record) -> Iterator[Block]:
    points = record.trend.points
    if not points:
        return
    named = (("threshold", record.threshold), ("clear", record.clear)) if record.judged_by_value else ()
    levels = tuple((name, level) for name, level in named if level is not None)
    yield Chart(record.trend, levels, tuple(_marks(record)))
    values = (figure(value, record.trend.unit) for value in (record.trend.low, record.trend.high, record.trend.last))
    bounds = "lowest {}, highest {}, latest {}".format(*values)
    yield Prose(f"From {stamp(points[0].at)} to {stamp(points[-1].at)} UTC: {bounds}.")


def _marks(record: Record) -> Iterator[Mark]:
    for at, label in ((record.detected_at, "detected"), (record.acted_at, "acted"), (record.escalated_at, "escalated")):
        if at is not None:
            yield Mark(at, label)


def _by_hand(record: Record) -> Iterator[Block]:
    for number, step in enumerate(record.advice or general_steps(record), start=1):
        yield Command(number, step.title, step.command)


def _ends(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    if len(rows) <= 2 * ENDS:
        return tuple(rows)
    gap = (f"… {len(rows) - 2 * ENDS} more …", *[""] * (len(rows[0]) - 1))
    return (*rows[:ENDS], gap, *rows[-ENDS:])
