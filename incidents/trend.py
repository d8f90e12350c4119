"""The course of a value around an incident: read in one query, drawn as SVG or as text, and fitted."""

import math
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
from django.db import connection
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from byteport.core.clock import now
from signals.catalog import CATALOG
from signals.models import SignalEvent

LEAD = timedelta(minutes=30)  # shown of the time before detection
BUCKETS = 240
NO_SAMPLES = "No samples were kept of this time."
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60

# A fit over less than half an hour says nothing. The first sample rarely lies right at the start of the lead,
# hence the minute less.
FIT_SPAN = timedelta(minutes=29)
FIT_SAMPLES = 10
FIT_CORRELATION = 0.9
HISTORY = timedelta(hours=24)  # looked through for growth

# The verification's own looks belong to the course too. NaN and the infinities are BETWEEN nothing.
READ = """
    WITH seen AS (
        SELECT at, value FROM samples
        WHERE fingerprint = %(fingerprint)s AND at BETWEEN %(start)s AND %(end)s
        UNION ALL
        SELECT at, value FROM verification_samples
        WHERE event_id = %(event)s AND at BETWEEN %(start)s AND %(end)s
    )
    SELECT max(at) AS at, (array_agg(value ORDER BY at DESC))[1], min(value), max(value)
    FROM seen
    WHERE value BETWEEN -1e100 AND 1e100
    GROUP BY least(width_bucket(extract(epoch FROM at), extract(epoch FROM %(start)s::timestamptz),
                                extract(epoch FROM %(end)s::timestamptz), %(buckets)s), %(buckets)s)
    ORDER BY 1"""


class Point(msgspec.Struct, frozen=True):
    """What was measured in one bucket of time: its latest value, and the bounds of all of them."""

    at: datetime
    value: float
    low: float
    high: float


class Points(msgspec.Struct, frozen=True):
    """The course of a value, in order of time; `unit` is the signal's."""

    points: tuple[Point, ...] = ()
    unit: str = ""

    @property
    def low(self) -> float:
        return min(point.low for point in self.points)

    @property
    def high(self) -> float:
        return max(point.high for point in self.points)

    @property
    def last(self) -> float:
        return self.points[-1].value


class Mark(msgspec.Struct, frozen=True):
    """A moment worth a line of its own in the picture."""

    at: datetime
    label: str


class Growth(msgspec.Struct, frozen=True):
    """The slope of a straight line, in units a day; and of the lines through either half, which tell how sure it is."""

    per_day: float
    slowest: float
    fastest: float
    over: timedelta  # what it was measured over
    samples: int


def points_of(event: SignalEvent, lead: timedelta = LEAD) -> Points:
    """From half an hour (or `lead`) before detection to the event's end, or to now: BUCKETS points at most."""
    bounds: dict[str, Any] = {
        "fingerprint": event.fingerprint,
        "event": event.pk,
        "start": event.detected_at - lead,
        "end": max(event.resolved_at or now(), event.detected_at),
        "buckets": BUCKETS,
    }
    with connection.cursor() as cursor:
        cursor.execute(READ, bounds)
        points = tuple(Point(*row) for row in cursor.fetchall())
    known = CATALOG.get(event.signal)
    return Points(points, known.unit if known else "")


def marks_of(event: SignalEvent) -> tuple[Mark, ...]:
    """When it was detected, acted on, escalated and resolved, as far as it was."""
    moments = (
        (event.detected_at, "detected"),
        (event.acted_at, "acted"),
        (event.escalated_at, "escalated"),
        (event.resolved_at, "resolved"),
    )
    return tuple(Mark(at, label) for at, label in moments if at)


