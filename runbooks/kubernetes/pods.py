"""Which of a workload's pods are not well, and why. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from runbooks.kubernetes.objects import ContainerStatus, Pod, condition

SETTLED = timedelta(seconds=30)  # a container that has run this long without a restart is taken to stay
STARTING = ("", "PodInitializing", "ContainerCreating")


class Troubled(msgspec.Struct, frozen=True):
    """One container of one pod. `is_init`: it runs before the others."""

    pod: Pod
    status: ContainerStatus
    is_init: bool


def current(pods: Sequence[Pod]) -> list[Pod]:
    """Those that count: not what has ended or is going."""
    return [
        pod
        for pod in pods
        if pod.metadata.deletion_timestamp is None and pod.status.phase not in ("Succeeded", "Failed")
    ]


def unwell(pods: Sequence[Pod], at: datetime) -> list[str]:
    """What is wrong with each pod that is not Running, Ready and settled: `web-1 is not ready`."""
    return [f"{pod.metadata.name} {trouble}" for pod in pods if (trouble := _trouble(pod, at))]


def _trouble(pod: Pod, at: datetime) -> str:
    ready = condition(pod.status.conditions, "Ready")
    for status in pod.status.container_statuses:
        if status.state.waiting is not None and status.state.waiting.reason:
            return f"waits: {status.state.waiting.reason}"
    if pod.status.phase != "Running":
        return f"is {pod.status.phase or 'not started'}"
    if ready is None or ready.status != "True":
        return "is not ready"
    for status in pod.status.container_statuses:
        running = status.state.running
        if status.restart_count and running is not None and _is_young(running.started_at, at):
            return f"has restarted within {SETTLED.seconds} s"
    return "" if not _is_young(ready.last_transition_time, at) else "is ready, but not for long yet"


def _is_young(since: datetime | None, at: datetime) -> bool:
    return since is None or at - since < SETTLED


def troubled(pods: Sequence[Pod], pod: str, container: str) -> Troubled | None:
    """The container that an event is about: the one that it names if that has ended; else the one that ended most."""
    found = [one for one in _containers(pods) if _has_trouble(one)]
    named = [one for one in found if one.pod.metadata.name == pod and container in ("", one.status.name)]
    alike = [one for one in found if container in ("", one.status.name)]
    return max(named or alike or found, key=_restarts, default=None)


def _has_trouble(one: Troubled) -> bool:
    """It has ended before, or has ended now (as an init container does when all is well), or cannot be started."""
    state, last = one.status.state, one.status.last_state
    ended_now = state.terminated is not None and not (one.is_init and state.terminated.exit_code == 0)
    cannot_start = state.waiting is not None and state.waiting.reason not in STARTING
    return last.terminated is not None or ended_now or cannot_start


def _restarts(one: Troubled) -> tuple[bool, int]:
    """One that stays comes before one that is going."""
    return one.pod.metadata.deletion_timestamp is None, one.status.restart_count


def _containers(pods: Sequence[Pod]) -> Iterator[Troubled]:
    for pod in pods:
        for status in pod.status.container_statuses:
            yield Troubled(pod, status, is_init=False)
        for status in pod.status.init_container_statuses:
            yield Troubled(pod, status, is_init=True)
