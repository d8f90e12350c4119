"""The one writer of `signal_events.status`, and of the timeline line that says who changed it and why.

detected → diagnosed → acting → verifying → resolved
    │          │  └→ awaiting_approval ↗     │
    │          └→ simulated (dry-run)        └→ escalated → resolved
    └→ escalated (no runbook, no opt-in, refused by a gate that needs a person)
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from byteport.core.errors import BytePortError
from byteport.queue import enqueue, enqueue_many
from signals.models import SignalEvent, Status, TimelineEntry

ADVANCE = "byteport.tasks.advance"
ONE_WAITS = "advance:"  # before an event's id: the key under which one such task waits at most

ARROWS: Mapping[str, frozenset[str]] = {
    Status.DETECTED: frozenset({Status.DIAGNOSED, Status.ESCALATED, Status.RESOLVED}),
    Status.DIAGNOSED: frozenset(
        {Status.AWAITING_APPROVAL, Status.SIMULATED, Status.ACTING, Status.ESCALATED, Status.RESOLVED}
    ),
    Status.AWAITING_APPROVAL: frozenset({Status.DIAGNOSED, Status.ESCALATED, Status.RESOLVED}),
    # Dry-run was switched off while the trouble lasts: it is looked at afresh.
    Status.SIMULATED: frozenset({Status.DETECTED, Status.RESOLVED}),
    Status.ACTING: frozenset({Status.VERIFYING, Status.ESCALATED}),
    Status.VERIFYING: frozenset({Status.RESOLVED, Status.ESCALATED}),
    Status.ESCALATED: frozenset({Status.RESOLVED}),
    Status.RESOLVED: frozenset(),
}


class LostClaimError(BytePortError):
    """Somebody else changed the event meanwhile: what was about to be written is void, and is rolled back."""


def transition(
    event: SignalEvent,
    to: Status,
    *,
    actor: str,
    reason: str,
    at: datetime,
    token: UUID | None = None,
    **fields: Any,
) -> None:
    """Moves `event` along one arrow, by compare-and-swap on the status (and lease) that it was read with.

    Raises LostClaimError when either has changed since, ValueError where there is no such arrow. Needs a transaction.
    """
    if to not in ARROWS[event.status]:
        raise ValueError(f"no way from {event.status} to {to}")
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("transition() belongs into the transaction that makes it necessary")
    fields = {"stage_attempts": 0, **fields, "status": to, "reason": reason}
    changed = SignalEvent.objects.filter(pk=event.pk, status=event.status, lease_token=token).update(**fields)
    if not changed:
        raise LostClaimError(f"event {event.pk} is no longer {event.status}")
    for name, value in fields.items():
        setattr(event, name, value)
    note(event, kind=to, actor=actor, message=reason, at=at)


def note(
    event: SignalEvent,
    *,
    kind: str,
    actor: str,
    message: str,
    at: datetime,
    data: dict[str, Any] | None = None,
) -> None:
    """Adds a line to the event's timeline."""
    TimelineEntry.objects.create(event=event, at=at, actor=actor, kind=kind, message=message, data=data or {})


def enqueue_advance(event_id: int, delay_s: float = 0.0) -> None:
    """Has the event's next stage run after `delay_s`; one such task waits at most. Part of the caller's transaction."""
    enqueue(ADVANCE, event_id, delay_s=delay_s, dedup_key=f"{ONE_WAITS}{event_id}")


def wake(events: QuerySet[SignalEvent], at: datetime) -> None:
    """Makes events due now that were waiting, or at rest: a person has decided something. Needs a transaction."""
    ids = list(events.values_list("pk", flat=True))
    SignalEvent.objects.filter(pk__in=ids).update(due_at=at)
    enqueue_many(ADVANCE, ids, dedup_prefix=ONE_WAITS)
