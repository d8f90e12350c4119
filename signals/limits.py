"""How much one source may send: a token bucket a source, in each web process.

A sender beyond it is told to come again (429 with Retry-After), so that one that runs wild starves no other.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

PER_SECOND = 20_000.0  # signals; the option `max_per_second` of a source sets another
BURST_S = 10.0  # a source that was silent may send as much at once as it may in this time
MOST_SOURCES = 1000

_lock = threading.Lock()
_buckets: dict[str, tuple[float, float]] = {}  # by slug: what is left, and when that was so


def rate_of(options: Mapping[str, Any]) -> float:
    """Signals a second; the default where the option is no positive number."""
    given = options.get("max_per_second")
    usable = isinstance(given, int | float) and not isinstance(given, bool) and given > 0
    return float(given) if usable and given is not None else PER_SECOND


def wait_s(slug: str, count: int, per_second: float) -> float:
    """0, and `count` signals are taken out of the source's bucket; when it is empty, the seconds until it is not."""
    now = time.monotonic()
    with _lock:
        if len(_buckets) >= MOST_SOURCES:
            _buckets.clear()
        left, since = _buckets.get(slug, (per_second * BURST_S, now))
        left = min(left + (now - since) * per_second, per_second * BURST_S)
        if left <= 0:
            _buckets[slug] = (left, now)
            return max(-left / per_second, 1.0)
        _buckets[slug] = (left - count, now)  # below zero once: what was sent already is taken as a whole
    return 0.0


def forget() -> None:
    """Fills every bucket again."""
    with _lock:
        _buckets.clear()
