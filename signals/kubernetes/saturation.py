"""The CPU that workloads use, in percent of what they ask for, from metrics.k8s.io. Pure.

Counted are the containers that have a request and a measurement. Of workloads whose number of replicas nobody sets
(DaemonSets, Jobs, bare pods) nothing is said: more replicas would not help.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec

from byteport.core.resource import ResourceRef
from signals.kubernetes.objects import PodMetrics, millicores
from signals.kubernetes.pods import Known

SCALABLE = frozenset({"deployment", "statefulset", "replicaset"})
STALE = timedelta(minutes=5)


class Saturation(msgspec.Struct):
    """What one workload's measured containers use and ask for, in millicores."""

    used: float = 0.0
    requested: float = 0.0
    pods: int = 0

    @property
    def percent(self) -> float:
        return self.used / self.requested * 100


def saturations(
    measured: Iterable[PodMetrics],
    pods: Iterable[Known],
    workload_of: Callable[[Known], ResourceRef | None],
    now: datetime,
) -> dict[ResourceRef, Saturation]:
    """The saturation of each workload of which something was measured."""
    by_name = {(pod.namespace, pod.name): pod for pod in pods if pod.requests and not pod.finished}
    found: dict[ResourceRef, Saturation] = {}
    for metrics in measured:
        pod = by_name.get((metrics.metadata.namespace, metrics.metadata.name))
        if pod is None or (metrics.timestamp and now - metrics.timestamp > STALE):
            continue
        workload = workload_of(pod)
        if workload is not None and workload.kind in SCALABLE:
            _add(found.setdefault(workload, Saturation()), pod, metrics)
    return {workload: saturation for workload, saturation in found.items() if saturation.requested}


def _add(saturation: Saturation, pod: Known, metrics: PodMetrics) -> None:
    used = {container.name: container.usage.cpu for container in metrics.containers or ()}
    counted = [(used[name], requested) for name, requested in pod.requests if used.get(name)]
    saturation.used += sum(millicores(text) for text, _ in counted)
    saturation.requested += sum(requested for _, requested in counted)
    saturation.pods += bool(counted)
