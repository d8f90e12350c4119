"""What the task queue calls. Thin: each names one thing that is done elsewhere."""

from collections.abc import Callable, Sequence

from django.contrib.sessions.backends.db import SessionStore

from byteport import loop, queue
from incidents.api import idempotency
from incidents.outbox import delivery, rounds
from incidents.outgoing import courier
from signals import maintenance


def advance(event_id: int) -> None:
    """The loop's next stage for one event."""
    loop.advance(event_id)


def deliver(delivery_id: int) -> None:
    """One attempt to tell people what they have to be told."""
    delivery.deliver(delivery_id)


def confirm(delivery_id: int) -> None:
    """Whether what was told has reached anybody."""
    rounds.confirm(delivery_id)


def send_events() -> None:
    """What outgoing webhooks have to be told."""
    courier.send_events()


ROUND: Sequence[Callable[[], object]] = (
    loop.sweep,
    rounds.sweep,
    courier.sweep,
    maintenance.run,
    idempotency.purge,
    queue.forget_failures,
    SessionStore.clear_expired,
)


def sweep() -> None:
    """Once a minute: what was left lying is taken up again, what is too old is dropped.

    No part keeps the others from their turn; what has failed is raised after the last.
    """
    faults = []
    for part in ROUND:
        try:
            part()
        except Exception as fault:  # noqa: BLE001 (raised below)
            faults.append(fault)
    if faults:
        raise ExceptionGroup("parts of the sweep have failed", faults)
