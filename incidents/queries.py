"""What the console reads: a fixed number of set-based queries a page, none whose cost grows with history."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from django.db.models import Avg, Case, Count, F, IntegerField, Min, Model, Q, QuerySet, Value, When, Window
from django.db.models.functions import Now

from byteport.core.errors import Permanent
from byteport.core.health import is_failing
from byteport.core.outcome import Severity
from byteport.heartbeats import ALIVE_S
from byteport.models import AuditEntry, Heartbeat, QueuedTask
from runbooks.models import AgentAction, Approval, GateVerdict, RunbookPolicy, VerificationSample
from runbooks.policy import default_policy, is_switched_on
from runbooks.runbook import RUNBOOKS, Plan, Runbook
from runbooks.stage import plan_of
from signals.models import ResolvedBy, SignalEvent, Source, SourceStream, Status, TimelineEntry
from signals.source import SOURCES, MetricSource, PollSource, StreamSource

M = TypeVar("M", bound=Model)

HEAVY = ("postmortem_md", "diagnosis", "plan", "labels")  # not for lists
ACTIVE = (Status.DETECTED, Status.DIAGNOSED, Status.ACTING, Status.VERIFYING)
NEEDS_PERSON = (Status.ESCALATED, Status.AWAITING_APPROVAL)
GROUPS: Mapping[str, Sequence[str]] = {
    "open": SignalEvent.OPEN,
    "person": NEEDS_PERSON,
    "simulated": (Status.SIMULATED,),
    "resolved": (Status.RESOLVED,),
    "all": (),
}
PAGE = 50
WINDOW = 20_000  # how many incidents one page of a narrowed list looks through
SHOWN = 20  # incidents in each group of the overview
RECORD_LIMIT = 500  # rows of each kind in one incident's record
ROUNDS_LIMIT = 20
SOURCES_SHOWN, STREAMS_SHOWN = 100, 100
ASKED = (PollSource, StreamSource)
LATE_S = 120.0  # a source that is asked every few seconds and gave nothing for this long
ROLES = ("web", "worker", "watch")
CRITICAL_FIRST = Case(When(severity=Severity.CRITICAL, then=Value(0)), default=Value(1), output_field=IntegerField())


# --- overview


class Waiting(msgspec.Struct, frozen=True):
    """An incident whose plan waits for a person. `approval` is None only when its row is gone."""

    event: SignalEvent
    approval: Approval | None
    plan: Plan | None


class Overview(msgspec.Struct, frozen=True):
    """What the first page shows. The lists are cut; `counts` (by status, open ones only) are not."""

    waiting: Sequence[Waiting]
    escalated: Sequence[SignalEvent]
    active: Sequence[SignalEvent]
    simulated: Sequence[SignalEvent]
    resolved: Sequence[SignalEvent]
    counts: Mapping[str, int]

    @property
    def needs_person(self) -> int:
        return sum(self.counts.get(status, 0) for status in NEEDS_PERSON)

    @property
    def more_need_person(self) -> bool:
        return self.needs_person > len(self.waiting) + len(self.escalated)

    @property
    def active_count(self) -> int:
        return sum(self.counts.get(status, 0) for status in ACTIVE)


def overview(at: datetime) -> Overview:
    """What needs a person, what goes on, and what was resolved in the 24 h before `at`."""
    listed = SignalEvent.objects.defer(*HEAVY)
    lately = listed.filter(status=Status.RESOLVED, resolved_at__gte=at - timedelta(days=1))
    return Overview(
        waiting=waiting(),
        escalated=list(listed.filter(status=Status.ESCALATED).order_by(CRITICAL_FIRST, "-pk")[:SHOWN]),
        active=list(listed.filter(status__in=ACTIVE).order_by("-pk")[:SHOWN]),
        simulated=list(listed.filter(status=Status.SIMULATED).order_by("-pk")[:SHOWN]),
        resolved=list(lately.order_by("-resolved_at")[:SHOWN]),
        counts=open_counts(),
    )


def open_counts() -> dict[str, int]:
    """How many incidents stand in each status other than resolved."""
    rows = SignalEvent.objects.filter(status__in=SignalEvent.OPEN).order_by().values_list("status")
    return dict(rows.annotate(n=Count("pk")))


def waiting() -> list[Waiting]:
    """Plans that wait for approval, the oldest request first."""
    events = SignalEvent.objects.filter(status=Status.AWAITING_APPROVAL).defer("postmortem_md", "diagnosis")
    shown = list(events.order_by("pk")[:SHOWN])
    asked = {(row.event_id, row.plan_hash): row for row in Approval.objects.filter(event__in=shown)}
    return [Waiting(event, asked.get((event.pk, event.plan_hash)), plan_of(event)) for event in shown]


class Week(msgspec.Struct, frozen=True):
    """Incidents resolved in the last seven days: how many by whom, and the mean seconds from detection."""

    count: Mapping[str, int]
    mean_s: Mapping[str, float]

    @property
    def total(self) -> int:
        return sum(self.count.values())

    @property
    def overall_mean_s(self) -> float | None:
        if not self.total:
            return None
        return sum(self.mean_s[by] * n for by, n in self.count.items()) / self.total


def week(at: datetime) -> Week:
    """Asks for no column but those of the index `events_resolved`, so that no row of the table is read."""
    resolved = SignalEvent.objects.filter(resolved_at__gte=at - timedelta(days=7))  # what has it, is resolved
    rows = list(
        resolved.order_by().values("resolved_by").annotate(n=Count("*"), mean=Avg(F("resolved_at") - F("detected_at")))
    )
    return Week(
        count=dict.fromkeys(ResolvedBy.values, 0) | {row["resolved_by"]: row["n"] for row in rows},
        mean_s=dict.fromkeys(ResolvedBy.values, 0.0)
        | {row["resolved_by"]: row["mean"].total_seconds() for row in rows},
    )


# --- health


class SourceHealth(msgspec.Struct, frozen=True):
    """`state`: off, ok, late, failing, or silent (never called yet). `lag_s`: since the last success.
    `measured_lag_s`: since the newest measurement that is known."""

    source: Source
    title: str
    state: str
    lag_s: float | None
    measured_lag_s: float | None
    streams: tuple[SourceStream, ...] = ()

    @property
    def is_polled(self) -> bool:
        return _is_asked(self.source)


def _is_asked(row: Source) -> bool:
    """Whether BytePort asks it or follows it, so that it may not fall silent."""
    return isinstance(SOURCES.get(row.kind), ASKED)


class Sources(msgspec.Struct, frozen=True):
    """How the sources fare. The list is cut; `total` is not."""

    listed: Sequence[SourceHealth]
    total: int

    @property
    def more(self) -> int:
        return self.total - len(self.listed)


def source_health(at: datetime, most: int = SOURCES_SHOWN) -> Sources:
    """Those that fail first, then those that are late."""
    rows = Source.objects.annotate(total=Window(Count("*"))).order_by(_worst_first(at), "slug")
    shown = list(rows.prefetch_related("streams")[:most])
    states = (_health_of(row, at) for row in shown)
    listed = sorted(states, key=lambda health: health.state not in ("failing", "late"))
    return Sources(listed, shown[0].total if shown else 0)


def _worst_first(at: datetime) -> Case:
    """For PostgreSQL to sort and cut by: as `_source_state` has it, save that whose pace is slow may count as late."""
    error_is_latest = Q(last_error_at__gt=F("last_success_at")) | Q(last_error_at__isnull=False, last_success_at=None)
    asked = [name for name, kind in SOURCES.items() if isinstance(kind, ASKED)]
    is_old = Q(last_success_at=None) | Q(last_success_at__lt=at - timedelta(seconds=LATE_S))
    return Case(
        When(enabled=False, then=Value(3)),
        When(~Q(last_error="") & error_is_latest, then=Value(0)),
        When(is_old, kind__in=asked, then=Value(1)),
        default=Value(2),
    )


def _health_of(row: Source, at: datetime) -> SourceHealth:
    kind = SOURCES.get(row.kind)
    lag_s, measured_lag_s = _since(row.last_success_at, at), _since(row.last_reading_at, at)
    state = _source_state(row, lag_s, _is_asked(row))
    streams = sorted(row.streams.all(), key=lambda stream: not stream.error)[:STREAMS_SHOWN]
    return SourceHealth(row, kind.title if kind else row.kind, state, lag_s, measured_lag_s, tuple(streams))


def _since(then: datetime | None, at: datetime) -> float | None:
    return max((at - then).total_seconds(), 0) if then else None


def _source_state(row: Source, lag_s: float | None, polled: bool) -> str:
    if not row.enabled:
        return "off"
    if is_failing(row):
        return "failing"
    if polled:
        return "late" if lag_s is None or is_late(row, lag_s) else "ok"
    return "silent" if lag_s is None else "ok"


def is_late(row: Source, lag_s: float) -> bool:
    """Whether one that BytePort asks or follows gave nothing for too long. `lag_s`: since its last success."""
    return _is_asked(row) and lag_s > LATE_S + every_s(row)


def every_s(row: Source) -> float:
    """The pace of a source that has one of its own; 0 for the others, and for one whose options are none."""
    kind = SOURCES.get(row.kind)
    try:
        return kind.every_s(row.options) if isinstance(kind, MetricSource) else 0.0
    except Permanent:
        return 0.0


class Processes(msgspec.Struct, frozen=True):
    """BytePort's processes of the last day by role; those not seen within a minute are `gone`."""

    alive: Mapping[str, Sequence[Heartbeat]]
    gone: Sequence[Heartbeat]

    @property
    def workers(self) -> Sequence[Heartbeat]:
        return self.alive.get("worker", ())

    @property
    def watchers(self) -> Sequence[Heartbeat]:
        return self.alive.get("watch", ())


