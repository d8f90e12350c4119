"""The fence around clusters: what each action may change there, whatever code made the request, and whatever the
credentials allow.

A request passes only as a JSON Patch of the running action's own object. The fence reads that object itself, applies
the patch to what it has read, and judges the difference: so it does not matter how the patch is put. The patch has to
test the object's uid and resource version, so that what is changed is what was judged. Deleting is never admitted,
nor is anything about Secrets, volumes or pods: no rule is about them.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from byteport.clients.kubernetes.call import JSON_PATCH, Call
from byteport.core.clock import now
from byteport.core.errors import Temporary
from byteport.core.outcome import Result
from byteport.core.resource import ResourceRef
from runbooks.actions.fence import heed_switches
from runbooks.actions.json_patch import (
    Change,
    PatchError,
    Pointer,
    TestFailedError,
    applied,
    changes,
    parse,
    same,
    text_of,
)
from runbooks.kubernetes import gitops, quantity, reads
from runbooks.kubernetes.names import (
    DEADLINE_EXCEEDED,
    ISSUING,
    LAST_ACTION,
    MAX_REPLICAS,
    ORIGINAL_LIMITS,
    PROGRESSING,
    RESTARTED_AT,
    REVISION,
    TEMPLATE_HASH,
)
from runbooks.kubernetes.objects import Certificate, Meta, Raw, Workload, condition, read_as
from runbooks.kubernetes.optin import opt_in_of, own_words
from runbooks.models import STARTED, AgentAction

FIELD_MANAGER = "byteport"
RESTART_PAUSE = timedelta(minutes=3)
CA_PAUSE = timedelta(hours=1)  # between a failed issuance and the next, for the sake of CAs' rate limits
CLOCK_SKEW = timedelta(minutes=5)
PATHS = {
    "deployment": "/apis/apps/v1/namespaces/{}/deployments/{}",
    "statefulset": "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    "daemonset": "/apis/apps/v1/namespaces/{}/daemonsets/{}",
    "certificate": "/apis/cert-manager.io/v1/namespaces/{}/certificates/{}/status",
}
DNS_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
LAST_ACTION_AT: Pointer = ("metadata", "annotations", LAST_ACTION)
ORIGINAL_LIMITS_AT: Pointer = ("metadata", "annotations", ORIGINAL_LIMITS)
TEMPLATE_AT: Pointer = ("spec", "template")
RESTARTED_AT_AT: Pointer = (*TEMPLATE_AT, "metadata", "annotations", RESTARTED_AT)
CONTAINERS_AT: Pointer = (*TEMPLATE_AT, "spec", "containers")
CONDITIONS_AT: Pointer = ("status", "conditions")


class StaleError(Temporary):
    """The object has changed since the patch was made. Nothing was sent; the action may read it anew."""


class ClusterCall(msgspec.Struct, frozen=True):
    """A request that is about to leave for a cluster."""

    place: str
    request: Call

    def __str__(self) -> str:
        return f"{self.request.method} {self.request.path[:300]} on {self.place}"


class Judged(msgspec.Struct, frozen=True):
    """What a rule judges: the object as it is and as it would be, and every place in which the two differ."""

    target: ResourceRef
    action_id: str
    before: Raw
    after: Raw
    changed: tuple[Change, ...]

    @property
    def meta(self) -> Meta:
        return read_as(_HasMeta, self.before).metadata

    def beyond(self, *places: Pointer) -> str:
        """A place that is changed and lies below none of these; empty when there is none."""
        beyond = (one.at for one in self.changed if not any(one.at[: len(place)] == place for place in places))
        return next((f"it would change {text_of(at)}" for at in beyond), "")

    def change_at(self, place: Pointer) -> Change | None:
        return next((one for one in self.changed if one.at == place), None)


class _HasMeta(msgspec.Struct, frozen=True):
    metadata: Meta


class Rule(msgspec.Struct, frozen=True):
    """What one action may do: to which kinds, with which opt-in, and within which limits."""

    kinds: tuple[str, ...]
    opt_in: str
    objection: Callable[[Judged], str]  # why this change may not be made; empty when it may


class ClusterPermit(msgspec.Struct, frozen=True):
    """Admits the one call that a running action may make. A dry run is admitted as such, and as nothing else."""

    action: str
    action_id: str
    target: ResourceRef
    dry_run: bool

    def refusal(self, call: object) -> str:
        """Looks at the request first, and at the cluster only when there is nothing against the request itself."""
        rule = RULES.get(self.action)
        if rule is None or not isinstance(call, ClusterCall):
            return f"only {self.action} is under way"
        refusal = self._form_objection(rule, call) or self._change_objection(rule, call.request.body)
        if not refusal and not self.dry_run:
            heed_switches(in_dry_run=self.target.is_drill)
        return refusal

    def _form_objection(self, rule: Rule, call: ClusterCall) -> str:
        """What speaks against the request by its form alone."""
        request, target = call.request, self.target
        if call.place != target.place or target.platform != "kubernetes" or target.kind not in rule.kinds:
            return f"{self.action} is under way on {target.label}"
        if request.method != "PATCH" or request.content_type != JSON_PATCH:
            return f"{self.action} sends JSON Patches"
        if request.path != path_of(target):
            return f"{self.action} is under way on {target.label}"
        wanted = {("fieldManager", FIELD_MANAGER), *([("dryRun", "All")] if self.dry_run else [])}
        if set(request.params) != wanted or len(request.params) != len(wanted):
            return "its parameters are not those of BytePort's own changes"
        return ""

    def _change_objection(self, rule: Rule, body: bytes) -> str:
        """What speaks against the change itself. Raises StaleError when the object is not as it was any more."""
        try:
            patch = parse(body)
        except PatchError as error:
            return str(error)
        tested = {operation.path for operation in patch if operation.op == "test"}
        if not {"/metadata/uid", "/metadata/resourceVersion"} <= tested:
            return "it does not test that the object is the one that was read"
        before = reads.raw(self.target)
        try:
            after = applied(patch, before)
        except TestFailedError as error:
            if error.at == ("metadata", "resourceVersion"):
                raise StaleError(f"{self.target.label} has changed since it was read.", delay_s=1.0) from error
            return str(error)
        except PatchError as error:
            return str(error)
        judged = Judged(self.target, self.action_id, before, after, tuple(changes(before, after)))
        return self._unwelcome(rule, judged) or rule.objection(judged)

    def _unwelcome(self, rule: Rule, judged: Judged) -> str:
        """What holds for every action: the object is to stay, and its namespace has opted in."""
        meta = judged.meta
        if meta.deletion_timestamp is not None:
            return f"{self.target.label} is being deleted"
        opt_in = opt_in_of(
            rule.opt_in, self.target, reads.namespace_annotations(self.target), *own_words(judged.before)
        )
        if not opt_in.given:
            return f"it is not opted in to `{rule.opt_in}` ({opt_in.where}: {opt_in.found})"
        return ""


def path_of(target: ResourceRef) -> str:
    """The only path that an action on `target` may write to. It shares no code with the client's own paths."""
    names = (target.namespace, target.name)
    is_plain = target.kind in PATHS and all(DNS_NAME.fullmatch(name) and ".." not in name for name in names)
    return PATHS[target.kind].format(*names) if is_plain else "nowhere"


