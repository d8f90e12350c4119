"""The whole loop on one incident, without waiting longer than its platform takes."""

import time
from collections.abc import Callable

from byteport import loop
from byteport.core.clock import now
from runbooks.models import AgentSettings, RunbookPolicy
from signals.ingest import ingest
from signals.models import SignalEvent, SignalPolicy, Status
from signals.policy import forget
from signals.reading import Reading
from signals.source import SourceConfig
from signals.sources.host import HostSource

PATIENCE_S = 120  # against hanging; no measure of speed
ENDS = (Status.RESOLVED, Status.ESCALATED, Status.SIMULATED)


def quick(*, dry_run: bool = False, runbook: str = "cleanup_logs", signal: str = "disk_pressure") -> None:
    """Policies under which an incident is over in seconds: the thresholds and gates are the ordinary ones."""
    AgentSettings.objects.update_or_create(
        pk=1, defaults={"dry_run": dry_run, "max_per_hour": 1000, "max_per_neighbourhood_hour": 1000}
    )
    SignalPolicy.objects.create(signal=signal, threshold=85, critical=95, clear=80, sustain_s=0, max_gap_s=90)
    RunbookPolicy.objects.create(
        runbook=runbook, cooldown_s=0, verify_delay_s=0, verify_interval_s=0, verify_deadline_s=120, good_samples=2
    )
    forget()


def poll() -> list[Reading]:
    """One look at every host that is reached, ingested."""
    source, readings = HostSource(), []
    until = time.monotonic() + PATIENCE_S
    readings += source.poll(SourceConfig("host"), now())
    while source._looks.running:
        assert time.monotonic() < until, "a look does not end"
        readings += source.poll(SourceConfig("host"), now())
    ingest(readings)
    return readings


def run(event: SignalEvent, *, after_each: Callable[[SignalEvent], None] = lambda event: None) -> SignalEvent:
    """Advances an incident until it ends."""
    until = time.monotonic() + PATIENCE_S
    while event.status not in ENDS:
        assert time.monotonic() < until, f"it stays {event.status}: {event.reason}"
        loop.advance(event.pk)
        event.refresh_from_db()
        after_each(event)
        if event.due_at and event.due_at > now():
            time.sleep(min((event.due_at - now()).total_seconds() + 0.01, 5))
    return event
