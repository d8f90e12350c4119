"""The CPU that a workload's pods use, and whether more replicas would take some of it. Reading is at the end; the rest
is pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.errors import NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.core.resource import ResourceRef
from runbooks.kubernetes import quantity, reads
from runbooks.kubernetes.objects import Pod, Workload, condition, read_as

STALE = timedelta(minutes=5)
WARM = timedelta(minutes=5)  # a pod that is younger may not have got its share yet


class Usage(msgspec.Struct, frozen=True):
    name: str = ""
    usage: dict[str, str] = {}


class _Meta(msgspec.Struct, frozen=True):
    name: str


class Measured(msgspec.Struct, frozen=True):
    """One pod of metrics.k8s.io/v1beta1."""

    metadata: _Meta
    timestamp: datetime | None = None
    containers: tuple[Usage, ...] = ()


class PodLoad(msgspec.Struct, frozen=True):
    """What one pod uses and asks for, in cores, over the containers of which both are known; and as of when."""

    pod: str
    used: float
    requested: float
    at: datetime | None = None  # None where the cluster does not say

    @property
    def percent(self) -> float:
        return self.used / self.requested * 100


def percent_of(loads: Sequence[PodLoad]) -> float | None:
    """Of all together; None where nothing was measured."""
    requested = sum(load.requested for load in loads)
    return sum(load.used for load in loads) / requested * 100 if requested else None


def loads_of(pods: Sequence[Pod], measured: Sequence[Measured], at: datetime) -> list[PodLoad]:
    by_name = {one.metadata.name: one for one in measured if not one.timestamp or at - one.timestamp <= STALE}
    found = [_load(pod, by_name[pod.metadata.name]) for pod in pods if pod.metadata.name in by_name]
    return [load for load in found if load.requested]


def _load(pod: Pod, measured: Measured) -> PodLoad:
    used = {one.name: cores(one.usage.get("cpu", "")) for one in measured.containers}
    asked = {str(one.get("name", "")): _request(one) for one in pod.spec.get("containers") or ()}
    both = [name for name, request in asked.items() if request and name in used]
    used_now, requested = sum(used[name] for name in both), sum(asked[name] for name in both)
    return PodLoad(pod.metadata.name, used_now, requested, measured.timestamp)


def _request(container: dict[str, Any]) -> float:
    return cores(str(((container.get("resources") or {}).get("requests") or {}).get("cpu", "")))


def cores(text: str) -> float:
    """0 for none, and for what is no quantity."""
    try:
        return float(quantity.parse(text)) if text else 0.0
    except ValueError:
        return 0.0


def uneven(loads: Sequence[PodLoad], pods: Sequence[Pod], clear: float, at: datetime) -> str:
    """What speaks against the load being shared by all replicas; empty when nothing does. Either way it is a guess."""
    if len(loads) < 2:
        return ""
    by_load = sorted(loads, key=lambda load: load.percent)
    idlest, busiest = by_load[0], by_load[-1]
    others = percent_of(by_load[:-1]) or 0.0
    if busiest.percent > 2 * others and others < clear:
        return (
            f"the load lies on {busiest.pod} ({busiest.percent:.0f} % of its request; the others {others:.0f} %),"
            " which more replicas would not take off it"
        )
    average = percent_of(by_load[1:]) or 0.0
    if 4 * idlest.percent < average and _is_warm(idlest.pod, pods, at):
        return (
            f"{idlest.pod} is nearly idle ({idlest.percent:.0f} % of its request; the others {average:.0f} %):"
            " the load does not go to every replica"
        )
    return ""


def _is_warm(name: str, pods: Sequence[Pod], at: datetime) -> bool:
    pod = next((pod for pod in pods if pod.metadata.name == name), None)
    ready = condition(pod.status.conditions, "Ready") if pod else None
    since = ready.last_transition_time if ready and ready.status == "True" else None
    return since is not None and at - since >= WARM


def without_room(pods: Sequence[Pod], pending_beside: Sequence[Pod]) -> str:
    """Which pods wait for room: of the workload itself any that cannot be placed, of others those that lack room."""
    own = next((pod for pod in pods if _unplaced(pod)), None)
    if own is not None:
        return f"{own.metadata.name} cannot be placed: {_unplaced(own)}"
    beside = next((pod for pod in pending_beside if "Insufficient" in _unplaced(pod)), None)
    return f"{beside.metadata.name} waits for room: {_unplaced(beside)}" if beside is not None else ""


def _unplaced(pod: Pod) -> str:
    scheduled = condition(pod.status.conditions, "PodScheduled")
    if scheduled is None or scheduled.status != "False" or pod.status.phase not in ("", "Pending"):
        return ""
    return scheduled.message or scheduled.reason or "unschedulable"


# --- reading


def measure(target: ResourceRef, workload: Workload, pods: Sequence[Pod], at: datetime) -> list[PodLoad] | None:
    """The load of each pod now; None where the cluster has no metrics."""
    path = path_of("podmetrics", target.namespace)
    selector = reads.selector_text(workload.spec.selector)
    try:
        found = reader.list_items(target.place, path, labelSelector=selector)
    except NotFound:
        return None
    return loads_of(pods, [read_as(Measured, one) for one in found], at)


def pending(target: ResourceRef) -> list[Pod]:
    """All pods of the namespace that are Pending."""
    path = path_of("pod", target.namespace)
    return [read_as(Pod, one) for one in reader.list_items(target.place, path, fieldSelector="status.phase=Pending")]


class _Scaled(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    kind: str = "Deployment"


class _ScalerSpec(msgspec.Struct, frozen=True, rename="camel"):
    scale_target_ref: _Scaled = _Scaled()


class _Scaler(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _ScalerSpec = _ScalerSpec()


def autoscaler_of(target: ResourceRef) -> str:
    """What else sets the number of replicas: a HorizontalPodAutoscaler or KEDA's ScaledObject; empty for nothing."""
    for kind, called in (
        ("horizontalpodautoscaler", "HorizontalPodAutoscaler"),
        ("scaledobject", "ScaledObject of KEDA"),
    ):
        for one in _scalers(target, kind):
            if (one.spec.scale_target_ref.kind, one.spec.scale_target_ref.name) == ("Deployment", target.name):
                return f"{called} {one.metadata.name}"
    return ""


def _scalers(target: ResourceRef, kind: str) -> list[_Scaler]:
    try:
        found = reader.list_items(target.place, path_of(kind, target.namespace))
    except NotFound:  # KEDA is not installed
        return []
    return [read_as(_Scaler, one) for one in found]
