"""The list of incidents. Its address says what it is narrowed to."""

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, QueryDict
from django.views.decorators.http import require_safe

from byteport.core.outcome import Severity
from incidents.queries import GROUPS, Filters, incident_page
from incidents.views.page import show, signed_in
from signals.models import signal_names

TABS = {
    "open": "Open",
    "person": "Need a person",
    "simulated": "Simulated",
    "resolved": "Resolved",
    "all": "All",
}


@require_safe
@signed_in
def incidents(request: HttpRequest) -> HttpResponse:
    filters = filters_of(request.GET)
    page = incident_page(filters)
    context = {
        "page": page,
        "filters": filters,
        "tabs": [(name, title, address_of(filters, group=name)) for name, title in TABS.items()],
        "older": address_of(filters, before=page.older) if page.older else "",
        "newest": address_of(filters) if filters.before else "",
        "signals": signal_names(),
        "severities": [severity.value for severity in reversed(Severity)],
    }
    return show(request, "incidents", context)


def filters_of(query: QueryDict) -> Filters:
    """What the address asks for. What makes no sense in it is left out: addresses get mangled."""
    group, severity = query.get("group", ""), query.get("severity", "")
    before = query.get("before", "")
    return Filters(
        group=group if group in GROUPS else "open",
        signal=_text(query.get("signal", "")),
        severity=severity if severity in list(Severity) else "",
        search=_text(query.get("q", "")),
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
    )


def _text(value: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return value.replace("\0", "").strip()[:200]


def address_of(filters: Filters, *, group: str | None = None, before: int | None = None) -> str:
    """The list's query string for these filters, on another tab or page."""
    asked = {
        "group": group or filters.group,
        "signal": filters.signal,
        "severity": filters.severity,
        "q": filters.search,
        "before": before,
    }
    return "?" + urlencode({name: value for name, value in asked.items() if value})
