"""The value's course as a Mermaid chart, which GitHub draws. Numbers and words of this module only. Pure."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

from incidents.trend import Points, frame_of

STEPS = 40  # a line has that many values, evenly spread: that is how Mermaid draws them
UNIT = re.compile(r"[^\w %/]")


def mermaid(points: Points, levels: Sequence[tuple[str, float]]) -> str:
    """An `xychart-beta` of a course that is not empty; each level is a line of its own."""
    frame = frame_of(points, [level for _, level in levels], ())
    minutes = (frame.end - frame.start) / timedelta(minutes=1)
    lines = [_line(evenly(points, STEPS)), *(_line([level] * STEPS) for _, level in levels)]
    told = ", ".join(f"{name} {level:g}" for name, level in levels)
    return "\n".join(
        (
            "xychart-beta",
            f'    title "Trend{f" ({told})" if told else ""}"',
            f'    x-axis "minutes since {frame.start:%H:%M:%S} UTC" 0 --> {_number(max(minutes, 0.1))}',
            f'    y-axis "{UNIT.sub("", points.unit) or "value"}" {_number(frame.low)} --> {_number(frame.high)}',
            *(f"    {line}" for line in lines),
        )
    )


def evenly(points: Points, steps: int) -> list[float]:
    """The course at so many moments, the same time apart: each time what was measured last."""
    times: list[datetime] = [point.at for point in points.points]
    start, end = times[0], times[-1]
    if start == end:
        return [points.points[0].value] * steps
    moments = [start + (end - start) * n / (steps - 1) for n in range(steps)]
    return [points.points[bisect_right(times, moment) - 1].value for moment in moments]


def _line(values: Sequence[float]) -> str:
    return f"line [{', '.join(map(_number, values))}]"


def _number(value: float) -> str:
    """Mermaid knows no exponents."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
