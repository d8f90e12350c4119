"""`drill pod_crashloop`: a real Deployment, in a namespace of its own, whose container ends until it is restarted.

The container asks the annotation that a rollout restart leaves: without it, it says that what it depends on cannot be
reached, and ends; with it, it runs. So it stands for what a restart cures, and nothing but a restart cures it.
"""

import time
from typing import Any

from django.conf import settings

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.clusters import cluster_names
from byteport.clients.kubernetes.errors import NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.core.errors import BytePortError, Permanent
from byteport.core.resource import ResourceRef
from byteport.drills.drill import Say
from runbooks.actions import drill_namespace
from runbooks.actions.drill_namespace import DrillNamespace
from runbooks.kubernetes.objects import Raw
from signals.catalog import CATALOG

WORKLOAD = "crasher"
RESTARTED_AT = "metadata.annotations['kubectl.kubernetes.io/restartedAt']"
SCRIPT = """
if [ -z "$RESTARTED_AT" ]; then
  echo "dial tcp: connection refused (this is a drill: it ends until it is restarted)"; sleep 1; exit 1
fi
echo "running since the restart at $RESTARTED_AT"; trap exit TERM; while :; do sleep 1; done
"""
CRASH_PATIENCE_S = 90.0  # an image has to be pulled, on a node that may have to be found
REMOVAL_PATIENCE_S = 30.0
LOOK_S = 0.5


class PodCrashloop:
    """Makes a crash loop on the first cluster that BytePort knows."""

    name = "pod_crashloop"
    title = "A workload in a namespace of its own keeps ending soon after its start"
    platform = "kubernetes"

    def __init__(self) -> None:
        self._namespace: DrillNamespace | None = None

    def prepare(self, say: Say) -> ResourceRef:
        place = _cluster()
        word = CATALOG[self.name].opt_in
        self._namespace = namespace = drill_namespace.make(place, word)
        say(f"made the namespace {namespace.name} in {place}, opted in to `{word}`")
        namespace.create_deployment(deployment(namespace.name, settings.DRILL_IMAGE))
        say(f"made the Deployment {WORKLOAD} in it, whose container ends until it is restarted")
        ended = self._first_end(namespace)
        say(f"its container has ended: exit code {ended['exitCode']} ({ended.get('reason', 'no reason given')})")
        return ResourceRef("kubernetes", place, "deployment", WORKLOAD, namespace.name)

    def figures(self) -> dict[str, Any]:
        """`{"ready_pods": 0, "restarts": 4}`, all pods together; empty before anything was made."""
        if self._namespace is None:
            return {}
        statuses = [status for pod in _pods(self._namespace) for status in container_statuses(pod)]
        return {
            "ready_pods": sum(bool(status.get("ready")) for status in statuses),
            "restarts": sum(int(status.get("restartCount", 0)) for status in statuses),
        }

    def remove(self) -> None:
        """Removes the namespace and waits until it is gone, within bounds: the cluster goes on by itself."""
        if self._namespace is None:
            return
        try:
            self._namespace.remove()
            _wait_until_gone(self._namespace)
        except BytePortError as error:
            name = self._namespace.name
            raise Permanent(f"{error}\nThe drill's namespace is left: kubectl delete namespace {name}") from error
        self._namespace = None

    def _first_end(self, namespace: DrillNamespace) -> Raw:
        """How the container ended first. Raises Permanent, with what the cluster says, when it is never run."""
        until = time.monotonic() + CRASH_PATIENCE_S
        while time.monotonic() < until:
            pods = _pods(namespace)
            ended = next(filter(None, map(first_end, pods)), None)
            if ended is not None:
                return ended
            time.sleep(LOOK_S)
        raise Permanent(
            f"{namespace.place} did not run the drill's pod within {CRASH_PATIENCE_S:g} s: {why_not_run(pods)}"
        )


def _cluster() -> str:
    names = cluster_names()
    if not names:
        raise Permanent(
            "BytePort knows no cluster to drill on. Set BYTEPORT_KUBECONFIG to a kubeconfig whose account may make"
            " namespaces and Deployments, e.g. BYTEPORT_KUBECONFIG=~/.kube/config"
        )
    return names[0]


def _pods(namespace: DrillNamespace) -> list[Raw]:
    return reader.list_items(namespace.place, path_of("pod", namespace.name), most=100)


def _wait_until_gone(namespace: DrillNamespace) -> None:
    until = time.monotonic() + REMOVAL_PATIENCE_S
    while time.monotonic() < until:
        try:
            reader.get(namespace.place, path_of("namespace", "", namespace.name))
        except NotFound:
            return
        time.sleep(LOOK_S)


def container_statuses(pod: Raw) -> list[Raw]:
    return pod.get("status", {}).get("containerStatuses") or []


def first_end(pod: Raw) -> Raw | None:
    """How its container ended, as soon as it did. Pure."""
    for status in container_statuses(pod):
        for state in (status.get("state", {}), status.get("lastState", {})):
            if "terminated" in state:
                return dict(state["terminated"])
    return None


def why_not_run(pods: list[Raw]) -> str:
    """What the cluster says of pods that no container has run in. Pure."""
    if not pods:
        return "it made no pod of the Deployment (is its controller manager running, or does a quota forbid it?)."
    status = pods[0].get("status", {})
    waiting = [s["state"]["waiting"] for s in container_statuses(pods[0]) if "waiting" in s.get("state", {})]
    unmet = [c for c in status.get("conditions") or () if c.get("status") == "False" and c.get("message")]
    for said in (*waiting, *unmet):
        if said.get("message") or said.get("reason"):
            return f"{said.get('reason', '')}: {said.get('message', '')}".strip(": ")
    if not pods[0].get("spec", {}).get("nodeName"):
        return "no node has taken it (are there nodes, and is a scheduler running?)."
    return "its node has said nothing of it (is the kubelet running?)."


def deployment(namespace: str, image: str) -> Raw:
    """One pod that keeps to the strictest of the Pod Security Standards, so that it may run anywhere. Pure."""
    labels = {"app.kubernetes.io/name": WORKLOAD}
    pod = {
        "containers": [_container(image)],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 2,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return {
        "metadata": {"name": WORKLOAD, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _container(image: str) -> Raw:
    return {
        "name": "app",
        "image": image,
        "command": ["sh", "-c", SCRIPT],
        "env": [{"name": "RESTARTED_AT", "valueFrom": {"fieldRef": {"fieldPath": RESTARTED_AT}}}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "100m", "memory": "32Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


DRILL = PodCrashloop()
