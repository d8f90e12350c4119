"""What BytePort never does in a cluster, tried with the rights of a cluster admin. Real: the fence, the wire, HTTP.

The far end (tests/kubernetes) lets everything pass and notes every request: that nothing but GET came in is the proof.
Requests are made here by hand, as a fault in an action, or somebody who got hold of it, might make them.
"""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from byteport.clients.kubernetes.call import JSON_PATCH, MERGE_PATCH, Call
from byteport.core.clock import now
from byteport.core.errors import Refused
from runbooks.action import ACTIONS
from runbooks.actions import kubernetes, kubernetes_patches
from runbooks.actions.fence import opened
from runbooks.actions.kubernetes_fence import RULES, ClusterPermit, StaleError, path_of
from runbooks.kubernetes import reads
from runbooks.models import AgentSettings
from tests.kubernetes.standin import PLACE
from tests.runbooks.shop import ago, certificate, failed_web, leaky, namespace, ref, workload

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[3]
ID = str(uuid4())
OURS = (("fieldManager", "byteport"),)
LEAKY, WEB, TLS = ref("deployment", "leaky"), ref("deployment", "web"), ref("certificate", "shop-tls")
NOW = datetime.now(UTC)


@pytest.fixture
def shop(cluster):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    cluster.kinds.add("application")
    yield cluster
    assert [seen for seen in cluster.seen if seen.method != "GET"] == [], "a byte of it has left"


def send(request: Call, action: str = "kubernetes.rollout_restart", target=LEAKY, *, dry_run: bool = False) -> None:
    with opened(ClusterPermit(action, ID, target, dry_run)):
        kubernetes._send(PLACE, request)


def patching(target, patch, *, path: str = "", params=OURS, content_type: str = JSON_PATCH) -> Call:
    return Call("PATCH", path or path_of(target), params, msgspec.json.encode(patch), content_type)


def refused(request: Call, why: str, action: str = "kubernetes.rollout_restart", target=LEAKY) -> None:
    for dry_run in (False, True):
        params = (*request.params, ("dryRun", "All")) if dry_run else request.params
        with pytest.raises(Refused, match=why):
            send(msgspec.structs.replace(request, params=params), action, target, dry_run=dry_run)


def edited(patch, path: str, value) -> list:
    """A patch with one more operation."""
    return [*patch, {"op": "add", "path": path, "value": value}]


# --- nothing is deleted, nothing else is touched


DELETIONS = [
    "/api/v1/namespaces/shop/persistentvolumeclaims/data",
    "/api/v1/persistentvolumes/pv-1",
    "/api/v1/namespaces/shop/secrets/shop-tls",
    "/api/v1/namespaces/shop/pods/leaky-1",
    "/api/v1/namespaces/shop",
    "/apis/apps/v1/namespaces/shop/deployments/leaky",
    "/apis/cert-manager.io/v1/namespaces/shop/certificates/shop-tls",
]


@pytest.mark.parametrize("action", list(RULES))
def test_nothing_is_ever_deleted(shop, action):
    target = TLS if action.endswith("certificate") else LEAKY
    forced = ((("gracePeriodSeconds", "0"),), b'{"gracePeriodSeconds":0}', "application/json")
    for path in DELETIONS:
        for request in (
            Call("DELETE", path),
            Call("DELETE", path, *forced),
            Call("DELETE", path, OURS, b"[]", JSON_PATCH),
        ):
            with pytest.raises(Refused):
                send(request, action, target)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "CONNECT", "patch", "get"])
def test_only_patches_leave_from_here(shop, method):
    leaky(shop)
    request = patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, now()))
    with pytest.raises(Refused, match="sends JSON Patches"):
        send(msgspec.structs.replace(request, method=method))


def test_a_terminating_pod_is_not_touched(shop):
    for request in (
        Call("POST", "/api/v1/namespaces/shop/pods/leaky-1/eviction", (), b"{}", "application/json"),
        Call("PATCH", "/api/v1/namespaces/shop/pods/leaky-1", OURS, b'{"metadata":{"finalizers":null}}', MERGE_PATCH),
    ):
        with pytest.raises(Refused):
            send(request)


