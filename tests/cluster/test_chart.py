"""The chart on a real API server: what it takes, what it grants, and what becomes of the secret key.

Real: the API server with its admission (Pod Security) and its authorizer, Helm's own install, upgrade and uninstall.
Not real: no kubelet, so that the setup's Job is declared done instead of run; no pod starts.
"""

import json
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import helm_python
import pytest
import urllib3
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

from runbooks import rbac
from tests.charts.rendering import CHART, EVERYTHING, LEAST, NOTHING, pods, render
from tests.cluster.live import KUBECONFIG, MERGE, ApiError, LiveCluster, Object
from tests.cluster.objects import stamp

STRICT = "?dryRun=All&fieldValidation=Strict"
GENERATED = {name: given for name, given in LEAST.items() if name != "secretKey"}
TIMEOUT_S = 60
# Every account has these: they are about itself.
BASIC_GROUPS = {"authorization.k8s.io", "authentication.k8s.io"}
PATHS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


def path_for(found: Object, namespace: str) -> str:
    if found["kind"] in PATHS:
        return PATHS[found["kind"]]
    plural = found["kind"].lower()
    plural = f"{plural[:-1]}ies" if plural.endswith("y") else f"{plural}es" if plural.endswith("s") else f"{plural}s"
    version = found["apiVersion"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{base}/namespaces/{namespace}/{plural}"


@pytest.fixture
def namespace(live: LiveCluster):
    """One in which only the most restricted pods are admitted."""
    with live.namespace({}, prefix="byteport-test-chart") as name:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        live.request("PATCH", f"/api/v1/namespaces/{name}", {"metadata": {"labels": labels}}, MERGE)
        yield name


@pytest.mark.parametrize("values", [LEAST, EVERYTHING, NOTHING], ids=["the least", "everything", "nothing"])
def test_the_api_server_takes_every_object_as_it_is(live, namespace, values):
    for found in render(values, namespace=namespace):
        live.request("POST", path_for(found, namespace) + STRICT, found)


@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=["the least", "everything"])
def test_pod_security_admits_every_pod_where_it_is_most_restricted(live, namespace, values):
    for name, pod in pods(render(values, namespace=namespace)).items():
        spec = {key: value for key, value in pod["spec"].items() if key != "serviceAccountName"}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {**pod["metadata"], "name": name}, "spec": spec}
        live.request("POST", path_for(made, namespace) + STRICT, made)


# --- installed by Helm itself


@contextmanager
def the_jobs_done(live: LiveCluster, namespace: str):
    """Declares every Job of the namespace complete, as a kubelet and the Job controller would in the end."""
    over = threading.Event()

    def play() -> None:
        while not over.wait(0.1):
            begun = [job for job in live.items("jobs", namespace) if "completionTime" not in job.get("status", {})]
            for job in begun:
                with suppress(ApiError):  # Helm has removed it meanwhile
                    live.patch("jobs", job["metadata"]["name"], namespace, complete(job), subresource="status")

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(TIMEOUT_S)


def complete(job: Object) -> Object:
    """The status that ends it. When it began stays as the Job controller has put it down, if that came first."""
    now = stamp(datetime.now(UTC))
    began = job.get("status", {}).get("startTime", now)
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    times = {"startTime": began, "completionTime": now}
    return {"status": {**times, "succeeded": 1, "active": 0, "conditions": conditions}}


@pytest.fixture
def helm(live: LiveCluster, namespace: str):
    """Helm in this namespace. What belongs to the cluster goes with the release."""
    with helm_python.Config(kubeconfig_path=KUBECONFIG, namespace=namespace) as config, the_jobs_done(live, namespace):
        yield config
        config.uninstall("byteport", ignore_not_found=True, timeout=TIMEOUT_S)


def key_in(live: LiveCluster, namespace: str) -> str:
    return live.get("secrets", "byteport-key", namespace)["data"]["BYTEPORT_SECRET_KEY"]


def test_the_key_is_made_once_and_outlives_upgrades_and_the_release(live, namespace, helm):
    helm.install(CHART, "byteport", GENERATED, timeout=TIMEOUT_S)
    made = key_in(live, namespace)
    assert helm.upgrade(CHART, "byteport", {**GENERATED, "dryRun": False}, timeout=TIMEOUT_S)["revision"] == 2
    assert key_in(live, namespace) == made
    helm.uninstall("byteport", timeout=TIMEOUT_S)
    assert live.find("deployments", "byteport-web", namespace) is None
    assert key_in(live, namespace) == made
    helm.install(CHART, "byteport", GENERATED, timeout=TIMEOUT_S)
    assert key_in(live, namespace) == made


def rights_of(live: LiveCluster, namespace: str, account: str) -> set[tuple[str, str, str]]:
    """What the API server itself says that the account may do, asked with the account's own token."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    token = live.request("POST", path, {"spec": {"expirationSeconds": 600}})["status"]["token"]
    configuration = Configuration()
    load_kube_config(KUBECONFIG, client_configuration=configuration, persist_config=False)
    with urllib3.PoolManager(ca_certs=configuration.ssl_ca_cert) as pool:
        answer = pool.request(
            "POST",
            f"{configuration.host}/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            body=json.dumps({"spec": {"namespace": namespace}}),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=TIMEOUT_S,
        )
    status = answer.json()["status"]
    assert not status["incomplete"]
    return {
        (group, resource, verb)
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group not in BASIC_GROUPS
    }


def declared(needs) -> set[tuple[str, str, str]]:
    return {(one.group, one.resource, verb) for one in rbac.union(needs) for verb in one.verbs}


def test_each_account_may_do_what_the_code_declares_and_nothing_else(live, namespace, helm):
    helm.install(CHART, "byteport", LEAST, timeout=TIMEOUT_S)
    assert rights_of(live, namespace, "byteport-web") == set()
    assert rights_of(live, namespace, "byteport-watch") == declared(rbac.of_sources())
    assert rights_of(live, namespace, "byteport-worker") == declared(rbac.of_runbooks())