# --- the rules


def restart_objection(judged: Judged) -> str:
    """The two annotations and nothing else, and not within three minutes of the last restart, whoever's it was."""
    restarted = judged.change_at(RESTARTED_AT_AT)
    if restarted is None:
        return "it restarts nothing"
    at, before = _time(restarted.after), _time(restarted.before)
    if at is None or abs(at - now()) > CLOCK_SKEW:
        return "it does not say when it restarts"
    if isinstance(restarted.before, str) and (before is None or at - before < RESTART_PAUSE):
        return f"it was restarted at {restarted.before}, and a restart may follow on another only after 3 minutes"
    return _no_mark(judged) or judged.beyond(LAST_ACTION_AT, RESTARTED_AT_AT)


def memory_objection(judged: Judged) -> str:
    """One container's memory limit, up, to at most twice what it is and twice what it was before BytePort came."""
    raised = [one for one in judged.changed if one.at[: len(CONTAINERS_AT)] == CONTAINERS_AT]
    if len(raised) != 1 or raised[0].at[len(CONTAINERS_AT) + 1 :] != ("resources", "limits", "memory"):
        return "it changes something else than one memory limit"
    container = judged.before["spec"]["template"]["spec"]["containers"][int(raised[0].at[len(CONTAINERS_AT)])]
    name = str(container.get("name"))
    old, new = _bytes(raised[0].before), _bytes(raised[0].after)
    if old is None or new is None or not old < new:
        return "it does not raise a limit that is set"
    first = min(filter(None, (old, _noted(judged.before, name), _recorded(judged, name))))
    if new > 2 * old or new > 2 * first:
        return f"the limit of {name} may be raised to twice what it is, and to twice what it was at first, no further"
    if _noted(judged.after, name) != first or _without(judged.before, name) != _without(judged.after, name):
        return "it does not note what the limit was at first"
    return _no_mark(judged) or judged.beyond(LAST_ACTION_AT, ORIGINAL_LIMITS_AT, raised[0].at)


