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