def test_nothing_leaves_while_no_action_runs(shop):
    with pytest.raises(Refused, match="no action is under way"):
        kubernetes._send(PLACE, patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, now())))


@pytest.mark.parametrize(
    "path",
    [
        "/apis/apps/v1/namespaces/shop/deployments/web",
        "/apis/apps/v1/namespaces/kube-system/deployments/leaky",
        "/apis/apps/v1/namespaces/shop/deployments/leaky/scale",
        "/apis/apps/v1/namespaces/shop/deployments/leaky/status",
        "/apis/apps/v1/namespaces/shop/statefulsets/leaky",
        "/apis/apps/v1/namespaces/shop/deployments",
        "/api/v1/namespaces/shop",
        "/apis/apps/v1/namespaces/shop/deployments/leaky/",
        "/apis/apps/v1/namespaces/shop/deployments/../secrets/x",
        "/apis/apps/v1/namespaces/shop/deployments/leaky?force=true",
        "/apis/apps/v1/namespaces/shop/deployments/leak%79",
    ],
)
def test_only_the_actions_own_object_is_reached(shop, path):
    refused(patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, now()), path=path), "does not admit|not a path")


def test_another_cluster_is_not_reached(shop):
    leaky(shop)
    with (
        pytest.raises(Refused),
        opened(
            ClusterPermit("kubernetes.rollout_restart", ID, LEAKY.parse(str(LEAKY).replace("test", "other")), False)
        ),
    ):
        kubernetes._send(PLACE, patching(LEAKY, []))


def test_a_kind_that_the_action_is_not_for_is_not_reached(shop):
    target = ref("statefulset", "ledger")
    patch = kubernetes_patches.scale(workload(shop, "statefulset"), ID, 2)
    refused(patching(target, patch), "under way on", "kubernetes.scale", target)
    pod = ref("pod", "leaky-1")
    refused(patching(LEAKY, [], path="/api/v1/namespaces/shop/pods/leaky-1"), "under way on", target=pod)


@pytest.mark.parametrize(
    "params",
    [
        (),
        (("fieldManager", "kubectl"),),
        (("fieldManager", "byteport"), ("force", "true")),
        (("fieldManager", "byteport"), ("fieldManager", "byteport")),
        (("fieldManager", "byteport"), ("propagationPolicy", "Background")),
    ],
)
def test_parameters_are_byteports_own(shop, params):
    refused(patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, now()), params=params), "parameters")


def test_a_dry_run_cannot_become_a_real_one_nor_the_other_way_round(shop):
    request = patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, now()))
    with pytest.raises(Refused, match="parameters"):
        send(request, dry_run=True)
    with pytest.raises(Refused, match="parameters"):
        send(msgspec.structs.replace(request, params=(*OURS, ("dryRun", "All"))), dry_run=False)


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"spec":{"replicas":0}}', b"[", b"\xff" * 10, b"[]"])
def test_other_forms_of_patches_are_refused(shop, body):
    leaky(shop)
    for content_type in (MERGE_PATCH, "application/apply-patch+yaml", "application/json", ""):
        refused(Call("PATCH", path_of(LEAKY), OURS, body, content_type), "sends JSON Patches")
    refused(Call("PATCH", path_of(LEAKY), OURS, body, JSON_PATCH), "no JSON Patch|does not test")


# --- it is the very object that was judged


def test_a_patch_without_its_tests_is_refused(shop):
    patch = kubernetes_patches.restart(leaky(shop), ID, now())
    refused(patching(LEAKY, patch[1:]), "does not test")
    refused(patching(LEAKY, [patch[0], *patch[2:]]), "does not test")


def test_a_patch_for_an_earlier_state_does_not_leave(shop):
    patch = kubernetes_patches.restart(leaky(shop), ID, now())
    shop.store.modify("deployment", "shop", "leaky", lambda found: found["status"].update(replicas=9))
    with pytest.raises(StaleError):
        send(patching(LEAKY, patch))


