"""Changes to clusters: the only place from which a request other than GET leaves for one.

Each is one JSON Patch of one object, made from the object as it was read just before, and judged by the fence
(`kubernetes_fence`) right before it leaves. The action's id travels in the same patch, so that a probe can find it.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from byteport.clients.kubernetes.call import JSON_PATCH, Call
from byteport.clients.kubernetes.errors import Conflict, Invalid, NotFound
from byteport.clients.kubernetes.paths import path_of_resource
from byteport.clients.kubernetes.reader import decoded
from byteport.clients.kubernetes.wire import Wire
from byteport.core.clock import now
from byteport.core.errors import Temporary
from byteport.core.masking import mask_secrets
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.action import ActionCall, Probe, ProbeState
from runbooks.actions import kubernetes_patches as patches
from runbooks.actions.fence import admit, opened
from runbooks.actions.json_patch import ABSENT, Change, changes, text_of
from runbooks.actions.kubernetes_fence import FIELD_MANAGER, ClusterCall, ClusterPermit, StaleError
from runbooks.actions.kubernetes_patches import Patch
from runbooks.kubernetes import reads
from runbooks.kubernetes.memory import original_limits
from runbooks.kubernetes.names import ISSUING, LAST_ACTION
from runbooks.kubernetes.objects import Certificate, Meta, Raw, Workload, condition, read_as

TIMEOUT_S = 30.0
TRIES = 3  # an object whose status is written all the time may change between reading and writing
TEST_FAILED = "the server rejected our request due to an error in our request"  # all that it says of a failed test
SHOWN_CHANGES = 20
SHOWN_CHARS = 120


# --- what plans give to the actions: what was seen when the plan was made, and has to be so still


class OfTemplate(msgspec.Struct, frozen=True):
    """`template` is the digest of the pod template that the plan was made for."""

    uid: str
    template: str


class Memory(OfTemplate, frozen=True):
    """Quantities, as Kubernetes writes them. `original`: the limit before BytePort first touched it."""

    container: str
    limit_now: str
    limit_new: str
    original: str


class Replicas(msgspec.Struct, frozen=True):
    uid: str
    replicas_now: int
    replicas_new: int


class ToReplicaSet(OfTemplate, frozen=True):
    replica_set: str


class Renewal(msgspec.Struct, frozen=True):
    """`revision` and `not_after` are the certificate's when the plan was made."""

    uid: str
    revision: int
    not_after: str


# --- the actions


Prepare = Callable[[Raw, ActionCall], Patch | str]  # the patch, or what has changed so that it must not be made
Trace = Callable[[Raw, ActionCall], ProbeState]  # FINISHED, UNKNOWN, or ABSENT as far as the object tells


