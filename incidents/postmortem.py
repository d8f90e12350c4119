"""The postmortem: one incident in Markdown, from the record alone.

Each section is a function of the record; SECTIONS is their order. `docs/postmortem.md` says what is in it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

import msgspec

from byteport.core.outcome import Result
from byteport.core.units import human_bytes, human_duration
from incidents.followups import follow_ups
from incidents.markup import NOTHING, cell, fence, md_escape, table
from incidents.record import Deed, Gap, Gate, Record, Word, record_of
from incidents.trend import NO_SAMPLES, figure, sparkline
from signals.models import ResolvedBy, SignalEvent, Status

FIGURES = 10  # shown of one action's result
SHORTENED = "The console has the whole; this was shortened.\n"
GREATEST = 1e18  # a figure beyond is none

WHO: Mapping[str, str] = {
    ResolvedBy.BYTEPORT: "by BytePort",
    ResolvedBy.PERSON: "while people had it",
    ResolvedBy.ITSELF: "by itself",
}

Section = Callable[[Record], str]


def render(event: SignalEvent) -> str:
    """The event's postmortem as Markdown; a draft while the event is open."""
    return render_record(record_of(event))


def render_record(record: Record) -> str:
    """The same record gives the same text. Pure."""
    return "\n\n".join(text for section in SECTIONS if (text := section(record))) + "\n"


# ------------------------------------------------------------------------------------------ the sections


def title(record: Record) -> str:
    word = "Draft postmortem" if record.is_open else "Postmortem"
    heading = f"# {word} of incident {record.id}: {md_escape(record.signal)}, {md_escape(record.label)}"
    if not record.is_open:
        return heading
    note = f"**Draft:** the incident is still open ({_words(record.status)}); this page changes with it."
    return f"{heading}\n\n{note}"


def summary(record: Record) -> str:
    rows = [
        ("Severity", cell(record.severity)),
        ("Status", _status(record)),
        ("Resource", f"{cell(record.label)} ({cell(record.resource)})"),
        ("Detected", stamp(record.detected_at)),
        ("Acted", stamp(record.acted_at)),
        ("Escalated", stamp(record.escalated_at)),
        ("Resolved", stamp(record.resolved_at)),
        ("Time to resolve", span(record.detected_at, record.resolved_at)),
        *_values(record),
        ("Runbook", cell(record.runbook)),
        ("Dry-run", _dry_run(record)),
    ]
    return _section("Summary", table(("Fact", "On record"), ((f"**{name}**", text) for name, text in rows)))


def _values(record: Record) -> Iterator[tuple[str, str]]:
    """Where senders judge, they need not send any."""
    end = "Value at the end" if not record.is_open else "Latest value"
    if record.judged_by_value or record.value_then is not None:
        yield "Value at detection", f"{_figure(record, record.value_then)}{_against(record)}"
    if record.judged_by_value or record.value_last is not None:
        yield end, _figure(record, record.value_last)


def story(record: Record) -> str:
    return _section("What happened", " ".join((_detected(record), _done(record), _ended(record))))


def impact(record: Record) -> str:
    """For how long, how bad, on what; and what is not known."""
    rows = [
        ("For how long", _lasted(record)),
        ("How bad", _how_bad(record)),
        ("On what", cell(record.label)),
        ("Fired again while open", f"{record.repeats:,} times" if record.repeats else "never"),
    ]
    facts = table(("Question", "On record"), ((f"**{name}**", text) for name, text in rows))
    return _section("Impact", facts, "What users noticed of it is not on record.")


def timeline(record: Record) -> str:
    lines = sorted([*_entries(record), *_deeds_as_lines(record)], key=lambda line: line.at)
    rows, before = [], None
    for line in lines:
        rows.append((stamp(line.at), span(before, line.at), line.who, line.what, line.message))
        before = line.at
    return _section("Timeline", table(("Time (UTC)", "After", "Who", "What", "Message"), rows)) if rows else ""