def scale_objection(judged: Judged) -> str:
    """The number of replicas, up, to at most what the Deployment's own annotation allows."""
    scaled = judged.change_at(("spec", "replicas"))
    if scaled is None or type(scaled.before) is not int or type(scaled.after) is not int:
        return "it does not change the number of replicas"
    most = judged.meta.annotations.get(MAX_REPLICAS, "")
    if not (most.isascii() and most.isdigit() and len(most) < 6):
        return f"the Deployment's annotation {MAX_REPLICAS} gives no number"
    if not scaled.before < scaled.after <= int(most):
        return f"replicas may go up from {scaled.before} to at most {most}, not to {scaled.after}"
    return _no_mark(judged) or judged.beyond(LAST_ACTION_AT, ("spec", "replicas"))


def rollback_objection(judged: Judged) -> str:
    """The pod template, to exactly that of an earlier ReplicaSet of this Deployment, when its rollout has failed and
    nobody would undo it."""
    workload = read_as(Workload, judged.before)
    failed = condition(workload.status.conditions, PROGRESSING)
    if failed is None or failed.status != "False" or failed.reason != DEADLINE_EXCEEDED:
        return "its rollout has not failed"
    if workload.spec.paused:
        return "its rollout is paused"
    beyond = _no_mark(judged) or judged.beyond(LAST_ACTION_AT, TEMPLATE_AT)
    if beyond:
        return beyond
    earlier = [one for one in reads.raw_replica_sets(judged.target, workload) if _is_earlier(one, judged, workload)]
    if not any(same(_template_less_hash(one), judged.after["spec"]["template"]) for one in earlier):
        return "the template is not that of an earlier ReplicaSet of this Deployment"
    return gitops.objection(judged.target, judged.meta, reads.applications(judged.target.place)).rstrip(".")


def renewal_objection(judged: Judged) -> str:
    """The condition `Issuing`, to True, when no issuance is under way and none has failed within the hour."""
    certificate = read_as(Certificate, judged.before)
    failed_at, issuing = certificate.status.last_failure_time, condition(certificate.status.conditions, ISSUING)
    if issuing is not None and issuing.status == "True":
        return "an issuance is under way"
    if failed_at is not None and now() - failed_at < CA_PAUSE:
        return f"an issuance failed at {failed_at:%H:%M:%S} UTC, and CAs limit how often one may try"
    asked, others = _conditions(judged.after, ISSUING)
    if others != _conditions(judged.before, ISSUING)[1]:
        return "it changes other conditions as well"
    if len(asked) != 1 or not _is_renewal(asked[0], judged):
        return "it does not ask for a renewal in the one way that cert-manager has"
    return judged.beyond(CONDITIONS_AT)