class KubernetesAction(msgspec.Struct, frozen=True):
    """One kind of change. The server's own dry run is its simulation."""

    name: str
    title: str
    permissions: tuple[str, ...]
    prepare: Prepare
    trace: Trace
    subresource: str = ""
    rehearsed: bool = True

    def simulate(self, call: ActionCall) -> ActionOutcome:
        return self._attempt(call, dry_run=True)

    def execute(self, call: ActionCall) -> ActionOutcome:
        return self._attempt(call, dry_run=False)

    def probe(self, call: ActionCall, started_at: datetime) -> Probe:
        try:
            live = reads.raw(call.target)
        except NotFound:
            return Probe(ProbeState.UNKNOWN, f"{call.target.label} is gone.")
        state = self.trace(live, call)
        if state is ProbeState.FINISHED:
            return Probe(
                state, "", ActionOutcome(Result.DONE, f"It had gone through: {call.target.label} bears its id.")
            )
        prepared = self.prepare(live, call)
        if state is ProbeState.ABSENT and isinstance(prepared, str):
            return Probe(ProbeState.UNKNOWN, f"{prepared}, so nobody can tell whether it went through.")
        return Probe(state)

    def _attempt(self, call: ActionCall, *, dry_run: bool) -> ActionOutcome:
        """Reads, prepares, sends; anew when only something else in the object has changed in between."""
        for _ in range(TRIES):
            live = reads.raw(call.target)
            if self.trace(live, call) is ProbeState.FINISHED:
                return ActionOutcome(Result.DONE, f"{call.target.label} bears its id already.")
            prepared = self.prepare(live, call)
            if isinstance(prepared, str):
                return ActionOutcome(Result.REFUSED, f"{prepared}. Nothing was changed.")
            answer = self._sent(call, prepared, dry_run=dry_run)
            if answer is not None:
                return _outcome(call.target, live, answer, dry_run=dry_run)
        raise Temporary(f"{call.target.label} changes all the time; nothing was changed by BytePort.", delay_s=2.0)

    def _sent(self, call: ActionCall, patch: Patch, *, dry_run: bool) -> Raw | None:
        """The server's answer; None when the object was no longer as it was read, and nothing was done."""
        request = Call(
            "PATCH",
            path_of_resource(call.target, self.subresource),
            (("fieldManager", FIELD_MANAGER), *([("dryRun", "All")] if dry_run else [])),
            msgspec.json.encode(patch),
            JSON_PATCH,
        )
        try:
            with opened(ClusterPermit(self.name, call.id, call.target, dry_run)):
                return _send(call.target.place, request)
        except (StaleError, Conflict):
            return None
        except Invalid as error:
            if TEST_FAILED in str(error):
                return None
            raise


def _send(place: str, request: Call) -> Raw:
    """The one place from which a change leaves; the fence sees the very request that does."""
    wire = Wire(place, lambda leaving: admit(ClusterCall(place, leaving)))
    return decoded(place, request.path, wire.send(request, timeout_s=TIMEOUT_S))


# --- preparing


def _same_object(live: Raw, call: ActionCall, uid: str) -> str:
    if _meta(live).uid != uid:
        return f"{call.target.label} is another object of the same name by now"
    return ""


def _same_template(live: Raw, call: ActionCall, params: OfTemplate) -> str:
    if reads.digest(live["spec"]["template"]) != params.template:
        return f"Somebody has changed the pod template of {call.target.label} since the plan was made"
    return _same_object(live, call, params.uid)


def prepare_restart(live: Raw, call: ActionCall) -> Patch | str:
    objection = _same_template(live, call, msgspec.convert(call.params, OfTemplate))
    return objection or patches.restart(live, call.id, now())


def prepare_memory(live: Raw, call: ActionCall) -> Patch | str:
    params = msgspec.convert(call.params, Memory)
    containers = live["spec"]["template"]["spec"]["containers"]
    index = next((i for i, one in enumerate(containers) if one["name"] == params.container), None)
    objection = _same_template(live, call, params)
    if objection or index is None:
        return objection or f"{call.target.label} has no container {params.container} any more"
    originals = {**original_limits(_meta(live)), params.container: params.original}
    return patches.raise_memory(live, call.id, index, params.limit_new, originals)


def prepare_scale(live: Raw, call: ActionCall) -> Patch | str:
    params = msgspec.convert(call.params, Replicas)
    if live["spec"].get("replicas") != params.replicas_now:
        return f"Somebody has scaled {call.target.label} to {live['spec'].get('replicas')} since the plan was made"
    return _same_object(live, call, params.uid) or patches.scale(live, call.id, params.replicas_new)


def prepare_rollback(live: Raw, call: ActionCall) -> Patch | str:
    params = msgspec.convert(call.params, ToReplicaSet)
    objection = _same_template(live, call, params)
    if objection:
        return objection
    owned = reads.raw_replica_sets(call.target, read_as(Workload, live))
    found = next((one for one in owned if _meta(one).name == params.replica_set), None)
    if found is None:
        return f"The ReplicaSet {params.replica_set} is gone"
    return patches.rollback(live, call.id, reads.template_of(found))


