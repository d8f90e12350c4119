"""One incident as documents, for programs and for files. docs/commands.md names the keys."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.utils.html import escape

from byteport.core.errors import Refused
from incidents import trend
from incidents.handover import told
from incidents.markup import to_html
from incidents.postmortem import render
from incidents.record import Record, clear_threshold
from signals.models import SignalEvent

RENAMED = {"deeds": "actions", "deeds_cut": "actions_cut", "looks": "samples", "looks_cut": "samples_cut"}
INTERNAL = ("base_url", "trend", "history")
PAGE = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n{body}\n</html>'


def event_of(event_id: int) -> SignalEvent:
    """Raises Refused when there is none."""
    event = SignalEvent.objects.filter(pk=event_id).first()
    if event is None:
        raise Refused(f"There is no incident {event_id}.")
    return event


def incident_document(event: SignalEvent, record: Record) -> dict[str, Any]:
    """All that is on record, as plain data."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    document = {RENAMED.get(key, key): value for key, value in plain.items() if key not in INTERNAL}
    kept = {"plan_hash": event.plan_hash, "postmortem_final": event.postmortem_final}
    return {**document, **kept, "deliveries": told(event)}


def postmortem_text(event: SignalEvent) -> str:
    """The final text, or a draft from the record as it stands."""
    return event.postmortem_md if event.postmortem_final else render(event)


def postmortem_document(event: SignalEvent, text: str) -> dict[str, Any]:
    """The same document as `GET /incidents/<id>/postmortem` gives as JSON."""
    points = trend.points_of(event)
    return {
        "event_id": event.pk,
        "signal": event.signal,
        "resource": event.resource,
        "severity": event.severity,
        "status": event.status,
        "resolved_by": event.resolved_by or None,
        "detected_at": event.detected_at,
        "acted_at": event.acted_at,
        "escalated_at": event.escalated_at,
        "resolved_at": event.resolved_at,
        "runbook": event.runbook or None,
        "final": event.postmortem_final,
        "markdown": text,
        "trend": {
            "unit": points.unit,
            "threshold": event.threshold,
            "clear": clear_threshold(event),
            "points": [(point.at, point.value) for point in points.points],
        },
    }


def postmortem_page(event: SignalEvent, text: str) -> str:
    """A page that stands alone, without style or script."""
    return PAGE.format(title=escape(f"Postmortem of incident {event.pk}"), body=to_html(text))


FORMS: Mapping[str, Callable[[SignalEvent, str], str]] = {
    "md": lambda event, text: text,
    "html": postmortem_page,
    "json": lambda event, text: msgspec.json.encode(postmortem_document(event, text)).decode(),
}
