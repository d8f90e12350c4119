"""What the sources that read a vendor's metrics share: options, units, the window to read, what it is about.

A window begins earlier than the last one ended, since vendors' data come late. What comes twice is dropped here, or
else by its series, which takes each time only once.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from byteport.core.errors import Permanent
from byteport.core.point import Point
from byteport.core.resource import ResourceRef
from signals.reading import Reading
from signals.source import SourceConfig
from signals.untrusted import checked_resource

LATE = timedelta(minutes=10)  # by which vendors' data come in at the latest; what comes later is lost
MOST_BACK = timedelta(hours=24)  # of an outage that is read afterwards
MOST_AT_ONCE = timedelta(hours=1)  # that one poll reads; the rest of an outage comes with the polls after it
PLACE_CHARS = 253
LABEL_CHARS = 256
CPU_PERCENT = 100_000.0  # of what a workload asks for: it may use far more

# They live in memory, are read only, or lie on a disk that has a series of its own.
NEVER_FILLS = frozenset(
    {
        "tmpfs", "devtmpfs", "ramfs", "rootfs", "proc", "sysfs", "nsfs", "efivarfs", "aufs", "overlay", "squashfs",
        "iso9660", "udf", "erofs", "cramfs", "romfs",
    }
)  # fmt: skip
HOST_PARTS = {"memory_pressure": ("memory", "memory"), "cpu_saturation": ("cpu", "cpu")}
RAM_PATHS = frozenset({"/dev", "/dev/shm", "/run", "/run/lock", "/proc", "/sys"})  # noqa: S108 (names, none is opened)


class Unit(StrEnum):
    """What a metric's number is."""

    PERCENT = "percent"  # used, 0 to 100
    FRACTION = "fraction"  # used, 0 to 1
    PERCENT_FREE = "percent_free"
    FRACTION_FREE = "fraction_free"


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric of a vendor, and the signal that it feeds."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    signal: Literal["disk_pressure", "memory_pressure", "cpu_saturation"]
    unit: Unit = Unit.PERCENT
    period_s: Annotated[int, msgspec.Meta(ge=60, le=3600, multiple_of=60)] = 60


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a row of every source can be told whose calls cost."""

    every_s: Annotated[int, msgspec.Meta(ge=30, le=3600)] = 60


class Options(Pace, frozen=True, kw_only=True):
    """What every such source can be told. Each adds where to ask, and its own kind of metrics."""

    metrics: tuple[Metric, ...] = ()


class Span(msgspec.Struct, frozen=True):
    """A window of time, with its beginning and without its end."""

    start: datetime
    end: datetime


class Only(msgspec.Struct, frozen=True):
    """One signal of one resource, to be looked at by itself."""

    signal: str
    resource: ResourceRef


O = TypeVar("O", bound=Options)  # noqa: E741
P = TypeVar("P", bound=Pace)


def options_of(given: dict[str, Any], kind: type[P]) -> P:
    """A row's options. Raises Permanent, saying what is wrong."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise Permanent(f"Options: {error}") from error


def span_of(read_until: datetime | None, now: datetime, step_s: int) -> Span:
    """What to read next. It begins at a multiple of `step_s`, the longest period, so that periods are whole."""
    end = now.replace(microsecond=0)
    begin = max(min(read_until or end, end), end - MOST_BACK)
    return Span(floor(begin - LATE, step_s), min(end, begin + MOST_AT_ONCE))


def floor(at: datetime, step_s: int) -> datetime:
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC)


def longest_s(metrics: Iterable[Metric], signal: str = "") -> int:
    """The longest period of the metrics of a signal, or of all."""
    return max((metric.period_s for metric in metrics if signal in ("", metric.signal)), default=60)


def is_whole(at: datetime, period_s: int, span: Span) -> bool:
    """Whether the period that began then lies in the span and has ended: half a period's figure would change."""
    return span.start <= at and at + timedelta(seconds=period_s) <= span.end


def percent_of(value: float, metric: Metric) -> float | None:
    """The value as percent used. None for no number, and for what cannot be in the metric's unit."""
    if metric.unit in (Unit.FRACTION, Unit.FRACTION_FREE):
        value *= 100
    if metric.unit in (Unit.PERCENT_FREE, Unit.FRACTION_FREE):
        value = 100 - value
    most = CPU_PERCENT if metric.signal == "cpu_saturation" else 101.0
    if not isfinite(value) or not -1 <= value <= most:
        return None
    return max(value, 0.0) if metric.signal == "cpu_saturation" else min(max(value, 0.0), 100.0)