def prepare_renewal(live: Raw, call: ActionCall) -> Patch | str:
    params, status = msgspec.convert(call.params, Renewal), read_as(Certificate, live).status
    issuing = condition(status.conditions, ISSUING)
    if issuing is not None and issuing.status == "True":
        return f"An issuance of {call.target.label} is under way already"
    if status.revision != params.revision:
        return f"{call.target.label} has been issued anew since the plan was made"
    return _same_object(live, call, params.uid) or patches.renew(live, call.id, now())


# --- finding traces


def mark_of(live: Raw, call: ActionCall) -> ProbeState:
    """A workload bears the id of the latest action on it."""
    is_marked = _meta(live).annotations.get(LAST_ACTION) == call.id
    return ProbeState.FINISHED if is_marked else ProbeState.ABSENT


def trace_of_renewal(live: Raw, call: ActionCall) -> ProbeState:
    """A certificate bears it as long as the issuance goes on; afterwards cert-manager's own words stand there."""
    status = read_as(Certificate, live).status
    issuing = condition(status.conditions, ISSUING)
    return ProbeState.FINISHED if issuing is not None and call.id in issuing.message else ProbeState.ABSENT


# --- telling


def _outcome(target: ResourceRef, live: Raw, answer: Raw, *, dry_run: bool) -> ActionOutcome:
    shown = [shown_change(one) for one in changes(_told(live), _told(answer))][:SHOWN_CHANGES]
    data = {"changes": shown, "resource_version": _meta(answer).resource_version}
    what = "; ".join(shown[:3]) or "nothing would change"
    if dry_run:
        return ActionOutcome(Result.SIMULATED, f"The API server's dry run accepts it: {what}", data)
    return ActionOutcome(Result.DONE, f"{target.label} was changed: {what}", data)


def _told(obj: Raw) -> Raw:
    """The part that people need to hear of: what is wanted, and a certificate's conditions."""
    status = obj.get("status") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ()) if one["type"] == ISSUING}
    return {"spec": obj.get("spec", {}), **conditions}


def shown_change(change: Change) -> str:
    """`spec.replicas: 2 → 3`. Values of the environment are not shown: there is no telling which are secret."""
    at = text_of(change.at)
    if "env" in change.at or "args" in change.at or "command" in change.at:
        return f"{at}: changed"
    return f"{at}: {_shown(change.before)} → {_shown(change.after)}"


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return mask_secrets(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")


def _meta(obj: Raw) -> Meta:
    return read_as(_HasMeta, obj).metadata


class _HasMeta(msgspec.Struct, frozen=True):
    metadata: Meta


OF_WORKLOADS = tuple(f"apps/{kind}s: get, patch" for kind in reads.WORKLOADS)

ACTIONS = (
    KubernetesAction(
        "kubernetes.rollout_restart",
        "Restart a workload's pods by a rollout",
        ("namespaces: get", *OF_WORKLOADS),
        prepare_restart,
        mark_of,
    ),
    KubernetesAction(
        "kubernetes.raise_memory_limit",
        "Raise a container's memory limit, to at most twice what it was",
        ("namespaces: get", *OF_WORKLOADS),
        prepare_memory,
        mark_of,
    ),
    KubernetesAction(
        "kubernetes.scale",
        "Add replicas to a Deployment, within its own bound",
        ("namespaces: get", "apps/deployments: get, patch"),
        prepare_scale,
        mark_of,
    ),
    KubernetesAction(
        "kubernetes.rollback",
        "Roll a Deployment back to an earlier revision",
        (
            "namespaces: get",
            "apps/deployments: get, patch",
            "apps/replicasets: list",
            "argoproj.io/applications: list",
        ),
        prepare_rollback,
        mark_of,
    ),
    KubernetesAction(
        "kubernetes.renew_certificate",
        "Have cert-manager issue a certificate anew",
        ("namespaces: get", "cert-manager.io/certificates: get", "cert-manager.io/certificates/status: patch"),
        prepare_renewal,
        trace_of_renewal,
        "status",
    ),
)
