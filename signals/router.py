"""The signal router: sustained window → severity. Pure: a series as it was, a reading, and what follows.

Every "no" has a name (`Why`), because operators ask "why not" more often than "why".
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from byteport.core.outcome import Severity
from signals.reading import Reading, State

SEVERITIES = {severity.value: severity for severity in Severity}


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The thresholds that apply to a signal. Values in its unit; times in seconds."""

    enabled: bool = True
    threshold: float
    critical: float
    clear: float
    sustain_s: float
    max_gap_s: float


class Track(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a series between two readings."""

    last_at: datetime | None = None
    last_value: float | None = None
    breach_since: datetime | None = None
    clear_since: datetime | None = None


class Why(StrEnum):
    """What a reading led to, or why it led to nothing."""

    FIRES = "fires"
    CLEARS = "clears"
    NOT_SUSTAINED = "above the threshold, but not yet for long enough"
    NOT_CLEAR_FOR_LONG = "below the clear threshold, but not yet for long enough"
    BETWEEN = "between the clear threshold and the threshold"
    LATE = "late or duplicate: a newer reading is known"
    UNKNOWN_STATE = "the sender's status is not one that BytePort knows"
    NO_VALUE = "a measurement without a value"
    SWITCHED_OFF = "the signal is switched off in its policy"
    FROM_THE_FUTURE = "its time lies in the future: a clock is wrong"


class Routed(msgspec.Struct, frozen=True, gc=False):
    """The router's answer: what to remember, what it means, and how bad it is if it fires."""

    track: Track
    why: Why
    severity: Severity = Severity.WARNING


def route(track: Track, reading: Reading, rule: Rule) -> Routed:
    """Judges one reading. A late or duplicate one changes nothing; a gap starts the sustained window again."""
    if track.last_at is not None and reading.at <= track.last_at:
        return Routed(track, Why.LATE)
    if reading.state is State.UNKNOWN:
        return Routed(track, Why.UNKNOWN_STATE)
    if reading.state is not State.MEASURED:
        return _route_judged(reading, rule)
    if reading.value is None or reading.value != reading.value:
        return Routed(track, Why.NO_VALUE)
    return _route_measured(track, reading, reading.value, rule)


def _route_judged(reading: Reading, rule: Rule) -> Routed:
    """The sender has watched over a window of its own; BytePort takes its word for what it is."""
    firing = reading.state is State.FIRING
    moved = Track(reading.at, reading.value, reading.at if firing else None, None if firing else reading.at)
    if not rule.enabled:
        return Routed(moved, Why.SWITCHED_OFF)
    return Routed(moved, Why.FIRES, severity_of(reading, rule)) if firing else Routed(moved, Why.CLEARS)


def _route_measured(track: Track, reading: Reading, value: float, rule: Rule) -> Routed:
    gap_s = rule.max_gap_s + reading.period_s  # what comes once in a period is not silent in between
    gap = track.last_at is None or (reading.at - track.last_at).total_seconds() > gap_s
    breach_since = clear_since = None
    if value > rule.threshold:
        breach_since = reading.at if gap or track.breach_since is None else track.breach_since
    elif value < rule.clear:
        clear_since = reading.at if gap or track.clear_since is None else track.clear_since
    moved = Track(reading.at, value, breach_since, clear_since)
    return Routed(moved, _why(moved, reading.at, rule), severity_of(reading, rule))


def _why(track: Track, at: datetime, rule: Rule) -> Why:
    if not rule.enabled:
        return Why.SWITCHED_OFF
    if track.breach_since is not None:
        sustained = (at - track.breach_since).total_seconds() >= rule.sustain_s
        return Why.FIRES if sustained else Why.NOT_SUSTAINED
    if track.clear_since is not None:
        sustained = (at - track.clear_since).total_seconds() >= rule.sustain_s
        return Why.CLEARS if sustained else Why.NOT_CLEAR_FOR_LONG
    return Why.BETWEEN


def severity_of(reading: Reading, rule: Rule) -> Severity:
    """The sender's own word (`labels["severity"]`) where it is one of ours, or else by the critical threshold."""
    if reading.state is not State.MEASURED:
        said = SEVERITIES.get(reading.labels.get("severity", "").lower())
        if said is not None:
            return said
    critical = reading.value is not None and reading.value >= rule.critical
    return Severity.CRITICAL if critical else Severity.WARNING
