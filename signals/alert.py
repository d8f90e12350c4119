"""Alert: the one form in which every foreign sender's alerts arrive, and how one becomes a Reading. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice

import msgspec

from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.mapping import Meaning, meaning_of
from signals.reading import Reading, State
from signals.source import SourceConfig
from signals.untrusted import CONTROL, LABEL_KEY_CHARS, LABEL_VALUE_CHARS, LABELS, foreign_labels

INCIDENT = "byteport.incident"  # the sender's own key of its incident
REPORTS_END = "byteport.reports_end"  # the sender says when it is over
MAPPING = "byteport.mapping"  # which rule said what it is about
NOTES = ("summary", "description")

SEVERITIES = {
    **dict.fromkeys(("critical", "page", "emergency", "fatal", "high", "error"), Severity.CRITICAL),
    **dict.fromkeys(("warning", "warn", "medium", "ticket"), Severity.WARNING),
    **dict.fromkeys(("info", "informational", "notice", "low"), Severity.INFO),
}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender says of one alert. `at` is when it was so."""

    name: str
    state: State
    at: datetime
    labels: Mapping[str, str]  # labels, tags, dimensions: what the mapping goes by
    notes: Mapping[str, str] = {}  # summary and description, for people
    severity: Severity | None = None
    key: str = ""  # keeps apart alerts of one name on one thing, when no rule knows the name
    incident: str = ""  # the sender's own key of the incident
    sender: ResourceRef | None = None  # what it is about when nothing else is known; None: the source itself
    extra: Mapping[str, str] = {}  # labels of BytePort's own (`byteport.…`)


class Subject(msgspec.Struct, frozen=True):
    """What follows from an alert's name and labels alone, whenever and in whatever state it comes."""

    meaning: Meaning
    labels: dict[str, str]  # as they are kept


def severity_of(word: str) -> Severity | None:
    """The sender's word for it; None when it is not one that BytePort knows."""
    return SEVERITIES.get(word.lower())


def subject_of(
    name: str,
    labels: Mapping[str, str],
    config: SourceConfig,
    *,
    kind: str,
    key: str,
    sender: ResourceRef | None = None,
) -> Subject:
    """What the alert is about, by the source's mapping, and its labels as they are kept."""
    sender = sender or ResourceRef(kind, config.slug, "alert", (name or "unnamed")[:64])
    meaning = meaning_of(name, labels, config.rules, sender=sender, key=key)
    foreign = foreign_labels(labels)
    kept = {clean(each, LABEL_KEY_CHARS): clean(foreign[each], LABEL_VALUE_CHARS) for each in islice(foreign, LABELS)}
    return Subject(meaning, {**kept, MAPPING: meaning.why})


def reading_of(alert: Alert, config: SourceConfig, *, kind: str, reports_end: bool = True) -> Reading:
    """The alert in BytePort's terms. `reports_end`: what holds when the source's options are silent about it."""
    subject = subject_of(alert.name, alert.labels, config, kind=kind, key=alert.key, sender=alert.sender)
    return reading_about(subject, alert, config, ends=config.options.get("reports_end", reports_end) is True)


def reading_about(subject: Subject, alert: Alert, config: SourceConfig, *, ends: bool) -> Reading:
    """A reading of what is understood already. What is too long to keep is cut: its sender may not repeat it."""
    labels = {**_notes(alert.notes), **subject.labels}
    if alert.severity:
        labels["severity"] = alert.severity.value
    if alert.incident:
        labels[INCIDENT] = clean(alert.incident, LABEL_VALUE_CHARS)
    if ends:
        labels[REPORTS_END] = "true"
    return Reading(
        signal=subject.meaning.signal,
        resource=subject.meaning.resource,
        at=alert.at,
        state=alert.state,
        detail=subject.meaning.detail,
        source=config.slug,
        labels={**labels, **alert.extra} if alert.extra else labels,
    )


def _notes(notes: Mapping[str, str]) -> dict[str, str]:
    return {key: clean(notes[key], LABEL_VALUE_CHARS) for key in NOTES if key in notes}


def unix_time(seconds: float, now: datetime) -> datetime:
    """In UTC. One that is absurd, or lies ahead, is now."""
    try:
        return min(datetime.fromtimestamp(seconds, UTC), now)
    except (ValueError, OverflowError, OSError):
        return now


def text_time(text: str, now: datetime) -> datetime:
    """RFC 3339, or with an offset as CloudWatch writes it (`+0000`); it may lie ahead. What is neither is now."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return now
    return at if at.tzinfo else now


def clean(text: str, most: int) -> str:
    """Cut to `most` characters, and without what a database, a terminal or a log can choke on."""
    if len(text) <= most and text.isprintable():
        return text
    return CONTROL.sub("\ufffd", text[:most])


def flat_texts(given: Mapping[str, object]) -> dict[str, str]:
    """The texts, numbers and truths of a JSON object, as labels; what is nested is left out."""
    return {key: _text(value) for key, value in given.items() if isinstance(value, str | int | float)}


def _text(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
