"""`drill pod_crashloop` up to where the loop takes over. Real: the drill, the fence, HTTP. The API server is the
stand-in; what its controllers and kubelet would do is played. With a real API server: tests/cluster/test_drill.py."""

import pytest

from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from byteport.drills import pod_crashloop
from byteport.drills.pod_crashloop import PodCrashloop, deployment, why_not_run

CRASHED = {
    "name": "app",
    "restartCount": 1,
    "ready": False,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(pod_crashloop, "CRASH_PATIENCE_S", 0.3)
    monkeypatch.setattr(pod_crashloop, "REMOVAL_PATIENCE_S", 1.0)
    monkeypatch.setattr(pod_crashloop, "LOOK_S", 0.05)


@pytest.fixture
def drill():
    drill = PodCrashloop()
    yield drill
    drill.remove()


def runs_pods(cluster, **status) -> None:
    """Has the stand-in make a pod for each Deployment, with this status."""

    def react(kind, obj):
        if kind == "deployment":
            meta = {"name": "crasher-0", "namespace": obj["metadata"]["namespace"]}
            cluster.store.put("pod", {"metadata": meta, "spec": {}, "status": status})

    cluster.store.react(react)


def test_it_waits_until_the_container_has_really_ended(cluster, drill):
    runs_pods(cluster, containerStatuses=[CRASHED])
    told = []
    resource = drill.prepare(told.append)
    assert resource == ResourceRef("kubernetes", "test", "deployment", "crasher", resource.namespace)
    assert resource.is_drill
    assert drill.figures() == {"ready_pods": 0, "restarts": 1}
    assert "exit code 1" in told[-1]
    drill.remove()
    assert cluster.store.get("namespace", "", resource.namespace) is None


def test_where_nothing_runs_pods_it_fails_and_says_why(cluster, drill):
    runs_pods(cluster, phase="Pending")
    with pytest.raises(Permanent, match="no node has taken it"):
        drill.prepare(lambda line: None)


def test_without_a_cluster_it_says_what_to_set(settings, drill):
    settings.KUBECONFIG = ""
    with pytest.raises(Permanent, match="BYTEPORT_KUBECONFIG"):
        drill.prepare(lambda line: None)
    assert drill.figures() == {}


def test_without_the_right_to_make_a_namespace_it_names_the_right(cluster, drill):
    cluster.rights = {"pods: list"}
    with pytest.raises(Permanent, match="forbids BytePort to create namespaces"):
        drill.prepare(lambda line: None)


def test_a_namespace_that_cannot_be_removed_is_named(cluster, drill):
    runs_pods(cluster, containerStatuses=[CRASHED])
    namespace = drill.prepare(lambda line: None).namespace
    cluster.rights = {"pods: list"}
    with pytest.raises(Permanent, match=f"kubectl delete namespace {namespace}"):
        drill.remove()
    cluster.rights = None


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "made no pod"),
        ([{"spec": {"nodeName": "a"}, "status": {}}], "kubelet"),
        (
            [{"status": {"conditions": [{"status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}}],
            "Unschedulable: 0/3 nodes",
        ),
        (
            [{"status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}}]}}],
            "ErrImagePull: x",
        ),
    ],
)
def test_why_a_pod_is_not_run_is_told_in_the_clusters_own_words(pods, said):
    assert said in why_not_run(pods)


def test_its_pod_asks_for_nothing_that_a_strict_cluster_forbids():
    """Pod Security Standards, profile `restricted`."""
    pod = deployment("n", "image")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert not pod["automountServiceAccountToken"]