def test_a_patch_for_another_object_of_that_name_is_refused(shop):
    live = leaky(shop)
    live["metadata"]["uid"] = "another"
    refused(patching(LEAKY, kubernetes_patches.restart(live, ID, now())), "metadata.uid does not hold")


def test_what_is_being_deleted_is_left_alone(shop):
    leaky(shop)
    live = shop.store.modify("deployment", "shop", "leaky", lambda d: d["metadata"].update(deletionTimestamp=ago()))
    refused(patching(LEAKY, kubernetes_patches.restart(live, ID, now())), "being deleted")


# --- opt-in


def earlier(shop) -> dict:
    return reads.template_of(shop.store.get("replicaset", "shop", "web-7b46c4b544"))


def bounded(shop) -> dict:
    return leaky(shop, **{"byteport.io/max-replicas": "2"})


# What each action is on, how that comes about, and the patch that would be admitted.
SCENES = {
    "kubernetes.rollout_restart": (LEAKY, leaky, lambda live, shop: kubernetes_patches.restart(live, ID, now())),
    "kubernetes.raise_memory_limit": (
        LEAKY,
        leaky,
        lambda live, shop: kubernetes_patches.raise_memory(live, ID, 0, "256Mi", {"app": "128Mi"}),
    ),
    "kubernetes.scale": (LEAKY, bounded, lambda live, shop: kubernetes_patches.scale(live, ID, 2)),
    "kubernetes.rollback": (
        WEB,
        failed_web,
        lambda live, shop: kubernetes_patches.rollback(live, ID, earlier(shop)),
    ),
    "kubernetes.renew_certificate": (
        TLS,
        certificate,
        lambda live, shop: kubernetes_patches.renew(live, ID, now()),
    ),
}
WORD_OF = {name: rule.opt_in for name, rule in RULES.items()}


def scene(shop, action: str) -> tuple:
    """The target, and the request that would be admitted."""
    target, put, patch = SCENES[action]
    return target, patching(target, patch(put(shop), shop))


def test_every_action_on_a_cluster_has_its_rule():
    assert set(RULES) == {name for name in ACTIONS if name.startswith("kubernetes.")} == set(SCENES)


@pytest.mark.parametrize("action", list(RULES))
def test_without_the_opt_in_nothing_is_done(shop, action):
    target, request = scene(shop, action)
    others = ",".join(set(WORD_OF.values()) - {WORD_OF[action]})
    for words in (None, "", "off", f"x{WORD_OF[action]}", WORD_OF[action].upper(), others):
        namespace(shop, words)
        refused(request, "not opted in", action, target)


@pytest.mark.parametrize("action", list(RULES))
def test_an_opt_in_that_was_taken_back_after_the_plan_counts(shop, action):
    target, request = scene(shop, action)
    shop.store.modify("namespace", "", "shop", lambda found: found["metadata"]["annotations"].clear())
    refused(request, "not opted in", action, target)


@pytest.mark.parametrize("action", list(RULES))
def test_a_workloads_own_word_against_it_counts(shop, action):
    target, put, patch = SCENES[action]
    put(shop)
    for word in ("off", "", "none", "disk"):

        def opt_out(found, word=word):
            found["metadata"].setdefault("annotations", {})["byteport.io/auto-remediate"] = word

        live = shop.store.modify(target.kind, "shop", target.name, opt_out)
        refused(patching(target, patch(live, shop)), "not opted in", action, target)


# --- restarts


def test_a_restart_changes_nothing_but_its_annotation(shop):
    live = leaky(shop)
    patch = kubernetes_patches.restart(live, ID, now())
    container = "/spec/template/spec/containers/0"
    for path, value in (
        (f"{container}/image", "evil:1"),
        (f"{container}/resources/limits/memory", "256Mi"),
        (f"{container}/env", [{"name": "A", "value": "b"}]),
        (f"{container}/command", ["sh"]),
        ("/spec/replicas", 0),
        ("/spec/template/spec/hostNetwork", True),
        ("/spec/template/spec/containers/-", {"name": "miner", "image": "miner:1"}),
        ("/spec/template/spec/volumes", [{"name": "x", "emptyDir": {}}]),
        ("/spec/template/spec/serviceAccountName", "admin"),
        ("/spec/template/metadata/annotations/other", "x"),
        ("/metadata/labels/app", "other"),
        ("/metadata/finalizers", []),
        ("/metadata/ownerReferences", []),
        ("/metadata/annotations/byteport.io~1max-replicas", "99"),
        ("/metadata/annotations/byteport.io~1auto-remediate", "crashloop"),
        ("/spec/paused", True),
        ("/spec/strategy/type", "Recreate"),
        ("/status/replicas", 0),
    ):
        refused(patching(LEAKY, edited(patch, path, value)), "would change|changes")


