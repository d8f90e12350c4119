"""cpu_saturation from the signal to its end. Real: PostgreSQL, the whole loop with its gates, the fence, HTTP. The API
server is the stand-in of tests/kubernetes; the tests play controller and metrics server. Time is moved by hand."""

from datetime import UTC, datetime

import pytest
import time_machine

from byteport import loop
from runbooks.library.scale_up import RUNBOOK
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.stage import diagnosis_of, view_of
from signals.ingest import ingest
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.runbooks.shop import ago, namespace, pod, ref, replica_set, workload

pytestmark = pytest.mark.django_db
CART = ref("deployment", "cart")
BOUND = "byteport.io/max-replicas"


@pytest.fixture
def clock():
    with time_machine.travel(datetime.now(UTC).replace(microsecond=0), tick=False) as traveller:
        yield traveller


@pytest.fixture
def shop(cluster, clock):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    saturated(cluster)
    return cluster


def saturated(cluster, *cpu: str, bound: str = "5") -> None:
    """`cart`, whose two replicas use nearly all of the 500m that each asks for."""
    cluster.kinds |= {"podmetrics", "horizontalpodautoscaler", "scaledobject"}
    of = workload(cluster, "deployment", "cart")
    of["metadata"]["annotations"] = {BOUND: bound}
    of["spec"]["replicas"] = 2
    of["status"] |= {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    of = cluster.store.put("deployment", of)
    owner = replica_set(cluster, of, "aaa")
    for number, used in enumerate(cpu or ("470m", "460m")):
        one_more(cluster, owner, number, used)


def one_more(cluster, owner: dict, number: int, cpu: str, measured_at: str = "") -> None:
    name, labels = f"cart-{number}", owner["metadata"]["labels"]
    made = pod(cluster, owner, "ReplicaSet", name, labels)
    made["spec"] = {"containers": [{"name": "app", "resources": {"requests": {"cpu": "500m"}}}]}
    cluster.store.put("pod", made)
    meta = {"name": name, "namespace": "shop", "labels": labels}
    containers = [{"name": "app", "usage": {"cpu": cpu, "memory": "1Mi"}}]
    stamp = measured_at or ago()
    cluster.store.put("podmetrics", {"metadata": meta, "timestamp": stamp, "containers": containers})


def measures(cluster) -> None:
    """The metrics server looks anew."""
    for key in [key for key in cluster.store.objects if key[0] == "podmetrics"]:
        cluster.store.modify(*key, lambda found: found.update(timestamp=ago()))


def scales(cluster, cpu: str = "300m", **counts: int) -> None:
    """Plays the controller: a new replica comes, and each of them uses this much."""

    def react(kind: str, changed: dict) -> None:
        if kind != "deployment":
            return
        replicas, number = changed["spec"]["replicas"], changed["metadata"]["generation"]
        owner = cluster.store.get("replicaset", "shop", "cart-aaa")
        for index in range(replicas):
            one_more(cluster, owner, index, cpu, measured_at=ago(minutes=-2))  # and again, and again
        full = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas, **counts}
        cluster.store.modify(kind, "shop", "cart", lambda d: d["status"].update(observedGeneration=number, **full))

    cluster.store.react(react)


def reading(value: float = 93.0) -> Reading:
    return Reading(signal="cpu_saturation", resource=CART, at=datetime.now(UTC), value=value, state=State.FIRING)


def fire(value: float = 93.0) -> SignalEvent:
    ingest([reading(value)])
    return SignalEvent.objects.latest("pk")


def run(
    event: SignalEvent, clock: time_machine.Traveller, cluster, *statuses: str, measured: bool = True
) -> SignalEvent:
    for _ in range(100):
        event.refresh_from_db()
        if event.status in (statuses or ("resolved", "escalated")):
            return event
        if event.due_at and event.due_at > datetime.now(UTC):
            clock.move_to(event.due_at)
        if measured:
            measures(cluster)
        loop.advance(event.pk)
    raise AssertionError(f"still {event.status}: {event.reason}")


