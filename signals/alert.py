"""Alert: the one form in which every foreign sender's alerts arrive, and how one becomes a Reading. Pure."""

from collections.abc import Mapping
from datetime import datetime
from itertools import islice

import msgspec

from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.mapping import meaning_of
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
    """What a sender says of one alert. `at` is when it was so; `value` is in the sender's own unit."""

    name: str
    state: State
    at: datetime
    labels: Mapping[str, str]  # labels, tags, dimensions: what the mapping goes by
    notes: Mapping[str, str] = {}  # summary and description, for people
    severity: Severity | None = None
    key: str = ""  # keeps apart alerts of one name on one thing, when no rule knows the name
    incident: str = ""  # the sender's own key of the incident
    extra: Mapping[str, str] = {}  # labels of BytePort's own (`byteport.…`)


def severity_of(word: str) -> Severity | None:
    """The sender's word for it; None when it is not one that BytePort knows."""
    return SEVERITIES.get(word.lower())


def reading_of(alert: Alert, config: SourceConfig, *, kind: str, reports_end: bool = True) -> Reading:
    """The alert in BytePort's terms, by the source's mapping. `reports_end`: what holds when the options are silent."""
    sender = ResourceRef(kind, config.slug, "alert", (alert.name or "unnamed")[:64])
    meaning = meaning_of(alert.name, alert.labels, config.rules, sender=sender, key=alert.key)
    return Reading(
        signal=meaning.signal,
        resource=meaning.resource,
        at=alert.at,
        state=alert.state,
        detail=meaning.detail,
        source=config.slug,
        labels={**_labels(alert, config.options.get("reports_end", reports_end) is True), MAPPING: meaning.why},
    )


def _labels(alert: Alert, reports_end: bool) -> dict[str, str]:
    """What is kept with the incident. What cannot be kept as it is, is shortened: a sender may not send it again."""
    said = {**{key: alert.notes[key] for key in NOTES if key in alert.notes}, **foreign_labels(alert.labels)}
    labels = {clean(key, LABEL_KEY_CHARS): clean(said[key], LABEL_VALUE_CHARS) for key in islice(said, LABELS)}
    if alert.severity:
        labels["severity"] = alert.severity.value
    if alert.incident:
        labels[INCIDENT] = clean(alert.incident, LABEL_VALUE_CHARS)
    if reports_end:
        labels[REPORTS_END] = "true"
    return {**labels, **alert.extra}


def clean(text: str, most: int) -> str:
    return CONTROL.sub("\ufffd", text[:most])


def flat_texts(given: Mapping[str, object]) -> dict[str, str]:
    """The texts, numbers and truths of a JSON object, as labels; what is nested is left out."""
    return {key: _text(value) for key, value in given.items() if isinstance(value, str | int | float)}


def _text(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
