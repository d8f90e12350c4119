"""What the task queue calls. Thin: each names one thing that is done elsewhere."""

from byteport import loop
from signals import maintenance


def advance(event_id: int) -> None:
    """The loop's next stage for one event."""
    loop.advance(event_id)


def sweep() -> None:
    """Once a minute: what was left lying is taken up again, what is too old is dropped."""
    loop.sweep()
    maintenance.run()
