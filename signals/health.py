"""What is known of each source's health, and the configuration that a source is called with."""

import threading
import time
from datetime import datetime

import structlog
from django.db import Error as DatabaseError
from django.db.models import Case, F, Q, Value, When

from byteport.sealing import unseal
from signals.mapping import RuleSet
from signals.models import AlertMapping, Source
from signals.source import Progress, SourceConfig
from signals.standard_alerts import STANDARD_RULES

log = structlog.get_logger()

NOTE_EVERY_S = 1.0  # webhooks that call at the same time do not queue up for their source's row
REFUSAL_EVERY_S = 5.0  # strangers can be refused as often as they like, and are not to keep the database busy with it

RULES_S = 2.0
MOST_RULES = 1000

SOURCES_S = 1.0
AGAIN_S = 0.1
MOST_SOURCES = 1000  # names that are remembered, those of strangers' guesses included

_sources: dict[str, tuple[float, Source | None]] = {}  # by slug; when it was read, and it
_rules: dict[int, tuple[float, RuleSet]] = {}  # by source; when they were read, and they
_lock = threading.Lock()
_next_note: dict[str, float] = {}  # by slug, on the monotonic clock
_next_refusal: dict[str, float] = {}  # by slug, likewise
_unnoted: dict[str, int] = {}  # readings that came in between


def enabled_source(slug: str) -> Source | None:
    """The source of that name, as it was within the last SOURCES_S seconds."""
    read_at, row = _sources.get(slug, (float("-inf"), None))
    return _read_source(slug) if time.monotonic() - read_at > SOURCES_S else row


def has_changed(slug: str) -> bool:
    """Whether the source is another than is remembered: for a call that does not prove itself, which may be due to a
    secret made since. Looks every AGAIN_S at most, so that strangers cannot have it look all the time."""
    read_at, row = _sources.get(slug, (float("-inf"), None))
    if time.monotonic() - read_at < AGAIN_S:
        return False
    fresh = _read_source(slug)
    return (
        row is not None
        and fresh is not None
        and (row.sealed_secret, row.options) != (fresh.sealed_secret, fresh.options)
    )


def _read_source(slug: str) -> Source | None:
    row = Source.objects.filter(slug=slug, enabled=True).first()
    if len(_sources) >= MOST_SOURCES:
        _sources.clear()
    _sources[slug] = (time.monotonic(), row)
    return row


def config_of(row: Source) -> SourceConfig:
    """The row as its source gets it: the secret unsealed, the mapping's rules in order."""
    secret = unseal(row.sealed_secret) if row.sealed_secret else ""
    return SourceConfig(row.slug, row.options, secret, rules_of(row.pk), Progress(row.read_until))


def rules_of(source_id: int) -> RuleSet:
    """The operator's rules for a source, then the standard ones. A change is seen within RULES_S seconds."""
    read_at, known = _rules.get(source_id, (float("-inf"), STANDARD_RULES))
    if time.monotonic() - read_at > RULES_S:
        own = AlertMapping.objects.filter(Q(source=source_id) | Q(source=None), enabled=True)[:MOST_RULES]
        rules = (*(mapping.rule() for mapping in own), *STANDARD_RULES.rules)
        known = known if rules == known.rules else RuleSet(rules)
        _rules[source_id] = (time.monotonic(), known)
    return known


def forget() -> None:
    """Makes this process read sources and rules anew, and note what comes next."""
    for known in (_rules, _sources, _next_note, _next_refusal):
        known.clear()


def succeeded(
    slug: str, *, at: datetime, readings: int, latest: datetime | None, read_until: datetime | None = None
) -> None:
    """Notes that a source was read, or has called."""
    fields = {"last_reading_at": latest} if latest else {}
    fields |= {"read_until": read_until} if read_until else {}
    Source.objects.filter(slug=slug).update(
        last_success_at=at, last_error="", readings_total=F("readings_total") + readings, **fields
    )


def called(slug: str, *, at: datetime, readings: int, latest: datetime | None) -> None:
    """Notes that a webhook has called, about once a second in this process. What it brought is safe already, so a
    database that goes away now is no reason to have it sent again."""
    with _lock:
        _unnoted[slug] = _unnoted.get(slug, 0) + readings
        if time.monotonic() < _next_note.get(slug, float("-inf")):
            return
        _next_note[slug] = again = time.monotonic() + NOTE_EVERY_S
        if slug in _next_refusal:  # else it would look well while half of its calls are refused
            _next_refusal[slug] = min(_next_refusal[slug], again)
        readings = _unnoted.pop(slug)
    try:
        succeeded(slug, at=at, readings=readings, latest=latest)
    except DatabaseError as error:
        log.warning("a source's health could not be noted", source=slug, error=str(error).strip())


def failed(slug: str, *, at: datetime, error: str) -> None:
    """Notes that a source could not be read. The text is shown to operators."""
    Source.objects.filter(slug=slug).update(last_error_at=at, last_error=error[:2000])


def refused(slug: str, *, at: datetime, why: str) -> None:
    """Notes that a webhook's call was refused, so that whoever sets its sender up, or misses its alerts, sees it. Never
    an error of its own: the caller has an answer already."""
    with _lock:
        if time.monotonic() < _next_refusal.get(slug, float("-inf")):
            return
    try:
        if enabled_source(slug) is None:
            return
        with _lock:
            _next_refusal[slug] = time.monotonic() + REFUSAL_EVERY_S
            _next_note.pop(slug, None)  # the next call that is taken says at once that all is well again
        failed(slug, at=at, error=why)
    except DatabaseError as error:
        log.warning("a source's health could not be noted", source=slug, error=str(error).strip())


def spent(slug: str, progress: Progress, *, at: datetime) -> None:
    """Notes the calls that a source has made, by day (UTC)."""
    if progress.calls:
        today = Q(calls_on=at.date())
        counted = Case(When(today, then=F("calls_today") + progress.calls), default=Value(progress.calls))
        before = Case(When(today, then=F("calls_yesterday")), default=F("calls_today"))
        Source.objects.filter(slug=slug).update(calls_on=at.date(), calls_today=counted, calls_yesterday=before)
