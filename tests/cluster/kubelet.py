"""Plays the kubelet: tells, through the status subresource and core/v1 Events, what became of each pod.

Nothing runs: a pod's fate is the test's to say. The pods name a scheduler that does not exist, so that no real node
takes them; and a pod without a node is gone as soon as it is deleted.
"""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tests.cluster.live import ApiError, LiveCluster, Object, wait_for


class Fate(msgspec.Struct, frozen=True):
    """What becomes of a pod's first container."""

    exit_code: int = 0  # 0: it runs, and is ready
    reason: str = ""  # as in state.terminated.reason
    restarts: int = 0
    pending: str = ""  # it never gets room: the scheduler's message

    @property
    def healthy(self) -> bool:
        return not self.exit_code and not self.pending


REPEAT_S = 2.0  # a real kubelet tells about every ten seconds
LONG_AGO = timedelta(minutes=2)  # a pod that is well is so since then, so that no test has to wait until it is settled
HEALTHY = Fate()
OOM = Fate(exit_code=137, reason="OOMKilled", restarts=3)
NO_ROOM = Fate(pending="0/3 nodes are available: 3 Insufficient cpu.")


def crashing(exit_code: int = 1, restarts: int = 3) -> Fate:
    return Fate(exit_code=exit_code, reason="Error", restarts=restarts)


class Kubelet:
    """Gives every pod of one namespace its fate, as often as `tick` is called."""

    def __init__(self, cluster: LiveCluster, namespace: str) -> None:
        self.fate: Callable[[Object], Fate] = lambda pod: HEALTHY
        self.namespace = namespace
        self._cluster = cluster
        self._told: dict[str, tuple[Fate, float]] = {}  # by the pod's uid: what, and when last

    def until(self, condition: Callable[[], Any], what: str = "it") -> Any:
        """Goes on telling until the condition holds, and returns what it answers."""

        def turn() -> Any:
            self.tick()
            return condition()

        return wait_for(turn, what)

    def tick(self) -> None:
        """Tells the fate of every pod for which it is not told yet, or has changed; and of each crash now and then."""
        for pod in self._cluster.items("pods", self.namespace):
            if not pod["metadata"].get("deletionTimestamp"):
                self._tell_of(pod)

    def _tell_of(self, pod: Object) -> None:
        """A pod that went away or was changed meanwhile is looked at again in the next tick."""
        fate, uid, now = self.fate(pod), pod["metadata"]["uid"], time.monotonic()
        told, at = self._told.get(uid, (None, 0.0))
        if told == fate and not (fate.exit_code and now - at > REPEAT_S):
            return
        try:
            if told != fate:
                self._set_status(pod, fate)
            if fate.exit_code:
                self._back_off(pod)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        else:
            self._told[uid] = fate, now

    def _set_status(self, pod: Object, fate: Fate) -> None:
        status = {"status": status_of(pod, fate)}
        self._cluster.patch("pods", pod["metadata"]["name"], self.namespace, status, subresource="status")

    def _back_off(self, pod: Object) -> None:
        """The kubelet's BackOff event of a container that keeps ending: one object, whose count goes up."""
        container = pod["spec"]["containers"][0]["name"]
        message = f"Back-off restarting failed container {container} in pod {pod['metadata']['name']}"
        event = event_of(pod, container, "BackOff", message)
        name = event["metadata"]["name"]
        before = self._cluster.find("events", name, self.namespace)
        if before is None:
            self._cluster.create("events", event, self.namespace)
        else:
            again = {"count": before["count"] + 1, "lastTimestamp": event["lastTimestamp"]}
            self._cluster.patch("events", name, self.namespace, again)


def status_of(pod: Object, fate: Fate) -> dict[str, Any]:
    """A pod's status with this fate, as of now."""
    now = datetime.now(UTC)
    if fate.pending:
        unschedulable = {"reason": "Unschedulable", "message": fate.pending}
        return {"phase": "Pending", "conditions": [_condition("PodScheduled", False, now) | unschedulable]}
    started = now - LONG_AGO
    kinds = {"PodScheduled": True, "Initialized": True, "ContainersReady": fate.healthy, "Ready": fate.healthy}
    return {
        "phase": "Running",
        "startTime": _at(started),
        "conditions": [_condition(kind, holds, started) for kind, holds in kinds.items()],
        "containerStatuses": [_container_status(pod["spec"]["containers"][0], fate, now)],
    }


def _container_status(container: Object, fate: Fate, now: datetime) -> Object:
    status: Object = {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{container['image']}@sha256:{'0' * 64}",
        "ready": fate.healthy,
        "started": fate.healthy,
        "restartCount": fate.restarts,
        "state": {"running": {"startedAt": _at(now - LONG_AGO)}},
    }
    if fate.exit_code:
        waiting = f"back-off 40s restarting failed container={container['name']}"
        status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": waiting}}
        status["lastState"] = {"terminated": _terminated(fate, now)}
    return status


def _terminated(fate: Fate, now: datetime) -> Object:
    return {
        "exitCode": fate.exit_code,
        "reason": fate.reason,
        "startedAt": _at(now - timedelta(seconds=3)),
        "finishedAt": _at(now - timedelta(seconds=1)),
        "containerID": f"containerd://{secrets.token_hex(32)}",
    }


def _condition(kind: str, holds: bool, at: datetime) -> Object:
    return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": _at(at)}


def event_of(pod: Object, container: str, reason: str, message: str) -> Object:
    meta = pod["metadata"]
    at = _at(datetime.now(UTC))
    return {
        "metadata": {"name": f"{meta['name']}.{reason.lower()}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "fieldPath": f"spec.containers{{{container}}}",
        },
        "reason": reason,
        "message": message,
        "type": "Warning",
        "source": {"component": "kubelet", "host": "node-1"},
        "reportingComponent": "kubelet",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def _at(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
