"""What is on record of one incident, gathered by a fixed handful of queries into plain data.

Whatever tells people of an incident (the postmortem, an issue, an email) is written from this alone.
"""

from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from django.conf import settings
from django.db.models import Count, F, Model, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from byteport.core.errors import BytePortError
from byteport.core.resource import ResourceRef
from incidents.trend import HISTORY, Points, points_of
from runbooks.diagnose import runbook_for
from runbooks.models import STARTED, AgentAction, Approval, GateVerdict, VerificationSample
from runbooks.runbook import RUNBOOKS, Diagnosis, ManualStep, Plan
from runbooks.stage import view_of
from signals.catalog import CATALOG
from signals.models import Sample, SignalEvent, Status, TimelineEntry
from signals.policy import rule_for, rules

ENDS = 60  # rows kept of each end of a long list
RECURRENCE = timedelta(days=30)
EARLIER_SHOWN = 5
EXABYTE = 1e18
# What the record takes over from the event as it is.
COPIED = (
    *("signal", "resource", "detail", "source", "severity", "status", "resolved_by", "reason", "repeats"),
    *("detected_at", "acted_at", "escalated_at", "resolved_at", "threshold", "runbook"),
)

M = TypeVar("M", bound=Model)
T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """One line of the timeline."""

    at: datetime
    who: str
    kind: str
    message: str


class Gate(msgspec.Struct, frozen=True):
    """What one gate said in one round."""

    round: int
    name: str
    allowed: bool
    reason: str
    at: datetime


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One action, carried out or simulated. `status` is a Result, or `started`."""

    name: str
    summary: str
    dry_run: bool
    status: str
    message: str = ""
    result: dict[str, object] = {}
    started_at: datetime
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.status != STARTED


class Look(msgspec.Struct, frozen=True):
    """One verification sample."""

    at: datetime
    value: float | None
    look: str
    message: str


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A request for approval, and what came of it."""

    requested_at: datetime
    expires_at: datetime
    approved: bool | None = None
    by: str = ""
    decided_at: datetime | None = None
    why: str = ""


class Earlier(msgspec.Struct, frozen=True):
    """An earlier incident of the same signal and resource."""

    id: int
    detected_at: datetime
    outcome: str


class Gap(msgspec.Struct, frozen=True):
    """How much of a list was left out of its middle, and after how many of those that are shown."""

    left_out: int = 0
    after: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that is on record of one incident."""

    id: int
    signal: str
    title: str  # the signal's, for people
    unit: str
    label: str  # the resource's, for people
    resource: str
    detail: str = ""
    source: str = ""
    severity: str
    status: str
    resolved_by: str = ""
    reason: str = ""
    repeats: int = 0
    detected_at: datetime
    acted_at: datetime | None = None
    escalated_at: datetime | None = None
    resolved_at: datetime | None = None
    value_then: float | None = None  # at detection
    value_last: float | None = None  # the latest that was measured
    threshold: float | None = None
    clear: float | None = None
    judged_by_value: bool = True  # False: its sources say firing or resolved, and the threshold means nothing
    runbook: str = ""  # the one that treated it; empty when it did not come to that
    has_runbook: bool = True  # whether there is one for this signal
    diagnosis: Diagnosis | None = None
    plan: Plan | None = None
    timeline: tuple[Entry, ...] = ()
    timeline_cut: Gap = Gap()
    gates: tuple[Gate, ...] = ()
    deeds: tuple[Deed, ...] = ()
    deeds_cut: Gap = Gap()
    looks: tuple[Look, ...] = ()
    looks_cut: Gap = Gap()
    approvals: tuple[Word, ...] = ()
    earlier: tuple[Earlier, ...] = ()  # the latest of them
    earlier_count: int = 0  # within RECURRENCE before this one
    advice: tuple[ManualStep, ...] = ()
    trend: Points = Points()
    history: Points = Points()  # of a file system: the same from a day before detection on
    base_url: str = ""

    @property
    def is_open(self) -> bool:
        return self.status != Status.RESOLVED

    @property
    def was_escalated(self) -> bool:
        return self.escalated_at is not None

    @property
    def why_escalated(self) -> str:
        """The timeline's word for it, since the event keeps only its latest reason."""
        said = [entry.message for entry in self.timeline if entry.kind == Status.ESCALATED]
        return said[-1] if said else self.reason

    @property
    def capacity_bytes(self) -> float | None:
        """How much the file system holds, where the diagnosis has looked."""
        mount = self.diagnosis.facts.get("mount") if self.diagnosis else None
        total = mount.get("total_bytes") if isinstance(mount, dict) else None
        return total if isinstance(total, int | float) and 0 < total < EXABYTE else None


