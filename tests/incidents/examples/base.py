"""What the examples share: their moment, and short ways to write what is on record."""

from datetime import UTC, datetime, timedelta

from incidents.record import Deed, Gate
from incidents.trend import Point, Points
from runbooks.runbook import Timing

START = datetime(2026, 3, 1, 3, 12, 40, tzinfo=UTC)
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=80)


def at(seconds: float) -> datetime:
    """So many seconds after detection."""
    return START + timedelta(seconds=seconds)


def course() -> Points:
    """A disk that fills by 6 to 8 percentage points an hour, is cleaned up 5 s after detection, and stays at 71 %."""
    before = [(seconds, 91.2 + seconds * 0.0022 + max(-900 - seconds, 0) * 0.0005) for seconds in range(-1800, 1, 30)]
    values = [*before, (10, 84.0), (20, 71.4), (40, 71.3), (50, 71.3), (60, 71.4)]
    return Points(tuple(Point(at(seconds), value, value, value) for seconds, value in values), "%")


def gate(name: str, reason: str) -> Gate:
    return Gate(1, name, True, reason, at(2))


def deed(summary: str, action: str, begun: float, took: float, status: str, message: str, **result: object) -> Deed:
    return Deed(
        name=action,
        summary=summary,
        dry_run=False,
        status=status,
        message=message,
        result=result,
        started_at=at(begun),
        finished_at=at(begun + took),
    )