def test_a_saturated_deployment_gets_a_replica_and_is_verified_by_its_cpu(shop, clock):
    scales(shop)
    event = run(fire(), clock, shop)
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert shop.store.get("deployment", "shop", "cart")["spec"]["replicas"] == 3
    assert {sample.value for sample in event.samples.all()} == {60.0}
    assert "is 5" not in event.reason


def test_the_step_is_the_policys_and_the_bound_the_workloads(shop, clock):
    RunbookPolicy.objects.create(runbook="scale_up", cooldown_s=300, verify_deadline_s=600, step=2)
    assert "from 2 to 4 replicas" in run(fire(), clock, shop, "diagnosed").plan["summary"]
    SignalEvent.objects.update(status="resolved", resolved_by="person", resolved_at=datetime.now(UTC))
    clock.shift(1)
    shop.store.modify("deployment", "shop", "cart", lambda d: d["metadata"]["annotations"].update({BOUND: "3"}))
    assert "from 2 to 3 replicas (its bound is 3)" in run(fire(), clock, shop, "diagnosed").plan["summary"]


def test_what_was_seen_is_told_and_the_inference_is_a_guess(shop, clock):
    diagnosis = diagnosis_of(run(fire(), clock, shop, "diagnosed"))
    told = "\n".join(diagnosis.evidence)
    assert "It was seen to use 93 % of the CPU that it asks for." in told
    assert "cart-0: 0.47 of 0.5 cores (94 %)." in told
    assert "2 replicas; at most 5 by its own annotation" in told
    assert not diagnosis.confident


def test_cpu_that_stays_high_is_handed_over(shop, clock):
    scales(shop, "495m")
    event = run(fire(), clock, shop)
    assert event.status == "escalated"
    assert "99 % of its request, not below 75 %" in event.reason


def test_replicas_that_do_not_come_up_are_not_taken_for_a_fix(shop, clock):
    scales(shop, availableReplicas=2)
    event = run(fire(), clock, shop)
    assert event.status == "escalated"
    assert "it is progressing: 2 of 3 updated replicas are available" in event.reason


def test_somebody_who_scales_it_down_meanwhile_is_not_worked_against(shop, clock):
    scales(shop)
    event = run(fire(), clock, shop, "verifying")
    shop.store.modify("deployment", "shop", "cart", lambda found: found["spec"].update(replicas=1))
    assert "somebody has scaled it to 1 meanwhile" in run(event, clock, shop).reason


def test_pods_that_are_not_measured_are_not_taken_for_idle(shop, clock):
    """The node of those that do the work has gone silent; the new replica has little to do yet."""
    scales(shop, "20m")
    event = run(fire(), clock, shop, "verifying")
    for name in ("cart-0", "cart-1"):
        shop.store.delete("podmetrics", "shop", name)
    event = run(event, clock, shop)
    assert event.status == "escalated"
    assert "is not measured, or not of all its pods" in event.reason


def test_what_the_metrics_server_said_last_counts_once(shop, clock):
    scales(shop)
    event = run(fire(), clock, shop, "verifying")
    clock.move_to(event.due_at)
    measures(shop)
    event = run(event, clock, shop, measured=False)
    assert event.status == "escalated"
    assert [sample.look for sample in event.samples.all()].count("good") == 1


HPA = {"metadata": {"name": "cart", "namespace": "shop"}}
TARGET = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}}
SCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "3 Insufficient cpu."}


def refused(shop, clock, said: str) -> None:
    event = run(fire(), clock, shop)
    assert event.status == "escalated"
    assert said in event.reason
    assert [seen for seen in shop.seen if seen.method != "GET"] == []


def test_what_an_autoscaler_scales_is_left_to_it(shop, clock):
    shop.store.put("horizontalpodautoscaler", {**HPA, "spec": TARGET})
    refused(shop, clock, "The HorizontalPodAutoscaler cart sets the scale")


def test_what_keda_scales_is_left_to_it(shop, clock):
    shop.store.put("scaledobject", {**HPA, "spec": {"scaleTargetRef": {"name": "cart"}}})
    refused(shop, clock, "The ScaledObject of KEDA cart sets the scale")