RULES: Mapping[str, Rule] = {
    "kubernetes.rollout_restart": Rule(reads.WORKLOADS, "crashloop", restart_objection),
    "kubernetes.raise_memory_limit": Rule(reads.WORKLOADS, "crashloop", memory_objection),
    "kubernetes.scale": Rule(("deployment",), "scale", scale_objection),
    "kubernetes.rollback": Rule(("deployment",), "rollback", rollback_objection),
    "kubernetes.renew_certificate": Rule(("certificate",), "certificates", renewal_objection),
}


# --- what the rules are made of


def _no_mark(judged: Judged) -> str:
    """Every change carries its action's id, so that it can be found again."""
    mark = judged.change_at(LAST_ACTION_AT)
    return "" if mark is not None and mark.after == judged.action_id else "it does not carry its action's id"


def _time(value: Any) -> datetime | None:
    try:
        found = msgspec.convert(value, datetime) if isinstance(value, str) else None
    except msgspec.ValidationError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _bytes(value: Any) -> int | None:
    """A memory quantity; None for none, or one that is not a whole number of bytes."""
    try:
        found = quantity.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return int(found) if found is not None and found > 0 and found == int(found) else None


def _notes(obj: Raw) -> dict[str, str]:
    text = read_as(_HasMeta, obj).metadata.annotations.get(ORIGINAL_LIMITS, "{}")
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def _noted(obj: Raw, container: str) -> int | None:
    return _bytes(_notes(obj).get(container))


def _without(obj: Raw, container: str) -> dict[str, str]:
    return {name: limit for name, limit in _notes(obj).items() if name != container}


def _recorded(judged: Judged, container: str) -> int | None:
    """The lowest first limit in BytePort's own record, for when somebody has taken the annotation off."""
    rows = AgentAction.objects.filter(
        action="kubernetes.raise_memory_limit",
        target=str(judged.target),
        dry_run=False,
        status__in=(STARTED, Result.DONE, Result.UNKNOWN),
        params__uid=judged.meta.uid,
        params__container=container,
    )
    limits = (_bytes(limit) for limit in rows.values_list("params__original", flat=True))
    return min(filter(None, limits), default=None)


def _is_earlier(one: Raw, judged: Judged, workload: Workload) -> bool:
    """An earlier revision, whose hash stands in its name, its labels and its template alike."""
    meta = read_as(_HasMeta, one).metadata
    named = meta.labels.get(TEMPLATE_HASH, "")
    in_template = ((one["spec"]["template"].get("metadata") or {}).get("labels") or {}).get(TEMPLATE_HASH)
    is_whole = bool(named) and named == in_template and meta.name == f"{judged.target.name}-{named}"
    return is_whole and 0 < _revision(meta) < _revision(workload.metadata)


def _revision(meta: Meta) -> int:
    text = meta.annotations.get(REVISION, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _template_less_hash(replica_set: Raw) -> Raw:
    template: Raw = msgspec.json.decode(msgspec.json.encode(replica_set["spec"]["template"]))
    del template["metadata"]["labels"][TEMPLATE_HASH]
    return template


def _conditions(obj: Raw, kind: str) -> tuple[list[Any], list[Any]]:
    """The conditions of this kind, and the others."""
    found = (obj.get("status") or {}).get("conditions") or []
    mine = [one for one in found if isinstance(one, dict) and one.get("type") == kind]
    return mine, [one for one in found if one not in mine]


def _is_renewal(asked: Raw, judged: Judged) -> bool:
    """Exactly what `cmctl renew` writes, with the action's id in the message."""
    at, message = _time(asked.get("lastTransitionTime")), asked.get("message")
    expected = {
        "type": ISSUING,
        "status": "True",
        "reason": "ManuallyTriggered",
        "observedGeneration": judged.meta.generation,
    }
    rest = {key: value for key, value in asked.items() if key not in ("lastTransitionTime", "message")}
    is_now = at is not None and abs(at - now()) <= CLOCK_SKEW
    return rest == expected and is_now and isinstance(message, str) and judged.action_id in message[:200]