def resource_of(signal: str, place: str, path: str = "") -> ResourceRef | None:
    """What a host's metric is about. None where a part is missing, or is a name that nothing has."""
    kind, name = HOST_PARTS.get(signal, ("mount", path))
    if not place or not name or len(place) > PLACE_CHARS:
        return None
    try:
        return checked_resource(ResourceRef("host", place, kind, name))
    except ValueError:
        return None


def fills(path: str, fstype: str) -> bool:
    """Whether it is a file system that can fill up on a disk."""
    return fstype.lower() not in NEVER_FILLS and path not in RAM_PATHS and not path.startswith("/run/")


def labels_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of a vendor's names and values those that can be shown."""
    return {key: value[:LABEL_CHARS] for key, value in pairs if value and key.isprintable() and value.isprintable()}


def readings_of(
    metric: Metric,
    resource: ResourceRef,
    points: Iterable[Point],
    labels: Iterable[tuple[str, str]],
    span: Span,
    source: str,
) -> Iterator[Reading]:
    """What a series says of a resource: of its points those that are whole, and can be in the metric's unit."""
    shown = labels_of((("metric", metric.name), *labels))
    for point in points:
        percent = percent_of(point.value, metric)
        if percent is not None and is_whole(point.at, metric.period_s, span):
            yield Reading(
                signal=metric.signal,
                resource=resource,
                at=point.at,
                value=percent,
                source=source,
                labels=shown,
                period_s=metric.period_s,
            )


def first_told(by_metric: Iterable[Iterable[Reading]]) -> list[Reading]:
    """All readings, but of two metrics that tell of the same thing only the first one's."""
    first: dict[tuple[str, ResourceRef], int] = {}
    return [
        reading
        for place, readings in enumerate(by_metric)
        for reading in readings
        if first.setdefault((reading.signal, reading.resource), place) == place
    ]


class MetricSourceBase(Generic[O]):
    """The part of a `MetricSource` that is the same for every vendor."""

    name: ClassVar[str]
    title: ClassVar[str]
    permissions: tuple[str, ...] = ()
    options_type: type[O]
    behind: ClassVar[timedelta]  # by which the vendor's newest data are behind, as a rule

    def __init__(self) -> None:
        self._given: dict[str, tuple[datetime, frozenset[tuple[str, datetime]]]] = {}  # by slug; until when, and what

    def look(
        self, config: SourceConfig, options: O, span: Span, only: Only | None = None
    ) -> Iterable[Iterable[Reading]]:
        """Each metric's readings of a span, or of one signal of one resource, in the order in which the metrics count.

        Raises Temporary or Permanent, also while they are gone through.
        """
        raise NotImplementedError

    def interval_s(self) -> float:
        return float(Options().every_s)

    def every_s(self, options: dict[str, Any]) -> float:
        return float(options_of(options, self.options_type).every_s)

    def behind_s(self, options: dict[str, Any], signal: str) -> float:
        metrics = options_of(options, self.options_type).metrics
        return self.behind.total_seconds() + 2 * longest_s(metrics, signal)

    def fault(self, options: dict[str, Any]) -> str:
        try:
            options_of(options, self.options_type)
        except Permanent as error:
            return str(error)
        return ""

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        options = options_of(config.options, self.options_type)
        span = span_of(config.progress.read_until, now, longest_s(options.metrics))
        readings = first_told(self.look(config, options, span))
        fresh = self._fresh(config, readings, span.end)
        config.progress.read_until = span.end
        return fresh

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        """The newest measurement. None when there is none of the last few periods."""
        options = options_of(config.options, self.options_type)
        end = now.replace(microsecond=0)
        step_s = longest_s(options.metrics, signal)
        span = Span(floor(end - self.behind - timedelta(seconds=2 * step_s), step_s), end)
        readings = first_told(self.look(config, options, span, Only(signal, resource)))
        found = [each for each in readings if (each.signal, each.resource) == (signal, resource)]
        return max(found, key=lambda each: each.at, default=None)

    def _fresh(self, config: SourceConfig, readings: Sequence[Reading], until: datetime) -> list[Reading]:
        """Without what the poll before has brought, provided that this one is kept: it goes on where that one ended."""
        kept_until, given = self._given.get(config.slug, (None, frozenset()))
        keys = frozenset((each.fingerprint, each.at) for each in readings)
        self._given[config.slug] = (until, keys)
        if kept_until != config.progress.read_until:
            return list(readings)
        return [each for each in readings if (each.fingerprint, each.at) not in given]
