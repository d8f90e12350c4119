"""Incidents as rows, for tests that look at what is shown of them. The loop would write the same rows."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.models import Heartbeat
from incidents.models import Delivery
from runbooks.models import AgentAction, Approval, GateVerdict, VerificationSample
from runbooks.runbook import Diagnosis, Plan, Step, Timing
from signals.models import SignalEvent, TimelineEntry
from signals.reading import fingerprint

VAR = ResourceRef("host", "web-1", "mount", "/var")
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=80)
DIAGNOSIS = Diagnosis(
    evidence=("/var is 91 % full.", "42 rotated logs: 6.3 GB."),
    inference="6.3 GB can be freed.",
    confident=False,
    facts={"mount": {"mount": "/var", "percent": 91.0}},
)


def diagnosis_of(resource: ResourceRef) -> Diagnosis:
    return msgspec.structs.replace(DIAGNOSIS, facts={"mount": {"mount": resource.name, "percent": 91.0}})


def plan_for(resource: ResourceRef) -> Plan:
    steps = (
        Step("journal", "host.journal_vacuum", str(resource), "Vacuum the journal"),
        Step("rotated_logs", "host.delete_rotated_logs", str(resource), "Delete rotated logs"),
    )
    return Plan("cleanup_logs", "vacuum the journal; delete rotated logs.", steps, TIMING)


def incident(status: str = "detected", resource: ResourceRef = VAR, **fields: Any) -> SignalEvent:
    """One event in this status, detected ten minutes ago, with a line for its detection and its status."""
    at: datetime = fields.pop("detected_at", now() - timedelta(minutes=10))
    if status == "resolved":
        fields = {"resolved_by": "byteport", "resolved_at": at + timedelta(minutes=2), **fields}
    if status == "escalated":
        fields = {"escalated_at": at + timedelta(minutes=2), **fields}
    values = {
        "signal": "disk_pressure",
        "severity": "warning",
        "value": 91.0,
        "threshold": 85.0,
        "source": "host",
        "due_at": None,
        **fields,
    }
    event = SignalEvent.objects.create(
        fingerprint=fingerprint(values["signal"], resource, str(uuid4())),
        resource=str(resource),
        fleet=resource.fleet,
        neighbourhood=resource.neighbourhood,
        unit=resource.unit,
        status=status,
        detected_at=at,
        last_seen_at=at,
        **values,
    )
    for kind, seconds in dict.fromkeys([("detected", 0), (status, 120)]):
        TimelineEntry.objects.create(
            event=event, at=at + timedelta(seconds=seconds), actor="host", kind=kind, message=f"It is {kind}."
        )
    return event


def reported(status: str, **fields: Any) -> SignalEvent:
    """One that the next reading of its signal and resource is about."""
    event = incident(status, **fields)
    event.fingerprint = UUID(fingerprint(event.signal, event.ref, event.detail))
    event.save(update_fields=["fingerprint"])
    return event


def planned(status: str, resource: ResourceRef = VAR, **fields: Any) -> SignalEvent:
    """One with diagnosis and plan."""
    plan = plan_for(resource)
    return incident(
        status,
        resource,
        runbook="cleanup_logs",
        diagnosis=msgspec.to_builtins(diagnosis_of(resource)),
        plan=msgspec.to_builtins(plan),
        plan_hash=plan.hash,
        **fields,
    )


def awaiting_approval(resource: ResourceRef = VAR) -> SignalEvent:
    event = planned("awaiting_approval", resource)
    Approval.objects.create(
        event=event, plan_hash=event.plan_hash, requested_at=now(), expires_at=now() + timedelta(hours=1)
    )
    return event


def gates(event: SignalEvent, number: int, **refused: str) -> None:
    """One round of three gates; `refused` gives the reasons of those that refuse."""
    for ordinal, gate in enumerate(("paused", "opt_in", "dry_run")):
        GateVerdict.objects.create(
            event=event,
            round=number,
            ordinal=ordinal,
            gate=gate,
            allowed=gate not in refused,
            reason=refused.get(gate, f"{gate} allows it."),
            at=event.detected_at + timedelta(seconds=number),
        )


def action(event: SignalEvent, step: str, status: str, message: str, **fields: Any) -> AgentAction:
    at = event.detected_at + timedelta(seconds=20)
    values = {
        "dry_run": False,
        "result": {},
        "started_at": at,
        "finished_at": at + timedelta(seconds=1.5),
        **fields,
    }
    return AgentAction.objects.create(
        event=event,
        uid=uuid4(),
        plan_hash=event.plan_hash,
        step=step,
        action="host.delete_rotated_logs",
        target=event.resource,
        summary=f"Step {step}",
        status=status,
        message=message,
        **values,
    )


def look(event: SignalEvent, seconds: float, value: float | None, judged: str) -> VerificationSample:
    at = event.detected_at + timedelta(seconds=seconds)
    return VerificationSample.objects.create(event=event, at=at, value=value, look=judged, message=f"{value} % used")


def delivery(event: SignalEvent, channel: str, status: str, **fields: Any) -> Delivery:
    values = {"kind": "escalated", "error": "", "due_at": now() if status in Delivery.PENDING else None, **fields}
    return Delivery.objects.create(
        event=event,
        channel=channel,
        status=status,
        uid=uuid4(),
        fingerprint=event.fingerprint,
        severity=event.severity,
        created_at=now(),
        **values,
    )


def alive(*roles: str) -> None:
    for role in roles:
        Heartbeat.objects.create(process=f"{role}@web-1:1", role=role)