def processes() -> Processes:
    """By PostgreSQL's clock, since it was PostgreSQL that stamped the beats."""
    fresh = Q(seen_at__gt=Now() - timedelta(seconds=ALIVE_S))
    beats = list(
        Heartbeat.objects.annotate(fresh=Case(When(fresh, then=True), default=False)).order_by("process")[:200]
    )
    alive: dict[str, list[Heartbeat]] = {role: [] for role in ROLES}
    for beat in beats:
        if beat.fresh:
            alive.setdefault(beat.role, []).append(beat)
    return Processes(alive, [beat for beat in beats if not beat.fresh])


class Queue(msgspec.Struct, frozen=True):
    """Tasks by where they stand, and the seconds for which the longest-waiting one has been due."""

    ready: int
    running: int
    delayed: int
    oldest_due_s: float


def queue() -> Queue:
    due, later = Q(visible_at__lte=Now()), Q(visible_at__gt=Now())
    row = QueuedTask.objects.aggregate(
        ready=Count("pk", filter=due),
        running=Count("pk", filter=later & Q(attempts__gt=0)),
        delayed=Count("pk", filter=later & Q(attempts=0)),
        oldest=Now() - Min("visible_at", filter=due),
    )
    oldest = row.pop("oldest")
    return Queue(**row, oldest_due_s=oldest.total_seconds() if oldest else 0.0)