def figure(value: float | None, unit: str) -> str:
    """A value for people: `91.2 %`, `3 sessions`, `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    number = f"{value:.1f}" if unit == "%" else f"{value:.6g}"
    return f"{number} {unit}".rstrip()


def growth_of(points: Points, until: datetime | None = None) -> Growth | None:
    """How fast it grew, by what was measured (up to `until`).

    None unless there is half an hour of samples, they do lie about on a line, and that rises.
    """
    fitted = [point for point in points.points if until is None or point.at <= until]
    if len(fitted) < FIT_SAMPLES or fitted[-1].at - fitted[0].at < FIT_SPAN:
        return None
    days = [(point.at - fitted[0].at) / timedelta(days=1) for point in fitted]
    values, middle = [point.value for point in fitted], len(fitted) // 2
    try:
        correlation = statistics.correlation(days, values)
    except statistics.StatisticsError:  # all the same
        return None
    if correlation < FIT_CORRELATION:
        return None
    parts = (slice(None), slice(middle), slice(middle, None))
    slopes = [statistics.linear_regression(days[part], values[part]).slope for part in parts]
    return Growth(slopes[0], min(slopes), max(slopes), fitted[-1].at - fitted[0].at, len(fitted))


def sparkline(points: Points, width: int = SPARK_WIDTH) -> str:
    """The course as one line of block characters, lowest to highest; empty without points."""
    values = [point.value for point in points.points]
    if not values:
        return ""
    size = math.ceil(len(values) / width)
    shown = [values[min(start + size, len(values)) - 1] for start in range(0, len(values), size)]
    low, span = min(shown), max(shown) - min(shown)
    if span == 0:
        return SPARKS[3] * len(shown)
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in shown)


# ------------------------------------------------------------------------------------------ the picture

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 704, 46, 226
MARK_ROWS = 3  # labels of marks that are close in time stand one below the other


class Frame(msgspec.Struct, frozen=True):
    """The picture's axes: which times and values lie at its edges."""

    start: datetime
    end: datetime
    low: float
    high: float

    def x(self, at: datetime) -> float:
        share = (at - self.start) / ((self.end - self.start) or timedelta(seconds=1))
        return LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return BOTTOM - min(max(share, 0.0), 1.0) * (BOTTOM - TOP)


def svg(points: Points, *, threshold: float | None, clear: float | None, marks: Sequence[Mark] = ()) -> SafeString:
    """A course that is not empty, as an inline SVG: no script, no reference to anything, the colour of the text."""
    named = (("threshold", threshold), ("clear", clear))
    levels = [(name, level) for name, level in named if level is not None and math.isfinite(level)]
    drawn = _drawn(points, levels, marks)
    return mark_safe(  # noqa: S308 (numbers, words of this module, and what went through escape())
        f'<svg class="trend" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-labelledby="trend-title trend-desc" fill="none" stroke="currentColor" font-size="12">'
        f"{_described(points, levels, marks)}{''.join(drawn)}</svg>"
    )


def _drawn(points: Points, levels: Sequence[tuple[str, float]], marks: Sequence[Mark]) -> Iterator[str]:
    frame = frame_of(points, [level for _, level in levels], marks)
    yield from _axes(frame, points.unit)
    yield from _levels(frame, levels, points.unit)
    yield _band(frame, points)
    yield _line(frame, points)
    yield from _marks(frame, marks)


def frame_of(points: Points, levels: Sequence[float], marks: Sequence[Mark]) -> Frame:
    """Bounds that hold all of it, with some air; a percentage keeps to what a percentage can be."""
    times = [point.at for point in points.points] + [mark.at for mark in marks]
    low, high = min(points.low, *levels, math.inf), max(points.high, *levels, -math.inf)
    air = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    low, high = low - air, high + air
    if points.unit == "%":
        low, high = max(low, min(0.0, points.low)), min(high, max(100.0, points.high))
    return Frame(min(times), max(times), low, high if high > low else low + 1.0)


def _described(points: Points, levels: Sequence[tuple[str, float]], marks: Sequence[Mark]) -> str:
    told = [f"{name} {figure(level, points.unit)}" for name, level in levels]
    told += [f"{mark.label} {mark.at:%Y-%m-%d %H:%M:%S} UTC" for mark in marks]
    bounds = (figure(value, points.unit) for value in (points.low, points.high, points.last))
    told.insert(0, "lowest {}, highest {}, latest {}".format(*bounds))
    title = '<title id="trend-title">Trend of the value</title>'
    return f'{title}<desc id="trend-desc">{escape("; ".join(told))}</desc>'


