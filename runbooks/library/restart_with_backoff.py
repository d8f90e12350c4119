"""pod_crashloop → restart_with_backoff: a rollout restart where the cause passes, more memory where that was missing.

What ended the container is told by its exit code, the kubelet's reason and its last words. Where that says nothing, or
says that it will end in the same way again, a person is told.
"""

from collections.abc import Iterator
from datetime import datetime
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.clusters import is_known
from byteport.clients.kubernetes.errors import NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.masking import mask_secrets
from byteport.core.resource import ResourceRef
from byteport.core.units import human_duration
from runbooks.kubernetes import crash, gitops, memory, reads
from runbooks.kubernetes.changes import changed_by_others
from runbooks.kubernetes.names import DEADLINE_EXCEEDED, PROGRESSING, REVISION
from runbooks.kubernetes.objects import ContainerStatus, Terminated, Workload, condition
from runbooks.kubernetes.optin import opt_in_for
from runbooks.kubernetes.owners import owner_of
from runbooks.kubernetes.pods import Troubled, current, troubled, unwell
from runbooks.kubernetes.rollout import progress_of
from runbooks.runbook import (
    CannotPlan,
    Diagnosis,
    EventView,
    Judgement,
    Look,
    ManualStep,
    OptIn,
    Plan,
    Progress,
    Step,
    Timing,
)
from signals.catalog import CATALOG
from signals.reading import Reading

LOG_LINES = 100
LOG_BYTES = 1024 * 1024
LINE_CHARS = 500
SHOWN_LINES = 8


class Container(msgspec.Struct, frozen=True):
    """The container in trouble, as it was found."""

    pod: str
    name: str
    is_init: bool
    is_terminating: bool
    restarts: int
    ended: Terminated | None
    waiting: str
    limits: memory.Limits | None
    log: tuple[str, ...]  # the last lines, secrets masked; the latest last
    log_problem: str


class Found(msgspec.Struct, frozen=True):
    """What `observe` has read. Without a `target` only `why_not` says something."""

    target: str = ""
    why_not: str = ""
    uid: str = ""
    generation: int = 0
    template: str = ""  # its digest
    obstacle: str = ""  # what keeps a new pod template from being rolled out, or from helping
    pods: int = 0
    unwell: tuple[str, ...] = ()
    container: Container | None = None
    argo: str = ""  # what says that Argo CD manages it


