"""deployment_failed → rollback_deployment: back to the last revision that has worked, never to the one that did not."""

from collections.abc import Iterator
from datetime import datetime
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.kubernetes.clusters import is_known
from byteport.clients.kubernetes.errors import NotFound
from byteport.core.resource import ResourceRef
from runbooks.kubernetes import gitops, reads, revisions
from runbooks.kubernetes.changes import changed_by_others
from runbooks.kubernetes.names import DEADLINE_EXCEEDED, PROGRESSING
from runbooks.kubernetes.objects import Pod, ReplicaSet, Workload, condition
from runbooks.kubernetes.optin import opt_in_for
from runbooks.kubernetes.pods import current, unwell
from runbooks.kubernetes.revisions import Stable
from runbooks.kubernetes.rollout import progress_of, waiting_reasons
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
    ProgressState,
    Step,
    Timing,
)
from signals.catalog import CATALOG
from signals.kubernetes.revisions import stable_revisions
from signals.reading import Reading


class Found(msgspec.Struct, frozen=True):
    """What `observe` has read. With `why_not`, the rest may be missing."""

    why_not: str = ""
    uid: str = ""
    generation: int = 0
    template: str = ""  # its digest
    revision: int = 0
    failure: str = ""  # the controller's words
    stable: Stable | None = None
    images: tuple[str, ...] = ()  # what differs between the two: "nginx: nginx:1.25 in revision 1, …"
    serving: int = 0
    replicas: int = 0
    waits: tuple[str, ...] = ()
    helm: str = ""  # the release that it belongs to


class RollbackDeployment:
    """The runbook of `deployment_failed`."""

    name = "rollback_deployment"
    signal = "deployment_failed"
    title = "Roll a failed Deployment back to the last revision that worked"
    actions = ("kubernetes.rollback",)
    permissions = (
        "namespaces: get",
        "pods: list",
        "apps/deployments: get",
        "apps/replicasets: list",
        "argoproj.io/applications: list",
    )
    cooldown_s = 900
    verify_deadline_s = 600

    def observe(self, event: EventView) -> dict[str, Any]:
        """A `Found`, as plain data."""
        if event.resource.kind != "deployment":
            found = Found(why_not=f"BytePort rolls Deployments back, not a {event.resource.kind}.")
        else:
            found = look(event.resource)
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        found = msgspec.convert(facts, Found)
        if not found.uid:
            return Diagnosis(evidence=(found.why_not,), inference=found.why_not, facts=facts)
        sure = found.stable is None or found.stable.remembered
        return Diagnosis(
            evidence=tuple(evidence(event.resource, found)), inference=inference(found), confident=sure, facts=facts
        )

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        found = msgspec.convert(diagnosis.facts, Found)
        if found.why_not or found.stable is None:
            return CannotPlan(found.why_not or no_way_back(found))
        label, stable = event.resource.label, found.stable
        summary = f"Roll {label} back from revision {found.revision} to revision {stable.revision}"
        params = {"uid": found.uid, "template": found.template, "replica_set": stable.replica_set}
        step = Step("rollback", "kubernetes.rollback", str(event.resource), summary, params)
        return Plan(self.name, f"{summary[0].lower()}{summary[1:]} ({stable.replica_set}).", (step,), timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return opt_in_for(CATALOG[self.signal].opt_in, event.resource)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        found, workload = msgspec.convert(diagnosis.facts, Found), reads.workload(event.resource)
        others = changed_by_others(workload.metadata, event.detected_at, found.generation)
        if not others and reads.digest(workload.spec.template) != found.template:
            return "the failed rollout is superseded: its pod template has been changed since it was looked at"
        return others

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        workload = reads.workload(event.resource)
        raw = reads.raw_replica_sets(event.resource, workload)
        wanted = next((one for one in raw if one["metadata"]["name"] == plan.steps[0].params["replica_set"]), None)
        if wanted is None or reads.template_of(wanted) != workload.spec.template:
            return Progress(ProgressState.STUCK, "its pod template is not the one any more that it was rolled back to")
        pods = reads.pods(event.resource, workload, {wanted["metadata"]["uid"]})
        return progress_of("deployment", workload, since, current(pods))

    def can_reread(self, event: EventView) -> bool:
        return is_known(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        """The value is 1 while its rollout has failed, or one of its pods is not well, else 0. None where it has no
        pods: of these nobody can say that they stay up."""
        workload = reads.workload(event.resource)
        pods = current(reads.pods_of(event.resource, workload))
        failed = failure_of(workload) or "; ".join(unwell(pods, now)[:3])
        if not pods and not failed:
            return None
        return Reading(
            signal=self.signal,
            resource=event.resource,
            at=now,
            value=float(bool(failed)),
            detail=event.detail,
            labels={"message": failed},
        )

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, f"there are no pods of {event.resource.label} to look at")
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, "the rollout of the earlier revision is complete, and its pods stay up")
        return Judgement(Look.BAD, reading.labels.get("message") or "its rollout has failed")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        return advice(event.resource, msgspec.convert(diagnosis.facts, Found) if diagnosis else Found())


