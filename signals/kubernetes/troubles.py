"""The troubles with pods that are open, and when they are over: once the workload has been calm for a while. Pure.

Calm: every pod is Running and Ready for a minute, and none restarted within the window; or there are no pods left.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec

from byteport.core.resource import ResourceRef
from signals.kubernetes.pods import Known

WorkloadOf = Callable[[Known], ResourceRef | None]

SETTLED_S = 60.0
TELL_AGAIN_S = 10.0  # repeats within that time say nothing new
NODE_QUIET_S = 1800.0


class Key(msgspec.Struct, frozen=True):
    """What tells one trouble from another, as a reading's fingerprint does."""

    signal: str
    resource: ResourceRef
    detail: str


class Trouble(msgspec.Struct):
    """Times are seconds since the epoch; 0: never."""

    told_at: float = 0.0
    calm_since: float = 0.0


class Troubles:
    """Not thread-safe."""

    def __init__(self) -> None:
        self.open: dict[Key, Trouble] = {}

    def fires(self, key: Key, at: datetime) -> bool:
        """Notes that it fires. False when that was told just now."""
        trouble, now = self.open.setdefault(key, Trouble()), at.timestamp()
        trouble.calm_since = 0.0
        if now - trouble.told_at < TELL_AGAIN_S:
            return False
        trouble.told_at = now
        return True

    def adopt(self, key: Key) -> None:
        """One that an earlier watcher has opened."""
        self.open.setdefault(key, Trouble())

    def over(self, pods: Iterable[Known], workload_of: WorkloadOf, at: datetime) -> Sequence[Key]:
        """Those that have ended by now; they are not kept any longer. Where a pod's workload is not known, nothing in
        its namespace is over."""
        if not self.open:
            return ()
        now, restless = at.timestamp(), self._restless(pods, workload_of, at.timestamp())
        ended = [key for key, trouble in self.open.items() if _ended(key, trouble, restless, now)]
        for key in ended:
            del self.open[key]
        return ended

    @property
    def namespaces(self) -> set[str]:
        """Where there is trouble."""
        return {key.resource.namespace for key in self.open}

    def _restless(self, pods: Iterable[Known], workload_of: WorkloadOf, now: float) -> set[ResourceRef | str]:
        """The troubled workloads with a pod that is not calm, and the namespaces with a pod of unknown workload."""
        namespaces, troubled = self.namespaces, {key.resource for key in self.open}
        restless: set[ResourceRef | str] = set()
        for pod in pods:
            if pod.namespace in namespaces and not pod.finished:
                workload = workload_of(pod)
                if workload is None:
                    restless.add(pod.namespace)
                elif workload in troubled and not _calm(pod, now):
                    restless.add(workload)
        return restless


def _ended(key: Key, trouble: Trouble, restless: set[ResourceRef | str], now: float) -> bool:
    if key.resource.kind == "node":
        trouble.told_at = trouble.told_at or now
        return now - trouble.told_at >= NODE_QUIET_S
    if key.resource in restless or key.resource.namespace in restless:
        trouble.calm_since = 0.0
        return False
    trouble.calm_since = trouble.calm_since or now
    return now - trouble.calm_since >= SETTLED_S


def _calm(pod: Known, now: float) -> bool:
    containers = (pod.containers or {}).values()
    restless = any(container.waits_for or container.recent_restarts(now) for container in containers)
    return bool(pod.ready_since) and not restless
