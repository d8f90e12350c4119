"""Plays what stands beside the kubelet: cert-manager, and a metrics server. Each does its part when it is ticked."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from tests.cluster.live import ApiError, LiveCluster, wait_for
from tests.cluster.objects import certificate_status, stamp

METRICS_API = "/apis/metrics.k8s.io/v1beta1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class CertManager:
    """Issues anew what is asked for, as long as it `works`."""

    def __init__(self, live: LiveCluster, namespace: str) -> None:
        self.namespace = namespace
        self.works = True
        self._live = live

    def tick(self) -> None:
        for found in self._live.items("certificates", self.namespace):
            if self.works and is_asked_for(found):
                revision = found["status"].get("revision", 0) + 1
                issued = certificate_status(datetime.now(UTC), expires_in=timedelta(days=90), revision=revision)
                self._live.patch(
                    "certificates", found["metadata"]["name"], self.namespace, issued, subresource="status"
                )


def is_asked_for(certificate: dict) -> bool:
    conditions = certificate.get("status", {}).get("conditions", [])
    return any(one["type"] == "Issuing" and one["status"] == "True" for one in conditions)


class MetricsServer:
    """Measures a fixed load, shared out evenly among the pods of the namespace that are ready, anew each second."""

    def __init__(self, live: LiveCluster, namespace: str, load_millicores: int) -> None:
        self.namespace = namespace
        self.load_millicores = load_millicores
        self.is_shared = True  # False: more pods take nothing off the others
        self._live = live
        self._measured: tuple[int, str] = (0, "")

    def tick(self) -> None:
        ready = [pod for pod in self._live.items("pods", self.namespace) if _is_ready(pod)]
        due = (len(ready), stamp(datetime.now(UTC)))
        if due != self._measured:
            self._measured = due
            self._measure([pod["metadata"]["name"] for pod in ready])

    def _measure(self, pods: list[str]) -> None:
        share = self.load_millicores // len(pods) if pods and self.is_shared else self.load_millicores
        base = f"{METRICS_API}/namespaces/{self.namespace}/pods"
        self._live.request("DELETE", base)
        for name in pods:
            self._live.request(
                "POST",
                base,
                {
                    "apiVersion": "metrics.k8s.io/v1beta1",
                    "kind": "PodMetrics",
                    "metadata": {"name": name, "labels": {"app": "web"}},
                    "timestamp": stamp(datetime.now(UTC)),
                    "window": "15s",
                    "containers": [{"name": "app", "usage": {"cpu": f"{share}m", "memory": "10Mi"}}],
                },
            )


def _is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@contextmanager
def metrics_api(live: LiveCluster) -> Iterator[None]:
    """Where no metrics server is installed: an API of that name whose objects are just kept, as a custom resource."""
    made = None
    if not is_served(live, METRICS_API):
        made = live.request("POST", CRDS, METRICS_CRD)["metadata"]["name"]
        wait_for(lambda: is_served(live, f"{METRICS_API}/pods"), "the metrics API")
    try:
        yield
    finally:
        if made:
            live.request("DELETE", f"{CRDS}/{made}")


def is_served(live: LiveCluster, path: str) -> bool:
    try:
        live.request("GET", path)
    except ApiError as error:
        if error.status in (404, 503):
            return False
        raise
    return True


METRICS_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "pods.metrics.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for a metrics server"},
    },
    "spec": {
        "group": "metrics.k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "pods", "singular": "podmetrics", "kind": "PodMetrics", "listKind": "PodMetricsList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
