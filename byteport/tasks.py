"""What the task queue calls. Thin: each names one thing that is done elsewhere."""

from django.contrib.sessions.backends.db import SessionStore

from byteport import loop
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


def sweep() -> None:
    """Once a minute: what was left lying is taken up again, what is too old is dropped."""
    loop.sweep()
    rounds.sweep()
    courier.sweep()
    maintenance.run()
    idempotency.purge()
    SessionStore.clear_expired()
