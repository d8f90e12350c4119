"""How the console writes things: times, figures, statuses. All escaped; no colour stands without a word."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from byteport.core.clock import now
from byteport.core.outcome import Result, Severity
from byteport.core.resource import ResourceRef
from byteport.core.units import human_bytes, human_duration
from byteport.models import AuditEntry
from incidents.escalation.channel import Kind
from incidents.markup import to_html
from incidents.models import Delivery, Told
from incidents.roles import Deed, User, may
from runbooks.models import STARTED, AgentAction, GateVerdict
from runbooks.runbook import Look
from signals.catalog import CATALOG
from signals.models import ResolvedBy, SignalEvent, Status

register = template.Library()

Badge = tuple[str, str, str]  # tone (a colour of console.css), icon, words

STATUSES: Mapping[str, Badge] = {
    Status.DETECTED: ("active", "pulse", "Detected"),
    Status.DIAGNOSED: ("active", "search", "Diagnosed"),
    Status.AWAITING_APPROVAL: ("warn", "hand", "Waits for approval"),
    Status.SIMULATED: ("dry", "flask", "Simulated"),
    Status.ACTING: ("active", "wrench", "Acting"),
    Status.VERIFYING: ("active", "eye", "Verifying"),
    Status.RESOLVED: ("good", "check", "Resolved"),
    Status.ESCALATED: ("bad", "person", "Escalated"),
}
SEVERITIES: Mapping[str, Badge] = {
    Severity.CRITICAL: ("bad", "alert", "Critical"),
    Severity.WARNING: ("warn", "alert", "Warning"),
    Severity.INFO: ("plain", "info", "Info"),
}
RESULTS: Mapping[str, Badge] = {
    STARTED: ("active", "clock", "Started"),
    Result.DONE: ("good", "check", "Done"),
    Result.SKIPPED: ("plain", "skip", "Skipped"),
    Result.FAILED: ("bad", "cross", "Failed"),
    Result.REFUSED: ("bad", "shield", "Refused"),
    Result.SIMULATED: ("dry", "flask", "Simulated"),
    Result.UNKNOWN: ("warn", "info", "Unknown"),
}
LOOKS: Mapping[str, Badge] = {
    Look.GOOD: ("good", "check", "Good"),
    Look.BAD: ("bad", "cross", "Bad"),
    Look.INCONCLUSIVE: ("warn", "info", "Inconclusive"),
}
# Two gates refuse as a matter of course: one to simulate, one to ask.
REFUSALS: Mapping[str, Badge] = {
    "dry_run": ("dry", "flask", "Simulate only"),
    "approval": ("warn", "hand", "Ask a person"),
}
SOURCE_STATES: Mapping[str, Badge] = {
    "ok": ("good", "check", "Well"),
    "late": ("warn", "clock", "Late"),
    "failing": ("bad", "cross", "Failing"),
    "silent": ("plain", "clock", "Not called yet"),
    "off": ("plain", "pause", "Off"),
}
TOLD: Mapping[str, Badge] = {
    Told.WAITING: ("active", "clock", "On its way"),
    Told.SENDING: ("active", "clock", "On its way"),
    Told.SENT: ("good", "check", "Arrived"),
    Told.HELD: ("dry", "flask", "Not sent"),
    Told.FAILED: ("bad", "cross", "Failed"),
    Told.WITHDRAWN: ("plain", "skip", "Not needed any more"),
}
KINDS: Mapping[str, str] = {
    Kind.ESCALATED: "handed over",
    Kind.WORSENED: "told that it has grown worse",
    Kind.REMINDER: "reminded",
    Kind.CLEARED: "told that it is over",
}
BY_WHOM: Mapping[str, str] = {
    ResolvedBy.BYTEPORT: "by BytePort",
    ResolvedBy.PERSON: "by people",
    ResolvedBy.ITSELF: "by itself",
}
THEMES = ("auto", "dark", "light")
FIGURES_SHOWN = 12
THEME_COOKIE = "byteport_theme"


@register.simple_tag
def icon(name: str) -> SafeString:
    """A drawing beside words; never the only bearer of a meaning."""
    sprite = static("console/icons.svg")
    return format_html('<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"/></svg>', sprite, name)


def _badge(badge: Badge) -> SafeString:
    tone, drawing, words = badge
    return format_html('<span class="badge tone-{}">{}{}</span>', tone, icon(drawing), words)


def _known(badges: Mapping[str, Badge], key: str) -> Badge:
    return badges.get(key, ("plain", "info", key))


@register.simple_tag
def status_badge(event: SignalEvent) -> SafeString:
    tone, drawing, words = _known(STATUSES, event.status)
    if event.status != Status.RESOLVED:
        return _badge((tone, drawing, words))
    by_byteport = event.resolved_by == ResolvedBy.BYTEPORT
    return _badge((tone if by_byteport else "plain", drawing, f"{words} {BY_WHOM.get(event.resolved_by, '')}"))


@register.filter(name="may")
def may_do(user: User, deed: str) -> bool:
    """Whether the user's role allows it: `{% if user|may:"operate" %}`."""
    return may(user, Deed(deed))


@register.filter
def tone_of(status: str) -> str:
    return _known(STATUSES, status)[0]


@register.simple_tag
def severity_badge(severity: str) -> SafeString:
    return _badge(_known(SEVERITIES, severity))


@register.simple_tag
def result_badge(action: AgentAction) -> SafeString:
    """A dry run's “simulated” reads as what it is: it would have been done."""
    if action.status == Result.SIMULATED:
        return _badge(("dry", "flask", "Would have"))
    return _badge(_known(RESULTS, action.status))