def root_cause(record: Record) -> str:
    found = record.diagnosis
    if found is None:
        return _section("Root cause", "No diagnosis was made: BytePort did not get as far as looking.")
    evidence = [f"- {md_escape(line)}" for line in found.evidence[:20]] or ["- Nothing was seen."]
    guess = "" if found.confident else " (a guess: it fits what was seen, and nothing has proven it)"
    inference = f"**Inference**{guess}: {md_escape(found.inference) or NOTHING}"
    return _section("Root cause", "**Evidence**, as it was seen:", "\n".join(evidence), inference)


def actions(record: Record) -> str:
    done = [deed for deed in record.deeds if not deed.dry_run]
    simulated = [deed for deed in record.deeds if deed.dry_run]
    parts = [_deeds_table(done)] if done else []
    if simulated:
        parts += ["In dry-run; nothing of this was done:", _deeds_table(simulated)]
    if record.deeds_cut.left_out:
        parts.append(f"{record.deeds_cut.left_out:,} more are on record and left out here.")
    return _section("Actions", *(parts or ["None."]))


def gates(record: Record) -> str:
    rows = [
        (cell(gate.name), "allowed" if gate.allowed else "**refused**", cell(gate.reason), stamp(gate.at))
        for gate in (*refusals(record.gates), *_allowed_last(record.gates))
    ]
    parts = [table(("Gate", "Verdict", "Reason", "Time (UTC)"), rows)] if rows else ["No gate was asked."]
    asked = [f"- {_asked(word)}" for word in record.approvals]
    return _section("What the gates said", *parts, *(["\n".join(asked)] if asked else []))


def verification(record: Record) -> str:
    acted = max((deed.finished_at for deed in record.deeds if deed.finished_at and not deed.dry_run), default=None)
    rows = [
        (
            stamp(look.at),
            span(acted, look.at),
            _figure(record, look.value),
            cell(look.look),
            cell(look.message),
        )
        for look in record.looks
    ]
    if not rows:
        return (
            _section("Verification", "The signal was not looked at again, since nothing was done.") if not acted else ""
        )
    if record.looks_cut.left_out:
        rows.insert(record.looks_cut.after, (f"… {record.looks_cut.left_out:,} more …", "", "", "", ""))
    header = ("Time (UTC)", "After the last action", "Value", "Look", "What was seen")
    if record.judged_by_value or any(look.value is not None for look in record.looks):
        return _section("Verification", table(header, rows))
    return _section("Verification", table(_without_value(header), map(_without_value, rows)))


def _without_value(row: Sequence[str]) -> Sequence[str]:
    return (*row[:2], *row[3:])


def trend(record: Record) -> str:
    points = record.trend.points
    if not points:
        return _section("Trend", NO_SAMPLES)
    values = (record.trend.low, record.trend.high, record.trend.last)
    bounds = [_figure(record, level) for level in (record.threshold, record.clear)] if record.judged_by_value else []
    header = ("Lowest", "Highest", "Latest", *(("Threshold", "Clear below") if bounds else ()))
    return _section(
        "Trend",
        f"`{sparkline(record.trend)}`",
        f"From {stamp(points[0].at)} to {stamp(points[-1].at)} UTC.",
        table(header, [[*(_figure(record, value) for value in values), *bounds]]),
    )


def next_steps(record: Record) -> str:
    lines = [f"- {line}" for line in follow_ups(record)]
    return _section("Follow-ups", "\n".join(lines) if lines else "None: the facts suggest nothing further.")


def manual_steps(record: Record) -> str:
    if not record.advice:
        return ""
    steps = (
        f"{number}\\. {md_escape(step.title)}:\n\n{fence(step.command, 'sh')}"
        for number, step in enumerate(record.advice, start=1)
    )
    return _section("Manual steps", *steps)


def footer(record: Record) -> str:
    link = f"[Incident {record.id}]({record.base_url}/incidents/{record.id}/)"
    return f"---\n\n{link}. Times are UTC. Sizes are decimal: 1 GB is 1,000,000,000 bytes."


SECTIONS: Sequence[Section] = (
    title,
    summary,
    story,
    impact,
    timeline,
    root_cause,
    actions,
    gates,
    verification,
    trend,
    next_steps,
    manual_steps,
    footer,
)


# What would be missed least comes first, where the whole is too long.
LEFT_OUT_FIRST: Sequence[Section] = (
    timeline,
    verification,
    gates,
    impact,
    root_cause,
    trend,
    actions,
    manual_steps,
    next_steps,
)


