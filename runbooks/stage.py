"""What a stage of the loop is given, and what it answers. All stages have the same shape."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from django.db.models import Model

from byteport.core.resource import ResourceRef
from runbooks.runbook import Diagnosis, EventView, Plan
from signals.models import SignalEvent, Status

T = TypeVar("T")


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's answer: where the event goes, why, and what is written in the same transaction."""

    to: Status | None = None  # None: it stays where it is
    reason: str = ""
    delay_s: float = 0.0  # until its next stage is due
    fields: dict[str, Any] = {}  # columns of the event to set
    rows: tuple[Model, ...] = ()  # to be saved with it
    retry: bool = False  # counts as a failed try of this stage


Stage = Callable[[SignalEvent, datetime], Move]


def view_of(event: SignalEvent) -> EventView:
    return EventView(
        id=event.pk,
        signal=event.signal,
        resource=ResourceRef.parse(event.resource),
        detail=event.detail,
        severity=event.severity,
        value=event.value,
        threshold=event.threshold,
        detected_at=event.detected_at,
        source=event.source,
        labels=event.labels,
        target=_target_of(event),
    )


def _target_of(event: SignalEvent) -> ResourceRef | None:
    plan = plan_of(event)
    return ResourceRef.parse(plan.steps[0].target) if plan and plan.steps else None


def diagnosis_of(event: SignalEvent) -> Diagnosis | None:
    """The event's diagnosis; None also when another version of BytePort wrote it in another form."""
    return _kept(event.diagnosis, Diagnosis)


def plan_of(event: SignalEvent) -> Plan | None:
    """The event's frozen plan; None also when another version of BytePort wrote it in another form."""
    return _kept(event.plan, Plan)


def _kept(stored: object, kind: type[T]) -> T | None:
    try:
        return msgspec.convert(stored, kind) if stored else None
    except msgspec.ValidationError:
        return None
