"""What an event is about, as the thing that can be restarted: a pod's workload, through its owner references."""

import msgspec

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.paths import path_of
from byteport.core.resource import ResourceRef
from runbooks.kubernetes import reads
from runbooks.kubernetes.objects import Meta, OwnerReference, Pod, read_as

OF_APPS = {"Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}


class Owner(msgspec.Struct, frozen=True):
    """The workload, or why there is none that BytePort may restart."""

    target: ResourceRef | None
    why_not: str = ""


class _HasMeta(msgspec.Struct, frozen=True):
    metadata: Meta


def owner_of(resource: ResourceRef) -> Owner:
    """Of a workload itself, or of a pod. Raises NotFound where a pod is gone."""
    if resource.kind in reads.WORKLOADS:
        return Owner(resource)
    if resource.kind in ("job", "cronjob"):
        return Owner(
            None, f"{resource.label}: a Job tries again by itself, and starting it anew is not BytePort's to do."
        )
    if resource.kind != "pod":
        return Owner(None, f"BytePort restarts Deployments, StatefulSets and DaemonSets, not a {resource.kind}.")
    return _owner_of_pod(resource)


def _owner_of_pod(resource: ResourceRef) -> Owner:
    controller = read_as(Pod, reads.raw(resource)).metadata.controller
    if controller is not None and _is(controller, "ReplicaSet", "apps"):
        controller = _owner_of_replica_set(resource, controller) or controller
    if controller is None:
        return Owner(None, f"{resource.label} stands alone: nothing would make it anew.")
    if controller.kind in OF_APPS and _is(controller, controller.kind, "apps"):
        target = ResourceRef(
            "kubernetes", resource.place, OF_APPS[controller.kind], controller.name, resource.namespace
        )
        return Owner(target)
    if _is(controller, "Job", "batch"):
        return Owner(None, f"{resource.label} belongs to the Job {controller.name}, which tries again by itself.")
    return Owner(
        None, f"{resource.label} belongs to the {controller.kind} {controller.name}, which BytePort does not know."
    )


def _owner_of_replica_set(resource: ResourceRef, owner: OwnerReference) -> OwnerReference | None:
    found = reader.get(resource.place, path_of("replicaset", resource.namespace, owner.name))
    return read_as(_HasMeta, found).metadata.controller


def _is(owner: OwnerReference, kind: str, group: str) -> bool:
    return owner.kind == kind and owner.api_version.partition("/")[0] == group