# --- the list


class Filters(msgspec.Struct, frozen=True):
    """What the list is narrowed to, as its address says it."""

    group: str = "open"
    signal: str = ""
    severity: str = ""
    search: str = ""
    before: int | None = None  # only incidents with a smaller id

    @property
    def narrows(self) -> bool:
        return bool(self.signal or self.severity or self.search)


class IncidentPage(msgspec.Struct, frozen=True):
    """One page, newest first. `older`: continue before this id. `cut`: the window ended first."""

    events: Sequence[SignalEvent]
    older: int | None = None
    cut: bool = False


def incident_page(filters: Filters) -> IncidentPage:
    """A keyset page by id. A narrowed list looks through `WINDOW` incidents at most."""
    rows = SignalEvent.objects.all()
    if statuses := GROUPS[filters.group]:
        rows = rows.filter(status__in=statuses) if len(statuses) > 1 else rows.filter(status=statuses[0])
    if filters.before is not None:
        rows = rows.filter(pk__lt=filters.before)
    if not filters.narrows:
        return _cut_page(rows)
    window = rows.order_by("-pk").values("pk")[:WINDOW]
    page = _cut_page(_narrowed(SignalEvent.objects.filter(pk__in=window), filters))
    return page if page.older else _with_window_end(page, window)


