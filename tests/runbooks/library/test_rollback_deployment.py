"""deployment_failed from the signal to its end. Real: PostgreSQL, the whole loop with its gates, the fence, HTTP. The
API server is the stand-in of tests/kubernetes, its objects are as they were recorded. Time is moved by hand."""

from datetime import UTC, datetime

import pytest
import time_machine

from byteport import loop
from runbooks.library.rollback_deployment import RUNBOOK
from runbooks.models import AgentSettings
from runbooks.stage import diagnosis_of, view_of
from signals.ingest import ingest
from signals.kubernetes.revisions import STABLE
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.runbooks.shop import failed_web, namespace, pod, ref

pytestmark = pytest.mark.django_db
WEB = ref("deployment", "web")


@pytest.fixture
def clock():
    with time_machine.travel(datetime.now(UTC).replace(microsecond=0), tick=False) as traveller:
        yield traveller


@pytest.fixture
def shop(cluster, clock):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    failed_rollout(cluster)
    return cluster


def failed_rollout(cluster) -> None:
    """`web`, whose new pod cannot pull its image, where Argo CD is installed."""
    cluster.kinds.add("application")
    failed = failed_web(cluster)
    new = {"metadata": {"name": "web-5f7f49ccbd", "uid": "d467ab31-ad9f-49be-8269-199a5e045b0e"}}
    pulling = {"name": "nginx", "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    status = {"phase": "Pending", "conditions": [], "containerStatuses": [pulling]}
    pod(cluster, new, "ReplicaSet", "web-5f7f49ccbd-x", failed["spec"]["selector"]["matchLabels"], **status)


def roll_out(cluster, *, condition: dict | None = None, **counts: int) -> None:
    """Plays the Deployment controller: takes up a changed template, and comes this far with it."""

    def react(kind: str, changed: dict) -> None:
        if kind != "deployment":
            return

        def status(found: dict) -> None:
            found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "3"
            found["status"] |= {"observedGeneration": changed["metadata"]["generation"], **counts}
            found["status"]["conditions"][1] = condition or {
                "type": "Progressing",
                "status": "True",
                "reason": "NewReplicaSetAvailable",
            }

        cluster.store.modify("deployment", "shop", "web", status)
        if counts in (DONE, NONE) and cluster.store.get("pod", "shop", "web-5f7f49ccbd-x"):
            cluster.store.delete("pod", "shop", "web-5f7f49ccbd-x")
        if counts == DONE:
            earlier = cluster.store.get("replicaset", "shop", "web-7b46c4b544")
            pod(cluster, earlier, "ReplicaSet", "web-7b46c4b544-x", changed["spec"]["selector"]["matchLabels"])

    cluster.store.react(react)


DONE = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
NONE = {"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0}


def reading() -> Reading:
    at = datetime.now(UTC)
    return Reading(signal="deployment_failed", resource=WEB, at=at, state=State.FIRING, labels={"revision": "2"})


def fire() -> SignalEvent:
    ingest([reading()])
    return SignalEvent.objects.latest("pk")


def run(event: SignalEvent, clock: time_machine.Traveller, *statuses: str) -> SignalEvent:
    for _ in range(100):
        event.refresh_from_db()
        if event.status in (statuses or ("resolved", "escalated")):
            return event
        if event.due_at and event.due_at > datetime.now(UTC):
            clock.move_to(event.due_at)
        loop.advance(event.pk)
    raise AssertionError(f"still {event.status}: {event.reason}")


def edit(cluster, change) -> None:
    cluster.store.modify("deployment", "shop", "web", change)


def test_a_failed_rollout_is_rolled_back_and_verified(shop, clock):
    roll_out(shop, **DONE)
    event = run(fire(), clock)
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    after = shop.store.get("deployment", "shop", "web")
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1.25"
    assert after["metadata"]["annotations"]["byteport.io/last-action"] == str(event.actions.get().uid)


def test_where_no_pod_is_left_nobody_can_say_that_it_works(shop, clock):
    """Somebody scales it to nothing while it is verified: its rollout is complete then, by the rules."""
    roll_out(shop, **NONE)
    event = run(fire(), clock, "verifying")
    edit(shop, lambda found: found["spec"].update(replicas=0))
    event = run(event, clock)
    assert event.status == "escalated"
    assert "there are no pods of" in event.reason


def test_what_was_seen_is_told(shop, clock):
    event = run(fire(), clock, "diagnosed")
    diagnosis = diagnosis_of(event)
    told = "\n".join(diagnosis.evidence)
    assert 'ReplicaSet "web-5f7f49ccbd" has timed out progressing.' in told
    assert "Container nginx runs nginx:1.25 in revision 1 and nginx:never in revision 2." in told
    assert "web-5f7f49ccbd-x: ImagePullBackOff" in told
    assert not diagnosis.confident, "that it worked is only judged from its ReplicaSet"


def test_what_byteport_remembers_makes_it_sure(shop, clock):
    uid = shop.store.get("deployment", "shop", "web")["metadata"]["uid"]
    ingest([Reading(signal=STABLE, resource=WEB, at=datetime.now(UTC), value=1.0, detail=uid)])
    shop.store.modify("replicaset", "shop", "web-7b46c4b544", lambda found: found["status"].clear())
    event = run(fire(), clock, "diagnosed", "escalated")
    assert event.status == "diagnosed", event.reason
    assert diagnosis_of(event).confident


def test_where_no_revision_is_known_to_have_worked_a_person_is_told(shop, clock):
    shop.store.modify("replicaset", "shop", "web-7b46c4b544", lambda found: found["status"].clear())
    event = run(fire(), clock)
    assert "of no earlier revision is it known that it has worked" in event.reason
    assert shop.changing() == []


def test_a_rollout_in_progress_is_waited_for_and_one_that_is_stuck_is_handed_over(shop, clock):
    going_on = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
    roll_out(shop, condition=going_on, replicas=3, updatedReplicas=1, availableReplicas=1)
    event = run(fire(), clock, "verifying")
    clock.move_to(event.due_at)
    loop.advance(event.pk)
    assert "it is progressing: 1 of 2" in event.samples.get().message

    def times_out(found):
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        failed = {"status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out", "lastUpdateTime": at}
        found["status"]["conditions"][1] |= failed

    edit(shop, times_out)
    event = run(event, clock)
    assert event.status == "escalated"
    assert "it is stuck: the rollout has exceeded its deadline" in event.reason


def test_the_condition_of_the_rollout_before_is_not_taken_for_its_own(shop, clock):
    old = shop.store.get("deployment", "shop", "web")["status"]["conditions"][1]
    roll_out(shop, condition=old, replicas=3, updatedReplicas=1, availableReplicas=1)
    event = run(fire(), clock, "verifying")
    clock.move_to(event.due_at)
    loop.advance(event.pk)
    assert event.samples.get().look == "inconclusive"


def test_another_template_in_the_meantime_is_not_verified_as_its_own(shop, clock):
    roll_out(shop, **DONE)
    event = run(fire(), clock, "verifying")
    edit(shop, lambda found: found["spec"]["template"]["spec"]["containers"][0].update(image="nginx:2"))
    event = run(event, clock)
    assert event.status == "escalated"
    assert "is not the one any more that it was rolled back to" in event.reason


TRACKED = {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["metadata"]["labels"].update({"kustomize.toolkit.fluxcd.io/name": "shop"}), "Flux manages it"),
        (lambda d: d["metadata"]["annotations"].update(TRACKED), "Argo CD syncs it automatically (Application shop)"),
        (lambda d: d["metadata"]["labels"].update({"app.kubernetes.io/instance": "shop"}), "Argo CD syncs it"),
        (lambda d: d["metadata"]["labels"].update({"app.kubernetes.io/instance": "other"}), "cannot be read"),
        (lambda d: d["spec"].update(paused=True), "is paused"),
        (lambda d: d["metadata"].update(generation=4), "superseded"),
        (
            lambda d: d["status"]["conditions"][1].update(status="True", reason="ReplicaSetUpdated"),
            "not failed any more",
        ),
        (lambda d: d["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"), "being deleted"),
    ],
)
def test_what_must_not_be_rolled_back_is_handed_over_with_the_reason(shop, clock, change, said):
    automated = {"metadata": {"name": "shop", "namespace": "argocd"}, "spec": {"syncPolicy": {"automated": {}}}}
    shop.store.put("application", automated)
    edit(shop, change)
    event = run(fire(), clock)
    assert event.status == "escalated"
    assert said in event.reason
    assert [seen for seen in shop.seen if seen.method != "GET"] == []