def test_an_image_is_changed_by_no_action_but_a_rollback(shop):
    for action in ("kubernetes.rollout_restart", "kubernetes.raise_memory_limit", "kubernetes.scale"):
        target, put, patch = SCENES[action]
        evil = edited(patch(put(shop), shop), "/spec/template/spec/containers/0/image", "evil:1")
        refused(patching(target, evil), "change", action, target)


def test_two_restarts_are_three_minutes_apart_whoever_made_the_first(shop):
    live = leaky(shop)
    for at in (ago(minutes=2), ago(seconds=1), "yesterday", ago()):
        live["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": at}
        put = shop.store.put("deployment", live)
        later = now() + timedelta(seconds=2)  # than "ago()", which has whole seconds
        refused(patching(LEAKY, kubernetes_patches.restart(put, ID, later)), "3 minutes")


@pytest.mark.parametrize("at", [NOW - timedelta(hours=1), NOW + timedelta(hours=1)])
def test_a_restart_is_now(shop, at):
    refused(patching(LEAKY, kubernetes_patches.restart(leaky(shop), ID, at)), "does not say when")


def test_a_change_without_its_actions_id_is_refused(shop):
    live = leaky(shop)
    refused(patching(LEAKY, kubernetes_patches.restart(live, str(uuid4()), now())), "action's id")
    bare = [one for one in kubernetes_patches.restart(live, ID, now()) if "last-action" not in one.path]
    refused(patching(LEAKY, bare), "action's id")


# --- memory


def raising(live: dict, limit: str, **originals: str) -> Call:
    return patching(LEAKY, kubernetes_patches.raise_memory(live, ID, 0, limit, originals or {"app": "128Mi"}))


MEMORY = "kubernetes.raise_memory_limit"


@pytest.mark.parametrize("limit", ["257Mi", "1Gi", "268435457", "1e9", "1E", "512Mi", "257Mi "])
def test_a_limit_is_raised_to_twice_what_it_is_and_no_further(shop, limit):
    refused(raising(leaky(shop), limit), "twice|does not raise", MEMORY)


@pytest.mark.parametrize("limit", ["128Mi", "127Mi", "0", "", "-1", "lots", "1m", 268435456, None])
def test_a_limit_goes_up_and_is_one(shop, limit):
    refused(raising(leaky(shop), limit), "does not raise|something else", MEMORY)


def test_a_limit_is_not_raised_past_twice_the_first_in_two_steps(shop):
    noted = {"byteport.io/original-memory-limits": '{"app":"128Mi"}'}
    refused(raising(leaky(shop, "256Mi", **noted), "512Mi"), "at first", MEMORY)
    refused(raising(leaky(shop, "200Mi", **noted), "257Mi"), "at first", MEMORY)


def test_the_first_limit_cannot_be_talked_up(shop):
    noted = {"byteport.io/original-memory-limits": '{"app":"128Mi"}'}
    refused(raising(leaky(shop, "256Mi", **noted), "512Mi", app="256Mi"), "at first", MEMORY)
    refused(raising(leaky(shop, "200Mi", **noted), "256Mi", app="200Mi"), "note", MEMORY)
    refused(raising(leaky(shop, "200Mi"), "256Mi", app="1Gi"), "note", MEMORY)
    refused(raising(leaky(shop, "128Mi"), "256Mi", app="128Mi", other="1Gi"), "note", MEMORY)


