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
MEASURED_AFTER_S = 120.0  # so long after it is ready a pod is measured at the latest


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
    """The saturation of each workload, unless one of its pods is at work and not measured: it may be the busy one."""
    by_name = {(pod.namespace, pod.name): pod for pod in pods if pod.requests and not pod.finished}
    found: dict[ResourceRef, Saturation] = {}
    unmeasured = dict(by_name)
    for metrics in measured:
        pod = by_name.get((metrics.metadata.namespace, metrics.metadata.name))
        if pod is None or (metrics.timestamp and now - metrics.timestamp > STALE):
            continue
        unmeasured.pop((pod.namespace, pod.name), None)
        workload = workload_of(pod)
        if workload is not None and workload.kind in SCALABLE:
            _add(found.setdefault(workload, Saturation()), pod, metrics)
    unclear = {workload_of(pod) for pod in unmeasured.values() if _is_at_work(pod, now)}
    return {of: saturation for of, saturation in found.items() if saturation.requested and of not in unclear}


def _is_at_work(pod: Known, now: datetime) -> bool:
    return bool(pod.ready_since) and now.timestamp() - pod.ready_since >= MEASURED_AFTER_S


def _add(saturation: Saturation, pod: Known, metrics: PodMetrics) -> None:
    used = {container.name: container.usage.cpu for container in metrics.containers or ()}
    counted = [(used[name], requested) for name, requested in pod.requests if used.get(name)]
    saturation.used += sum(millicores(text) for text, _ in counted)
    saturation.requested += sum(requested for _, requested in counted)
    saturation.pods += bool(counted)
