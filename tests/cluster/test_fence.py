"""The mission's nevers on a real cluster, with cluster-admin's credentials, which would allow all of it.

Real: the API server, the client, the fence. Whatever action has opened the fence, nothing but its own change passes.
"""

import msgspec
import pytest
from kubernetes.config import list_kube_config_contexts

from byteport.clients.kubernetes.call import JSON, JSON_PATCH, MERGE_PATCH, Call
from byteport.clients.kubernetes.clusters import forget
from byteport.clients.kubernetes.wire import Wire
from byteport.core.errors import BytePortError, Refused
from byteport.core.resource import ResourceRef
from runbooks.action import ACTIONS, ActionCall
from runbooks.actions.drill_namespace import DrillPermit
from runbooks.actions.fence import admit, opened
from runbooks.actions.kubernetes_fence import RULES, ClusterCall, ClusterPermit
from runbooks.kubernetes.reads import digest
from runbooks.models import AgentSettings
from tests.cluster.live import KUBECONFIG
from tests.cluster.objects import memory, workload

pytestmark = pytest.mark.django_db
ALL_WORDS = ("crashloop", "rollback", "scale", "certificates")
ID = "8c2d8ff0-6a5b-4a0e-8d0e-5d3f1d2c7a11"


@pytest.fixture
def place(live, settings, db):
    AgentSettings.objects.get_or_create(pk=1, defaults={"dry_run": False})
    settings.KUBECONFIG, settings.KUBE_CONTEXTS = KUBECONFIG, []
    name = str(list_kube_config_contexts(KUBECONFIG)[1]["name"])
    forget(name)
    yield name
    forget(name)


@pytest.fixture
def shop(live, stage):
    """A namespace, opted in to everything, with a Deployment and all that must never be touched."""
    namespace = stage(*ALL_WORDS).namespace
    limited = workload("web", resources=memory("64Mi"), annotations={"byteport.io/max-replicas": "3"})
    live.create("deployments", limited, namespace)
    live.create("secrets", {"metadata": {"name": "web-tls"}, "stringData": {"key": "value"}}, namespace)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    live.create("persistentvolumeclaims", {"metadata": {"name": "data"}, "spec": claim}, namespace)
    pod = {**limited["spec"]["template"], "metadata": {"name": "ending", "finalizers": ["example.org/kept"]}}
    live.create("pods", pod, namespace)
    live.delete("pods", "ending", namespace)  # it is Terminating from here on
    yield namespace
    live.patch("pods", "ending", namespace, {"metadata": {"finalizers": None}})


def patch(*operations: dict) -> bytes:
    return msgspec.json.encode(operations)


NOW = b'{"gracePeriodSeconds": 0}'
FORBIDDEN = {
    "delete a volume claim": ("DELETE", "/api/v1/namespaces/{}/persistentvolumeclaims/data", b"{}", JSON),
    "delete all volume claims": ("DELETE", "/api/v1/namespaces/{}/persistentvolumeclaims", b"{}", JSON),
    "delete a Secret": ("DELETE", "/api/v1/namespaces/{}/secrets/web-tls", b"{}", JSON),
    "force-delete a Terminating pod": ("DELETE", "/api/v1/namespaces/{}/pods/ending", NOW, JSON),
    "free a Terminating pod": (
        "PATCH", "/api/v1/namespaces/{}/pods/ending", patch({"op": "remove", "path": "/metadata/finalizers"}),
        JSON_PATCH,
    ),
    "delete the Deployment": ("DELETE", "/apis/apps/v1/namespaces/{}/deployments/web", b"{}", JSON),
    "delete the namespace": ("DELETE", "/api/v1/namespaces/{}", b"{}", JSON),
    "opt it in": (
        "PATCH", "/api/v1/namespaces/{}", b'{"metadata": {"annotations": {"byteport.io/auto-remediate": "x"}}}',
        MERGE_PATCH,
    ),
    "change the image": (
        "PATCH", "/apis/apps/v1/namespaces/{}/deployments/web",
        patch({"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"}), JSON_PATCH,
    ),
    "change the image by a merge": (
        "PATCH", "/apis/apps/v1/namespaces/{}/deployments/web", b'{"spec": {"replicas": 0}}', MERGE_PATCH,
    ),
    "triple the limit": (
        "PATCH", "/apis/apps/v1/namespaces/{}/deployments/web",
        patch({"op": "replace", "path": "/spec/template/spec/containers/0/resources/limits/memory", "value": "192Mi"}),
        JSON_PATCH,
    ),
    "run something in it": ("POST", "/api/v1/namespaces/{}/pods/ending/exec", b"{}", JSON),
}  # fmt: skip
PERMITS = [*RULES, "a drill"]


def permit_of(opener: str, place: str, namespace: str) -> ClusterPermit | DrillPermit:
    if opener == "a drill":
        return DrillPermit(place, "byteport-drill-0123abcd")
    kind = RULES[opener].kinds[0]
    return ClusterPermit(opener, ID, ResourceRef("kubernetes", place, kind, "web", namespace), dry_run=False)


