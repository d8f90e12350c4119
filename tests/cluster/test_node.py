"""Reaching a node through a Job on a real cluster, with the rights that the chart gives and no others.

Real: the API server with its admission and authorizer, the Job controller, the Node object. Not real: the kubelet; the
test tells what becomes of the pod, and the API server is given its log by a small server of the test's own.
"""

import secrets
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from byteport.clients.hosts import node as module
from byteport.clients.hosts.node import NodeTransport
from byteport.clients.hosts.node_job import SECURITY
from byteport.clients.hosts.protocol import HostRequest, Scope
from byteport.clients.kubernetes.clusters import forget
from byteport.clients.kubernetes.errors import Forbidden
from byteport.core.errors import Temporary
from byteport.core.ways import Address
from tests.charts.rendering import render
from tests.cluster.accounts import PLACE, kubeconfig_of, token
from tests.cluster.live import KUBECONFIG, Object, wait_for

PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def namespace(live):
    with live.namespace({}) as name:
        yield name
        for pod in live.items("pods", name):  # no kubelet ends them
            path = f"/api/v1/namespaces/{name}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
            live.request("DELETE", path)


@pytest.fixture
def node(live):
    name = f"byteport-test-{secrets.token_hex(4)}"
    annotations = {"byteport.io/auto-remediate": "disk, memory"}
    live.create("nodes", {"metadata": {"name": name, "annotations": annotations}})
    yield name
    live.delete("nodes", name)


@pytest.fixture
def worker(live, namespace, node, settings, tmp_path):
    """The transport with the worker's credentials, where the chart has given it access to nodes and nothing else."""
    objects = render({"nodeAccess": {"enabled": True}}, name=namespace, namespace=namespace)
    made = [one for one in objects if one["kind"] in PLURALS and is_of_nodes(one)]
    for one in made:
        live.request("POST", path_for(one, namespace), one)
    settings.KUBECONFIG = kubeconfig_of(KUBECONFIG, token(live, namespace, "worker"), tmp_path / "worker")
    settings.KUBE_CONTEXTS, settings.NODE_PULL_SECRETS = [], ["registry"]
    settings.NODE_IMAGE, settings.NAMESPACE = "registry.example.com/byteport:1", namespace
    forget(PLACE)
    yield NodeTransport(Address(name=node, way="node", cluster=PLACE, node=node))
    forget(PLACE)
    for one in made:
        if one["kind"].startswith("Cluster"):
            live.request("DELETE", f"{path_for(one, namespace)}/{one['metadata']['name']}")


def is_of_nodes(one) -> bool:
    return one["kind"] == "ServiceAccount" or one["metadata"]["name"].endswith(("-nodes", ":nodes"))


def path_for(one, namespace: str) -> str:
    plural = PLURALS[one["kind"]]
    if one["kind"] == "ServiceAccount":
        return f"/api/v1/namespaces/{namespace}/{plural}"
    return f"{RBAC}/{plural}" if one["kind"].startswith("Cluster") else f"{RBAC}/namespaces/{namespace}/{plural}"


def test_the_opt_in_is_read_from_the_node(worker):
    assert worker.annotations(Scope("host"), timeout_s=10).words == ("disk", "memory")


class Logs(BaseHTTPRequestHandler):
    """The kubelet's `/containerLogs/<namespace>/<pod>/<container>`."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "done", "result": {"uid": 0}}\n')

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def kubelet(live, node, tmp_path):
    """Over TLS, with a certificate of its own making, as kubelets have them; the node says where it is."""
    certificate = make_certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Logs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
             "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}}}  # fmt: skip
    live.patch("nodes", node, "", {"status": where}, subresource="status")
    yield Logs.asked
    server.shutdown()
    server.server_close()


def make_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubelet")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "kubelet.pem"
    path.write_bytes(private + made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path


def test_the_job_is_taken_as_it_is_and_its_pod_is_pinned_to_the_node(live, namespace, node, worker, kubelet):
    pods: list[Object] = []

    def run_the_pod() -> None:
        [pod] = wait_for(lambda: live.items("pods", namespace), "the pod")
        pods.append(pod)
        end = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        status = {"name": "hostctl", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": end}
        told = {"status": {"phase": "Succeeded", "containerStatuses": [status]}}
        live.patch("pods", pod["metadata"]["name"], namespace, told, subresource="status")

    running = threading.Thread(target=run_the_pod)
    running.start()
    answer = worker.run(HostRequest(verb="facts"), timeout_s=30)
    running.join(60)
    assert answer.result == {"uid": 0}
    [pod] = pods
    assert kubelet[-1] == f"/containerLogs/{namespace}/{pod['metadata']['name']}/hostctl"
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["nodeName"] == node
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert container["securityContext"] == SECURITY, "the API server has dropped nothing of it"
    wait_for(lambda: not live.items("jobs", namespace), "the Job's end")


def test_a_namespace_that_is_restricted_makes_no_pod_and_that_is_told(live, namespace, worker, monkeypatch):
    monkeypatch.setattr(module, "START_S", 3)
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    live.patch("namespaces", namespace, "", restricted)
    with pytest.raises(Temporary, match="No pod was made"):
        worker.run(HostRequest(verb="facts"), timeout_s=10)
    wait_for(lambda: not live.items("jobs", namespace), "the Job's end")


def test_no_job_can_be_made_in_another_namespace(worker, settings):
    settings.NAMESPACE = "default"
    with pytest.raises(Forbidden, match="create jobs in the namespace default"):
        worker.run(HostRequest(verb="facts"), timeout_s=10)