def render_within(record: Record, limit: int) -> str:
    """The postmortem in `limit` characters: without some of its sections where the whole has more."""
    parts = {section: section(record) for section in SECTIONS}
    whole = "\n\n".join(filter(None, parts.values()))
    if len(whole) < limit:
        return f"{whole}\n"
    left_out = iter(LEFT_OUT_FIRST)
    while len(whole) + len(SHORTENED) + 2 > limit and (section := next(left_out, None)):
        del parts[section]
        whole = "\n\n".join(filter(None, parts.values()))
    return f"{whole}\n\n{SHORTENED}"


# --------------------------------------------------------------------------------------------- the words


def stamp(at: datetime | None) -> str:
    """A moment in UTC, to the second; a dash for none."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else NOTHING


def span(start: datetime | None, end: datetime | None) -> str:
    """The time between two moments; a dash when one is missing."""
    return human_duration((end - start).total_seconds()) if start and end else NOTHING


def _section(heading: str, *parts: str) -> str:
    return "\n\n".join((f"## {heading}", *parts))


def _words(status: str) -> str:
    return md_escape(status.replace("_", " "))


def _figure(record: Record, value: float | None) -> str:
    return md_escape(figure(value, record.unit))


def _status(record: Record) -> str:
    if record.is_open:
        return f"{_words(record.status)} (still open)"
    return f"resolved {WHO.get(record.resolved_by, '')}".rstrip()


def _against(record: Record) -> str:
    if not record.judged_by_value or record.threshold is None:
        return ""
    return f" (threshold {_figure(record, record.threshold)})"


def _lasted(record: Record) -> str:
    """The time from detection to the end; the sustained window before it is not counted."""
    if record.resolved_at is None:
        return f"since {stamp(record.detected_at)} UTC, and not over"
    return f"{span(record.detected_at, record.resolved_at)} from detection to the end"


def _how_bad(record: Record) -> str:
    if not record.judged_by_value or not record.trend.points:
        return cell(record.severity)
    highest = _figure(record, record.trend.high)
    return f"{cell(record.severity)}: {highest} at the highest that was measured{_against(record)}"


def _dry_run(record: Record) -> str:
    said = [gate.allowed for gate in record.gates if gate.name == "dry_run"]
    if any(not deed.dry_run for deed in record.deeds) or (said and said[-1]):
        return "no"
    return "yes: nothing was changed" if said else "it did not come to that"


def _detected(record: Record) -> str:
    what, where = md_escape(record.title), md_escape(record.label)
    sender = f", reported by {md_escape(record.source)}" if record.source else ""
    sentence = f"At {stamp(record.detected_at)} UTC BytePort detected {what} on {where}{sender}"
    if not record.judged_by_value or record.value_then is None:
        return f"{sentence}."
    against = f" against a threshold of {_figure(record, record.threshold)}" if record.threshold is not None else ""
    return f"{sentence}: {_figure(record, record.value_then)}{against}."


def _done(record: Record) -> str:
    done = [deed for deed in record.deeds if not deed.dry_run]
    runbook = md_escape(record.runbook) or "its runbook"
    if done:
        return f"BytePort ran {runbook}: {_counted(done)}."
    if record.deeds:
        counted = _counted(record.deeds)
        return f"BytePort was in dry-run and changed nothing; it would have run {runbook}, {counted}."
    return "BytePort changed nothing."


def _counted(deeds: Sequence[Deed]) -> str:
    """`of 4 steps 3 done, 1 skipped`."""
    counts = Counter(deed.status for deed in deeds)
    told = ", ".join(f"{number} {md_escape(status)}" for status, number in counts.items())
    return f"of {len(deeds)} step{'s' if len(deeds) != 1 else ''} {told}"


def _ended(record: Record) -> str:
    after = span(record.detected_at, record.resolved_at)
    handed = span(record.detected_at, record.escalated_at)
    handed_over = f"It was handed over to people after {handed}: {_sentence(record.why_escalated)}"
    if record.resolved_by == ResolvedBy.PERSON:
        return f"{handed_over} The signal cleared {after} after detection, while people had it."
    if record.resolved_by == ResolvedBy.ITSELF:
        return f"The signal cleared by itself {after} after detection."
    if record.resolved_by:
        return f"It was resolved by BytePort {after} after detection: {_sentence(record.reason)}"
    if record.status == Status.ESCALATED:
        return f"{handed_over} The signal has not cleared yet."
    return f"It is still open ({_words(record.status)}): {_sentence(record.reason)}"


def _sentence(text: str) -> str:
    told = md_escape(text) or "no reason is on record"
    return told if told.endswith((".", "!", "?", "…")) else f"{told}."


class _Line(msgspec.Struct, frozen=True):
    """A row of the timeline, its texts escaped."""

    at: datetime
    who: str
    what: str
    message: str


def _entries(record: Record) -> Iterator[_Line]:
    gap: Gap = record.timeline_cut
    for place, entry in enumerate(record.timeline):
        if gap.left_out and place == gap.after:
            yield _Line(entry.at, NOTHING, "…", f"{gap.left_out:,} more are on record and left out here")
        yield _Line(entry.at, cell(entry.who), _words(entry.kind), cell(entry.message))


def _deeds_as_lines(record: Record) -> Iterator[_Line]:
    for deed in record.deeds:
        what = "dry run" if deed.dry_run else "action"
        yield _Line(deed.started_at, "byteport", what, f"{cell(deed.summary or deed.name)}: {_result(deed)}")


def _deeds_table(deeds: Sequence[Deed]) -> str:
    rows = (
        (
            stamp(deed.started_at),
            cell(deed.summary or deed.name),
            _result(deed),
            figures(deed.result),
            span(deed.started_at, deed.finished_at),
        )
        for deed in deeds
    )
    return table(("Begun (UTC)", "Action", "Result", "Figures", "Took"), rows)


def _result(deed: Deed) -> str:
    if not deed.is_over:
        return "begun, and not ended yet"
    message = md_escape(deed.message)
    word = f"**{_words(deed.status)}**" if deed.status != Result.DONE else "done"
    return f"{word}: {message}" if message else word


def figures(result: Mapping[str, object]) -> str:
    """The figures of an action's result as one line, e.g. `found: 42 files, 1.2 GB; errors: EACCES 3`."""
    told = (f"{key.removesuffix('_bytes').replace('_', ' ')}: {text}" for key, text in _told(result))
    return cell("; ".join(islice(told, FIGURES)))