def test_autoscalers_of_others_and_a_cluster_without_keda_are_no_obstacle(shop, clock):
    shop.kinds.discard("scaledobject")
    other = {"scaleTargetRef": {"kind": "StatefulSet", "name": "cart"}}
    shop.store.put("horizontalpodautoscaler", {**HPA, "spec": other})
    scales(shop)
    assert run(fire(), clock, shop).status == "resolved"


@pytest.mark.parametrize("owner", ["ReplicaSet", "another"])
def test_where_pods_wait_for_room_none_is_added(shop, clock, owner):
    """Its own, or another's in the namespace."""
    waiting = {"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": []}
    of = shop.store.get("replicaset", "shop", "cart-aaa")
    labels = of["metadata"]["labels"] if owner == "ReplicaSet" else {"app": "other"}
    pod(shop, of if owner == "ReplicaSet" else {}, "ReplicaSet", "waits", labels, **waiting)
    refused(shop, clock, "There is no room for more: waits")


def test_where_the_load_does_not_follow_replicas_none_is_added(cluster, clock):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    saturated(cluster, "1900m", "20m")
    refused(cluster, clock, "would probably not help: the load lies on cart-0")


def test_what_cannot_be_measured_is_not_scaled(shop, clock):
    shop.kinds.discard("podmetrics")
    refused(shop, clock, "has no metrics.k8s.io")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["metadata"]["annotations"].clear(), "kubectl -n shop annotate deployment cart"),
        (lambda d: d["metadata"]["annotations"].update({BOUND: "many"}), "does not say how many"),
        (lambda d: d["metadata"]["annotations"].update({BOUND: "2"}), "its bound (byteport.io/max-replicas) is 2"),
        (lambda d: d["spec"].update(replicas=0), "scaled to nothing"),
        (lambda d: d["status"].update(updatedReplicas=1), "in the midst of a rollout"),
        (lambda d: d["metadata"].update(generation=2), "in the midst of a rollout"),
        (lambda d: d["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"), "being deleted"),
        (
            lambda d: d["status"].update(conditions=[{"type": "ReplicaFailure", "status": "True", "message": "quota"}]),
            "cannot make the pods that it has to make already: quota",
        ),
    ],
)
def test_what_the_deployment_itself_has_against_it_is_told(shop, clock, change, said):
    shop.store.modify("deployment", "shop", "cart", change)
    refused(shop, clock, said)


def test_an_autoscaler_that_comes_between_plan_and_act_stops_it(shop, clock):
    event = run(fire(), clock, shop, "diagnosed")
    shop.store.put("horizontalpodautoscaler", {**HPA, "spec": TARGET})
    assert "the HorizontalPodAutoscaler cart sets its scale" in run(event, clock, shop).reason
    assert shop.changing() == []


def test_what_was_scaled_since_it_was_looked_at_is_left_alone(shop, clock):
    event = run(fire(), clock, shop, "diagnosed")
    shop.store.modify("deployment", "shop", "cart", lambda found: found["spec"].update(replicas=4))
    assert "it has been scaled to 4" in run(event, clock, shop).reason


def test_what_is_gone_or_no_deployment_is_told(shop, clock):
    shop.store.delete("deployment", "shop", "cart")
    refused(shop, clock, "is gone")
    at = datetime.now(UTC)
    ingest([Reading(signal="cpu_saturation", resource=ref("statefulset", "db"), at=at, value=99.0, state=State.FIRING)])
    assert "of the kind statefulset" in run(SignalEvent.objects.latest("pk"), clock, shop).reason


def test_the_manual_steps_fit_what_was_found(shop, clock):
    event = run(fire(), clock, shop, "diagnosed")
    third = RUNBOOK.advise(view_of(event), diagnosis_of(event))[2]
    assert third.command == "kubectl -n shop scale deployment/cart --replicas=3"
    assert len(RUNBOOK.advise(view_of(event), None)) == 3