@register.simple_tag
def look_badge(look: str) -> SafeString:
    return _badge(_known(LOOKS, look))


@register.simple_tag
def told_badge(delivery: Delivery) -> SafeString:
    """How a delivery stands; one that arrived with a warning, or keeps failing, is no plain good news."""
    if delivery.status == Told.SENT and delivery.error:
        return _badge(("warn", "alert", "Arrived in part"))
    if delivery.is_pending and delivery.failing_since:
        return _badge(("warn", "clock", "Tries again"))
    return _badge(_known(TOLD, delivery.status))


@register.filter
def told_kind(kind: str) -> str:
    return KINDS.get(kind, kind)


@register.filter
def as_markdown(text: str) -> SafeString:
    """What BytePort itself has written in Markdown, sanitised."""
    return to_html(text)


@register.simple_tag
def source_badge(state: str) -> SafeString:
    return _badge(_known(SOURCE_STATES, state))


@register.simple_tag
def verdict_badge(verdict: GateVerdict) -> SafeString:
    if verdict.allowed:
        return _badge(("good", "check", "Allowed"))
    return _badge(REFUSALS.get(verdict.gate, ("bad", "cross", "Refused")))


# --- times


def ago(seconds: float) -> str:
    """`just now`, `40 s ago`, `3 min ago`, `in 5 min`: one unit. console.js says the same (`ago`)."""
    whole = int(abs(seconds))
    if whole < 5:
        return "just now"
    size, unit = next(
        (size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if whole >= size
    )
    text = f"{whole // size} {unit}"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def _time(at: datetime, text: str, *, follows: bool) -> SafeString:
    exact = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    marker = "data-when" if follows else "data-exact"
    return format_html('<time datetime="{}" title="{}" {}>{}</time>', at.isoformat(), exact, marker, text)


@register.filter
def when(at: datetime | None) -> str:
    """How long ago, with the exact time on hover; console.js keeps it true."""
    return _time(at, ago((now() - at).total_seconds()), follows=True) if at else "never"


@register.filter
def clock(at: datetime | None) -> str:
    """The time of day in UTC, with the date on hover; and with the date in sight when it is not today's."""
    if at is None:
        return ""
    form = "%H:%M:%S" if at.date() == now().date() else "%Y-%m-%d %H:%M:%S"
    return _time(at, at.strftime(form), follows=False)


@register.filter
def duration(seconds: float | None) -> str:
    return human_duration(seconds) if seconds is not None else "–"


@register.filter
def lasted(event: SignalEvent) -> str:
    """From detection to resolution, or until now."""
    return human_duration(((event.resolved_at or now()) - event.detected_at).total_seconds())


@register.filter
def took(action: AgentAction) -> str:
    return human_duration((action.finished_at - action.started_at).total_seconds()) if action.finished_at else "…"


# --- figures and names


@register.filter
def resource_label(text: str) -> str:
    """`/var on web-1`; what is no reference is shown as it stands."""
    try:
        return ResourceRef.parse(text).label
    except ValueError:
        return text


@register.filter
def signal_title(name: str) -> str:
    return CATALOG[name].title if name in CATALOG else name


@register.filter
def ticks(text: str) -> SafeString:
    """What stands between backticks as code, as the loop's reasons are written; everything is escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one without its partner is just a character
        return format_html("{}", text)
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", part) if n % 2 else part,) for n, part in enumerate(parts))
    )


@register.filter
def gate_title(name: str) -> str:
    return name.replace("_", " ").capitalize()


@register.simple_tag
def measured(value: float | None, signal: str) -> str:
    """A value in its signal's unit: `91.2 %`; `–` where there is none."""
    if value is None:
        return "–"
    unit = CATALOG[signal].unit if signal in CATALOG else ""
    return f"{value:.1f} %" if unit == "%" else f"{value:.6g} {unit}".rstrip()


@register.filter
def figures(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An action's figures for people: `("freed bytes", "1.2 GB")`. Lists are counted, not shown."""
    return list(_figures(data))[:FIGURES_SHOWN]


def _figures(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _figures(value, name)
        elif isinstance(value, list):
            yield name, f"{len(value)}"
        elif value is not None and value != "":
            yield _figure(name, value)


def _figure(name: str, value: Any) -> tuple[str, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and name.endswith("bytes"):
        return name.removesuffix("bytes").strip() or "size", human_bytes(value)
    if is_number and name.endswith(" s"):
        return name.removesuffix(" s"), human_duration(value)
    return name, f"{value:,}" if is_number else str(value)


@register.filter
def changes(entry: AuditEntry) -> list[tuple[str, str, str]]:
    """An audit entry's fields with their values before and after, as JSON writes them."""
    return [(name, _plain(before), _plain(entry.after.get(name))) for name, before in entry.before.items()]


def _plain(value: Any) -> str:
    return value or "–" if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


@register.filter
def pretty_json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True, default=str)


# --- the frame of the page


@register.simple_tag
def theme_of(request: HttpRequest | None) -> str:
    """The theme that the reader has chosen: auto, dark or light."""
    chosen = request.COOKIES.get(THEME_COOKIE, "") if request else ""
    return chosen if chosen in THEMES else "auto"


@register.filter
def next_theme(theme: str) -> str:
    return THEMES[(THEMES.index(theme) + 1) % len(THEMES)]


@register.simple_tag
def server_now() -> str:
    return now().isoformat()