def test_what_argo_cd_syncs_only_by_hand_is_rolled_back(shop, clock):
    shop.store.put("application", {"metadata": {"name": "shop", "namespace": "argocd"}, "spec": {}})
    edit(shop, lambda found: found["metadata"]["annotations"].update(TRACKED))
    roll_out(shop, **DONE)
    assert run(fire(), clock).status == "resolved"


def test_an_application_that_byteport_may_not_read_is_a_refusal(shop, clock):
    edit(shop, lambda found: found["metadata"]["annotations"].update(TRACKED))
    every = {"deployments", "replicasets"}
    shop.rights = {f"apps/{one}: {verb}" for one in every for verb in ("get", "list", "patch")} | {"pods: list"}
    assert "cannot be read from its Application" in run(fire(), clock).reason


def test_argo_cd_switched_on_between_plan_and_act_is_seen_by_the_fence(shop, clock):
    event = run(fire(), clock, "diagnosed")
    automated = {"metadata": {"name": "shop"}, "spec": {"syncPolicy": {"automated": {}}}}
    held = {"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web"}
    shop.store.put("application", {**automated, "status": {"resources": [held]}})
    event = run(event, clock)
    assert event.status == "escalated"
    assert "Argo CD syncs it automatically" in event.reason
    assert shop.changing() == []


def test_a_newer_rollout_between_plan_and_act_stops_it(shop, clock):
    event = run(fire(), clock, "diagnosed")
    edit(shop, lambda found: found["spec"]["template"]["spec"]["containers"][0].update(image="nginx:2"))
    assert "superseded" in run(event, clock).reason
    assert shop.changing() == []


def test_what_is_gone_or_no_deployment_is_told(shop, clock):
    shop.store.delete("deployment", "shop", "web")
    assert "is gone" in run(fire(), clock).reason
    at = datetime.now(UTC)
    ingest([Reading(signal="deployment_failed", resource=ref("statefulset", "db"), at=at, state=State.FIRING)])
    assert "not a statefulset" in run(SignalEvent.objects.latest("pk"), clock).reason


def test_what_it_asks_of_the_cluster_is_what_it_declares(shop, clock):
    roll_out(shop, **DONE)
    run(fire(), clock)
    asked = {seen.right for seen in shop.seen if seen.method == "GET"}
    assert asked == set(RUNBOOK.permissions)


def test_the_manual_steps_name_the_revision_to_go_back_to(shop, clock):
    event = run(fire(), clock, "diagnosed")
    steps = RUNBOOK.advise(view_of(event), diagnosis_of(event))
    assert [step.command for step in steps] == [
        "kubectl -n shop describe deployment/web && kubectl -n shop get events",
        "kubectl -n shop rollout history deployment/web --revision=2",
        "kubectl -n shop rollout undo deployment/web --to-revision=1",
    ]
    assert len(RUNBOOK.advise(view_of(event), None)) == 3
