"""Datadog: the metrics of its agents, by host and device, and by Deployment. One row of `sources` is one site.

The state of monitors is read by `datadog_monitor_states`, or comes by webhook (`datadog_monitor`).
"""

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Annotated, Any

import msgspec

from byteport.clients import datadog
from byteport.clients.datadog import Group
from byteport.core.resource import ResourceRef
from signals import datadog_workloads as workloads
from signals.datadog_workloads import Share
from signals.metrics import (
    CPU_PERCENT,
    Metric,
    MetricSourceBase,
    Only,
    Options,
    Span,
    Unit,
    fills,
    is_whole,
    options_of,
    readings_of,
    resource_of,
)
from signals.reading import Reading
from signals.source import SourceConfig

PLAIN_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # may stand in a query; of another, all hosts are read
NO_DISKS = frozenset({"udev", "shm", "none", "dev"})
UNIT_NAMES = {
    Unit.PERCENT: "percent", Unit.PERCENT_FREE: "percent", Unit.FRACTION: "fraction", Unit.FRACTION_FREE: "fraction",
}  # fmt: skip


ClusterName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,253}$")]


class DatadogMetric(Metric, frozen=True, kw_only=True):
    """`of`: the metric of what workloads ask for, of which `name` is what they use. Without it, hosts are meant."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,199}$")]
    of: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z][A-Za-z0-9_.]{0,199})?$")] = ""

    def __post_init__(self) -> None:
        if self.of and self.signal != "cpu_saturation":
            raise ValueError("of: only for cpu_saturation")


METRICS = (
    DatadogMetric(name="system.disk.in_use", signal="disk_pressure", unit=Unit.FRACTION),
    DatadogMetric(name="system.mem.pct_usable", signal="memory_pressure", unit=Unit.FRACTION_FREE),
    DatadogMetric(name="system.mem.used_pct", signal="memory_pressure", unit=Unit.FRACTION),
    DatadogMetric(name="system.cpu.idle", signal="cpu_saturation", unit=Unit.PERCENT_FREE),
    DatadogMetric(name="kubernetes.cpu.usage.total", of="kubernetes.cpu.requests", signal="cpu_saturation"),
)


class DatadogOptions(Options, frozen=True, kw_only=True):
    """`clusters`: whose workloads are read, by Datadog's names of them; each with BytePort's name of it."""

    site: str = "datadoghq.com"
    metrics: Annotated[tuple[DatadogMetric, ...], msgspec.Meta(min_length=1, max_length=50)] = METRICS
    clusters: Annotated[dict[ClusterName, ClusterName], msgspec.Meta(max_length=100)] = {}

    def __post_init__(self) -> None:
        if self.site not in datadog.SITES:
            raise ValueError(f"site: not one of {', '.join(datadog.SITES)}")


class DatadogSource(MetricSourceBase[DatadogOptions]):
    """One query a metric, or two where it is a share of another."""

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
    ) -> Iterable[Iterable[Reading]]:
        return (self._readings(metric, config, options, span, only) for metric in chosen(options, only))

    def _readings(
        self, metric: DatadogMetric, config: SourceConfig, options: DatadogOptions, span: Span, only: Only | None
    ) -> Iterator[Reading]:
        def ask(text: str) -> list[Group]:
            return datadog.query(options.site, text, span.start, span.end, config.progress.count)

        if not metric.of:
            for group in ask(query_of(metric, only.resource.place if only else "")):
                resource = about(metric, group)
                if resource is not None:
                    yield from readings_of(metric, resource, group.points, group.tags.items(), span, config.slug)
            return
        used, requested = (ask(workloads.query_of(name, metric.period_s, only)) for name in (metric.name, metric.of))
        for share in workloads.shares(used, requested, options.clusters):
            if fits(metric, share, span):
                yield reading_of(metric, share, config.slug)


def chosen(options: DatadogOptions, only: Only | None) -> list[DatadogMetric]:
    """The metrics to ask for: of workloads only where clusters are named, of one thing only those that tell of it."""
    if only is None:
        return [each for each in options.metrics if not each.of or options.clusters]
    of_workload = only.resource.platform == "kubernetes"
    return [each for each in options.metrics if each.signal == only.signal and bool(each.of) == of_workload]


def fits(metric: DatadogMetric, share: Share, span: Span) -> bool:
    return is_whole(share.at, metric.period_s, span) and share.percent <= CPU_PERCENT


def reading_of(metric: DatadogMetric, share: Share, source: str) -> Reading:
    labels = {"metric": metric.name, "used": f"{share.used * 1000:.0f}m", "requested": f"{share.requested * 1000:.0f}m"}
    return Reading(
        signal=metric.signal,
        resource=share.workload,
        at=share.at,
        value=share.percent,
        source=source,
        labels=labels,
        period_s=metric.period_s,
    )


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


SOURCE = DatadogSource()