class RestartWithBackoff:
    """The runbook of `pod_crashloop`."""

    name = "restart_with_backoff"
    signal = "pod_crashloop"
    title = "Restart a crash-looping workload, or give it more memory"
    actions = ("kubernetes.rollout_restart", "kubernetes.raise_memory_limit")
    permissions = (
        "namespaces: get",
        "pods: get, list",
        "pods/log: get",
        "apps/deployments: get",
        "apps/statefulsets: get",
        "apps/daemonsets: get",
        "apps/replicasets: get, list",
    )
    cooldown_s = 180
    longest_cooldown_s = 3600
    verify_deadline_s = 600

    def observe(self, event: EventView) -> dict[str, Any]:
        """A `Found`, as plain data."""
        try:
            owner = owner_of(event.resource)
            found = look(event, owner.target) if owner.target else Found(why_not=owner.why_not)
        except NotFound:
            found = Found(why_not=f"{event.resource.label} is gone.")
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        found = msgspec.convert(facts, Found)
        if found.container is None:
            inference = found.why_not or f"No container of {_label(found.target)} has ended lately."
            return Diagnosis(evidence=(inference,), inference=inference, facts=facts)
        cause = cause_of(found.container)
        inference = f"Container {found.container.name}: {cause.meaning}."
        return Diagnosis(
            evidence=tuple(evidence(found, found.container)),
            inference=inference,
            confident=cause.confident,
            facts=facts,
            exit_code=found.container.ended.exit_code if found.container.ended else None,
            log="\n".join(found.container.log),
        )

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        found = msgspec.convert(diagnosis.facts, Found)
        if found.container is None:
            return CannotPlan(diagnosis.inference)
        step = step_for(found, found.container)
        if isinstance(step, CannotPlan):
            return step
        return Plan(self.name, f"{step.summary[0].lower()}{step.summary[1:]}.", (step,), timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return opt_in_for(CATALOG[self.signal].opt_in, target_of(event))

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        found, workload = msgspec.convert(diagnosis.facts, Found), reads.workload(target_of(event))
        others = changed_by_others(workload.metadata, event.detected_at, found.generation)
        if not others and reads.digest(workload.spec.template) != found.template:
            return "its pod template has been changed since it was looked at"
        return others

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        target = target_of(event)
        workload = reads.workload(target)
        return progress_of(target.kind, workload, since, current(reads.pods_of(target, workload)))

    def can_reread(self, event: EventView) -> bool:
        return is_known(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        """The value is the number of pods that are not Running, Ready and settled. None where there are no pods."""
        target = target_of(event)
        pods = current(reads.pods_of(target, reads.workload(target)))
        found = unwell(pods, now)
        labels = {"pods": str(len(pods)), "unwell": "; ".join(found[:3])}
        reading = Reading(
            signal=self.signal,
            resource=event.resource,
            at=now,
            value=float(len(found)),
            detail=event.detail,
            labels=labels,
        )
        return reading if pods else None

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(
                Look.INCONCLUSIVE, f"there are no pods of {(event.target or event.resource).label} to look at"
            )
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, f"all {reading.labels.get('pods', '')} pods are Running and Ready, and stay so")
        return Judgement(Look.BAD, reading.labels.get("unwell", "") or f"{reading.value:g} pods are not well")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        found = msgspec.convert(diagnosis.facts, Found) if diagnosis else Found()
        return advice(event, found)


# --- looking


def target_of(event: EventView) -> ResourceRef:
    """The workload. Raises Permanent where there is none any more, as when a pod is gone that stood alone."""
    owner = owner_of(event.target or event.resource)
    if owner.target is None:
        raise Permanent(owner.why_not)
    return owner.target


def look(event: EventView, target: ResourceRef) -> Found:
    workload = reads.workload(target)
    pods = reads.pods_of(target, workload)
    named = event.resource.name if event.resource.kind == "pod" else event.labels.get("pod", "")
    trouble = troubled(pods, named, event.labels.get("container") or event.detail.partition(" ")[0])
    alive = current(pods)
    bad = unwell(alive, now())
    return Found(
        target=str(target),
        uid=workload.metadata.uid,
        generation=workload.metadata.generation,
        template=reads.digest(workload.spec.template),
        obstacle=obstacle(target, workload, is_ready=not bad),
        pods=len(alive),
        unwell=tuple(bad[:10]),
        container=container_of(target, workload, trouble) if trouble else None,
        argo=gitops.sign_of_argo(workload.metadata),
    )


def obstacle(target: ResourceRef, workload: Workload, *, is_ready: bool) -> str:
    """Why a new pod template would not reach the pods, or not help; empty when it may. Pure."""
    spec = workload.spec
    if workload.metadata.deletion_timestamp is not None:
        return f"{target.label} is being deleted."
    if spec.paused:
        return f"The rollout of {target.label} is paused: a change would not reach its pods."
    if has_failed_rollout(workload):
        return (
            f"The rollout of {target.label} has failed, and what crashes is its new revision: that is a case for"
            " rolling back (deployment_failed); a restart would only begin the same rollout anew."
        )
    if target.kind != "deployment" and spec.update_strategy.type != "RollingUpdate":
        return f"{target.label} takes up a change only as its pods are deleted, and BytePort deletes none."
    if target.kind == "statefulset" and spec.pod_management_policy != "Parallel" and not is_ready:
        # https://github.com/kubernetes/kubernetes/issues/67250
        return (
            f"{target.label} replaces its pods in order, and waits for one that is not ready before it goes on:"
            " a pod in a crash loop has to be deleted by hand."
        )
    return ""


def has_failed_rollout(workload: Workload) -> bool:
    """Whether a Deployment with an earlier revision has given its newest one up. Pure."""
    found = condition(workload.status.conditions, PROGRESSING)
    given_up = found is not None and found.status == "False" and found.reason == DEADLINE_EXCEEDED
    return given_up and workload.metadata.annotations.get(REVISION, "1") != "1"


def container_of(target: ResourceRef, workload: Workload, trouble: Troubled) -> Container:
    pod, status = trouble.pod.metadata, trouble.status
    log, problem = read_log(target, pod.name, status)
    return Container(
        pod=pod.name,
        name=status.name,
        is_init=trouble.is_init,
        is_terminating=pod.deletion_timestamp is not None,
        restarts=status.restart_count,
        ended=status.ended,
        waiting=status.state.waiting.reason if status.state.waiting else "",
        limits=None if trouble.is_init else memory.limits_of(workload, status.name),
        log=log,
        log_problem=problem,
    )


def read_log(target: ResourceRef, pod: str, status: ContainerStatus) -> tuple[tuple[str, ...], str]:
    """The last lines of the container that ended, and what kept BytePort from reading them. A log is no condition for
    going on: the exit code may say enough."""
    path = path_of("pod", target.namespace, pod, "log")
    previous = status.last_state.terminated is not None
    try:
        text = reader.get_text(
            target.place, path, LOG_BYTES, container=status.name, previous=previous, tailLines=LOG_LINES
        )
    except (Temporary, Permanent) as error:
        return (), str(error)
    return masked_lines(text), ""


def masked_lines(text: str) -> tuple[str, ...]:
    """Masked as a whole, since a key may go over several lines. Pure."""
    cut = "\n".join(line[: 4 * LINE_CHARS] for line in text.splitlines()[-LOG_LINES:])
    return tuple(line[:LINE_CHARS] for line in mask_secrets(cut).splitlines())


# --- deciding


def cause_of(container: Container) -> crash.Crash:
    return crash.classify(container.ended, container.waiting, container.log)


def evidence(found: Found, container: Container) -> Iterator[str]:
    ended = container.ended
    if ended is not None:
        why = f" ({ended.reason})" if ended.reason else ""
        lived = f" after {human_duration(ended.lived_s)}" if ended.lived_s is not None else ""
        yield f"Container {container.name} of pod {container.pod} ended with exit code {ended.exit_code}{why}{lived}."
    waiting = f"; it waits: {container.waiting}" if container.waiting else ""
    yield f"It has been restarted {container.restarts} times{waiting}."
    yield f"{len(found.unwell)} of {found.pods} pods of {_label(found.target)} are not well."
    if container.limits is not None:
        yield container.limits.described
    if found.argo:
        yield f"Argo CD manages it ({found.argo}): a limit that is raised here is lost at its next sync."
    if container.log_problem:
        yield f"Its log could not be read: {container.log_problem}"
    elif not container.log:
        yield "Its log is empty."
    for line in container.log[-SHOWN_LINES:]:
        yield f"Log: {line}"


def step_for(found: Found, container: Container) -> Step | CannotPlan:
    """The one step that fits the cause, or why there is none."""
    cause = cause_of(container)
    if container.is_terminating:
        return CannotPlan(f"Pod {container.pod} is Terminating; BytePort never forces that.")
    if cause.kind in (crash.Kind.LASTING, crash.Kind.UNKNOWN):
        doubt = "would not change that" if cause.kind is crash.Kind.LASTING else "may not change that"
        return CannotPlan(f"Container {container.name}: {cause.meaning}. A restart {doubt}; {cause.suggestion}.")
    if found.obstacle:
        return CannotPlan(found.obstacle)
    if cause.kind is crash.Kind.OUT_OF_MEMORY:
        return memory_step(found, container)
    params = {"uid": found.uid, "template": found.template}
    return Step(
        "restart", "kubernetes.rollout_restart", found.target, f"Restart {_label(found.target)} by a rollout", params
    )


def memory_step(found: Found, container: Container) -> Step | CannotPlan:
    raised = memory.raised(container.limits, container.name)
    if isinstance(raised, CannotPlan) or container.limits is None:
        return raised if isinstance(raised, CannotPlan) else CannotPlan("It has no limit.")
    params = {
        "uid": found.uid,
        "template": found.template,
        "container": container.name,
        "limit_now": container.limits.now,
        "limit_new": raised,
        "original": container.limits.first,
    }
    summary = (
        f"Raise the memory limit of container {container.name} in {_label(found.target)}"
        f" from {container.limits.now} to {raised}"
    )
    return Step("memory", "kubernetes.raise_memory_limit", found.target, summary, params)


def _label(target: str) -> str:
    return ResourceRef.parse(target).label if target else "it"


# --- telling


def advice(event: EventView, found: Found) -> tuple[ManualStep, ManualStep, ManualStep]:
    """See the log, see the events, and what fits the cause."""
    named = event.labels.get("pod") or (event.resource.name if event.resource.kind == "pod" else "")
    pod = found.container.pod if found.container else named
    container = found.container.name if found.container else event.labels.get("container", "")
    kubectl = f"kubectl -n {quote(event.resource.namespace)}"
    which = quote(pod) if pod else f"{event.resource.kind}/{quote(event.resource.name)}"
    chosen = f" -c {quote(container)}" if container else " --all-containers"
    return (
        ManualStep("Read what it said before it ended", f"{kubectl} logs {which}{chosen} --previous --tail=200"),
        ManualStep("See its state and its events", f"{kubectl} describe {f'pod {quote(pod)}' if pod else which}"),
        remedy(found, kubectl, f"{event.resource.kind}/{quote(event.resource.name)}"),
    )


def remedy(found: Found, kubectl: str, subject: str) -> ManualStep:
    """The third step: what fits the cause, as far as it is known."""
    if not found.target or found.container is None:
        return ManualStep("See how it is declared, and what owns it", f"{kubectl} get {subject} -o yaml")
    target, cause = ResourceRef.parse(found.target), cause_of(found.container)
    workload = f"{target.kind}/{quote(target.name)}"
    if found.container.is_terminating:
        return ManualStep("See what keeps it from ending", f"{kubectl} get pod {quote(found.container.pod)} -o yaml")
    if cause.kind is crash.Kind.OUT_OF_MEMORY:
        wanted = memory.suggested(found.container.limits)
        command = f"{kubectl} set resources {workload} -c {quote(found.container.name)} --limits=memory={quote(wanted)}"
        return ManualStep("Raise its memory limit, once it is known what takes the memory", command)
    if cause.kind is crash.Kind.TRANSIENT:
        return ManualStep("Restart it, once what it needs is there", f"{kubectl} rollout restart {workload}")
    title = f"{cause.suggestion[0].upper()}{cause.suggestion[1:]}; then compare with the revision that worked"
    return ManualStep(title, f"{kubectl} rollout history {workload}")


RUNBOOK = RestartWithBackoff()
