"""The CPU that Deployments use, in percent of what they ask for, from the metrics of Datadog's agent. Pure.

Like the source of clusters (`signals.kubernetes.saturation`) it counts the containers of which both is known, and gives
the same resource, so that one workload is one series whoever measures it. Of other workloads nothing is said: only
Deployments are scaled. Names and units: kubelet/metadata.csv of Datadog's integrations.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import msgspec

from byteport.clients.datadog import Group
from byteport.core.resource import ResourceRef
from signals.metrics import Only
from signals.untrusted import checked_resource

TAGS = ("kube_cluster_name", "kube_namespace", "kube_deployment", "kube_container_name")
NONE = "N/A"  # a group of what lacks the tag
CORES = {"core": 1.0, "millicore": 1e-3, "microcore": 1e-6, "nanocore": 1e-9}
PLAIN = re.compile(r"[a-z0-9.-]{1,253}")  # may stand in a query

Container = tuple[str, ...]  # the values of TAGS


class Share(msgspec.Struct, frozen=True):
    """What a Deployment's measured containers used and asked for in one period, in cores."""

    workload: ResourceRef
    at: datetime
    used: float
    requested: float

    @property
    def percent(self) -> float:
        return self.used / self.requested * 100


def query_of(metric: str, period_s: int, only: Only | None = None) -> str:
    """All pods' containers, or those of one Deployment; all as well where its name may not stand in a query."""
    where = "*"
    if only and PLAIN.fullmatch(only.resource.name) and PLAIN.fullmatch(only.resource.namespace):
        where = f"kube_namespace:{only.resource.namespace},kube_deployment:{only.resource.name}"
    return f"sum:{metric}{{{where}}} by {{{','.join(TAGS)}}}.rollup(avg, {period_s})"


def shares(used: Iterable[Group], requested: Iterable[Group], clusters: Mapping[str, str]) -> Iterator[Share]:
    """Period by period, of the Deployments in `clusters`: BytePort's names of them, by Datadog's."""
    asked = dict(_cores(requested))
    sums: dict[tuple[ResourceRef, datetime], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for container, points in _cores(used):
        workload = _workload(container, clusters)
        if workload is None:
            continue
        for at in points.keys() & asked.get(container, {}).keys():
            total = sums[workload, at]
            total[0] += points[at]
            total[1] += asked[container][at]
    for (workload, at), (cores, request) in sums.items():
        if request > 0:
            yield Share(workload, at, cores, request)


def _cores(groups: Iterable[Group]) -> Iterator[tuple[Container, dict[datetime, float]]]:
    """By container: cores by period. In a unit that is none of CPU, nothing is known."""
    for group in groups:
        factor = CORES.get(group.unit)
        container = tuple(group.tags.get(tag, "") for tag in TAGS)
        if factor is not None and all(part not in ("", NONE) for part in container):
            yield container, {point.at: point.value * factor for point in group.points if point.value >= 0}


def _workload(container: Container, clusters: Mapping[str, str]) -> ResourceRef | None:
    cluster, namespace, deployment, _ = container
    if cluster not in clusters:
        return None
    try:
        return checked_resource(ResourceRef("kubernetes", clusters[cluster], "deployment", deployment, namespace))
    except ValueError:
        return None
