"""How long to wait after a fault."""

import random

DOUBLINGS = 30  # beyond, every pause is the longest one


def backoff_s(faults: int, first_s: float, longest_s: float) -> float:
    """Doubles with each fault in a row, up to the longest pause; with jitter so that not all march in step."""
    return min(first_s * 2.0 ** min(faults, DOUBLINGS), longest_s) * random.uniform(0.8, 1.2)  # noqa: S311 (not a secret)
