"""CloudWatch: the metrics of the CloudWatch agent and of EC2. One row of `sources` is one region of one account."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from byteport.clients import aws, cloudwatch
from byteport.clients.cloudwatch import Query, Series
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from signals.metrics import (
    Metric,
    MetricSourceBase,
    Only,
    Options,
    Span,
    fills,
    options_of,
    readings_of,
    resource_of,
)
from signals.reading import Reading
from signals.source import SourceConfig

LIST_EVERY = timedelta(minutes=15)  # a new instance is seen within that time
HOST_DIMENSIONS = ("InstanceId", "host")  # the agent says `host` where it was not told to append the instance's id


class CloudWatchMetric(Metric, frozen=True, kw_only=True):
    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "CWAgent"


# The agent's own names, and those that others publish in its namespace. EC2 itself measures every five minutes.
METRICS = (
    CloudWatchMetric(name="disk_used_percent", signal="disk_pressure"),
    CloudWatchMetric(name="disk.percent", signal="disk_pressure"),
    CloudWatchMetric(name="mem_used_percent", signal="memory_pressure"),
    CloudWatchMetric(name="mem/used", signal="memory_pressure"),
    CloudWatchMetric(name="CPUUtilization", namespace="AWS/EC2", signal="cpu_saturation", period_s=300),
)


class CloudWatchOptions(Options, frozen=True, kw_only=True):
    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    role_arn: Annotated[str, msgspec.Meta(pattern=r"^(arn:[a-z-]+:iam::[0-9]{12}:role/.{1,512})?$")] = ""
    metrics: Annotated[tuple[CloudWatchMetric, ...], msgspec.Meta(min_length=1, max_length=50)] = METRICS


class Watched(msgspec.Struct, frozen=True):
    """A series, and what it is about."""

    series: Series
    metric: CloudWatchMetric
    resource: ResourceRef


class CloudWatchSource(MetricSourceBase[CloudWatchOptions]):
    """Lists the series of each metric now and then, and reads all of them at each poll."""

    name = "cloudwatch"
    title = "Amazon CloudWatch metrics"
    options_type = CloudWatchOptions
    behind = timedelta(minutes=3)

    def __init__(self) -> None:
        super().__init__()
        self._listed: dict[str, tuple[datetime, CloudWatchOptions, list[Watched]]] = {}  # by slug

    def credentials(self, options: dict[str, Any]) -> str:
        known = options_of(options, CloudWatchOptions)
        return f"AWS', {aws.identity(known.region, known.role_arn)}, for {known.region}"

    def look(
        self, config: SourceConfig, options: CloudWatchOptions, span: Span, only: Only | None = None
    ) -> Iterable[Iterable[Reading]]:
        """Series by series: of each thing one has been chosen already."""
        client = aws.client("cloudwatch", options.region, options.role_arn)
        watched = self._of_one(config, options, only) if only else self._of_all(config, options)
        queries = [Query(each.series, each.metric.period_s) for each in watched]
        points = cloudwatch.read_points(client, queries, span.start, span.end, config.progress.count)
        return (
            readings_of(each.metric, each.resource, measured, each.series.dimensions, span, config.slug)
            for each, measured in zip(watched, points, strict=True)
        )

    def _of_all(self, config: SourceConfig, options: CloudWatchOptions) -> list[Watched]:
        at, known, watched = self._listed.get(config.slug, (None, None, []))
        if at is None or known != options or now() - at > LIST_EVERY:
            watched = watched_of(self._list(config, options, options.metrics, None))
            self._listed[config.slug] = (now(), options, watched)
        return watched

    def _of_one(self, config: SourceConfig, options: CloudWatchOptions, only: Only) -> list[Watched]:
        """Listed anew, by the host's name: the process that verifies is another than the one that polls."""
        metrics = [metric for metric in options.metrics if metric.signal == only.signal]
        place = only.resource.place
        found = [listed for name in HOST_DIMENSIONS for listed in self._list(config, options, metrics, (name, place))]
        return [each for each in watched_of(found) if each.resource == only.resource]

    def _list(
        self,
        config: SourceConfig,
        options: CloudWatchOptions,
        metrics: Iterable[CloudWatchMetric],
        dimension: tuple[str, str] | None,
    ) -> list[tuple[CloudWatchMetric, Series]]:
        client = aws.client("cloudwatch", options.region, options.role_arn)
        count = config.progress.count
        return [
            (metric, series)
            for metric in metrics
            for series in cloudwatch.list_series(client, metric.namespace, metric.name, dimension, count)
        ]


def watched_of(listed: Iterable[tuple[CloudWatchMetric, Series]]) -> list[Watched]:
    """One series a signal and resource: the one with the most dimensions, since the others are sums of several.

    It decides also when it is of a file system that does not count: the same mount's other series say no kind.
    """
    chosen: dict[tuple[str, ResourceRef], Watched | None] = {}
    for metric, series in sorted(listed, key=lambda each: -len(each[1].dimensions)):
        dimensions = dict(series.dimensions)
        resource = about(metric, dimensions)
        if resource is None or (metric.signal, resource) in chosen:
            continue
        counts = metric.signal != "disk_pressure" or fills(dimensions["path"], dimensions.get("fstype", ""))
        chosen[metric.signal, resource] = Watched(series, metric, resource) if counts else None
    return [each for each in chosen.values() if each is not None]


def about(metric: CloudWatchMetric, dimensions: dict[str, str]) -> ResourceRef | None:
    """What a series is about. None for what is not one host's, e.g. the average of an Auto Scaling group."""
    place = next((dimensions[name] for name in HOST_DIMENSIONS if dimensions.get(name)), "")
    return resource_of(metric.signal, place, dimensions.get("path", ""))


SOURCE = CloudWatchSource()
