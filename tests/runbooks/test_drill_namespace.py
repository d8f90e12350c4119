"""What a drill may change in a cluster, whatever its credentials allow. Real: the fence, the wire, HTTP. The API server
is the stand-in, which would do anything that it is asked to."""

import msgspec
import pytest

from byteport.clients.kubernetes.call import JSON, JSON_PATCH, Call
from byteport.core.errors import Refused
from byteport.core.resource import ResourceRef
from runbooks.actions import drill_namespace
from runbooks.actions.drill_namespace import DrillNamespace
from tests.kubernetes.standin import PLACE

OURS = "byteport-drill-0123abcd"
SHOP = "/apis/apps/v1/namespaces/shop/deployments"


def call(method: str, path: str, body: dict | None = None, content_type: str = JSON) -> Call:
    return Call(method, path, (), msgspec.json.encode(body or {}), content_type)


def test_a_drill_makes_one_namespace_fills_it_and_removes_it(cluster):
    made = drill_namespace.make(PLACE, "crashloop")
    assert cluster.store.get("namespace", "", made.name)["metadata"]["annotations"] == {
        "byteport.io/auto-remediate": "crashloop"
    }
    made.create_deployment({"metadata": {"name": "crasher", "namespace": made.name}, "spec": {}})
    assert cluster.store.get("deployment", made.name, "crasher") is not None
    made.remove()
    made.remove()
    assert cluster.store.get("namespace", "", made.name) is None
    assert [(seen.method, seen.resource) for seen in cluster.changing()] == [
        ("POST", "namespaces"),
        ("POST", "apps/deployments"),
        ("DELETE", "namespaces"),
        ("DELETE", "namespaces"),
    ]


def test_its_removal_names_the_very_namespace_that_it_made(cluster):
    made = drill_namespace.make(PLACE, "crashloop")
    made.remove()
    assert msgspec.json.decode(cluster.changing()[-1].body)["preconditions"] == {"uid": made.uid}


@pytest.mark.parametrize(
    "name", ["shop", "kube-system", "byteport-drill-0123", "byteport-drill-0123abcd-x", "x-" + OURS]
)
def test_no_other_namespace_is_ever_removed(cluster, name):
    with pytest.raises(Refused):
        DrillNamespace(PLACE, name, "some-uid").remove()
    assert cluster.seen == []


def test_nothing_is_removed_without_a_uid(cluster):
    with pytest.raises(Refused):
        DrillNamespace(PLACE, OURS, "").remove()
    assert cluster.seen == []


def test_a_deployment_of_another_namespace_is_not_made(cluster):
    with pytest.raises(Refused):
        DrillNamespace(PLACE, OURS, "u").create_deployment({"metadata": {"name": "a", "namespace": "shop"}})
    assert cluster.seen == []


@pytest.mark.parametrize(
    "forbidden",
    [
        call("DELETE", "/api/v1/namespaces/shop", {"preconditions": {"uid": "u"}}),
        call("DELETE", f"/api/v1/namespaces/{OURS}"),
        call("DELETE", f"/apis/apps/v1/namespaces/{OURS}/deployments/a", {"preconditions": {"uid": "u"}}),
        call("DELETE", "/api/v1/namespaces/shop/persistentvolumeclaims/data", {"preconditions": {"uid": "u"}}),
        call("POST", "/api/v1/namespaces", {"metadata": {"name": "shop", "annotations": {}}}),
        call("POST", "/api/v1/namespaces", {"metadata": {"name": OURS, "annotations": {}, "finalizers": ["x"]}}),
        call("POST", SHOP, {"kind": "Deployment", "metadata": {"name": "a", "namespace": OURS}}),
        call("POST", f"/api/v1/namespaces/{OURS}/secrets", {"kind": "Secret", "metadata": {"namespace": OURS}}),
        call("PATCH", f"{SHOP}/cart", {"spec": {"replicas": 0}}, JSON_PATCH),
        call("PUT", f"/api/v1/namespaces/{OURS}", {"metadata": {"name": OURS}}),
        Call("POST", "/api/v1/namespaces", (), b"not json", JSON),
        Call("POST", "/api/v1/namespaces", (), b"[]", JSON),
        Call("POST", "/api/v1/namespaces", (), b'{"metadata": []}', JSON),
        Call("DELETE", f"/api/v1/namespaces/{OURS}", (("x", "y"),), b'{"preconditions": {"uid": "u"}}', JSON),
    ],
    ids=lambda call: f"{call.method} {call.path}",
)
def test_whatever_else_is_tried_is_refused_before_a_byte_is_sent(cluster, forbidden):
    with pytest.raises(Refused):
        DrillNamespace(PLACE, OURS, "u")._send(forbidden)
    assert cluster.seen == []


@pytest.mark.parametrize(
    ("namespace", "is_drill"), [(OURS, True), ("byteport-drill-mine", False), ("shop", False), ("", False)]
)
def test_only_what_lives_in_a_drills_namespace_is_a_drills(namespace, is_drill):
    resource = ResourceRef("kubernetes", PLACE, "deployment", "cart", namespace)
    assert resource.is_drill is is_drill
    assert (resource.fleet == "drills") is is_drill
    assert not ResourceRef("kubernetes", PLACE, "drill", "x", "shop").is_drill
