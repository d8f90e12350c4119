"""Which pods are not well, whose container an event is about, and how far a rollout has got. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runbooks.kubernetes.objects import Pod, Workload, read_as
from runbooks.kubernetes.pods import current, troubled, unwell
from runbooks.kubernetes.rollout import progress_of
from runbooks.runbook import ProgressState
from tests.kubernetes.standin import recorded

NOW = datetime(2026, 11, 23, 21, tzinfo=UTC)
COMPLETE, PROGRESSING, STUCK = ProgressState.COMPLETE, ProgressState.PROGRESSING, ProgressState.STUCK


def at(seconds: float) -> str:
    return f"{NOW + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def pod(name: str = "web-1", *, ready: bool = True, since: float = -300, restarts: int = 0, **more: Any) -> Pod:
    status: dict[str, Any] = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": at(since)}],
        "containerStatuses": [
            {"name": "app", "ready": ready, "restartCount": restarts, "state": {"running": {"startedAt": at(since)}}}
        ],
    }
    meta = {"name": name, "uid": name, "creationTimestamp": at(-600), **more.pop("metadata", {})}
    return read_as(Pod, {"metadata": meta, "status": {**status, **more}})


def container(name: str, restarts: int = 0, **state: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, **state}


CRASHED = {"lastState": {"terminated": {"exitCode": 1}}}


def test_a_pod_that_has_been_ready_for_a_while_is_well():
    assert unwell([pod()], NOW) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (pod(ready=False), "is not ready"),
        (pod(since=-10), "is ready, but not for long yet"),
        (pod(since=-10, restarts=1), "has restarted within 30 s"),
        (pod(phase="Pending"), "is Pending"),
        (
            pod(containerStatuses=[container("app", state={"waiting": {"reason": "CrashLoopBackOff"}})]),
            "CrashLoopBackOff",
        ),
        (pod(conditions=[]), "is not ready"),
    ],
)
def test_a_pod_that_is_not_well_says_why(found, said):
    (trouble,) = unwell([found], NOW)
    assert trouble.startswith("web-1 ")
    assert said in trouble


def test_pods_that_have_ended_or_are_going_do_not_count():
    going = pod(metadata={"deletionTimestamp": at(0)})
    assert current([pod(phase="Succeeded"), pod(phase="Failed"), going]) == []


def test_the_container_that_the_event_names_is_looked_at():
    one = pod("web-1", containerStatuses=[container("app", 3, **CRASHED), container("side", 9, **CRASHED)])
    two = pod("web-2", containerStatuses=[container("app", 7, **CRASHED)])
    found = troubled([one, two], "web-1", "app")
    assert found is not None
    assert (found.pod.metadata.name, found.status.name) == ("web-1", "app")


def test_else_the_one_that_was_restarted_most():
    pods = [pod(f"web-{n}", containerStatuses=[container("app", n, **CRASHED)]) for n in (1, 7, 3)]
    found = troubled(pods, "gone", "app")
    assert found is not None
    assert found.pod.metadata.name == "web-7"


def test_a_pod_that_is_going_is_looked_at_only_when_there_is_no_other():
    going = pod("web-1", metadata={"deletionTimestamp": at(0)}, containerStatuses=[container("app", 9, **CRASHED)])
    other = pod("web-2", containerStatuses=[container("app", 1, **CRASHED)])
    found = troubled([going, other], "", "app")
    assert found is not None
    assert found.pod.metadata.name == "web-2"
    assert troubled([going], "", "app") is not None


def test_an_init_container_that_is_done_is_in_no_trouble():
    done = container("setup", state={"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert troubled([pod(initContainerStatuses=[done])], "", "") is None
    failed = container("setup", 4, state={"terminated": {"exitCode": 1}})
    found = troubled([pod(initContainerStatuses=[failed])], "", "")
    assert found is not None
    assert found.is_init


def test_containers_that_start_are_in_no_trouble():
    starting = container("app", state={"waiting": {"reason": "ContainerCreating"}})
    assert troubled([pod(containerStatuses=[starting])], "", "") is None


# --- rollouts


def deployment(
    generation: int = 3, *, condition: str = "", when: float = 0, wanted: int = 2, **status: int
) -> Workload:
    raw = recorded("deployment_progress_deadline_exceeded")
    raw["metadata"]["generation"] = generation
    raw["spec"]["replicas"] = wanted
    progressing = {"type": "Progressing", "status": "False" if condition else "True", "lastUpdateTime": at(when)}
    progressing |= {"reason": condition or "ReplicaSetUpdated", "message": "it has timed out progressing"}
    raw["status"] = {"observedGeneration": 3, "conditions": [progressing], **status}
    return read_as(Workload, raw)


DONE = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}


@pytest.mark.parametrize(
    ("workload", "state", "said"),
    [
        (deployment(**DONE), COMPLETE, "2 of 2"),
        (deployment(4, **DONE), PROGRESSING, "not taken up"),
        (deployment(**{**DONE, "updatedReplicas": 1}), PROGRESSING, "1 of 2 replicas have been updated"),
        (deployment(**{**DONE, "replicas": 3}), PROGRESSING, "1 old replicas"),
        (deployment(**{**DONE, "availableReplicas": 1}), PROGRESSING, "1 of 2 updated replicas are available"),
        (deployment(condition="ProgressDeadlineExceeded", when=5, updatedReplicas=1), STUCK, "timed out progressing"),
        (deployment(condition="ProgressDeadlineExceeded", when=-5, updatedReplicas=1), PROGRESSING, "1 of 2"),
        (deployment(4, condition="ProgressDeadlineExceeded", when=5), PROGRESSING, "not taken up"),
        (deployment(wanted=0), COMPLETE, "0 of 0"),
    ],
)
def test_a_deployment_is_judged_by_kubectls_rules(workload, state, said):
    progress = progress_of("deployment", workload, NOW)
    assert progress.state is state
    assert said in progress.message


def other(kind: str, spec: dict[str, Any], **status: Any) -> ProgressState:
    base = {"selector": {"matchLabels": {"app": "x"}}, "template": {}}
    raw = {"metadata": {"name": "x", "uid": "x", "generation": 1}, "spec": {**base, **spec}}
    return progress_of(kind, read_as(Workload, {**raw, "status": {"observedGeneration": 1, **status}}), NOW).state


def test_a_stateful_set_is_judged_by_kubectls_rules():
    same = {"currentRevision": "b", "updateRevision": "b"}
    moving = {"currentRevision": "a", "updateRevision": "b"}
    partition = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}
    assert other("statefulset", {"replicas": 3}, readyReplicas=3, **same) is COMPLETE
    assert other("statefulset", {"replicas": 3}, readyReplicas=3, **moving) is PROGRESSING
    assert other("statefulset", {"replicas": 3}, readyReplicas=2, **same) is PROGRESSING
    assert other("statefulset", {"replicas": 3, **partition}, readyReplicas=3, updatedReplicas=1, **moving) is COMPLETE
    assert other("statefulset", {"replicas": 3, **partition}, readyReplicas=3, **moving) is PROGRESSING


def test_a_daemon_set_is_judged_by_kubectls_rules():
    status = {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}
    assert other("daemonset", {}, **status) is COMPLETE
    assert other("daemonset", {}, **{**status, "updatedNumberScheduled": 2}) is PROGRESSING
    assert other("daemonset", {}, **{**status, "numberAvailable": 2}) is PROGRESSING


def test_new_pods_that_crash_as_well_mean_that_it_is_stuck():
    old = pod("old", containerStatuses=[container("app", 9, **CRASHED)])
    new = pod("new", metadata={"creationTimestamp": at(-1)}, containerStatuses=[container("app", 2, **CRASHED)])
    looping = pod("new", metadata={"creationTimestamp": at(-1)}, containerStatuses=[container("app", 3, **CRASHED)])
    busy = deployment(**{**DONE, "availableReplicas": 0})
    assert progress_of("deployment", busy, NOW, [old, new]).state is PROGRESSING
    found = progress_of("deployment", busy, NOW, [old, looping])
    assert found.state is STUCK
    assert "crash loop as well" in found.message


def test_what_a_rollout_waits_for_is_told():
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pulling = container("app", state={"waiting": {"reason": "ImagePullBackOff"}})
    pods = [pod("a", conditions=[unscheduled], containerStatuses=[]), pod("b", containerStatuses=[pulling])]
    message = progress_of("deployment", deployment(), NOW, pods).message
    assert "a: Unschedulable" in message
    assert "b: ImagePullBackOff" in message
