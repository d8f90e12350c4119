"""BytePort's secret key: made once, kept at every upgrade, and never made where nobody keeps it.

Real: Helm's rendering with a cluster, over HTTP. The cluster is a stand-in that knows namespaces and Secrets only.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helm_python
import pytest
import yaml

from tests.charts.rendering import LEAST, NAMESPACE, chart, one, pods, render

VALUES = {name: given for name, given in LEAST.items() if name != "secretKey"}
KINDS = {"secrets": ("Secret", True), "namespaces": ("Namespace", False)}
RESOURCES = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [
        {"name": name, "kind": kind, "namespaced": namespaced, "singularName": "", "verbs": ["get", "list"]}
        for name, (kind, namespaced) in KINDS.items()
    ],
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def cluster(objects):
    """An API server with these objects by path; Helm's access to it."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            found = RESOURCES if path == "/api/v1" else objects.get(path)
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or NOT_FOUND).encode())

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        with helm_python.Config(
            kube_apiserver=address, kubeconfig_content="apiVersion: v1\nkind: Config\n", namespace=NAMESPACE
        ) as access:
            yield access
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def objects():
    return {
        "/api/v1/namespaces/kube-system": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
    }


def secret_of(access, **options):
    rendered = access.render(chart(), VALUES, name="byteport", namespace=NAMESPACE, **options)
    return yaml.safe_load(rendered["byteport-agent/templates/secret.yaml"])


def key_of(secret):
    return base64.b64decode(secret["data"]["BYTEPORT_SECRET_KEY"]).decode()


def keep(objects, secret):
    objects[f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret['metadata']['name']}"] = secret


def test_at_the_first_installation_a_key_is_made(objects):
    with cluster(objects) as access:
        first, other = secret_of(access), secret_of(access)
    assert len(key_of(first)) == 64
    assert key_of(first) != key_of(other)
    assert first["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_upgrade_keeps_the_key(objects):
    with cluster(objects) as access:
        made = secret_of(access, is_install=True)
        keep(objects, made)
        for revision in (2, 3):
            assert secret_of(access, is_upgrade=True, revision=revision)["data"] == made["data"]


def test_a_key_that_outlived_its_release_is_taken_up_again(objects):
    with cluster(objects) as access:
        made = secret_of(access)
        keep(objects, made)
        assert secret_of(access, is_install=True)["data"] == made["data"]


def test_a_secret_without_the_key_is_not_filled_with_another(objects):
    with cluster(objects) as access:
        made = secret_of(access)
        keep(objects, {**made, "data": {"SOMETHING_ELSE": "eA=="}})
        with pytest.raises(helm_python.HelmRenderError, match="is there, but has no BYTEPORT_SECRET_KEY"):
            secret_of(access)


def test_without_a_cluster_to_look_into_no_key_is_made_and_what_to_do_is_said():
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render({"secretKey": {}})
    assert "secretKey.existingSecret" in str(refused.value)
    assert "kubectl -n ops create secret generic byteport-key" in str(refused.value)


def test_a_key_of_the_users_own_is_used_and_none_is_made():
    objects = render({"secretKey": {"existingSecret": "mine", "key": "k"}})
    assert [each for each in objects if each["kind"] == "Secret"] == []
    sources = pods(objects)["byteport-web"]["spec"]["volumes"][1]["projected"]["sources"]
    assert {"secret": {"name": "mine", "items": [{"key": "k", "path": "BYTEPORT_SECRET_KEY"}]}} in sources


def test_the_processes_use_the_key_that_was_made(objects):
    with cluster(objects) as access:
        rendered = access.render(chart(), VALUES, name="byteport", namespace=NAMESPACE)
    worker = yaml.safe_load(rendered["byteport-agent/templates/worker.yaml"])
    secret = yaml.safe_load(rendered["byteport-agent/templates/secret.yaml"])
    sources = pods([worker])["byteport-worker"]["spec"]["volumes"][1]["projected"]["sources"]
    assert secret["metadata"]["name"] in [each["secret"]["name"] for each in sources]
    assert one([secret], "Secret") is secret
