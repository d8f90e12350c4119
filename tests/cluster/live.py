"""The cluster that the tests run against, through an administrator's eyes: raw JSON over the API, and nothing hidden.

BytePort's own clients are not used here: a fixture must not depend on what is being tested.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.config import new_client_from_config

KUBECONFIG = os.environ.get("BYTEPORT_TEST_KUBECONFIG", "")
TIMEOUT_S = 30
PATIENCE_S = 60  # against hanging; no measure of speed
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
KINDS = {
    "applications": "/apis/argoproj.io/v1alpha1",
    "certificates": "/apis/cert-manager.io/v1",
    "clusterrolebindings": "/apis/rbac.authorization.k8s.io/v1",
    "clusterroles": "/apis/rbac.authorization.k8s.io/v1",
    "daemonsets": "/apis/apps/v1",
    "deployments": "/apis/apps/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "jobs": "/apis/batch/v1",
    "replicasets": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
}
Object = dict[str, Any]


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:500]}")
        self.status = status


class LiveCluster:
    """One connection with the administrator's credentials."""

    def __init__(self, kubeconfig: str) -> None:
        self._client = new_client_from_config(kubeconfig, persist_config=False)
        self._host = self._client.configuration.host

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Object:
        headers: dict[str, str] = {"Content-Type": content_type}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        data = json.dumps(body) if body is not None else None
        answer = self._client.rest_client.pool_manager.request(
            method, self._host + path, body=data, headers=headers, timeout=TIMEOUT_S, retries=False
        )
        text = answer.data.decode()
        if answer.status >= 300:
            raise ApiError(answer.status, text)
        return json.loads(text) if text.startswith("{") else {"text": text}

    def get(self, kind: str, name: str, namespace: str = "") -> Object:
        return self.request("GET", path_of(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """Like `get`, with None where there is no such object."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        query = f"?labelSelector={selector}" if selector else ""
        return list(self.request("GET", path_of(kind, namespace) + query)["items"])

    def create(self, kind: str, body: Object, namespace: str = "") -> Object:
        return self.request("POST", path_of(kind, namespace), body)

    def patch(
        self, kind: str, name: str, namespace: str, body: Object, *, subresource: str = "", how: str = MERGE
    ) -> Object:
        """A patch under the name of a person's tool. A strategic one keeps what a list holds besides."""
        path = path_of(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", f"{path}?fieldManager=a-person", body, how)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        try:
            self.request("DELETE", path_of(kind, namespace, name))
        except ApiError as error:
            if error.status != 404:
                raise

    @contextmanager
    def namespace(self, annotations: dict[str, str], prefix: str = "byteport-test") -> Iterator[str]:
        """A namespace for one test, and its end. Its removal is not waited for."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.create("namespaces", {"metadata": {"name": name, "annotations": annotations}})
        try:
            wait_for(lambda: self.find("serviceaccounts", "default", name), "the namespace's service account")
            yield name
        finally:
            self.delete("namespaces", name)


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    path = KINDS.get(kind, "/api/v1")
    if namespace:
        path += f"/namespaces/{namespace}"
    return f"{path}/{kind}/{name}" if name else f"{path}/{kind}"


def wait_for(condition: Callable[[], Any], what: str = "it") -> Any:
    """The condition's first truthy answer. A hang is a failure."""
    until = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, f"{what} never came"
        time.sleep(0.05)
