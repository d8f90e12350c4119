"""A namespace `shop` on the stand-in, for tests of what is done there. Its objects are those that were recorded."""

from datetime import UTC, datetime, timedelta

from byteport.core.resource import ResourceRef
from tests.kubernetes.standin import PLACE, Cluster, recorded

ALL_WORDS = "crashloop,rollback,scale,certificates"


def ref(kind: str, name: str) -> ResourceRef:
    return ResourceRef("kubernetes", PLACE, kind, name, "shop")


def ago(**since: float) -> str:
    """`minutes=5` ago, as Kubernetes writes it."""
    return f"{datetime.now(UTC) - timedelta(**since):%Y-%m-%dT%H:%M:%SZ}"


def namespace(cluster: Cluster, words: str | None = ALL_WORDS) -> None:
    annotations = {} if words is None else {"byteport.io/auto-remediate": words}
    cluster.store.put("namespace", {"metadata": {"name": "shop", "annotations": annotations}})


def leaky(cluster: Cluster, limit: str = "128Mi", **annotations: str) -> dict:
    """A Deployment whose container `app` has this memory limit, and a request of 64Mi."""
    found = recorded("dry_run_patch_memory_limit")
    found["metadata"]["annotations"] |= {key.replace("__", "/"): value for key, value in annotations.items()}
    found["metadata"]["managedFields"] = []
    found["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = limit
    found["status"]["observedGeneration"] = found["metadata"]["generation"]
    return cluster.store.put("deployment", found)


def failed_web(cluster: Cluster) -> dict:
    """The Deployment `web` whose second revision never became available, and its two ReplicaSets."""
    cluster.store.put_list("replicaset", recorded("replicasets_with_revisions"))
    found = recorded("deployment_progress_deadline_exceeded")
    found["metadata"]["managedFields"] = []
    return cluster.store.put("deployment", found)


def certificate(cluster: Cluster, **status: object) -> dict:
    """One that is past its renewal time, three days before its end."""
    found = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "shop-tls", "namespace": "shop", "generation": 1},
        "spec": {"secretName": "shop-tls", "dnsNames": ["shop.example.com"], "issuerRef": {"name": "letsencrypt"}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "Up to date"}],
            "notAfter": ago(days=-3),
            "renewalTime": ago(days=27),
            "revision": 4,
            **status,
        },
    }
    return cluster.store.put("certificate", found)


def workload(cluster: Cluster, kind: str, name: str = "ledger") -> dict:
    """A StatefulSet or DaemonSet with one container."""
    found = {
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "app:1", "resources": {}}]},
            },
            "updateStrategy": {"type": "RollingUpdate"},
        },
        "status": {"observedGeneration": 1},
    }
    if kind == "statefulset":
        found["spec"] |= {"replicas": 1, "podManagementPolicy": "Parallel", "serviceName": name}
    return cluster.store.put(kind, found)


# --- a workload with pods, and who looks after it


def pod(cluster: Cluster, owner: dict, kind: str, name: str, labels: dict, **status: object) -> dict:
    """A pod that is Running and Ready and has been for a while, unless `status` says something else."""
    since = ago(minutes=10)
    container = {"name": "app", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": since}}}
    found = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [container],
        **status,
    }
    meta = {"name": name, "namespace": "shop", "labels": labels, "creationTimestamp": ago()}
    meta["ownerReferences"] = [owned(owner, kind)] if owner else []
    return cluster.store.put("pod", {"metadata": meta, "spec": {}, "status": found})


def owned(owner: dict, kind: str) -> dict:
    group = "batch/v1" if kind == "Job" else "apps/v1"
    meta = owner["metadata"]
    return {"apiVersion": group, "kind": kind, "name": meta["name"], "uid": meta["uid"], "controller": True}


def crashed(code: int, reason: str = "Error", restarts: int = 5, name: str = "app") -> dict:
    """The status of a container that keeps ending."""
    ended = {"exitCode": code, "reason": reason, "startedAt": ago(seconds=72), "finishedAt": ago(seconds=60)}
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}
    return {
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": ago(minutes=1)}],
        "containerStatuses": [
            {
                "name": name,
                "ready": False,
                "restartCount": restarts,
                "state": {"waiting": waiting},
                "lastState": {"terminated": ended},
            }
        ],
    }


def replica_set(cluster: Cluster, of: dict, suffix: str) -> dict:
    labels = {**of["spec"]["selector"]["matchLabels"], "pod-template-hash": suffix}
    template = {**of["spec"]["template"], "metadata": {"labels": labels}}
    meta = {"name": f"{of['metadata']['name']}-{suffix}", "namespace": "shop", "labels": labels}
    meta["ownerReferences"] = [owned(of, "Deployment")]
    return cluster.store.put("replicaset", {"metadata": meta, "spec": {"template": template, "replicas": 1}})


def crash_loop(cluster: Cluster, status: dict, log: str | None = None, kind: str = "deployment") -> dict:
    """The workload `cart`, with one pod `cart-1` in a crash loop, whose previous log is this."""
    of = workload(cluster, kind, "cart")
    containers = of["spec"]["template"]["spec"]["containers"]
    containers[0]["resources"] = {"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi"}}
    of = cluster.store.put(kind, of)
    owner, owner_kind = of, {"statefulset": "StatefulSet", "daemonset": "DaemonSet"}.get(kind, "ReplicaSet")
    labels = of["spec"]["selector"]["matchLabels"]
    if kind == "deployment":
        owner = replica_set(cluster, of, "aaa")
        labels = owner["metadata"]["labels"]
    pod(cluster, owner, owner_kind, "cart-1", labels, **status)
    if log is not None:
        cluster.store.logs["shop", "cart-1", "app", True] = log
    return of


def controller(cluster: Cluster, status: dict | None = None) -> None:
    """Plays the Deployment controller and the kubelet: a changed `cart` gets a new pod, well but for `status`."""

    def roll_out(kind: str, changed: dict) -> None:
        if kind != "deployment" or changed["metadata"]["name"] != "cart":
            return
        for name in [key[2] for key in cluster.store.objects if key[0] == "pod"]:
            cluster.store.delete("pod", "shop", name)
        number = changed["metadata"]["generation"]
        new = replica_set(cluster, changed, f"bbb{number}")
        pod(cluster, new, "ReplicaSet", f"cart-new-{number}", new["metadata"]["labels"], **(status or {}))
        ready = 0 if status else 1
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready}
        cluster.store.modify(
            "deployment", "shop", "cart", lambda found: found.update(status={"observedGeneration": number, **counts})
        )

    cluster.store.react(roll_out)


def crash_again(cluster: Cluster, status: dict) -> None:
    """The pods that there are now get into trouble."""
    for namespace_, name in [key[1:] for key in cluster.store.objects if key[0] == "pod"]:
        cluster.store.modify("pod", namespace_, name, lambda found: found["status"].update(status))
