"""The actions on clusters. Real: the actions, the fence, the client, HTTP. The API server is the stand-in of
tests/kubernetes, which applies JSON Patches, refuses failed tests with 422 and knows `dryRun=All`."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.outcome import Result
from runbooks.action import ACTIONS, ActionCall, ProbeState
from runbooks.kubernetes.reads import digest
from runbooks.models import AgentSettings
from tests.kubernetes.standin import Fault
from tests.runbooks.shop import ago, certificate, failed_web, leaky, namespace, ref, workload

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def shop(cluster):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    cluster.kinds.add("application")
    return cluster


def restart(obj: dict, kind: str = "deployment", **params: str) -> ActionCall:
    known = {"uid": obj["metadata"]["uid"], "template": digest(obj["spec"]["template"])}
    return ActionCall(str(uuid4()), "kubernetes.rollout_restart", ref(kind, obj["metadata"]["name"]), known | params)


def raising(obj: dict, limit: str, original: str = "128Mi", now: str = "128Mi") -> ActionCall:
    known = {"uid": obj["metadata"]["uid"], "template": digest(obj["spec"]["template"])}
    more = {"container": "app", "limit_now": now, "limit_new": limit, "original": original}
    return ActionCall(str(uuid4()), "kubernetes.raise_memory_limit", ref("deployment", "leaky"), known | more)


def scaling(obj: dict, replicas: int) -> ActionCall:
    params = {"uid": obj["metadata"]["uid"], "replicas_now": obj["spec"]["replicas"], "replicas_new": replicas}
    return ActionCall(str(uuid4()), "kubernetes.scale", ref("deployment", obj["metadata"]["name"]), params)


def rolling_back(obj: dict, replica_set: str = "web-7b46c4b544") -> ActionCall:
    known = {"uid": obj["metadata"]["uid"], "template": digest(obj["spec"]["template"]), "replica_set": replica_set}
    return ActionCall(str(uuid4()), "kubernetes.rollback", ref("deployment", "web"), known)


def renewing(obj: dict) -> ActionCall:
    params = {"uid": obj["metadata"]["uid"], "revision": 4, "not_after": obj["status"]["notAfter"]}
    return ActionCall(str(uuid4()), "kubernetes.renew_certificate", ref("certificate", "shop-tls"), params)


def execute(call: ActionCall):
    return ACTIONS[call.action].execute(call)


def simulate(call: ActionCall):
    return ACTIONS[call.action].simulate(call)


def probe(call: ActionCall):
    return ACTIONS[call.action].probe(call, NOW)


def deployment(cluster, name: str = "leaky") -> dict:
    return cluster.store.get("deployment", "shop", name)


# --- each action does its one thing


@pytest.mark.parametrize("kind", ["deployment", "statefulset", "daemonset"])
def test_a_restart_sets_the_annotation_that_kubectl_sets_and_its_own_id(shop, kind):
    before = workload(shop, kind)
    call = restart(before, kind)
    assert execute(call).result is Result.DONE
    after = shop.store.get(kind, "shop", "ledger")
    assert after["metadata"]["annotations"] == {"byteport.io/last-action": call.id}
    restarted = after["spec"]["template"]["metadata"]["annotations"].pop("kubectl.kubernetes.io/restartedAt")
    assert restarted[:16] == ago()[:16]
    assert after["spec"]["template"]["spec"] == before["spec"]["template"]["spec"]


def test_a_restart_keeps_the_annotations_that_are_there(shop):
    before = leaky(shop, team="shop")
    execute(restart(before))
    assert deployment(shop)["metadata"]["annotations"]["team"] == "shop"
    assert deployment(shop)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


def test_a_memory_limit_is_raised_and_the_first_one_noted_and_the_request_stays(shop):
    call = raising(leaky(shop), "256Mi")
    outcome = execute(call)
    assert outcome.data["changes"] == ["spec.template.spec.containers.0.resources.limits.memory: 128Mi → 256Mi"]
    after = deployment(shop)
    assert after["spec"]["template"]["spec"]["containers"][0]["resources"] == {
        "limits": {"memory": "256Mi"},
        "requests": {"memory": "64Mi"},
    }
    assert json.loads(after["metadata"]["annotations"]["byteport.io/original-memory-limits"]) == {"app": "128Mi"}
    assert after["metadata"]["annotations"]["byteport.io/last-action"] == call.id


def test_replicas_are_added(shop):
    before = leaky(shop, **{"byteport.io/max-replicas": "3"})
    assert execute(scaling(before, 3)).result is Result.DONE
    assert deployment(shop)["spec"]["replicas"] == 3


def test_a_rollback_sets_the_earlier_template_without_its_hash(shop):
    assert execute(rolling_back(failed_web(shop))).result is Result.DONE
    template = deployment(shop, "web")["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "nginx:1.25"
    assert template["metadata"]["labels"] == {"app": "web"}


def test_a_renewal_sets_the_condition_that_cmctl_sets(shop):
    call = renewing(certificate(shop))
    assert execute(call).result is Result.DONE
    conditions = shop.store.get("certificate", "shop", "shop-tls")["status"]["conditions"]
    assert [one["type"] for one in conditions] == ["Ready", "Issuing"]
    assert (conditions[1]["status"], conditions[1]["reason"]) == ("True", "ManuallyTriggered")
    assert call.id in conditions[1]["message"]


@pytest.mark.parametrize("status", [{"conditions": []}, None, {"conditions": [{"type": "Issuing", "status": "False"}]}])
def test_a_renewal_finds_its_place_in_any_status(shop, status):
    obj = certificate(shop)
    if status is None:
        obj = shop.store.modify("certificate", "shop", "shop-tls", lambda found: found.pop("status"))
    else:
        obj = shop.store.modify("certificate", "shop", "shop-tls", lambda found: found["status"].update(status))
    params = {"uid": obj["metadata"]["uid"], "revision": 0 if status is None else 4, "not_after": ""}
    call = ActionCall(str(uuid4()), "kubernetes.renew_certificate", ref("certificate", "shop-tls"), params)
    assert execute(call).result is Result.DONE


def test_every_change_is_one_patch_under_byteports_name(shop):
    execute(restart(leaky(shop)))
    (sent,) = shop.changing()
    assert (sent.method, sent.params) == ("PATCH", {"fieldManager": "byteport"})
    tests = {operation["path"] for operation in json.loads(sent.body) if operation["op"] == "test"}
    assert tests >= {"/metadata/uid", "/metadata/resourceVersion"}


# --- the dry run


@pytest.mark.parametrize("switch", ["paused", "dry_run"])
def test_what_is_switched_off_after_the_gates_were_asked_does_not_leave(shop, switch):
    before = workload(shop, "deployment", "web")
    AgentSettings.objects.update(**{switch: True})
    with pytest.raises(Temporary, match="right before the change would have left"):
        execute(restart(before))
    assert shop.changing() == []
    assert simulate(restart(before)).result is Result.SIMULATED, "which changes nothing"


def test_a_simulation_is_the_servers_own_dry_run_and_changes_nothing(shop):
    before = leaky(shop)
    outcome = simulate(raising(before, "256Mi"))
    assert outcome.result is Result.SIMULATED
    assert "128Mi → 256Mi" in outcome.message
    assert deployment(shop) == before
    assert shop.changing() == []


def test_the_servers_words_are_kept_when_its_dry_run_refuses(shop):
    before = leaky(shop)
    shop.faults.append(
        Fault(422, body=b'{"kind":"Status","message":"quota exceeded","code":422}', where=lambda s: s.method == "PATCH")
    )
    with pytest.raises(Permanent, match="quota exceeded"):
        simulate(raising(before, "256Mi"))


def test_values_of_the_environment_are_not_shown(shop):
    before = failed_web(shop)

    def earlier(found):
        found["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "PASSWORD", "value": "hunter2"}]

    shop.store.modify("replicaset", "shop", "web-7b46c4b544", earlier)
    outcome = simulate(rolling_back(before))
    assert "hunter2" not in json.dumps(outcome.data)
    assert "nginx:never → nginx:1.25" in outcome.message


# --- somebody else was there meanwhile


def test_a_template_that_was_changed_since_the_plan_is_left_alone(shop):
    call = restart(leaky(shop))
    shop.store.modify("deployment", "shop", "leaky", lambda d: d["spec"]["template"]["spec"].update(hostNetwork=True))
    outcome = execute(call)
    assert outcome.result is Result.REFUSED
    assert outcome.message.startswith("Somebody has changed the pod template of deployment shop/leaky")
    assert shop.changing() == []


def test_replicas_that_were_changed_since_the_plan_are_left_alone(shop):
    call = scaling(leaky(shop, **{"byteport.io/max-replicas": "5"}), 2)
    shop.store.modify("deployment", "shop", "leaky", lambda found: found["spec"].update(replicas=4))
    assert "has scaled" in execute(call).message
    assert shop.changing() == []


def test_another_object_of_the_same_name_is_left_alone(shop):
    call = restart(leaky(shop))
    shop.store.modify("deployment", "shop", "leaky", lambda found: found["metadata"].update(uid="another"))
    assert "another object of the same name" in execute(call).message
    assert shop.changing() == []


def test_a_certificate_that_was_issued_meanwhile_is_left_alone(shop):
    call = renewing(certificate(shop))
    shop.store.modify("certificate", "shop", "shop-tls", lambda found: found["status"].update(revision=5))
    assert "issued anew" in execute(call).message
    assert shop.changing() == []


def churning(cluster, times: int) -> None:
    """Has the Deployment's status change whenever its namespace is read: after the action, before the patch."""

    def churn(seen):
        if seen.kind == "namespace" and churn.left:
            churn.left -= 1
            cluster.store.modify("deployment", "shop", "leaky", lambda d: d["status"].update(replicas=churn.left))
        return False

    churn.left = times
    cluster.faults.append(Fault(where=churn))


