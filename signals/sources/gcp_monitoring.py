"""Google Cloud Monitoring: the metrics of the Ops Agent and of Compute Engine. One row of `sources` is one project.

Incidents of its alerting policies come by webhook (`gcp_incident`).
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from byteport.clients import gcp, gcp_monitoring
from byteport.clients.gcp_monitoring import Query, Series
from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from signals.metrics import (
    Metric,
    MetricSourceBase,
    Only,
    Options,
    Span,
    Unit,
    fills,
    floor,
    options_of,
    readings_of,
    resource_of,
)
from signals.reading import Reading
from signals.source import SourceConfig

RESOURCE = "gce_instance"
INSTANCE_ID = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # may stand in a filter; of another, all instances are read
NO_DISK = re.compile(r"(/dev/)?(loop\d+|udev|shm|none)")  # a loop device is a snap: read only, and always full
STATEFUL = frozenset({"agent.googleapis.com/disk/percent_used", "agent.googleapis.com/memory/percent_used"})
UNITS = {
    Unit.PERCENT: ("%", "1"),
    Unit.PERCENT_FREE: ("%", "1"),
    Unit.FRACTION: ("10^2.%", "1"),
    Unit.FRACTION_FREE: ("10^2.%", "1"),
}  # fmt: skip  (UCUM's codes, as in the metrics' descriptors; many say 1 for want of a better one)

LabelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
LabelValue = Annotated[str, msgspec.Meta(pattern=r'^[^"\\\x00-\x1f\x7f]{1,200}$')]


class GcpMetric(Metric, frozen=True, kw_only=True):
    """`labels`: those of the metric's own labels that a series has to have."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._:-]+)+$", max_length=200)]
    labels: dict[LabelName, LabelValue] = {}

    def __post_init__(self) -> None:
        if self.name in STATEFUL and "state" not in self.labels:
            raise ValueError(f'labels: {self.name} has a series for each state; add {{"state": "used"}}')


# The agent has a series for each state of memory and disks (used, free, cached, …), which add up to 100.
METRICS = (
    GcpMetric(name="agent.googleapis.com/disk/percent_used", signal="disk_pressure", labels={"state": "used"}),
    GcpMetric(name="agent.googleapis.com/memory/percent_used", signal="memory_pressure", labels={"state": "used"}),
    GcpMetric(name="compute.googleapis.com/instance/cpu/utilization", signal="cpu_saturation", unit=Unit.FRACTION),
)


class GcpOptions(Options, frozen=True, kw_only=True):
    project: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    metrics: Annotated[tuple[GcpMetric, ...], msgspec.Meta(min_length=1, max_length=50)] = METRICS


class GcpMonitoringSource(MetricSourceBase[GcpOptions]):
    """One query a metric."""

    name = "gcp_monitoring"
    title = "Google Cloud Monitoring metrics"
    options_type = GcpOptions
    behind = timedelta(minutes=4)

    def credentials(self, options: dict[str, Any]) -> str:
        return f"{gcp.identity(gcp_monitoring.SCOPE)}, for the project {options_of(options, GcpOptions).project}"

    def look(
        self, config: SourceConfig, options: GcpOptions, span: Span, only: Only | None = None
    ) -> Iterable[Iterable[Reading]]:
        asked = [metric for metric in options.metrics if only is None or metric.signal == only.signal]
        place = only.resource.place if only else ""
        listed = [(metric, self._series(config, options, metric, span, place)) for metric in asked]
        if asked and all(series is None for _, series in listed):
            names = ", ".join(metric.name for metric in asked)
            raise Permanent(f"The project {options.project} has no such metric: {names}. Is the Ops Agent installed?")
        return (readings_of_metric(metric, series or (), span, config.slug) for metric, series in listed)

    def _series(
        self, config: SourceConfig, options: GcpOptions, metric: GcpMetric, span: Span, place: str
    ) -> Sequence[Series] | None:
        start, end = floor(span.start, metric.period_s), floor(span.end, metric.period_s)
        if start >= end:
            return ()
        query = Query(filter_of(metric, place), metric.period_s)
        return gcp_monitoring.read_series(options.project, query, start, end, config.progress.count)


def filter_of(metric: GcpMetric, place: str = "") -> str:
    parts = [f'metric.type = "{metric.name}"', f'resource.type = "{RESOURCE}"']
    parts += [f'metric.labels.{name} = "{value}"' for name, value in sorted(metric.labels.items())]
    if INSTANCE_ID.fullmatch(place):
        parts.append(f'resource.labels.instance_id = "{place}"')
    return " AND ".join(parts)


def readings_of_metric(metric: GcpMetric, listed: Iterable[Series], span: Span, source: str) -> Iterable[Reading]:
    """Raises Permanent for another unit, and where two series tell the same: one of them would be the wrong one."""
    found: dict[tuple[ResourceRef, datetime], Reading] = {}
    for series in listed:
        _require_unit(metric, series)
        resource = about(metric, series.labels)
        if resource is None:
            continue
        for reading in readings_of(metric, resource, series.points, series.labels.items(), span, source):
            if found.setdefault((reading.resource, reading.at), reading) is not reading:
                raise Permanent(
                    f"{metric.name} has several series of {reading.resource.label}:"
                    " set `labels` that only the right one has."
                )
    return found.values()


def about(metric: GcpMetric, labels: dict[str, str]) -> ResourceRef | None:
    """What a series is about. None without its instance or device, and for what is no disk that can fill up."""
    device, fstype = labels.get("device", ""), labels.get("type", "")
    path = labels.get("mountpoint") or device
    if metric.signal == "disk_pressure" and (
        NO_DISK.fullmatch(device) or not all(fills(path, kind) for kind in (device, fstype))
    ):
        return None
    return resource_of(metric.signal, labels.get("instance_id", ""), path)


def _require_unit(metric: GcpMetric, series: Series) -> None:
    if series.unit and series.unit not in UNITS[metric.unit]:
        raise Permanent(f"{metric.name} is in the unit {series.unit[:50]}, and not a {metric.unit}.")


SOURCE = GcpMonitoringSource()
