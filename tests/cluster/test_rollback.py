"""deployment_failed on a real cluster, from the event to its end, with the rights that the chart gives and no more.

Real: the API server and its RBAC, the Deployment controller that counts the deadline, ReplicaSets and their revisions;
the watcher, PostgreSQL, the queue, every stage and gate. The kubelet is played. Of Argo CD only its CRD is there.
"""

import secrets

import pytest

from tests.cluster.kubelet import HEALTHY, Kubelet, crashing
from tests.cluster.live import STRATEGIC
from tests.cluster.objects import OPT_IN, application, image_patch, workload
from tests.cluster.players import is_served

SIGNAL = "deployment_failed"

GOOD, BROKEN, WORSE, BETTER = (f"example.org/app:{tag}" for tag in ("good", "broken", "worse", "better"))


def tracked_by(app):
    return {"argocd.argoproj.io/tracking-id": f"{app}:apps/Deployment:here/web"}


def image_of(live, namespace):
    return live.get("deployments", "web", namespace)["spec"]["template"]["spec"]["containers"][0]["image"]


def runs_only_good_ones(pod):
    return HEALTHY if pod["spec"]["containers"][0]["image"] in (GOOD, BETTER) else crashing(1)


def is_available(live, namespace):
    status = live.get("deployments", "web", namespace).get("status", {})
    return status.get("availableReplicas") == 2


def deploy(live, namespace, image):
    live.patch("deployments", "web", namespace, image_patch(image), how=STRATEGIC)


def has_failed(live, namespace):
    found = live.get("deployments", "web", namespace)
    return found["status"].get("observedGeneration") == found["metadata"]["generation"] and any(
        one["type"] == "Progressing" and one["reason"] == "ProgressDeadlineExceeded"
        for one in found["status"]["conditions"]
    )


@pytest.fixture
def failed(live, stage):
    """Makes a Deployment whose rollout of these images, after a good one, has failed."""

    def make(*images: str, words=("rollback",), **metadata) -> Kubelet:
        kubelet = stage(*words)
        kubelet.fate = runs_only_good_ones
        live.create(
            "deployments", workload("web", image=GOOD, progressDeadlineSeconds=1, **metadata), kubelet.namespace
        )
        kubelet.until(lambda: is_available(live, kubelet.namespace))
        for image in images or (BROKEN,):
            deploy(live, kubelet.namespace, image)
            kubelet.until(lambda: has_failed(live, kubelet.namespace))
        return kubelet

    return make


@pytest.fixture
def argo(live):
    if not is_served(live, "/apis/argoproj.io/v1alpha1"):
        pytest.skip("Argo CD's CRD is not in this cluster")


def assert_left_alone(live, kubelet, event, image=BROKEN):
    assert event.status == "escalated"
    assert not event.actions.exists()
    assert image_of(live, kubelet.namespace) == image


def test_a_failed_rollout_is_rolled_back_to_what_was_stable(live, failed, agent):
    kubelet = failed()
    event = agent(SIGNAL, kubelet).run("web")
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert image_of(live, kubelet.namespace) == GOOD
    [action] = event.actions.all()
    assert (action.action, action.status) == ("kubernetes.rollback", "done")


def test_it_is_never_rolled_back_to_a_revision_that_was_broken_too(live, failed, agent):
    kubelet = failed(BROKEN, WORSE)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "resolved", event.reason
    assert image_of(live, kubelet.namespace) == GOOD


@pytest.mark.parametrize("policy", [{"automated": {}}, {"automated": {"prune": True}}])
def test_what_argo_cd_syncs_by_itself_is_left_alone(live, failed, agent, argo, policy):
    kubelet = failed(annotations=tracked_by(app := f"shop-{secrets.token_hex(4)}"))
    live.create("applications", application(app, policy), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert_left_alone(live, kubelet, event)
    assert "Argo CD" in event.reason


def test_where_its_application_cannot_be_found_it_is_left_alone(live, failed, agent, argo):
    kubelet = failed(annotations=tracked_by("nowhere"))
    event = agent(SIGNAL, kubelet).run("web")
    assert_left_alone(live, kubelet, event)
    assert "Argo CD" in event.reason


@pytest.mark.parametrize("policy", [{}, {"automated": {"enabled": False}}])
def test_what_argo_cd_only_shows_may_be_rolled_back(live, failed, agent, argo, policy):
    kubelet = failed(annotations=tracked_by(app := f"shop-{secrets.token_hex(4)}"))
    live.create("applications", application(app, policy), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "resolved", event.reason
    assert image_of(live, kubelet.namespace) == GOOD


def test_what_flux_manages_is_left_alone(live, failed, agent):
    kubelet = failed(labels={"kustomize.toolkit.fluxcd.io/name": "shop"})
    event = agent(SIGNAL, kubelet).run("web")
    assert_left_alone(live, kubelet, event)
    assert "Flux" in event.reason


def test_a_failed_rollout_whose_pods_crash_as_if_by_chance_is_rolled_back_all_the_same(live, failed, agent):
    """Both signals fire, and both are opted in: a restart of the broken revision must not stand in the way."""
    kubelet = failed(words=("crashloop", "rollback"))
    kubelet.fate = lambda pod: HEALTHY if runs_only_good_ones(pod).healthy else crashing(143)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "resolved", event.reason
    assert image_of(live, kubelet.namespace) == GOOD


def test_without_the_opt_in_it_is_left_alone(live, failed, agent):
    kubelet = failed(words=("crashloop",))
    event = agent(SIGNAL, kubelet).run("web")
    assert_left_alone(live, kubelet, event)
    assert "opt_in" in event.reason


@pytest.mark.parametrize("moment", ["diagnosed", "acting"])
def test_the_opt_in_taken_back_at_the_last_moment_stops_it(live, failed, agent, moment):
    kubelet = failed()
    running = agent(SIGNAL, kubelet)
    running.run("web", moment)
    live.patch("namespaces", kubelet.namespace, "", {"metadata": {"annotations": {OPT_IN: None}}})
    assert_left_alone(live, kubelet, running.run("web"))


def test_a_rollout_that_somebody_has_superseded_is_left_to_them(live, failed, agent):
    kubelet = failed()
    running = agent(SIGNAL, kubelet)
    running.run("web", "diagnosed")
    deploy(live, kubelet.namespace, BETTER)
    event = running.run("web")
    assert not event.actions.exists()
    assert image_of(live, kubelet.namespace) == BETTER


def test_a_paused_rollout_is_left_alone(live, failed, agent):
    kubelet = failed()
    live.patch("deployments", "web", kubelet.namespace, {"spec": {"paused": True}})
    event = agent(SIGNAL, kubelet).run("web")
    assert_left_alone(live, kubelet, event)
