"""What BytePort's code relies on of Kubernetes, and these tests of their fixtures. Real: the API server and the
controllers of kube-controller-manager. The kubelet is played (tests/cluster/kubelet.py)."""

import pytest

from tests.cluster.kubelet import HEALTHY, OOM, crashing
from tests.cluster.live import STRATEGIC, ApiError, path_of
from tests.cluster.objects import image_patch, memory, workload

JSON_PATCH = "application/json-patch+json"


def available(live, namespace, name="web", replicas=2):
    status = live.get("deployments", name, namespace).get("status", {})
    return status.get("availableReplicas") == replicas and status.get("updatedReplicas") == replicas


def condition_of(live, namespace, kind, name="web"):
    conditions = live.get("deployments", name, namespace).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def is_new(pod):
    return pod["spec"]["containers"][0]["image"].endswith(":2")


def test_a_deployment_becomes_available_when_its_pods_are_ready(live, stage):
    kubelet = stage()
    live.create("deployments", workload("web"), kubelet.namespace)
    kubelet.until(lambda: available(live, kubelet.namespace))


@pytest.mark.parametrize(("fate", "reason"), [(crashing(1), "Error"), (OOM, "OOMKilled")])
def test_how_a_container_ended_is_in_its_last_state_and_a_back_off_is_an_event(live, stage, fate, reason):
    kubelet = stage()
    kubelet.fate = lambda pod: fate
    live.create("deployments", workload("web", replicas=1), kubelet.namespace)

    def backed_off():
        return [one for one in live.items("events", kubelet.namespace) if one["reason"] == "BackOff"]

    [event] = kubelet.until(backed_off)
    [pod] = live.items("pods", kubelet.namespace)
    [status] = pod["status"]["containerStatuses"]
    assert event["involvedObject"]["uid"] == pod["metadata"]["uid"]
    assert event["involvedObject"]["fieldPath"] == "spec.containers{app}"
    assert status["lastState"]["terminated"]["reason"] == reason
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"


def test_a_failed_rollout_is_still_available_and_says_that_its_deadline_is_exceeded(live, stage):
    kubelet = stage()
    namespace = kubelet.namespace
    live.create("deployments", workload("web", progressDeadlineSeconds=1), namespace)
    kubelet.until(lambda: available(live, namespace))
    kubelet.fate = lambda pod: crashing() if is_new(pod) else HEALTHY
    live.patch("deployments", "web", namespace, image_patch("example.org/app:2"), how=STRATEGIC)
    kubelet.until(lambda: condition_of(live, namespace, "Progressing").get("reason") == "ProgressDeadlineExceeded")
    assert condition_of(live, namespace, "Progressing")["status"] == "False"
    assert condition_of(live, namespace, "Available")["status"] == "True"
    revisions = [
        one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
        for one in live.items("replicasets", namespace)
    ]
    assert sorted(revisions) == ["1", "2"]


def test_a_patch_whose_test_fails_changes_nothing(live, stage):
    namespace = stage().namespace
    live.create("deployments", workload("web", resources=memory("64Mi")), namespace)
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": "another"},
        {"op": "replace", "path": "/spec/replicas", "value": 9},
    ]
    with pytest.raises(ApiError) as refused:
        live.request("PATCH", path_of("deployments", namespace, "web"), patch, JSON_PATCH)
    assert refused.value.status == 422
    assert live.get("deployments", "web", namespace)["spec"]["replicas"] == 2


def test_a_dry_run_answers_what_would_be_and_changes_nothing(live, stage):
    namespace = stage().namespace
    live.create("deployments", workload("web"), namespace)
    patch = [{"op": "replace", "path": "/spec/replicas", "value": 9}]
    answer = live.request("PATCH", path_of("deployments", namespace, "web") + "?dryRun=All", patch, JSON_PATCH)
    assert answer["spec"]["replicas"] == 9
    assert live.get("deployments", "web", namespace)["spec"]["replicas"] == 2