def test_the_first_limit_is_on_byteports_own_record_too(shop, raised_before):
    """Somebody has taken the annotation off meanwhile."""
    live = leaky(shop, "256Mi")
    raised_before(live["metadata"]["uid"], original="128Mi")
    refused(raising(live, "512Mi", app="256Mi"), "at first", MEMORY)


@pytest.fixture
def raised_before(db):
    from runbooks.models import AgentAction
    from tests.incidents.scenes import incident

    def write(uid: str, original: str) -> None:
        AgentAction.objects.create(
            event=incident("resolved", LEAKY), uid=uuid4(), plan_hash="x", step="memory", action=MEMORY,
            target=str(LEAKY), params={"uid": uid, "container": "app", "original": original}, summary="", dry_run=False,
            status="done", started_at=NOW, finished_at=NOW,
        )  # fmt: skip

    return write


def test_only_one_containers_memory_limit_is_raised(shop):
    live = leaky(shop)
    live["spec"]["template"]["spec"]["containers"].append({"name": "side", "resources": {"limits": {"memory": "1Mi"}}})
    live = shop.store.put("deployment", live)
    patch = kubernetes_patches.raise_memory(live, ID, 0, "256Mi", {"app": "128Mi"})
    at = "/spec/template/spec/containers/{}/resources/{}/{}"
    for path, value in (
        (at.format(1, "limits", "memory"), "2Mi"),
        (at.format(0, "limits", "cpu"), "1"),
        (at.format(0, "requests", "memory"), "128Mi"),
    ):
        refused(patching(LEAKY, edited(patch, path, value)), "something else", MEMORY)


def test_a_limit_that_is_not_set_is_not_invented(shop):
    live = leaky(shop)
    del live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    live = shop.store.put("deployment", live)
    patch = [
        *kubernetes_patches.unchanged(live),
        {"op": "add", "path": "/metadata/annotations/byteport.io~1last-action", "value": ID},
        {"op": "add", "path": "/spec/template/spec/containers/0/resources/limits", "value": {"memory": "256Mi"}},
    ]
    refused(patching(LEAKY, patch), "does not raise a limit that is set", MEMORY)


# --- replicas


@pytest.mark.parametrize(
    ("most", "replicas"),
    [
        ("3", 4),
        ("3", 1),
        ("3", 0),
        ("3", -1),
        ("3", True),
        ("3", "2"),
        ("3", 2.0),
        ("0", 2),
        ("", 2),
        ("many", 2),
        ("-5", 2),
        ("9999999", 2),
    ],
)
def test_replicas_go_up_to_the_workloads_own_bound_and_no_further(shop, most, replicas):
    live = leaky(shop, **{"byteport.io/max-replicas": most})
    patch = kubernetes_patches.scale(live, ID, replicas)
    refused(patching(LEAKY, patch), "replicas|number", "kubernetes.scale")


def test_the_bound_cannot_be_raised_in_the_same_patch(shop):
    live = leaky(shop, **{"byteport.io/max-replicas": "1"})
    patch = edited(kubernetes_patches.scale(live, ID, 9), "/metadata/annotations/byteport.io~1max-replicas", "9")
    refused(patching(LEAKY, patch), "at most 1", "kubernetes.scale")


# --- rollbacks


ROLLBACK = "kubernetes.rollback"


def rolling_back(live: dict, template: dict) -> Call:
    return patching(WEB, kubernetes_patches.rollback(live, ID, template))