def record_of(event: SignalEvent) -> Record:
    """Gathers the record. Odd data (a diagnosis that does not parse, an unknown signal) is left out."""
    known, resource = CATALOG.get(event.signal), _resource(event)
    diagnosis, plan = _read(event.diagnosis, Diagnosis), _read(event.plan, Plan)
    timeline, timeline_cut = _ends(TimelineEntry.objects.filter(event=event))
    gates, _ = _ends(GateVerdict.objects.filter(event=event))
    deeds, deeds_cut = _ends(AgentAction.objects.filter(event=event))
    looks, looks_cut = _ends(VerificationSample.objects.filter(event=event))
    earlier, earlier_count = _earlier(event)
    trend = points_of(event)
    return Record(
        **{name: getattr(event, name) for name in COPIED},
        id=event.pk,
        title=event.title,
        unit=known.unit if known else "",
        label=resource.label if resource else event.resource,
        value_then=_value_at_detection(event),
        value_last=_latest_value(event, trend),
        clear=clear_threshold(event),
        judged_by_value=known.sends_values if known else False,
        has_runbook=runbook_for(event.signal) is not None,
        diagnosis=diagnosis,
        plan=plan,
        timeline=tuple(Entry(row.at, row.actor, row.kind, row.message) for row in timeline),
        timeline_cut=timeline_cut,
        gates=tuple(Gate(row.round, row.gate, row.allowed, row.reason, row.at) for row in gates),
        deeds=tuple(map(_deed, deeds)),
        deeds_cut=deeds_cut,
        looks=tuple(Look(row.at, row.value, row.look, row.message) for row in looks),
        looks_cut=looks_cut,
        approvals=tuple(map(_word, Approval.objects.filter(event=event)[:ENDS])),
        earlier=earlier,
        earlier_count=earlier_count,
        advice=advice_for(event, diagnosis) if event.escalated_at else (),
        trend=trend,
        history=points_of(event, HISTORY) if event.signal == "disk_pressure" else Points(),
        base_url=settings.PUBLIC_URL,
    )


def clear_threshold(event: SignalEvent) -> float | None:
    """Below which value the event counts as cleared: as in its frozen plan, or as the policy says now."""
    plan, resource = _read(event.plan, Plan), _resource(event)
    if plan is not None:
        return plan.timing.clear
    return rule_for(event.signal, resource, rules()).clear if resource and event.signal in CATALOG else None


def _resource(event: SignalEvent) -> ResourceRef | None:
    try:
        return event.ref
    except ValueError:
        return None


def _read(stored: object, kind: type[T]) -> T | None:
    """A stored document, or None when it is none of its kind."""
    try:
        return msgspec.convert(stored, kind) if stored else None
    except msgspec.ValidationError:
        return None


def _ends(rows: QuerySet[M]) -> tuple[list[M], Gap]:
    """The first and the last ENDS rows by id, in one query, and how many lie between them."""
    counted = rows.order_by("id").annotate(total=Window(Count("*")), place=Window(RowNumber(), order_by=F("id").asc()))
    found = list(counted.filter(Q(place__lte=ENDS) | Q(place__gt=F("total") - ENDS)))
    total = int(getattr(found[0], "total", 0)) if found else 0
    return found, Gap(total - len(found), ENDS) if total > len(found) else Gap()


def _earlier(event: SignalEvent) -> tuple[tuple[Earlier, ...], int]:
    """The latest incidents of the same signal and resource before this one, and how many there were."""
    before = SignalEvent.objects.filter(
        resource=event.resource,
        signal=event.signal,
        pk__lt=event.pk,
        detected_at__gte=event.detected_at - RECURRENCE,
    )
    rows = list(
        before.order_by("-pk")
        .annotate(total=Window(Count("*")))
        .values_list("pk", "detected_at", "status", "resolved_by", "total")[:EARLIER_SHOWN]
    )
    shown = tuple(Earlier(pk, at, by or status) for pk, at, status, by, _ in rows)
    return shown, rows[0][4] if rows else 0


def _value_at_detection(event: SignalEvent) -> float | None:
    """What was measured when it fired. The event itself keeps only the latest value."""
    sample = Sample.objects.filter(fingerprint=event.fingerprint, at=event.detected_at)
    return sample.values_list("value", flat=True).first() if event.repeats else event.value


def _latest_value(event: SignalEvent, trend: Points) -> float | None:
    """The latest that was measured; of an incident that is over, only what was measured after it had fired."""
    if trend.points and (event.is_open or trend.points[-1].at > event.detected_at):
        return trend.last
    return event.value if event.is_open else None


def advice_for(event: SignalEvent, diagnosis: Diagnosis | None) -> tuple[ManualStep, ...]:
    """The runbook's manual steps; none where no runbook treats the signal."""
    runbook = RUNBOOKS.get(event.runbook) or runbook_for(event.signal)
    if runbook is None:
        return ()
    try:
        return tuple(runbook.advise(view_of(event), diagnosis))
    except (BytePortError, ValueError, LookupError, TypeError, AttributeError):
        return ()  # a diagnosis that is not as the runbook expects must keep neither the incident nor its page waiting


def _deed(row: AgentAction) -> Deed:
    return Deed(
        name=row.action,
        summary=row.summary,
        dry_run=row.dry_run,
        status=row.status,
        message=row.message,
        result=row.result if isinstance(row.result, dict) else {},
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _word(row: Approval) -> Word:
    return Word(
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        approved=row.approved,
        by=row.decided_by,
        decided_at=row.decided_at,
        why=row.why,
    )
