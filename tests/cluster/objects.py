"""The objects that the tests make in the cluster."""

from datetime import datetime, timedelta
from typing import Any

from tests.cluster.live import Object

NOBODY = "byteport-test"  # a scheduler that does not exist: no node ever runs these pods, whatever cluster it is
OPT_IN = "byteport.io/auto-remediate"


def opted_in(*words: str) -> dict[str, str]:
    return {OPT_IN: ",".join(words)} if words else {}


def workload(
    name: str,
    *,
    kind: str = "Deployment",
    image: str = "example.org/app:1",
    replicas: int = 2,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    resources: dict[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A Deployment, StatefulSet or DaemonSet with one container `app`."""
    container = {"name": "app", "image": image, "resources": resources or {}}
    pod = {"containers": [container], "schedulerName": NOBODY}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    sized = {} if kind == "DaemonSet" else {"replicas": replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": annotations or {}, "labels": labels or {}},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **sized, **spec},
    }


def memory(limit: str, request: str = "") -> dict[str, Any]:
    return {"limits": {"memory": limit}, "requests": {"memory": request or limit}}


def image_patch(image: str) -> Object:
    """What a deploy pipeline sends: a new image for the container `app`."""
    return {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}}


def certificate(name: str) -> Object:
    spec = {"secretName": f"{name}-tls", "dnsNames": [f"{name}.example.org"], "issuerRef": {"name": "issuer"}}
    return {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": name}, "spec": spec}


def certificate_status(now: datetime, *, expires_in: timedelta, ready: bool = True, revision: int = 1) -> Object:
    """As cert-manager writes it: renewal is due a third of the life, here 30 days, before the end."""
    not_after = now + expires_in
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "Ready" if ready else "Expired",
        "message": "Certificate is up to date and has not expired" if ready else "Certificate expired",
        "lastTransitionTime": stamp(now),
    }
    return {
        "status": {
            "notBefore": stamp(not_after - timedelta(days=90)),
            "notAfter": stamp(not_after),
            "renewalTime": stamp(not_after - timedelta(days=30)),
            "revision": revision,
            "conditions": [condition],
        }
    }


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def application(name: str, sync_policy: Object) -> Object:
    """Argo CD's, with only what its CRD asks for and what decides about syncing."""
    source = {"repoURL": "https://git.example.org/shop.git", "path": "."}
    destination = {"server": "https://kubernetes.default.svc", "namespace": "here"}
    spec = {"project": "default", "source": source, "destination": destination, "syncPolicy": sync_policy}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": name}, "spec": spec}