@pytest.mark.parametrize(
    "edit",
    [
        lambda template: template["spec"]["containers"][0].update(image="evil:1"),
        lambda template: template["spec"]["containers"][0].update(image="nginx:1.26"),
        lambda template: template["spec"].update(hostNetwork=True),
        lambda template: template["spec"]["containers"].append({"name": "miner", "image": "miner:1"}),
        lambda template: template["metadata"]["labels"].update(x="y"),
        lambda template: template["metadata"]["labels"].update({"pod-template-hash": "7b46c4b544"}),
        lambda template: template["spec"].update(volumes=[]),
    ],
)
def test_a_rollback_sets_an_existing_template_and_no_other(shop, edit):
    live, template = failed_web(shop), earlier(shop)
    edit(template)
    refused(rolling_back(live, template), "not that of an earlier ReplicaSet", ROLLBACK, WEB)


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: found["metadata"]["ownerReferences"][0].update(uid="another"),
        lambda found: found["metadata"]["ownerReferences"][0].update(controller=False),
        lambda found: found["metadata"].update(ownerReferences=[]),
        lambda found: found["metadata"]["annotations"].update({"deployment.kubernetes.io/revision": "3"}),
        lambda found: found["metadata"]["annotations"].update({"deployment.kubernetes.io/revision": "2"}),
        lambda found: found["metadata"]["annotations"].clear(),
        lambda found: found["metadata"]["labels"].update({"pod-template-hash": "0000000000"}),
        lambda found: found["spec"]["template"]["metadata"]["labels"].pop("pod-template-hash"),
        lambda found: found["metadata"]["labels"].pop("pod-template-hash"),
    ],
)
def test_the_template_is_that_of_an_earlier_replica_set_of_this_very_deployment(shop, edit):
    live, template = failed_web(shop), earlier(shop)
    shop.store.modify("replicaset", "shop", "web-7b46c4b544", edit)
    refused(rolling_back(live, template), "not that of an earlier ReplicaSet", ROLLBACK, WEB)


def test_a_replica_set_of_another_name_is_not_taken_for_one_of_its_own(shop):
    live, template = failed_web(shop), earlier(shop)
    foreign = shop.store.get("replicaset", "shop", "web-7b46c4b544")
    shop.store.delete("replicaset", "shop", "web-7b46c4b544")
    foreign["metadata"]["name"] = "planted"
    shop.store.put("replicaset", foreign)
    refused(rolling_back(live, template), "not that of an earlier ReplicaSet", ROLLBACK, WEB)


def test_nothing_else_is_changed_along_with_a_rollback(shop):
    patch = kubernetes_patches.rollback(failed_web(shop), ID, earlier(shop))
    refused(patching(WEB, edited(patch, "/spec/replicas", 0)), "would change spec.replicas", ROLLBACK, WEB)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda d: d["status"]["conditions"].pop(), "has not failed"),
        (
            lambda d: d["status"]["conditions"][1].update(status="True", reason="NewReplicaSetAvailable"),
            "has not failed",
        ),
        (lambda d: d["spec"].update(paused=True), "paused"),
        (lambda d: d["metadata"]["labels"].update({"kustomize.toolkit.fluxcd.io/name": "shop"}), "Flux"),
        (lambda d: d["metadata"]["labels"].update({"helm.toolkit.fluxcd.io/name": "shop"}), "Flux"),
    ],
)
def test_what_must_not_be_rolled_back_is_not(shop, edit, why):
    failed_web(shop)
    live = shop.store.modify("deployment", "shop", "web", edit)
    refused(rolling_back(live, earlier(shop)), why, ROLLBACK, WEB)


APPLICATION = {
    "metadata": {"name": "shop", "namespace": "argocd"},
    "spec": {"syncPolicy": {"automated": {"selfHeal": True}}},
}
TRACKING = {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}


@pytest.mark.parametrize(
    "mark",
    [
        lambda d: d["metadata"]["annotations"].update(TRACKING),
        lambda d: d["metadata"]["labels"].update({"app.kubernetes.io/instance": "shop"}),
    ],
)
@pytest.mark.parametrize("automated", [{}, {"prune": True}, {"enabled": True}, None])
def test_what_argo_cd_syncs_is_not_rolled_back(shop, mark, automated):
    failed_web(shop)
    live = shop.store.modify("deployment", "shop", "web", mark)
    if automated is not None:  # else its Application is gone, or lies in another cluster
        shop.store.put("application", {**APPLICATION, "spec": {"syncPolicy": {"automated": automated}}})
    refused(rolling_back(live, earlier(shop)), "Argo CD", ROLLBACK, WEB)


def test_what_argo_cd_syncs_without_a_mark_on_it_is_not_rolled_back(shop):
    live = failed_web(shop)
    held = {"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web"}
    shop.store.put("application", {**APPLICATION, "status": {"resources": [held]}})
    refused(rolling_back(live, earlier(shop)), "Argo CD", ROLLBACK, WEB)


