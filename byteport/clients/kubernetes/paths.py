"""The paths of the API: made from kind, namespace and name, and read back. Pure.

No name can break out of its path: each part is held to what Kubernetes itself allows, and none of that needs escaping.
https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

import re
from urllib.parse import quote

import msgspec

from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef

NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
NAMESPACE = re.compile(r"(?=.{1,63}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
SUBRESOURCES = frozenset({"log", "scale", "status"})
VERSION = "/version"


class Kind(msgspec.Struct, frozen=True):
    """One kind of object that BytePort knows: where its paths lie."""

    name: str  # as in `ResourceRef.kind`
    group: str  # "" is the core group
    version: str
    plural: str
    namespaced: bool = True

    @property
    def base(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("pod", "", "v1", "pods"),
        Kind("event", "", "v1", "events"),
        Kind("namespace", "", "v1", "namespaces", namespaced=False),
        Kind("node", "", "v1", "nodes", namespaced=False),
        Kind("deployment", "apps", "v1", "deployments"),
        Kind("statefulset", "apps", "v1", "statefulsets"),
        Kind("daemonset", "apps", "v1", "daemonsets"),
        Kind("replicaset", "apps", "v1", "replicasets"),
        Kind("job", "batch", "v1", "jobs"),
        Kind("cronjob", "batch", "v1", "cronjobs"),
        Kind("horizontalpodautoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
        Kind("certificate", "cert-manager.io", "v1", "certificates"),
        Kind("certificaterequest", "cert-manager.io", "v1", "certificaterequests"),
        Kind("application", "argoproj.io", "v1alpha1", "applications"),
        Kind("podmetrics", "metrics.k8s.io", "v1beta1", "pods"),
        Kind("scaledobject", "keda.sh", "v1alpha1", "scaledobjects"),
    )
}
_BY_PLACE = {(kind.group, kind.version, kind.plural): kind for kind in KINDS.values()}


class Target(msgspec.Struct, frozen=True):
    """What a path is about. Without a name it is a list: of one namespace, or with none of all."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As RBAC writes it: `pods`, `pods/log`."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural


def path_of(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The path of an object, or without a name of a list. Raises Permanent for what no cluster can have."""
    known = KINDS.get(kind)
    if known is None:
        raise Permanent(f"BytePort does not know the kind {kind[:100]!r}.")
    if known.namespaced and name and not namespace:
        raise Permanent(f"A {kind} has a namespace, and none was given for {name[:100]!r}.")
    parts = [known.base]
    if known.namespaced and namespace:
        parts += ["namespaces", _checked(NAMESPACE, "namespace", namespace)]
    parts.append(known.plural)
    if name:
        parts.append(_checked(NAME, "name", name))
    if subresource:
        parts.append(_known_subresource(subresource, name))
    return "/".join(parts)


def path_of_resource(resource: ResourceRef, subresource: str = "") -> str:
    """The path of what a reference is about. Raises Permanent as `path_of` does."""
    return path_of(resource.kind, resource.namespace, resource.name, subresource)


def _checked(form: re.Pattern[str], what: str, text: str) -> str:
    if not form.fullmatch(text):
        raise Permanent(f"{text[:100]!r} cannot be a {what} in Kubernetes.")
    return quote(text, safe="")


def _known_subresource(subresource: str, name: str) -> str:
    if subresource not in SUBRESOURCES or not name:
        raise Permanent(f"BytePort does not use the subresource {subresource[:100]!r}.")
    return subresource


def target_of(path: str) -> Target | None:
    """What a path is about; None for every path that `path_of` would not make."""
    parts = path.split("/")[1:]
    group, parts = ("", parts[1:]) if parts[:1] == ["api"] else ("".join(parts[1:2]), parts[2:])
    version, rest = "".join(parts[:1]), parts[1:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in _BY_PLACE:
        namespace, rest = rest[1], rest[2:]
    kind = _BY_PLACE.get((group, version, "".join(rest[:1])))
    if kind is None:
        return None
    name, subresource = "".join(rest[1:2]), "".join(rest[2:3])
    return _if_made_by_us(Target(kind, namespace, name, subresource), path)


def _if_made_by_us(target: Target, path: str) -> Target | None:
    try:
        made = path_of(target.kind.name, target.namespace, target.name, target.subresource)
    except Permanent:
        return None
    return target if made == path else None
