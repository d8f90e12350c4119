"""How far a rollout has got, by the rules of `kubectl rollout status`. Pure.

https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from runbooks.kubernetes.names import DEADLINE_EXCEEDED
from runbooks.kubernetes.names import PROGRESSING as PROGRESSING_CONDITION
from runbooks.kubernetes.objects import Pod, Workload, condition
from runbooks.runbook import Progress, ProgressState

COMPLETE, PROGRESSING, STUCK = ProgressState.COMPLETE, ProgressState.PROGRESSING, ProgressState.STUCK
MARGIN = timedelta(seconds=25)
CRASHES_AGAIN = 3  # restarts of a new pod after which it is in a crash loop as before


def progress_of(kind: str, workload: Workload, since: datetime, pods: Sequence[Pod] = ()) -> Progress:
    """Of a change made just before `since`. `pods` are the workload's, for what the rollout waits for."""
    if workload.metadata.generation > workload.status.observed_generation:
        return Progress(PROGRESSING, "the controller has not taken up the new specification yet")
    progress = RULES[kind](workload, since)
    if progress.state is not PROGRESSING:
        return progress
    crashing = next((pod for pod in pods if crashes_again(pod, since)), None)
    if crashing is not None:
        return Progress(STUCK, f"{progress.message}; the new pod {crashing.metadata.name} is in a crash loop as well")
    waits = "; ".join(sorted({reason for pod in pods for reason in waiting_reasons(pod)})[:3])
    return Progress(PROGRESSING, f"{progress.message} ({waits})" if waits else progress.message)


def _deployment(workload: Workload, since: datetime) -> Progress:
    status, wanted = workload.status, workload.spec.replicas
    failed = failed_since(workload, since)
    if failed:
        return Progress(STUCK, f"the rollout has exceeded its deadline: {failed}")
    if status.updated_replicas < wanted:
        return Progress(PROGRESSING, f"{status.updated_replicas} of {wanted} replicas have been updated")
    if status.replicas > status.updated_replicas:
        return Progress(
            PROGRESSING, f"{status.replicas - status.updated_replicas} old replicas are pending termination"
        )
    if status.available_replicas < status.updated_replicas:
        return Progress(PROGRESSING, f"{status.available_replicas} of {wanted} updated replicas are available")
    return Progress(COMPLETE, f"{status.available_replicas} of {wanted} replicas are updated and available")


def failed_since(workload: Workload, since: datetime) -> str:
    """What the controller says of a rollout that has failed after `since`; empty when none has.

    The condition may still be that of the rollout before: it changes only when the new one gets on, or times out too.
    """
    found = condition(workload.status.conditions, PROGRESSING_CONDITION)
    if found is None or found.reason != DEADLINE_EXCEEDED or found.last_update_time is None:
        return ""
    return found.message if found.last_update_time > since else ""


def _stateful_set(workload: Workload, since: datetime) -> Progress:
    status, wanted = workload.status, workload.spec.replicas
    if status.ready_replicas < wanted:
        return Progress(PROGRESSING, f"{status.ready_replicas} of {wanted} pods are ready")
    moving = wanted - workload.spec.update_strategy.rolling_update.partition
    if moving < wanted and status.updated_replicas < moving:
        return Progress(PROGRESSING, f"{status.updated_replicas} of {moving} pods have been updated")
    if moving == wanted and status.update_revision != status.current_revision:
        return Progress(PROGRESSING, f"{status.updated_replicas} of {wanted} pods are at the new revision")
    return Progress(COMPLETE, f"{status.ready_replicas} of {wanted} pods are updated and ready")


def _daemon_set(workload: Workload, since: datetime) -> Progress:
    status, wanted = workload.status, workload.status.desired_number_scheduled
    if status.updated_number_scheduled < wanted:
        return Progress(PROGRESSING, f"{status.updated_number_scheduled} of {wanted} pods have been updated")
    if status.number_available < wanted:
        return Progress(PROGRESSING, f"{status.number_available} of {wanted} updated pods are available")
    return Progress(COMPLETE, f"{status.number_available} of {wanted} pods are updated and available")


RULES: Mapping[str, Callable[[Workload, datetime], Progress]] = {
    "deployment": _deployment,
    "statefulset": _stateful_set,
    "daemonset": _daemon_set,
}


def crashes_again(pod: Pod, since: datetime) -> bool:
    """Whether a pod of the change has restarted so often that the change has not helped.

    Times of creation are whole seconds on another machine's clock. A pod of before that has restarted so often is older
    than the margin: the kubelet waits 10 s, then 20 s, before it tries again.
    """
    made = pod.metadata.creation_timestamp
    statuses = pod.status.container_statuses
    is_new = made is not None and made >= since - MARGIN
    return is_new and any(one.restart_count >= CRASHES_AGAIN for one in statuses)


def waiting_reasons(pod: Pod) -> list[str]:
    """What keeps a pod from being ready, as far as it says so: `web-1: ImagePullBackOff`, `web-2: Unschedulable`."""
    reasons = [
        one.state.waiting.reason
        for one in (*pod.status.init_container_statuses, *pod.status.container_statuses)
        if one.state.waiting is not None and one.state.waiting.reason
    ]
    scheduled = condition(pod.status.conditions, "PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        reasons.append(scheduled.reason)
    return [f"{pod.metadata.name}: {reason}" for reason in dict.fromkeys(reasons)]
