"""The few words in which stages, gates and actions say how they ended."""

from enum import StrEnum
from typing import Any

import msgspec


class Severity(StrEnum):
    """How bad a signal is. Ordered by `rank`."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


class Result(StrEnum):
    """How one action ended. `UNKNOWN`: it was begun and nobody can tell whether it finished, so it is not repeated."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    REFUSED = "refused"
    SIMULATED = "simulated"
    UNKNOWN = "unknown"


class ActionOutcome(msgspec.Struct, frozen=True):
    """What came of one action: its result, one sentence for people, and the figures for machines."""

    result: Result
    message: str
    data: dict[str, Any] = {}