# --- looking


def look(target: ResourceRef) -> Found:
    try:
        workload = reads.workload(target)
    except NotFound:
        return Found(why_not=f"{target.label} is gone.")
    owned = reads.replica_sets(target, workload)
    present = revisions.current_of(workload, owned)
    known = stable_revisions(target, workload.metadata.uid)
    stable = revisions.last_stable(workload, owned, known)
    pods = reads.pods(target, workload, {present.metadata.uid}) if present else []
    return Found(
        why_not=obstacle(target, workload)
        or gitops.objection(target, workload.metadata, reads.applications(target.place)),
        uid=workload.metadata.uid,
        generation=workload.metadata.generation,
        template=reads.digest(workload.spec.template),
        revision=revisions.number(workload.metadata),
        failure=failure_of(workload),
        stable=stable,
        images=different_images(
            workload, next((one for one in owned if stable and one.metadata.name == stable.replica_set), None)
        ),
        serving=workload.status.available_replicas,
        replicas=workload.spec.replicas,
        waits=waits_of(pods),
        helm=workload.metadata.annotations.get(gitops.HELM_RELEASE, ""),
    )


def obstacle(target: ResourceRef, workload: Workload) -> str:
    """Why there is nothing to roll back, or it must not be; empty when there is. Pure."""
    if workload.metadata.deletion_timestamp is not None:
        return f"{target.label} is being deleted."
    if workload.spec.paused:
        return f"The rollout of {target.label} is paused; whoever paused it has something in mind."
    if workload.metadata.generation > workload.status.observed_generation:
        return f"The failed rollout of {target.label} is superseded: a newer specification is about to be taken up."
    if not failure_of(workload):
        return f"The rollout of {target.label} is not failed any more: it has gone on, or is superseded by a newer one."
    return ""


def failure_of(workload: Workload) -> str:
    """The controller's words on the rollout that has failed; empty when none has."""
    found = condition(workload.status.conditions, PROGRESSING)
    if found is None or found.status != "False" or found.reason != DEADLINE_EXCEEDED:
        return ""
    return found.message or found.reason


def different_images(workload: Workload, stable: ReplicaSet | None) -> tuple[str, ...]:
    if stable is None:
        return ()
    now, then = revisions.images_of(workload.spec.template), revisions.images_of(stable.spec.template)
    return tuple(
        f"Container {name} runs {then.get(name) or 'nothing'} in revision {revisions.number(stable.metadata)}"
        f" and {now.get(name) or 'nothing'} in revision {revisions.number(workload.metadata)}."
        for name in {**then, **now}
        if now.get(name) != then.get(name)
    )


def waits_of(pods: list[Pod]) -> tuple[str, ...]:
    return tuple(sorted({reason for pod in current(pods) for reason in waiting_reasons(pod)})[:5])


# --- deciding and telling


def evidence(target: ResourceRef, found: Found) -> Iterator[str]:
    if found.failure:
        yield f"The rollout of revision {found.revision} has failed: {found.failure}"
    yield f"{found.serving} of {found.replicas} replicas of {target.label} are available."
    for wait in found.waits:
        yield f"A new pod waits: {wait}."
    yield from found.images
    if found.stable is not None:
        yield f"Revision {found.stable.revision} ({found.stable.replica_set}): {found.stable.why}."
    if found.helm:
        yield f"It belongs to the Helm release {found.helm}, which goes on saying what revision {found.revision} says."


def inference(found: Found) -> str:
    if found.why_not:
        return found.why_not
    if found.stable is None:
        return no_way_back(found)
    sure = "" if found.stable.remembered else ", as far as can be told"
    return (
        f"Revision {found.revision} does not come up; revision {found.stable.revision} is the last that worked{sure}."
    )


def no_way_back(found: Found) -> str:
    return (
        f"Revision {found.revision} does not come up, and of no earlier revision is it known that it has worked:"
        " BytePort has seen none, and none still serves."
    )


def advice(target: ResourceRef, found: Found) -> tuple[ManualStep, ManualStep, ManualStep]:
    kubectl, subject = f"kubectl -n {quote(target.namespace)}", f"{target.kind}/{quote(target.name)}"
    look_at = ManualStep("See why the new pods do not come up", f"{kubectl} describe {subject} && {kubectl} get events")
    revision = f" --revision={found.revision}" if found.revision else ""
    history = ManualStep("See what the failed revision has changed", f"{kubectl} rollout history {subject}{revision}")
    if "Argo CD" in found.why_not or "Flux" in found.why_not:
        title = "Revert the change in its repository, and see it rolled out"
        return look_at, history, ManualStep(title, f"{kubectl} rollout status {subject} --timeout=10m")
    to = f" --to-revision={found.stable.revision}" if found.stable else ""
    return look_at, history, ManualStep("Go back to a revision that worked", f"{kubectl} rollout undo {subject}{to}")


RUNBOOK = RollbackDeployment()
