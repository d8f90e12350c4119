"""Which workload a pod belongs to: what its owner references lead to. A pod's name changes with each restart of that.

A ReplicaSet of a Deployment is called after it and the hash of its template, which its pods bear as a label; where that
names a Deployment that is known to exist, it is not read.
"""

import msgspec

from byteport.clients.kubernetes.call import Call
from byteport.clients.kubernetes.errors import NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.clients.kubernetes.reader import only_get
from byteport.clients.kubernetes.wire import Wire
from byteport.core.resource import ResourceRef
from signals.kubernetes.objects import ReplicaSet
from signals.kubernetes.pods import Known, Owner

KEPT = 20_000  # ReplicaSets whose owner is remembered
READ_TIMEOUT_S = 5.0
_DECODER = msgspec.json.Decoder(ReplicaSet)


class Workloads:
    """The workloads of one cluster, by their pods."""

    def __init__(self, place: str) -> None:
        self.deployments: set[tuple[str, str]] = set()  # namespace and name of those that exist
        self._place = place
        self._wire = Wire(place, only_get)
        self._of_replicaset: dict[str, tuple[str, str]] = {}  # uid → kind and name

    def known(self, pod: Known) -> ResourceRef | None:
        """The workload, if it can be told without reading anything."""
        owner = pod.owner
        if owner.kind != "ReplicaSet":
            kind, name = ("pod", pod.name) if owner.kind in ("", "Node") else (owner.kind.lower(), owner.name)
            return self._ref(pod, kind, name)
        found = self._of_replicaset.get(owner.uid)
        if found is None:
            deployment = called_after(owner)
            found = ("deployment", deployment) if (pod.namespace, deployment) in self.deployments else None
        return self._ref(pod, *found) if found else None

    def find(self, pod: Known) -> ResourceRef:
        """The workload, read if need be. Raises what the reading client does."""
        return self.known(pod) or self._ref(pod, *self._read_owner(pod))

    def guess(self, pod: Known) -> ResourceRef:
        """The workload by the names alone, for where it cannot be read."""
        return self.known(pod) or self._ref(pod, *_by_name(pod.owner))

    def _ref(self, pod: Known, kind: str, name: str) -> ResourceRef:
        return ResourceRef("kubernetes", self._place, kind, name, pod.namespace)

    def _read_owner(self, pod: Known) -> tuple[str, str]:
        """What owns the pod's ReplicaSet."""
        owner = pod.owner
        try:
            call = Call.get(path_of("replicaset", pod.namespace, owner.name))
            by = _DECODER.decode(self._wire.send(call, timeout_s=READ_TIMEOUT_S)).metadata.controller
            found = (by.kind.lower(), by.name) if by else ("replicaset", owner.name)
        except (NotFound, msgspec.DecodeError):  # it is gone already, or nothing that can be read
            found = _by_name(owner)
        if len(self._of_replicaset) >= KEPT:
            self._of_replicaset.pop(next(iter(self._of_replicaset)))
        self._of_replicaset[owner.uid] = found
        return found


def _by_name(replicaset: Owner) -> tuple[str, str]:
    deployment = called_after(replicaset)
    return ("deployment", deployment) if deployment else ("replicaset", replicaset.name)


def called_after(replicaset: Owner) -> str:
    """`cart-77db7844b9` with the hash `77db7844b9` → `cart`; empty where the name is not made like that."""
    tail = f"-{replicaset.template_hash}"
    return replicaset.name.removesuffix(tail) if len(tail) > 1 and replicaset.name.endswith(tail) else ""
