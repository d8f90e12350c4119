"""How long to wait after a fault, and not together with everybody else."""

import random
from datetime import timedelta

DOUBLINGS = 30  # beyond, every pause is the longest one
SPREAD = 0.2


def backoff_s(faults: int, first_s: float, longest_s: float) -> float:
    """Doubles with each fault in a row, up to the longest pause; spread."""
    return spread_s(min(first_s * 2.0 ** min(faults, DOUBLINGS), longest_s))


def as_long_again_s(so_far: timedelta, first_s: float, longest_s: float) -> float:
    """As long as it has failed so far, within bounds; spread. Needs no count of the faults to be kept."""
    return spread_s(min(max(so_far.total_seconds(), first_s), longest_s))


def spread_s(pause_s: float) -> float:
    """About as long, up to a fifth more or less, so that not all march in step."""
    return pause_s * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 (keeps no secret)