def test_a_status_that_changes_in_between_is_no_reason_to_give_up(shop):
    call = restart(leaky(shop))
    churning(shop, times=2)
    assert execute(call).result is Result.DONE
    assert len(shop.changing()) == 3, "twice the server refused the patch as a whole"


def test_an_object_that_changes_all_the_time_is_tried_again_later(shop):
    call = restart(leaky(shop))
    churning(shop, times=100)
    with pytest.raises(Temporary, match="changes all the time"):
        execute(call)
    assert "annotations" not in deployment(shop)["spec"]["template"]["metadata"]


# --- what became of it


def test_an_action_that_went_through_is_found_and_not_repeated(shop):
    call = restart(leaky(shop))
    assert probe(call).state is ProbeState.ABSENT
    execute(call)
    assert probe(call).state is ProbeState.FINISHED
    assert execute(call).result is Result.DONE
    assert len(shop.changing()) == 1


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_request_whose_answer_got_lost_is_no_second_restart(shop, took_effect):
    call = restart(leaky(shop))
    shop.faults.append(Fault(cut=True, after=took_effect, where=lambda seen: seen.method == "PATCH"))
    with pytest.raises(Temporary):
        execute(call)
    assert probe(call).state is (ProbeState.FINISHED if took_effect else ProbeState.ABSENT)
    assert execute(call).result is Result.DONE
    assert deployment(shop)["metadata"]["generation"] == 4, "one change of the template"


