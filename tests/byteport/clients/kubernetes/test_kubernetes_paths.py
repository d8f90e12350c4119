"""Paths of the Kubernetes API. Pure: text in, text out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteport.clients.kubernetes.call import Call, permission_of
from byteport.clients.kubernetes.paths import KINDS, path_of, path_of_resource, target_of
from byteport.clients.kubernetes.wire import PLAIN_PATH
from byteport.core.errors import Permanent
from byteport.core.permissions import Permission, cluster_permissions
from byteport.core.resource import ResourceRef

HOSTILE = ["../secrets/db", "a/b", "a%2fb", "..", ".", "a?watch=1", "a#b", "A", "a_b", "é", "a\n", "-a", "a" * 254, " "]


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (path_of("pod", "shop", "cart-1", "log"), "/api/v1/namespaces/shop/pods/cart-1/log"),
        (path_of("pod"), "/api/v1/pods"),
        (path_of("namespace", name="shop"), "/api/v1/namespaces/shop"),
        (path_of("deployment", "shop", "cart"), "/apis/apps/v1/namespaces/shop/deployments/cart"),
        (
            path_of("certificate", "shop", "tls", "status"),
            "/apis/cert-manager.io/v1/namespaces/shop/certificates/tls/status",
        ),
        (path_of("podmetrics"), "/apis/metrics.k8s.io/v1beta1/pods"),
        (
            path_of_resource(ResourceRef("kubernetes", "prod", "statefulset", "db", "shop")),
            "/apis/apps/v1/namespaces/shop/statefulsets/db",
        ),
    ],
)
def test_a_path_is_as_the_api_server_has_it(made, path):
    assert made == path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_does_not_get_into_a_path(name):
    with pytest.raises(Permanent):
        path_of("pod", "shop", name)
    with pytest.raises(Permanent):
        path_of("pod", name, "cart")


@pytest.mark.parametrize("subresource", ["exec", "attach", "portforward", "proxy", "eviction", "ephemeralcontainers"])
def test_a_subresource_that_does_things_is_not_known(subresource):
    with pytest.raises(Permanent):
        path_of("pod", "shop", "cart", subresource)
    assert target_of(f"/api/v1/namespaces/shop/pods/cart/{subresource}") is None


def test_a_namespaced_object_needs_its_namespace():
    with pytest.raises(Permanent):
        path_of("pod", name="cart")


@given(kind=st.sampled_from(sorted(KINDS)), namespace=st.text(max_size=70), name=st.text(max_size=260))
def test_whatever_the_names_a_path_says_the_same_when_it_is_read_back_or_is_not_made(kind, namespace, name):
    try:
        path = path_of(kind, namespace, name)
    except Permanent:
        return
    target = target_of(path)
    assert PLAIN_PATH.fullmatch(path)
    assert (target.kind.name, target.name) == (kind, name)
    assert target.namespace == (namespace if KINDS[kind].namespaced else "")


@given(path=st.text(max_size=200) | st.from_regex(r"/apis?/[a-z0-9./%-]{0,60}", fullmatch=True))
def test_a_path_that_is_read_is_one_that_would_be_made(path):
    target = target_of(path)
    assert target is None or path_of(target.kind.name, target.namespace, target.name, target.subresource) == path


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call.get(path_of("pod")), "pods: list"),
        (Call.get(path_of("pod"), watch=True), "pods: watch"),
        (Call.get(path_of("pod", "shop", "cart", "log"), previous=True), "pods/log: get"),
        (Call("PATCH", path_of("deployment", "shop", "cart")), "apps/deployments: patch"),
        (
            Call("PATCH", path_of("certificate", "shop", "tls", "status")),
            "cert-manager.io/certificates/status: patch",
        ),
    ],
)
def test_the_right_that_a_call_needs_is_known(call, text):
    permission = permission_of(call)
    assert str(permission) == text
    assert Permission.parse(text) == permission


def test_the_version_needs_no_right():
    assert permission_of(Call.get("/version")) is None


@pytest.mark.parametrize("text", ["pods", "pods:get", "pods: gets", ": get", "apps/: get", "a/b/c/d: get", "pods: "])
def test_what_is_no_permission_is_refused(text):
    with pytest.raises(ValueError, match="not a permission"):
        Permission.parse(text)


def test_permissions_are_gathered_by_resource_and_hosts_are_left_out():
    texts = ("pods: watch, list", "host: clear_tmp", "apps/deployments: get", "pods: get", "postgres: terminate")
    assert cluster_permissions(texts) == (
        Permission("", "pods", ("get", "list", "watch")),
        Permission("apps", "deployments", ("get",)),
    )
