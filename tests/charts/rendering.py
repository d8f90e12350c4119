"""The chart as Helm itself renders it (the Helm 4 SDK, as a wheel): what its tests share."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).resolve().parent.parent.parent / "charts" / "byteport-agent"
NAMESPACE = "ops"
PROCESSES = ("web", "worker", "watch")

# What a user has to say, and what Helm cannot look up without a cluster.
LEAST: dict[str, Any] = {
    "image": {"repository": "registry.example.com/byteport"},
    "database": {"existingSecret": "byteport-database"},
    "secretKey": {"existingSecret": "byteport-key"},
}
# Every option that adds something.
EVERYTHING: dict[str, Any] = {
    "image": {
        "repository": "registry.example.com:5000/ops/byteport",
        "digest": f"sha256:{'0f' * 32}",
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
    },
    "dryRun": False,
    "clusterName": "prod-eu",
    "database": {"existingSecret": "pg.app", "key": "uri", "port": 6432},
    "secretKey": {"existingSecret": "key", "key": "secret-key"},
    "allowedHosts": ["ops.internal"],
    "env": {"BYTEPORT_LOG_LEVEL": "DEBUG", "AWS_REGION": "eu-central-1"},
    "secrets": {"BYTEPORT_METRICS_TOKEN": {"secret": "metrics", "key": "token"}},
    "envFrom": [{"secretRef": {"name": "cloud"}}],
    "extraRunbooks": {
        "reindex": {"rules": [{"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["get", "patch"]}]}
    },
    "nodeAccess": {"enabled": True},
    "serviceAccounts": {"worker": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/byteport"}}},
    "web": {"service": {"type": "LoadBalancer", "port": 8080, "annotations": {"lb": "internal"}}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "byteport.example.com",
        "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
        "tlsSecret": "byteport-tls",
    },
    "networkPolicy": {
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
        "apiServerPorts": [8443],
        "extraEgress": [{"ports": [{"port": 22, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"team": "ops"},
    "podLabels": {"team": "ops"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "ops", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "fullnameOverride": "agent",
}
# As little as can be: each part that has a switch is switched off.
NOTHING: dict[str, Any] = {
    **LEAST,
    "rbac": {"create": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
}

Object = dict[str, Any]


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def texts(values: dict[str, Any] | None = None, **options: Any) -> dict[str, str]:
    """Each template's text by its file's name. Raises HelmRenderError, HelmValuesError."""
    return _texts(json.dumps({**LEAST, **(values or {})}), **options)


@cache
def _texts(values: str, **options: Any) -> dict[str, str]:
    given = json.loads(values)
    chart().validate_schema(given)
    rendered = chart().render(given, **{"name": "byteport", "namespace": NAMESPACE, **options})
    return {Path(path).name: text for path, text in rendered.items()}


def render(values: dict[str, Any] | None = None, **options: Any) -> list[Object]:
    """All objects that Helm would send."""
    manifests = (text for name, text in texts(values, **options).items() if name != "NOTES.txt")
    return [found for text in manifests for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def one(objects: list[Object], kind: str, ending: str = "") -> Object:
    """The one object of this kind whose name ends so."""
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return found


def pods(objects: list[Object]) -> dict[str, Object]:
    """The pod template of each Deployment and Job, by the object's name."""
    return {
        each["metadata"]["name"]: each["spec"]["template"] for each in objects if "template" in each.get("spec", {})
    }


def environment(pod: Object, objects: list[Object]) -> dict[str, str]:
    """What a pod's one container gets as its environment, the ConfigMap's part included."""
    [container] = pod["spec"]["containers"]
    maps = [each["configMapRef"]["name"] for each in container.get("envFrom", ()) if "configMapRef" in each]
    found = {key: value for name in maps for key, value in one(objects, "ConfigMap", name)["data"].items()}
    return found | {each["name"]: each["value"] for each in container["env"]}
