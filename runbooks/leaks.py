"""Whether somebody leaks memory, judged by how what they hold has grown from look to look. Never by size. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

MIN_LOOKS = 3
SURE_LOOKS, SURE_SPAN_S = 10, 600.0
# Of all memory there is: what growth has to come to at least, to be worth a restart; and to be sure of a leak.
MIN_GROWTH, SURE_GROWTH = 0.0025, 0.01
RISES = 0.7  # share of the steps from look to look in which it did not fall
NOISE = 0.002  # a fall by less is none
KEEPS = 0.9  # of the most it ever held: who gives more than that back does not leak
STILL_GROWS = 0.05  # share of all growth that has to lie in the last third of the time

Course = Sequence[tuple[float, float]]  # seconds (on any clock) and bytes, in order of time


class Verdict(StrEnum):
    LEAKING = "leaking"
    SUSPECTED = "suspected"  # it grew, but over few looks: a guess
    STEADY = "steady"
    UNKNOWN = "unknown"  # too few looks to say


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How what one consumer holds has changed."""

    verdict: Verdict
    looks: int
    span_s: float = 0.0
    first_bytes: float = 0.0
    last_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        return self.last_bytes - self.first_bytes

    @property
    def leaks(self) -> bool:
        """As far as can be told. `SUSPECTED` is to be called a guess."""
        return self.verdict in (Verdict.LEAKING, Verdict.SUSPECTED)


def growth_of(course: Course, total_bytes: float) -> Growth:
    """Judges the looks at one consumer since it began, on a host with so much memory."""
    if len(course) < MIN_LOOKS:
        return Growth(verdict=Verdict.UNKNOWN, looks=len(course))
    (begun, first), (ended, last) = course[0], course[-1]
    return Growth(
        verdict=_verdict(course, total_bytes),
        looks=len(course),
        span_s=ended - begun,
        first_bytes=first,
        last_bytes=last,
    )


def _verdict(course: Course, total_bytes: float) -> Verdict:
    values = [value for _, value in course]
    grown, span_s = values[-1] - values[0], course[-1][0] - course[0][0]
    rises = sum(later >= earlier * (1 - NOISE) for earlier, later in pairwise(values))
    steadily = rises >= RISES * (len(values) - 1) and values[-1] >= KEEPS * max(values)
    if grown < MIN_GROWTH * total_bytes or not steadily:
        return Verdict.STEADY
    if len(course) < SURE_LOOKS or span_s < SURE_SPAN_S:
        return Verdict.SUSPECTED
    if _latest_growth(course) < STILL_GROWS * grown:
        return Verdict.STEADY  # it has filled up, as caches do
    return Verdict.LEAKING if grown >= SURE_GROWTH * total_bytes else Verdict.SUSPECTED


def _latest_growth(course: Course) -> float:
    """Within the last third of the time."""
    since = course[-1][0] - (course[-1][0] - course[0][0]) / 3
    return course[-1][1] - next(value for at, value in course if at >= since)
