"""Reading: what every source yields, whatever it speaks itself."""

from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

import msgspec

from byteport.core.resource import ResourceRef


class State(StrEnum):
    """What the source says of the signal. UNKNOWN is kept and shown, and never leads to an action."""

    MEASURED = "measured"  # a number: BytePort judges it itself
    FIRING = "firing"  # the sender has judged: it is bad
    RESOLVED = "resolved"  # the sender has judged: it is over
    UNKNOWN = "unknown"


class Reading(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One look at one signal of one resource."""

    signal: str  # a name of the catalog, or the sender's own for what maps to none
    resource: ResourceRef
    at: datetime  # timezone-aware; when it was measured, not when it came in
    value: float | None = None  # in the signal's unit
    state: State = State.MEASURED
    detail: str = ""  # what the signal adds to tell two events apart: container and exit code, say
    source: str = ""  # the slug of the source
    labels: dict[str, str] = {}
    period_s: float = 0.0  # of a metric that is measured over periods: `at` is when its period began

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.signal, self.resource, self.detail)


@lru_cache(maxsize=16_384)  # the same series come round with every poll
def fingerprint(signal: str, resource: ResourceRef, detail: str = "") -> str:
    """Names one series, as 32 hex digits: the same for every source that sees the same signal of the same resource."""
    text = "\x1f".join((signal, str(resource), detail))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