def _cut_page(rows: QuerySet[SignalEvent]) -> IncidentPage:
    found = list(rows.defer(*HEAVY).order_by("-pk")[: PAGE + 1])
    return IncidentPage(found[:PAGE], found[PAGE - 1].pk if len(found) > PAGE else None)


def _with_window_end(page: IncidentPage, window: QuerySet[SignalEvent, Any]) -> IncidentPage:
    seen = SignalEvent.objects.filter(pk__in=window).aggregate(n=Count("pk"), last=Min("pk"))
    return IncidentPage(page.events, seen["last"], cut=True) if seen["n"] == WINDOW else page


def _narrowed(rows: QuerySet[SignalEvent], filters: Filters) -> QuerySet[SignalEvent]:
    if filters.signal:
        rows = rows.filter(signal=filters.signal)
    if filters.severity:
        rows = rows.filter(severity=filters.severity)
    return rows.filter(_matches(filters.search)) if filters.search else rows


def _matches(search: str) -> Q:
    """By the resource's text, as it is kept (percent-encoded) or as people write it; or by number, `#12`."""
    by_text = Q(resource__icontains=search) | Q(resource__icontains=quote(search, safe=""))
    number = search.removeprefix("#")
    return by_text | Q(pk=int(number)) if number.isascii() and number.isdigit() and len(number) < 19 else by_text


# --- one incident


class Round(msgspec.Struct, frozen=True):
    """The verdicts of all gates at one moment."""

    number: int
    at: datetime
    verdicts: Sequence[GateVerdict]

    @property
    def refusals(self) -> int:
        return sum(not verdict.allowed for verdict in self.verdicts)


class Record(msgspec.Struct, frozen=True):
    """All that was written down about one incident. `cut`: a list has reached its limit."""

    timeline: Sequence[TimelineEntry]
    actions: Sequence[AgentAction]
    samples: Sequence[VerificationSample]
    rounds: Sequence[Round]  # the latest first
    approval: Approval | None
    cut: bool


def record_of(event: SignalEvent) -> Record:
    """Five queries, the latest `RECORD_LIMIT` rows of each kind, in their order."""
    timeline = _latest(TimelineEntry.objects.filter(event=event))
    actions = _latest(AgentAction.objects.filter(event=event))
    samples = _latest(VerificationSample.objects.filter(event=event))
    asked = Approval.objects.filter(event=event, plan_hash=event.plan_hash).first()
    cut = max(len(timeline), len(actions), len(samples)) == RECORD_LIMIT
    return Record(timeline, actions, samples, _rounds(event), asked, cut)


def _latest(rows: QuerySet[M]) -> list[M]:
    return list(rows.order_by("-pk")[:RECORD_LIMIT])[::-1]


def _rounds(event: SignalEvent) -> list[Round]:
    rows = GateVerdict.objects.filter(event=event).order_by("-round", "ordinal")[:RECORD_LIMIT]
    grouped = ((number, list(verdicts)) for number, verdicts in groupby(rows, key=lambda row: row.round))
    return [Round(number, verdicts[0].at, verdicts) for number, verdicts in grouped][:ROUNDS_LIMIT]


# --- agent and runbooks


class RunbookRow(msgspec.Struct, frozen=True):
    runbook: Runbook
    policy: RunbookPolicy
    switched_on: bool  # by this deployment


def runbook_rows() -> list[RunbookRow]:
    """Every runbook of the registry with its policy, or the defaults where none was set."""
    kept = {policy.runbook: policy for policy in RunbookPolicy.objects.all()}
    return [
        RunbookRow(each, kept.get(name) or default_policy(each), is_switched_on(each))
        for name, each in RUNBOOKS.items()
    ]


def looked_at_afresh(rows: Iterable[RunbookRow]) -> int:
    """How many simulated incidents would be taken up again if the agent's dry-run were switched off now."""
    live = [row.runbook.name for row in rows if not row.policy.dry_run]
    return SignalEvent.objects.filter(status=Status.SIMULATED, runbook__in=live).count()


def audit_trail(limit: int = 50) -> Sequence[AuditEntry]:
    return list(AuditEntry.objects.order_by("-pk")[:limit])
