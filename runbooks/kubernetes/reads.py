"""What runbooks, actions and the fence read of a cluster: each object anew, at the moment of asking."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.errors import Forbidden, NotFound, Unreadable
from byteport.clients.kubernetes.paths import path_of, path_of_resource
from byteport.core.resource import ResourceRef
from runbooks.kubernetes.names import TEMPLATE_HASH
from runbooks.kubernetes.objects import Meta, Namespace, Pod, Raw, ReplicaSet, Selector, Workload, read_as

WORKLOADS = ("deployment", "statefulset", "daemonset")


def raw(target: ResourceRef) -> Raw:
    """The object as the API server has it. Raises NotFound and what else `errors` has."""
    return reader.get(target.place, path_of_resource(target))


def workload(target: ResourceRef) -> Workload:
    return read_as(Workload, raw(target))


def namespace_annotations(target: ResourceRef) -> dict[str, str]:
    """Of the namespace that holds it."""
    found = reader.get(target.place, path_of("namespace", name=target.namespace))
    return read_as(Namespace, found).metadata.annotations


def raw_replica_sets(target: ResourceRef, of: Workload) -> list[Raw]:
    """Those that a Deployment owns."""
    path = path_of("replicaset", target.namespace)
    found = reader.list_items(target.place, path, labelSelector=selector_text(of.spec.selector))
    return [one for one in found if _owned_by(one, of.metadata.uid)]


def replica_sets(target: ResourceRef, of: Workload) -> list[ReplicaSet]:
    return [read_as(ReplicaSet, one) for one in raw_replica_sets(target, of)]


def pods(target: ResourceRef, of: Workload, owners: set[str]) -> list[Pod]:
    """A workload's pods: those that match its selector and that it, or a ReplicaSet of it, owns (`owners`: uids)."""
    path = path_of("pod", target.namespace)
    found = reader.list_items(target.place, path, labelSelector=selector_text(of.spec.selector))
    read = [read_as(Pod, one) for one in found]
    return [pod for pod in read if pod.metadata.controller is not None and pod.metadata.controller.uid in owners]


def pods_of(target: ResourceRef, of: Workload) -> list[Pod]:
    """The same, with the owners found."""
    if target.kind != "deployment":
        return pods(target, of, {of.metadata.uid})
    return pods(target, of, {one.metadata.uid for one in replica_sets(target, of)})


def applications(place: str) -> list[Raw] | None:
    """All Applications of Argo CD; none where Argo CD is not installed. None when they cannot be read."""
    try:
        return reader.list_items(place, path_of("application"))
    except NotFound:
        return []
    except (Forbidden, Unreadable):
        return None


def template_of(replica_set: Raw) -> Raw:
    """Its pod template as a Deployment has it: without the hash that the controller adds."""
    template, metadata = replica_set["spec"]["template"], replica_set["spec"]["template"].get("metadata", {})
    labels = {key: value for key, value in metadata.get("labels", {}).items() if key != TEMPLATE_HASH}
    return {**template, "metadata": {**metadata, "labels": labels}}


def selector_text(selector: Selector) -> str:
    """A label selector as the query parameter has it."""
    return ",".join([*(f"{key}={value}" for key, value in selector.match_labels.items()), *_expressions(selector)])


def _expressions(selector: Selector) -> Iterator[str]:
    for one in selector.match_expressions:
        key, values = str(one.get("key", "")), ",".join(one.get("values") or ())
        match one.get("operator"):
            case "In":
                yield f"{key} in ({values})"
            case "NotIn":
                yield f"{key} notin ({values})"
            case "Exists":
                yield key
            case "DoesNotExist":
                yield f"!{key}"


def digest(value: Any) -> str:
    """Names a part of an object, such as its pod template: the same for the same content."""
    return sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]


def _owned_by(one: Raw, uid: str) -> bool:
    controller = read_as(_Owned, one).metadata.controller
    return controller is not None and controller.uid == uid


class _Owned(msgspec.Struct, frozen=True):
    metadata: Meta