def test_an_application_that_cannot_be_read_is_a_refusal(shop):
    failed_web(shop)
    live = shop.store.modify("deployment", "shop", "web", lambda d: d["metadata"]["annotations"].update(TRACKING))
    shop.store.put("application", {**APPLICATION, "spec": {}})
    shop.rights = {"apps/deployments: get", "apps/replicasets: list", "namespaces: get", "apps/deployments: patch"}
    refused(rolling_back(live, earlier(shop)), "cannot be read", ROLLBACK, WEB)


# --- certificates


RENEW = "kubernetes.renew_certificate"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"conditions": [{"type": "Issuing", "status": "True"}]}, "under way"),
        ({"lastFailureTime": ago(minutes=30)}, "limit how often"),
    ],
)
def test_a_certificate_is_not_asked_for_when_that_would_be_too_much(shop, status, why):
    refused(patching(TLS, kubernetes_patches.renew(certificate(shop, **status), ID, now())), why, RENEW, TLS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/status/conditions/0/status", "False"),
        ("/status/conditions/-", {"type": "Issuing", "status": "True"}),
        ("/status/conditions/-", {"type": "Other", "status": "True"}),
        ("/status/notAfter", "2099-01-01T00:00:00Z"),
        ("/status/revision", 9),
        ("/spec/secretName", "other"),
        ("/metadata/annotations", {"x": "y"}),
    ],
)
def test_a_renewal_changes_nothing_but_its_condition(shop, path, value):
    patch = edited(kubernetes_patches.renew(certificate(shop), ID, now()), path, value)
    refused(patching(TLS, patch), "does not admit", RENEW, TLS)


@pytest.mark.parametrize(
    "edit",
    [
        {"status": "False"},
        {"reason": "Other"},
        {"observedGeneration": 7},
        {"message": "me"},
        {"lastTransitionTime": ago(hours=2)},
        {"x": 1},
    ],
)
def test_a_renewal_is_put_in_the_one_way_that_cert_manager_has(shop, edit):
    *tests, asked = kubernetes_patches.renew(certificate(shop), ID, now())
    asked = msgspec.structs.replace(asked, value={**asked.value, **edit})
    refused(patching(TLS, [*tests, asked]), "does not ask", RENEW, TLS)


# --- there is no way around it


def sources() -> dict[str, ast.AST]:
    """All of BytePort's own code, by path."""
    paths = [
        path for package in ("byteport", "signals", "runbooks", "incidents") for path in ROOT.glob(f"{package}/**/*.py")
    ]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def test_the_only_wire_that_changes_something_is_the_actions():
    """Whoever makes a `Wire` decides what it admits: everybody else's admits what the reading client's does."""
    found = {}
    for path, tree in sources().items():
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Wire"]
        named = [node for node in ast.walk(tree) if "Wire" in (getattr(node, "id", ""), getattr(node, "attr", ""))]
        typed = [
            node for node in ast.walk(tree) if "Wire" in ast.unparse(getattr(node, "annotation", None) or ast.Pass())
        ]
        assert len(named) <= len(made) + len(typed), f"{path} has the wire under another name"
        found |= {path: {ast.unparse(node.args[1]) for node in made}} if made else {}
    for ours in ("kubernetes", "drill_namespace"):
        assert found.pop(f"runbooks/actions/{ours}.py") == {"lambda leaving: admit(ClusterCall(place, leaving))"}
    # The Job that reaches a node, in BytePort's own namespace: its own fence admits that very Job and nothing else.
    assert found.pop("byteport/clients/hosts/node.py") == {"JobFence(job).admit"}
    assert all(admits == {"only_get"} for admits in found.values()), found


def test_the_vendors_client_is_used_for_credentials_alone():
    users = set()
    for path, tree in sources().items():
        for node in ast.walk(tree):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.partition(".")[0] == "kubernetes" for module in modules):
                users.add(path)
    assert users == {"byteport/clients/kubernetes/clusters.py"}