def _told(result: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in result.items():
        if isinstance(value, Mapping):
            text = ", ".join(_scalar(str(name), inner) for name, inner in islice(value.items(), FIGURES))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            shown = list(filter(None, (_scalar("", inner) for inner in value[:3])))
            text = ", ".join(shown) + (" …" if shown and len(value) > 3 else "")
        else:
            text = _scalar(key if key.endswith("_bytes") else "", value)
        if text.strip():
            yield key, text


def _scalar(name: str, value: object) -> str:
    """`42 files`, `1.2 GB`, `EACCES 3`; nothing for what is not set or not a figure."""
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}".strip()
    if isinstance(value, int | float):
        if not abs(value) < GREATEST:
            return ""
        return human_bytes(value) if name.endswith("bytes") else f"{name} {value:,}".strip()
    return f"{name} {value}".strip() if isinstance(value, str) and value else ""


def refusals(said: Sequence[Gate]) -> Iterator[Gate]:
    """Every refusal once, as it was first said."""
    seen = set()
    for gate in said:
        if not gate.allowed and (gate.name, gate.reason) not in seen:
            seen.add((gate.name, gate.reason))
            yield gate


def _allowed_last(said: Sequence[Gate]) -> Iterator[Gate]:
    """What each gate that allows it at last has said last, in the order of the gates."""
    latest = {gate.name: gate for gate in said}
    yield from (gate for gate in latest.values() if gate.allowed)


def _asked(word: Word) -> str:
    asked = f"Approval was asked for at {stamp(word.requested_at)} UTC"
    if word.approved is None:
        return f"{asked}; nobody decided by {stamp(word.expires_at)} UTC."
    why = f" ({md_escape(word.why)})" if word.why else ""
    verb = "approved" if word.approved else "refused"
    return f"{asked}, and {verb} by {md_escape(word.by)} at {stamp(word.decided_at)} UTC{why}."