def _axes(frame: Frame, unit: str) -> Iterator[str]:
    yield f'<path class="trend-axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" opacity="0.5"/>'
    for tick in ticks(frame.low, frame.high):
        y = frame.y(tick)
        yield f'<path class="trend-grid" d="M{LEFT} {y:.1f}H{RIGHT}" opacity="0.12"/>'
        yield _text(LEFT - 6, y + 4, f"{tick:g} {unit}".strip() if unit == "%" else f"{tick:g}", "end")
    form = "%d %b %H:%M" if frame.end - frame.start > timedelta(hours=20) else "%H:%M:%S"
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = frame.start + (frame.end - frame.start) * share
        yield _text(frame.x(at) if frame.end > frame.start else LEFT, BOTTOM + 18, f"{at:{form}}", anchor)
        if frame.end == frame.start:
            return


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between two bounds."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def _levels(frame: Frame, levels: Sequence[tuple[str, float]], unit: str) -> Iterator[str]:
    for name, level in levels:
        # The two often lie close together: one is named above its line, the other below.
        y, dashes, beside = frame.y(level), *(("6 3", -4) if name == "threshold" else ("2 4", 13))
        yield f'<path class="trend-{name}" d="M{LEFT} {y:.1f}H{RIGHT}" stroke-dasharray="{dashes}"/>'
        yield _text(LEFT + 4, y + beside, f"{name} {figure(level, unit)}", "start")


def _band(frame: Frame, points: Points) -> str:
    """Between the lowest and the highest value of each bucket, where a bucket holds several."""
    if all(point.low == point.high for point in points.points):
        return ""
    upper = [f"{frame.x(point.at):.1f} {frame.y(point.high):.1f}" for point in points.points]
    lower = [f"{frame.x(point.at):.1f} {frame.y(point.low):.1f}" for point in reversed(points.points)]
    outline = "L".join([*upper, *lower])
    return f'<path class="trend-band" d="M{outline}Z" fill="currentColor" fill-opacity="0.15" stroke="none"/>'


def _line(frame: Frame, points: Points) -> str:
    """One line for each stretch without a gap: where nothing was measured, nothing is drawn."""
    path = "".join(_stroke(frame, run) for run in runs(points.points))
    shape = 'stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'
    return f'<path class="trend-line" d="{path}" {shape}/>'


def _stroke(frame: Frame, run: Sequence[Point]) -> str:
    corners = "L".join(f"{frame.x(point.at):.1f} {frame.y(point.value):.1f}" for point in run)
    return f"M{corners}{'h0' if len(run) == 1 else ''}"  # a line of no length is drawn as a dot


def runs(points: Sequence[Point]) -> list[list[Point]]:
    """The points, parted where four times the usual time (and a minute) lies between two."""
    steps = [(later.at - earlier.at).total_seconds() for earlier, later in pairwise(points)]
    longest_s = max(4 * statistics.median(steps), 60.0) if steps else 0.0
    runs = [[points[0]]]
    for step, point in zip(steps, points[1:], strict=True):
        if step > longest_s:
            runs.append([])
        runs[-1].append(point)
    return runs


def _marks(frame: Frame, marks: Sequence[Mark]) -> Iterator[str]:
    for place, mark in enumerate(sorted(marks, key=lambda mark: mark.at)):
        x, y = frame.x(mark.at), 12 + 13 * (place % MARK_ROWS)
        anchor = "end" if x > (LEFT + RIGHT) / 2 else "start"
        yield f'<path class="trend-mark" d="M{x:.1f} {y + 3}V{BOTTOM}" stroke-dasharray="1 3"/>'
        yield _text(x + (-4 if anchor == "end" else 4), y, f"{mark.label} {mark.at:%H:%M:%S}", anchor)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="trend-label" {place} fill="currentColor" stroke="none">{escape(text)}</text>'
