"""What the record suggests to do next. Pure: each function looks at one fact and says what follows."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from byteport.core.outcome import Result
from byteport.core.units import human_bytes, human_duration
from incidents.markup import md_escape
from incidents.record import Deed, Gate, Record
from incidents.trend import Growth, figure, growth_of
from runbooks.runbook import Look

# How hostctl names a step that was skipped because its tool is missing.
NOT_INSTALLED = "installed here"
FULL = 100.0
FAR = 48  # so many times as long as it was measured is as far as an estimate goes

# What a refusal asks for, by gate. The gate's own reason (with the remedy, where it has one) goes before it.
AFTER_REFUSAL: Mapping[str, str] = {
    "paused": "`manage.py agent resume` ends the pause.",
    "never": "Treat it by hand: this stays with people.",
    "verifiable": "Let BytePort read the resource itself, or have its sender report when it is over.",
    "opt_in": "Opt the resource in if BytePort may act on it; otherwise nothing is to be done.",
    "human_override": "Agree on who treats it.",
    "ineffective_loop": "Look for the cause; the runbook treats a symptom.",
    "budget": "Look for a common cause before the budget is raised.",
    "approval": "If nobody is there to approve in time, let the policy do without "
    "(`manage.py policy set RUNBOOK needs_approval=false`), or raise its time to live.",
}


def follow_ups(record: Record) -> list[str]:
    """Lines of Markdown, the most pressing first; empty when the facts suggest nothing."""
    return [line for rule in RULES for line in rule(record)]


def still_above(record: Record) -> Iterator[str]:
    value, clear = record.value_last, record.clear
    if not record.judged_by_value or value is None or clear is None or value < clear:
        return
    shown, bound = figure(value, record.unit), figure(clear, record.unit)
    yield f"The latest value that was measured is {shown}, still not below {bound}: it may not be over for good."


def recurred(record: Record) -> Iterator[str]:
    if not record.earlier_count:
        return
    links = ", ".join(
        f"[{earlier.id}]({record.base_url}/incidents/{earlier.id}/postmortem)" for earlier in record.earlier
    )
    times = "once" if record.earlier_count == 1 else f"{record.earlier_count} times"
    latest = " (the latest)" if record.earlier_count > len(record.earlier) else ""
    yield (
        f"The same happened to this resource {times} in the 30 days before: see {links}{latest}."
        " Treat the cause, not only the symptom."
    )


def refused(record: Record) -> Iterator[str]:
    """What the gates of the last round refused, and what follows for the next time."""
    for gate in last_round(record):
        if not gate.allowed and gate.name == "dry_run":
            yield dry_run_off(record, gate)
        elif not gate.allowed and gate.name in AFTER_REFUSAL:
            yield f"{md_escape(gate.reason)} {AFTER_REFUSAL[gate.name]}"


def dry_run_off(record: Record, gate: Gate) -> str:
    policy = f" (for this runbook alone: `manage.py policy set {record.runbook} dry_run=false`)"
    alone = policy if record.runbook.isidentifier() else ""
    return f"{md_escape(gate.reason)} To let BytePort act: `manage.py agent dry-run off`{alone}."


def last_round(record: Record) -> list[Gate]:
    """The verdicts that counted."""
    latest = max((gate.round for gate in record.gates), default=0)
    return [gate for gate in record.gates if gate.round == latest]


def went_wrong(record: Record) -> Iterator[str]:
    for deed in record.deeds:
        line = _after(deed)
        if line:
            yield line


def _after(deed: Deed) -> str:
    what, why = md_escape(deed.summary or deed.name), md_escape(deed.message or "no reason was given")
    if deed.status == Result.FAILED:
        return f"“{what}” failed ({why}). Find out why before the next time."
    if deed.status == Result.UNKNOWN:
        return f"Nobody can tell how “{what}” ended ({why}). Check by hand what it has done."
    if deed.status == Result.REFUSED:
        return f"“{what}” was refused at the last call ({why}). This should not have got that far: report it."
    if deed.status == Result.SKIPPED and deed.message.endswith(NOT_INSTALLED):
        return f"“{what}” was skipped ({why}). Install it if it belongs there; else nothing is to be done."
    return ""


def unverified(record: Record) -> Iterator[str]:
    blind = sum(look.look == Look.INCONCLUSIVE for look in record.looks)
    if blind:
        yield (
            f"{blind} of {len(record.looks)} looks at the signal after the action saw nothing."
            " See to it that its source can be read."
        )


def unplanned(record: Record) -> Iterator[str]:
    if record.was_escalated and not record.has_runbook:
        yield f"BytePort has no runbook for {md_escape(record.signal)}: write one, or leave it to people."


def growing(record: Record) -> Iterator[str]:
    """When a file system is full, by the samples before anything was done: of a day, or else of half an hour."""
    grown = (growth_of(points, until=record.acted_at) for points in (record.history, record.trend))
    growth = next(filter(None, grown), None)
    if record.signal != "disk_pressure" or record.value_last is None or growth is None:
        return
    full = _when_full(record, growth, FULL - record.value_last)
    if full:
        yield (
            f"Rough estimate, by a straight line through {growth.samples} samples of the"
            f" {human_duration(growth.over.total_seconds())} before anything was done: it grows by about"
            f" {growth.per_day:.1f} percentage points{_in_bytes(record, growth.per_day)} a day. From"
            f" {figure(record.value_last, record.unit)} on it would be full {full}."
        )


def _when_full(record: Record, growth: Growth, left: float) -> str:
    """A span of time, by the faster and the slower half; empty where that is too far off to be told from so little."""
    seen_at = record.trend.points[-1].at if record.trend.points else record.detected_at
    far_days = FAR * (growth.over / timedelta(days=1))
    soonest_days = left / growth.fastest
    latest_days = left / growth.slowest if growth.slowest > 0 else math.inf
    if not 0 <= soonest_days <= far_days:
        return ""
    first = _to_the_minute(seen_at + timedelta(days=soonest_days))
    if latest_days > far_days:
        return f"on {first} UTC at the soonest: it does not grow evenly"
    last = _to_the_minute(seen_at + timedelta(days=latest_days))
    return f"on {first} UTC" if first == last else f"between {first} and {last} UTC, by its faster and its slower half"


def _to_the_minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def raised_before(record: Record) -> Iterator[str]:
    """A memory limit that BytePort has raised already, and that was too low again."""
    container = _part(record.diagnosis.facts if record.diagnosis else {}, "container")
    limits, ended = _part(container, "limits"), _part(container, "ended")
    noted, now = str(limits.get("noted") or ""), str(limits.get("now") or "")
    if record.signal == "pod_crashloop" and ended.get("reason") == "OOMKilled" and noted:
        yield (
            f"The memory limit of container {md_escape(str(container.get('name')))} was raised before (from"
            f" {md_escape(noted)} at first to {md_escape(now)}), and was too low again: look for a leak before it is"
            " raised by hand."
        )


def _part(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = facts.get(name)
    return found if isinstance(found, dict) else {}


def leaking(record: Record) -> Iterator[str]:
    """What makes the server end such transactions by itself."""
    sessions = record.diagnosis.facts.get("sessions") if record.diagnosis else None
    if record.signal != "idle_in_transaction" or not isinstance(sessions, list | tuple):
        return
    holders = Counter(str(one.get("application") or "") for one in sessions if isinstance(one, dict))
    for application, count in holders.most_common(1):
        who = f"the application {md_escape(application)}" if application else "an application without a name"
        yield (
            f"{count} of {len(sessions)} sessions were of {who}: find where it begins a transaction and does not end"
            " it. `idle_in_transaction_session_timeout`, set for its role, has the server end them by itself."
        )


def _in_bytes(record: Record, growth: float) -> str:
    total = record.capacity_bytes
    return f" ({human_bytes(growth / FULL * total)})" if total else ""


RULES = (still_above, recurred, refused, went_wrong, unverified, unplanned, growing, raised_before, leaking)
