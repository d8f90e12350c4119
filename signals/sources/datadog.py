"""Datadog: the metrics of its agents, grouped by host and device. One row of `sources` is one site.

The state of monitors is read by `datadog_monitor_states`, or comes by webhook (`datadog_monitor`).
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any

import msgspec

from byteport.clients import datadog
from byteport.clients.datadog import Group
from byteport.core.resource import ResourceRef
from signals.metrics import (
    Metric,
    MetricSourceBase,
    Only,
    Options,
    Span,
    Unit,
    fills,
    is_whole,
    labels_of,
    options_of,
    percent_of,
    resource_of,
)
from signals.reading import Reading
from signals.source import SourceConfig

PLAIN_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # may stand in a query; of another, all hosts are read
NO_DISKS = frozenset({"udev", "shm", "none", "dev"})
UNIT_NAMES = {
    Unit.PERCENT: "percent", Unit.PERCENT_FREE: "percent", Unit.FRACTION: "fraction", Unit.FRACTION_FREE: "fraction",
}  # fmt: skip


class DatadogMetric(Metric, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,199}$")]


METRICS = (
    DatadogMetric(name="system.disk.in_use", signal="disk_pressure", unit=Unit.FRACTION),
    DatadogMetric(name="system.mem.pct_usable", signal="memory_pressure", unit=Unit.FRACTION_FREE),
    DatadogMetric(name="system.mem.used_pct", signal="memory_pressure", unit=Unit.FRACTION),
    DatadogMetric(name="system.cpu.idle", signal="cpu_saturation", unit=Unit.PERCENT_FREE),
)


class DatadogOptions(Options, frozen=True, kw_only=True):
    site: str = "datadoghq.com"
    metrics: Annotated[tuple[DatadogMetric, ...], msgspec.Meta(min_length=1, max_length=50)] = METRICS

    def __post_init__(self) -> None:
        if self.site not in datadog.SITES:
            raise ValueError(f"site: not one of {', '.join(datadog.SITES)}")


class DatadogSource(MetricSourceBase[DatadogOptions]):
    """One query a metric."""

    name = "datadog"
    title = "Datadog metrics"
    options_type = DatadogOptions
    behind = timedelta(minutes=2)

    def credentials(self, options: dict[str, Any]) -> str:
        site = options_of(options, DatadogOptions).site
        datadog.configuration(site)
        return f"an API key and an application key of Datadog's, for {site}"

    def look(
        self, config: SourceConfig, options: DatadogOptions, span: Span, only: Only | None = None
    ) -> Sequence[Reading]:
        found: dict[tuple[str, ResourceRef], list[Reading]] = {}
        for metric in options.metrics:
            if only and metric.signal != only.signal:
                continue
            text = query_of(metric, only.resource.place if only else "")
            for group in datadog.query(options.site, text, span.start, span.end, config.progress.count):
                resource = about(metric, group)
                if resource is not None:  # of two metrics that tell the same, the first one counts
                    readings = list(readings_of(metric, resource, group, span, config.slug))
                    found[metric.signal, resource] = found.get((metric.signal, resource)) or readings
        return [reading for readings in found.values() for reading in readings]


def query_of(metric: DatadogMetric, place: str = "") -> str:
    where = f"host:{place}" if PLAIN_HOST.fullmatch(place) else "*"
    by = "host,device" if metric.signal == "disk_pressure" else "host"
    return f"avg:{metric.name}{{{where}}} by {{{by}}}.rollup(avg, {metric.period_s})"


def about(metric: DatadogMetric, group: Group) -> ResourceRef | None:
    """What a group is about. None without its host or device, for what is no disk, and in a unit that is another."""
    device = group.tags.get("device", "")
    if group.unit not in ("", UNIT_NAMES[metric.unit]):
        return None
    if metric.signal == "disk_pressure" and (device in NO_DISKS or not fills(device, device)):
        return None
    return resource_of(metric.signal, group.tags.get("host", ""), device)


def readings_of(
    metric: DatadogMetric, resource: ResourceRef, group: Group, span: Span, source: str
) -> Iterator[Reading]:
    for point in group.points:
        percent = percent_of(point.value, metric)
        if percent is not None and is_whole(point.at, metric.period_s, span):
            yield Reading(
                signal=metric.signal,
                resource=resource,
                at=point.at,
                value=percent,
                source=source,
                labels=labels_of((("metric", metric.name), *group.tags.items())),
                period_s=metric.period_s,
            )


SOURCE = DatadogSource()