def test_nobody_can_tell_when_the_object_has_changed_and_bears_no_id(shop):
    call = restart(leaky(shop))
    shop.store.modify("deployment", "shop", "leaky", lambda d: d["spec"]["template"]["spec"].update(hostNetwork=True))
    found = probe(call)
    assert found.state is ProbeState.UNKNOWN
    assert "nobody can tell" in found.message


def test_nobody_can_tell_when_the_object_is_gone(shop):
    call = restart(leaky(shop))
    shop.store.delete("deployment", "shop", "leaky")
    assert probe(call).state is ProbeState.UNKNOWN
    with pytest.raises(Permanent, match="not found"):
        execute(call)


def test_a_renewal_is_found_while_it_goes_on_and_afterwards_nobody_can_tell(shop):
    call = renewing(certificate(shop))
    assert probe(call).state is ProbeState.ABSENT
    execute(call)
    assert probe(call).state is ProbeState.FINISHED

    def issued(found):
        found["status"]["conditions"].pop()
        found["status"]["revision"] = 5

    shop.store.modify("certificate", "shop", "shop-tls", issued)
    assert probe(call).state is ProbeState.UNKNOWN


# --- faults


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(500), Temporary),
        (Fault(429, retry_after_s=7), Temporary),
        (Fault(cut=True), Temporary),
        (Fault(body=b"<html>a proxy</html>"), Permanent),
    ],
)
def test_a_fault_before_the_patch_is_told_by_its_kind_and_nothing_is_sent(shop, fault, error):
    call = restart(leaky(shop))
    shop.faults.append(fault)
    with pytest.raises(error):
        execute(call)
    assert shop.changing() == []


def test_a_fault_while_the_fence_looks_lets_nothing_pass(shop):
    call = restart(leaky(shop))
    shop.faults.append(Fault(500, where=lambda seen: seen.kind == "namespace"))
    with pytest.raises(Temporary):
        execute(call)
    assert shop.changing() == []


def test_a_missing_right_is_named_with_the_rule_to_add(shop):
    call = restart(leaky(shop))
    shop.rights = {"namespaces: get", "apps/deployments: get"}
    with pytest.raises(Permanent, match=r"forbids BytePort to patch deployments .* add this rule"):
        execute(call)


@pytest.mark.parametrize("name", [name for name in ACTIONS if name.startswith("kubernetes.")])
def test_an_action_needs_what_it_declares_and_nothing_else(shop, name):
    made = {
        "kubernetes.rollout_restart": lambda: restart(leaky(shop)),
        "kubernetes.raise_memory_limit": lambda: raising(leaky(shop), "256Mi"),
        "kubernetes.scale": lambda: scaling(leaky(shop, **{"byteport.io/max-replicas": "2"}), 2),
        "kubernetes.rollback": lambda: rolling_back(failed_web(shop)),
        "kubernetes.renew_certificate": lambda: renewing(certificate(shop)),
    }
    call = made[name]()
    assert simulate(call).result is Result.SIMULATED
    assert execute(call).result is Result.DONE
    declared = {
        f"{what}: {verb}"
        for what, _, verbs in (permission.partition(": ") for permission in ACTIONS[name].permissions)
        for verb in verbs.split(", ")
        if "sets" not in what or "replica" in what
    }
    assert {seen.right for seen in shop.seen} == declared


def test_a_cluster_that_is_not_known_is_not_reached(shop):
    call = restart(leaky(shop))
    elsewhere = ActionCall(
        call.id, call.action, ref("deployment", "leaky").parse("kubernetes/other/shop/deployment/leaky")
    )
    with pytest.raises((Permanent, Refused)):
        execute(elsewhere)
