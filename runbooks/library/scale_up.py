"""cpu_saturation → scale_up: more replicas, up to the workload's own bound, where they are likely to share the load."""

from collections.abc import Iterator
from datetime import datetime
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.kubernetes.clusters import is_known
from byteport.clients.kubernetes.errors import NotFound
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from runbooks.kubernetes import load, reads
from runbooks.kubernetes.changes import changed_by_others
from runbooks.kubernetes.names import MAX_REPLICAS
from runbooks.kubernetes.objects import Workload, condition
from runbooks.kubernetes.optin import opt_in_for
from runbooks.kubernetes.pods import current, unwell
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
    ProgressState,
    Step,
    Timing,
)
from signals.catalog import CATALOG
from signals.reading import Reading


class Found(msgspec.Struct, frozen=True):
    """What `observe` has read. With `why_not`, the rest may be missing."""

    why_not: str = ""
    uid: str = ""
    generation: int = 0
    replicas: int = 0
    most: int = 0  # by its own annotation; 0 for none
    percent: float | None = None  # of the CPU that it asks for
    loads: tuple[load.PodLoad, ...] = ()


class ScaleUp:
    """The runbook of `cpu_saturation`."""

    name = "scale_up"
    signal = "cpu_saturation"
    title = "Add replicas to a Deployment that uses all its CPU"
    actions = ("kubernetes.scale",)
    permissions = (
        "namespaces: get",
        "pods: list",
        "apps/deployments: get",
        "apps/replicasets: list",
        "autoscaling/horizontalpodautoscalers: list",
        "keda.sh/scaledobjects: list",
        "metrics.k8s.io/pods: list",
    )
    cooldown_s = 300
    verify_deadline_s = 600

    def observe(self, event: EventView) -> dict[str, Any]:
        """A `Found`, as plain data."""
        if event.resource.kind != "deployment":
            found = Found(why_not=f"BytePort scales Deployments, and this is of the kind {event.resource.kind}.")
        else:
            found = look(event.resource)
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        found = msgspec.convert(facts, Found)
        if not found.uid:
            return Diagnosis(evidence=(found.why_not,), inference=found.why_not, facts=facts)
        guess = "The load seems to be shared by all replicas, so that more of them would take their part of it."
        return Diagnosis(
            evidence=tuple(evidence(event, found)), inference=found.why_not or guess, confident=False, facts=facts
        )

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        found = msgspec.convert(diagnosis.facts, Found)
        if found.why_not:
            return CannotPlan(found.why_not)
        wanted = min(found.replicas + timing.step, found.most)
        summary = f"Scale {event.resource.label} from {found.replicas} to {wanted} replicas (its bound is {found.most})"
        params = {"uid": found.uid, "replicas_now": found.replicas, "replicas_new": wanted}
        step = Step("scale", "kubernetes.scale", str(event.resource), summary, params)
        return Plan(self.name, f"{summary[0].lower()}{summary[1:]}.", (step,), timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return opt_in_for(CATALOG[self.signal].opt_in, event.resource)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        found, workload = msgspec.convert(diagnosis.facts, Found), reads.workload(event.resource)
        others = changed_by_others(workload.metadata, event.detected_at, found.generation)
        if not others and workload.spec.replicas != found.replicas:
            return f"it has been scaled to {workload.spec.replicas} since it was looked at"
        scaler = load.autoscaler_of(event.resource)
        return others or (f"the {scaler} sets its scale" if scaler else "")

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        workload = reads.workload(event.resource)
        wanted = int(plan.steps[0].params["replicas_new"])
        if workload.spec.replicas < wanted:
            message = f"somebody has scaled it to {workload.spec.replicas} meanwhile"
            return Progress(ProgressState.STUCK, message)
        return progress_of("deployment", workload, since, current(reads.pods_of(event.resource, workload)))

    def can_reread(self, event: EventView) -> bool:
        return is_known(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        """Percent of the CPU that it asks for, as of the oldest measurement. None while one of its pods has none: it
        may be the one that does the work."""
        workload = reads.workload(event.resource)
        pods = current(reads.pods_of(event.resource, workload))
        loads = load.measure(event.resource, workload, pods, now) or []
        if not loads or len(loads) < len(pods):
            return None
        return Reading(
            signal=self.signal,
            resource=event.resource,
            at=min(one.at or now for one in loads),
            value=load.percent_of(loads),
            detail=event.detail,
            labels={"unwell": "; ".join(unwell(pods, now)[:3])},
        )

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(
                Look.INCONCLUSIVE, f"the CPU of {event.resource.label} is not measured, or not of all its pods"
            )
        shown = f"{reading.value:.0f} % of its request"
        if reading.labels.get("unwell"):
            return Judgement(Look.BAD, f"{shown}, and {reading.labels['unwell']}")
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, f"{shown}, below {timing.clear:g} %, and the new replicas are available")
        return Judgement(Look.BAD, f"{shown}, not below {timing.clear:g} %")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        return advice(event.resource, msgspec.convert(diagnosis.facts, Found) if diagnosis else Found())


# --- looking


def look(target: ResourceRef) -> Found:
    at = now()
    try:
        workload = reads.workload(target)
    except NotFound:
        return Found(why_not=f"{target.label} is gone.")
    pods = current(reads.pods_of(target, workload))
    loads = load.measure(target, workload, pods, at)
    why_not = (
        bound_objection(target, workload)
        or state_objection(target, workload)
        or owned_by(target)
        or crowded(load.without_room(pods, load.pending(target)))
        or unshared(target, loads, load.uneven(loads or (), pods, CATALOG["cpu_saturation"].clear, at))
    )
    return Found(
        why_not=why_not,
        uid=workload.metadata.uid,
        generation=workload.metadata.generation,
        replicas=workload.spec.replicas,
        most=bound_of(workload),
        percent=load.percent_of(loads or ()),
        loads=tuple(loads or ())[:20],
    )


def bound_of(workload: Workload) -> int:
    text = workload.metadata.annotations.get(MAX_REPLICAS, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def bound_objection(target: ResourceRef, workload: Workload) -> str:
    """What its own bound has against it; empty when nothing. Pure."""
    most, replicas = bound_of(workload), workload.spec.replicas
    if not most:
        command = f"kubectl -n {quote(target.namespace)} annotate deployment {quote(target.name)} {MAX_REPLICAS}="
        return f"{target.label} does not say how many replicas it may have. To say so: {command}{replicas + 1}"
    if replicas >= most:
        return f"{target.label} has {replicas} replicas, and its bound ({MAX_REPLICAS}) is {most}."
    return f"{target.label} is scaled to nothing, which somebody will have wanted." if replicas == 0 else ""


def state_objection(target: ResourceRef, workload: Workload) -> str:
    """What its present state has against it; empty when nothing. Pure."""
    status, failure = workload.status, condition(workload.status.conditions, "ReplicaFailure")
    if workload.metadata.deletion_timestamp is not None:
        return f"{target.label} is being deleted."
    if failure is not None and failure.status == "True":
        return f"{target.label} cannot make the pods that it has to make already: {failure.message}"
    is_taken_up = workload.metadata.generation <= status.observed_generation
    if not is_taken_up or not status.replicas == status.updated_replicas == workload.spec.replicas:
        return f"{target.label} is in the midst of a rollout."
    return ""


def owned_by(target: ResourceRef) -> str:
    scaler = load.autoscaler_of(target)
    return (
        f"The {scaler} sets the scale of {target.label}; two that scale would work against each other."
        if scaler
        else ""
    )


def crowded(pending: str) -> str:
    return f"There is no room for more: {pending}." if pending else ""


def unshared(target: ResourceRef, loads: list[load.PodLoad] | None, objection: str) -> str:
    if loads is None:
        return f"Whether more replicas would help {target.label} cannot be seen: {target.place} has no metrics.k8s.io."
    if not loads:
        return f"Whether more replicas would help {target.label} cannot be seen: none of its pods is measured."
    return f"More replicas would probably not help: {objection}." if objection else ""


# --- telling


def evidence(event: EventView, found: Found) -> Iterator[str]:
    if event.value is not None:
        yield f"It was seen to use {event.value:.0f} % of the CPU that it asks for."
    if found.percent is not None:
        yield f"Now it uses {found.percent:.0f} %."
    for one in sorted(found.loads, key=lambda one: -one.percent)[:5]:
        yield f"{one.pod}: {one.used:.2f} of {one.requested:g} cores ({one.percent:.0f} %)."
    most = f"at most {found.most} by its own annotation" if found.most else "no bound is set"
    yield f"{event.resource.label} has {found.replicas} replicas; {most}."


def advice(target: ResourceRef, found: Found) -> tuple[ManualStep, ManualStep, ManualStep]:
    kubectl, name = f"kubectl -n {quote(target.namespace)}", quote(target.name)
    if found.uid and not found.most:
        third = ManualStep(
            "Let BytePort scale it, up to a bound",
            f"{kubectl} annotate deployment {name} {MAX_REPLICAS}={found.replicas + 1}",
        )
    else:
        count = found.replicas + 1 if found.uid else 2
        third = ManualStep("Scale it by hand", f"{kubectl} scale {target.kind}/{name} --replicas={count}")
    return (
        ManualStep("See which of its pods use the CPU", f"{kubectl} top pods --containers --sort-by=cpu"),
        ManualStep("See what scales it, and where its pods are", f"{kubectl} get hpa,pods -o wide"),
        third,
    )


RUNBOOK = ScaleUp()
