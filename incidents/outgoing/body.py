"""What is sent, from the record alone. docs/outgoing.md describes it; a key that is there once stays as it is."""

from datetime import datetime
from uuid import UUID

import msgspec
from django.conf import settings

from incidents.markup import line
from runbooks.models import AgentAction
from signals.catalog import CATALOG
from signals.models import OutgoingEvent, SignalEvent

VERSION = 1
TEXT = 600  # characters of a reason or message
NAME = 1024


class Sender(msgspec.Struct, frozen=True):
    """Which BytePort it is."""

    name: str
    url: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """The incident. What can change of it is as it was when it happened."""

    id: int
    signal: str
    title: str
    unit: str
    resource: str
    label: str
    detail: str
    source: str
    severity: str
    status: str
    reason: str
    value: float | None
    threshold: float | None
    runbook: str
    detected_at: datetime
    resolved_by: str | None
    url: str
    postmortem_url: str


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan, and what came of it."""

    id: UUID
    name: str
    step: str
    target: str
    summary: str
    result: str
    message: str
    started_at: datetime
    finished_at: datetime | None


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. `incident` is left out of a test, `action` where it is about none."""

    version: int
    id: UUID
    type: str
    at: datetime
    delivery: UUID
    sender: Sender
    incident: Incident | None = None
    action: Action | None = None


def body_of(row: OutgoingEvent, action: AgentAction | None) -> str:
    """JSON. Foreign text is masked, bounded and on one line."""
    body = Body(
        version=VERSION,
        id=row.happening,
        type=row.kind,
        at=row.at,
        delivery=row.uid,
        sender=Sender(settings.CLUSTER_NAME, settings.PUBLIC_URL),
        incident=_incident(row.incident, row) if row.incident else None,
        action=_action(action) if action else None,
    )
    return msgspec.json.encode(body).decode()


def _incident(event: SignalEvent, row: OutgoingEvent) -> Incident:
    then, known = row.snapshot, CATALOG.get(event.signal)
    value, page = then.get("value"), f"{settings.PUBLIC_URL}/incidents/{event.pk}"
    return Incident(
        id=event.pk,
        signal=line(event.signal, NAME),
        title=line(event.title, NAME),
        unit=known.unit if known else "",
        resource=line(event.resource, NAME),
        label=line(_label(event), NAME),
        detail=line(event.detail, NAME),
        source=line(event.source, NAME),
        severity=then["severity"],
        status=then["status"],
        reason=line(then["reason"], TEXT),
        value=float(value) if isinstance(value, int | float) else None,
        threshold=event.threshold,
        runbook=event.runbook,
        detected_at=event.detected_at,
        resolved_by=event.resolved_by or None if then["status"] == "resolved" else None,
        url=f"{page}/",
        postmortem_url=f"{page}/postmortem",
    )


def _label(event: SignalEvent) -> str:
    try:
        return event.ref.label
    except ValueError:
        return event.resource


def _action(row: AgentAction) -> Action:
    return Action(
        id=row.uid,
        name=row.action,
        step=line(row.step, NAME),
        target=line(row.target, NAME),
        summary=line(row.summary, TEXT),
        result=row.status,
        message=line(row.message, TEXT),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