def versions(live, namespace):
    kinds = ("deployments", "secrets", "persistentvolumeclaims", "pods")
    found = {kind: live.items(kind, namespace) for kind in kinds}
    found["namespaces"] = [live.get("namespaces", namespace)]
    return {
        (kind, one["metadata"]["name"]): one["spec"] if "spec" in one else one["metadata"]["resourceVersion"]
        for kind, items in found.items()
        for one in items
    }


def is_refused(place, call):
    try:
        Wire(place, lambda leaving: admit(ClusterCall(place, leaving))).send(call)
    except Refused as error:
        return "The fence does not admit" in error.reason
    return False


def test_whatever_is_under_way_nothing_of_it_is_done(live, place, shop):
    before = versions(live, shop)
    for opener in PERMITS:
        for what, (method, path, body, content_type) in FORBIDDEN.items():
            call = Call(method, path.format(shop), (("fieldManager", "byteport"),), body, content_type)
            with opened(permit_of(opener, place, shop)):
                assert is_refused(place, call), f"while {opener} was under way, it could {what}"
    assert versions(live, shop) == before


def test_with_no_action_under_way_not_even_a_restart_leaves(live, place, shop):
    target = ResourceRef("kubernetes", place, "deployment", "web", shop)
    call = Call("PATCH", f"/apis/apps/v1/namespaces/{shop}/deployments/web", (), b"[]", JSON_PATCH)
    with pytest.raises(Refused, match="no action is under way"):
        Wire(target.place, lambda leaving: admit(ClusterCall(target.place, leaving))).send(call)


# --- what an action may do goes through on a real server, once, and its dry run leaves no trace


def restart_of(live, place, namespace, **params):
    found = live.get("deployments", "web", namespace)
    known = {"uid": found["metadata"]["uid"], "template": digest(found["spec"]["template"])}
    target = ResourceRef("kubernetes", place, "deployment", "web", namespace)
    return ActionCall(ID, "kubernetes.rollout_restart", target, known | params)


def raise_of(live, place, namespace, limit, now="64Mi"):
    more = {"container": "app", "limit_now": now, "limit_new": limit, "original": "64Mi"}
    return msgspec.structs.replace(
        restart_of(live, place, namespace, **more), id=f"{ID[:-2]}{limit[:2]}", action="kubernetes.raise_memory_limit"
    )


def limit_of(live, namespace):
    [container] = live.get("deployments", "web", namespace)["spec"]["template"]["spec"]["containers"]
    return container["resources"]["limits"]["memory"]


def test_a_dry_run_leaves_no_trace_and_the_same_action_is_done_once(live, place, shop):
    call = restart_of(live, place, shop)
    before = live.get("deployments", "web", shop)["metadata"]["generation"]
    assert ACTIONS[call.action].simulate(call).result == "simulated"
    assert live.get("deployments", "web", shop)["metadata"]["generation"] == before
    assert ACTIONS[call.action].execute(call).result == "done"
    assert ACTIONS[call.action].execute(call).message.endswith("bears its id already.")
    after = live.get("deployments", "web", shop)["metadata"]
    assert after["generation"] == before + 1
    assert {one["manager"] for one in after["managedFields"]} >= {"byteport"}


def test_a_limit_is_not_raised_past_twice_what_it_was_also_not_in_two_steps(live, place, shop):
    assert ACTIONS["kubernetes.raise_memory_limit"].execute(raise_of(live, place, shop, "128Mi")).result == "done"
    for limit in ("192Mi", "256Mi"):
        with pytest.raises(Refused):
            ACTIONS["kubernetes.raise_memory_limit"].execute(raise_of(live, place, shop, limit, now="128Mi"))
    assert limit_of(live, shop) == "128Mi"


def test_a_forged_note_of_what_the_limit_was_at_first_gives_no_more_room(live, place, shop):
    ACTIONS["kubernetes.raise_memory_limit"].execute(raise_of(live, place, shop, "128Mi"))
    forged = {"metadata": {"annotations": {"byteport.io/original-memory-limits": '{"app": "1Gi"}'}}}
    live.patch("deployments", "web", shop, forged)
    with pytest.raises(BytePortError):
        ACTIONS["kubernetes.raise_memory_limit"].execute(raise_of(live, place, shop, "512Mi", now="128Mi"))
    assert limit_of(live, shop) == "128Mi"


def test_what_somebody_changes_between_plan_and_act_is_not_acted_on(live, place, shop):
    call = restart_of(live, place, shop)
    live.patch("deployments", "web", shop, {"spec": {"template": {"metadata": {"annotations": {"who": "me"}}}}})
    outcome = ACTIONS[call.action].execute(call)
    assert outcome.result == "refused"
    assert "Somebody has changed the pod template" in outcome.message


def test_an_object_that_was_made_anew_under_the_same_name_is_another_one(live, place, shop):
    call = restart_of(live, place, shop, uid="00000000-0000-0000-0000-000000000000")
    assert ACTIONS[call.action].execute(call).result == "refused"


def test_the_opt_in_that_is_taken_back_is_seen_by_the_fence_itself(live, place, shop):
    call = restart_of(live, place, shop)
    live.patch("namespaces", shop, "", {"metadata": {"annotations": {"byteport.io/auto-remediate": None}}})
    with pytest.raises(Refused, match="not opted in"):
        ACTIONS[call.action].execute(call)
