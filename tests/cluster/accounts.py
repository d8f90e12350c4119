"""The chart's own service accounts and ClusterRoles, as Helm renders them, on the real cluster."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from runbooks.chart import built_in, switch_of
from tests.charts.rendering import render
from tests.cluster.live import LiveCluster, Object, path_of

PLACE = "live"  # the context's name, and so the cluster's
PROCESSES = ("worker", "watch")
PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ServiceAccount": "serviceaccounts",
}
TOKEN_S = 3600


@contextmanager
def of_the_chart(live: LiveCluster, namespace: str) -> Iterator[dict[str, str]]:
    """Makes them, in a release of the namespace's name. Yields a token for each process; removes them at the end."""
    with ExitStack() as stack:
        for made in rendered(namespace):
            kind, name = PLURALS[made["kind"]], made["metadata"]["name"]
            home = namespace if kind == "serviceaccounts" else ""
            live.create(kind, made, home)
            stack.callback(live.delete, kind, name, home)
        yield {process: token(live, namespace, process) for process in PROCESSES}


def rendered(namespace: str) -> list[Object]:
    """With every runbook switched on; and of it only what says who may do what, nothing that would run."""
    switched_on = {switch_of(name): {"enabled": True} for name in built_in()}
    found = render({"runbooks": switched_on}, name=namespace, namespace=namespace)
    return [one for one in found if one["kind"] in PLURALS]


def token(live: LiveCluster, namespace: str, process: str) -> str:
    accounts = [one["metadata"]["name"] for one in live.items("serviceaccounts", namespace)]
    [name] = [one for one in accounts if one.endswith(f"-{process}")]
    path = f"{path_of('serviceaccounts', namespace, name)}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_S}}
    return str(live.request("POST", path, body)["status"]["token"])


def kubeconfig_of(admin: str, bearer: str, to: Path) -> str:
    """The administrator's kubeconfig with another's token in place of their credentials."""
    config = yaml.safe_load(Path(admin).expanduser().read_text())
    current = next(one for one in config["contexts"] if one["name"] == config["current-context"])
    cluster = next(one for one in config["clusters"] if one["name"] == current["context"]["cluster"])
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": PLACE,
        "clusters": [cluster],
        "users": [{"name": PLACE, "user": {"token": bearer}}],
        "contexts": [{"name": PLACE, "context": {"cluster": cluster["name"], "user": PLACE}}],
    }
    to.touch(0o600)
    to.write_text(json.dumps(made))
    return str(to)
