"""certificate_expiry → renew_certificate: has cert-manager issue it anew, when it has not done so by itself in time."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.kubernetes.clusters import is_known
from byteport.clients.kubernetes.errors import NotFound
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.core.units import human_duration
from runbooks.kubernetes import reads
from runbooks.kubernetes.changes import changed_by_others
from runbooks.kubernetes.names import ISSUING, READY
from runbooks.kubernetes.objects import Certificate, CertificateStatus, Raw, condition, read_as
from runbooks.kubernetes.optin import opt_in_for
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
from signals.kubernetes import judgements
from signals.kubernetes import objects as seen
from signals.reading import Reading, State

CA_PAUSE = timedelta(hours=1)  # certificate authorities limit how often one may fail: 5 times an hour at Let's Encrypt
MARGIN = timedelta(seconds=60)  # cert-manager's clock may be another


class Found(msgspec.Struct, frozen=True):
    """What `observe` has read. With `why_not`, the rest may be missing. Times are ISO 8601 in UTC."""

    why_not: str = ""
    uid: str = ""
    generation: int = 0
    revision: int = 0
    not_after: str = ""
    ends_in_s: float = 0.0
    overdue_s: float = 0.0  # since its renewal time
    ready: str = ""  # what cert-manager says of it
    failure: str = ""  # when and how the last issuance failed
    issuer: str = ""
    names: tuple[str, ...] = ()


class RenewCertificate:
    """The runbook of `certificate_expiry`."""

    name = "renew_certificate"
    signal = "certificate_expiry"
    title = "Have cert-manager renew a certificate that is about to expire"
    actions = ("kubernetes.renew_certificate",)
    permissions = ("namespaces: get", "cert-manager.io/certificates: get")
    cooldown_s = 3600
    verify_deadline_s = 900

    def observe(self, event: EventView) -> dict[str, Any]:
        """A `Found`, as plain data."""
        if event.resource.kind != "certificate":
            found = Found(
                why_not=f"BytePort renews cert-manager's Certificates, and this is of the kind {event.resource.kind}."
            )
        else:
            found = look(event.resource, now())
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        found = msgspec.convert(facts, Found)
        if not found.uid:
            return Diagnosis(evidence=(found.why_not,), inference=found.why_not, facts=facts)
        return Diagnosis(evidence=tuple(evidence(event.resource, found)), inference=inference(found), facts=facts)

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        found = msgspec.convert(diagnosis.facts, Found)
        if found.why_not:
            return CannotPlan(found.why_not)
        summary = f"Have cert-manager issue {event.resource.label} anew"
        params = {"uid": found.uid, "revision": found.revision, "not_after": found.not_after}
        step = Step("renew", "kubernetes.renew_certificate", str(event.resource), summary, params)
        return Plan(self.name, f"{summary[0].lower()}{summary[1:]}.", (step,), timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return opt_in_for(CATALOG[self.signal].opt_in, event.resource)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        found, certificate = msgspec.convert(diagnosis.facts, Found), read_as(Certificate, reads.raw(event.resource))
        if certificate.status.revision != found.revision:
            return "it has been issued anew since it was looked at"
        return under_way(certificate.status) or changed_by_others(
            certificate.metadata, event.detected_at, found.generation
        )

    def progress(self, event: EventView, plan: Plan, since: datetime) -> Progress:
        status = read_as(Certificate, reads.raw(event.resource)).status
        return progress_of(status, str(plan.steps[0].params["not_after"]), since)

    def can_reread(self, event: EventView) -> bool:
        return is_known(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        """The value is 1 while the certificate is due or expired, else 0; None where it is neither that nor Ready."""
        raw = reads.raw(event.resource)
        judged = judged_at(raw, now)
        if judged is None:
            return None
        return Reading(
            signal=self.signal,
            resource=event.resource,
            at=now,
            value=float(judged is State.FIRING),
            detail=event.detail,
            labels={"not_after": iso(read_as(Certificate, raw).status.not_after)},
        )

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, f"{event.resource.label} is not Ready")
        until = reading.labels.get("not_after", "")
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, f"it is Ready, and valid until {until}")
        return Judgement(Look.BAD, f"it is valid until {until} only, or not Ready")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        kubectl, name = f"kubectl -n {quote(event.resource.namespace)}", quote(event.resource.name)
        return (
            ManualStep("See what cert-manager says of it", f"{kubectl} describe certificate {name}"),
            ManualStep(
                "See its requests, orders and challenges",
                f"{kubectl} get certificaterequests.cert-manager.io,orders.acme.cert-manager.io,"
                "challenges.acme.cert-manager.io",
            ),
            ManualStep(
                "Once the cause is gone, have it issued anew",
                f"cmctl renew -n {quote(event.resource.namespace)} {name}",
            ),
        )


# --- looking


def look(target: ResourceRef, at: datetime) -> Found:
    try:
        raw = reads.raw(target)
    except NotFound:
        return Found(why_not=f"{target.label} is gone, or cert-manager is not installed in {target.place}.")
    certificate = read_as(Certificate, raw)
    status, issuer = certificate.status, certificate.spec.issuer_ref
    ready = condition(status.conditions, READY)
    return Found(
        why_not=obstacle(target, certificate, at) or ("" if judged_at(raw, at) is State.FIRING else not_due(target)),
        uid=certificate.metadata.uid,
        generation=certificate.metadata.generation,
        revision=status.revision,
        not_after=iso(status.not_after),
        ends_in_s=(status.not_after - at).total_seconds() if status.not_after else 0.0,
        overdue_s=(at - status.renewal_time).total_seconds() if status.renewal_time else 0.0,
        ready=f"{ready.status} ({ready.reason}): {ready.message}" if ready else "",
        failure=failure_of(status),
        issuer=f"{issuer.kind} {issuer.name}",
        names=certificate.spec.dns_names[:5],
    )


def obstacle(target: ResourceRef, certificate: Certificate, at: datetime) -> str:
    """Why it must not be asked for now; empty when it may be. Pure."""
    failed_at = certificate.status.last_failure_time
    if certificate.metadata.deletion_timestamp is not None:
        return f"{target.label} is being deleted."
    if under_way(certificate.status):
        return f"{target.label}: {under_way(certificate.status)}."
    if failed_at is not None and at - failed_at < CA_PAUSE:
        return (
            f"{target.label}: {failure_of(certificate.status)} Within an hour of that, another try would come up"
            " against the limits that certificate authorities set; what stands in its way has to be found first."
        )
    return ""


def under_way(status: CertificateStatus) -> str:
    issuing = condition(status.conditions, ISSUING)
    if issuing is None or issuing.status != "True":
        return ""
    since = f" since {issuing.last_transition_time:%H:%M:%S} UTC" if issuing.last_transition_time else ""
    return f"an issuance is under way{since} ({issuing.reason})"


def failure_of(status: CertificateStatus) -> str:
    """How the last issuance failed; empty when it did not."""
    if status.last_failure_time is None:
        return ""
    issuing = condition(status.conditions, ISSUING)
    said = f": {issuing.message}" if issuing and issuing.message else ""
    tries = f", the {status.failed_issuance_attempts}. time in a row" if status.failed_issuance_attempts > 1 else ""
    return (
        f"the last issuance failed at {status.last_failure_time:%Y-%m-%d %H:%M:%S} UTC{tries}{said}".rstrip(".") + "."
    )


def not_due(target: ResourceRef) -> str:
    return f"{target.label} is not due for renewal any more, and has not expired."


def judged_at(raw: Raw, at: datetime) -> State | None:
    """As the source judges it."""
    judged = judgements.of_certificate(read_as(seen.Certificate, raw), at)
    return judged.state if judged else None


def progress_of(status: CertificateStatus, not_after_before: str, since: datetime) -> Progress:
    """How far the issuance has got that was asked for just before `since`. Pure."""
    if under_way(status):
        return Progress(ProgressState.PROGRESSING, "cert-manager is issuing it")
    if status.last_failure_time is not None and status.last_failure_time > since - MARGIN:
        return Progress(ProgressState.STUCK, failure_of(status))
    if iso(status.not_after) == not_after_before:
        return Progress(ProgressState.PROGRESSING, "cert-manager has not issued it yet")
    return Progress(ProgressState.COMPLETE, f"it is valid until {iso(status.not_after)}")


# --- telling


def evidence(target: ResourceRef, found: Found) -> Iterator[str]:
    of = f" for {', '.join(found.names)}" if found.names else ""
    when = f"ends in {human_duration(found.ends_in_s)}" if found.ends_in_s > 0 else "has ended"
    yield f"{target.label}{of} {when} ({found.not_after or 'it was never issued'})."
    if found.overdue_s > 0:
        yield f"Its renewal time was {human_duration(found.overdue_s)} ago."
    if found.ready:
        yield f"Ready is {found.ready}"
    if found.failure:
        yield f"{found.failure[0].upper()}{found.failure[1:]}"
    yield f"It is issued by the {found.issuer}; its present revision is {found.revision}."


def inference(found: Found) -> str:
    if found.why_not:
        return found.why_not
    if found.ends_in_s <= 0:
        return "It has expired, and cert-manager is not about to issue it."
    return "It is past its renewal time, and cert-manager has not renewed it by itself."


def iso(at: datetime | None) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else ""


RUNBOOK = RenewCertificate()
