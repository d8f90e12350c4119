"""Gathers what the gates judge by. All I/O of the gates is here; the judging is in `runbooks.guards`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from runbooks.guards import Budget, Facts
from runbooks.models import AgentSettings, Approval, MaintenanceWindow, RunbookPolicy
from runbooks.policy import agent_settings, is_switched_on, policy_for
from runbooks.runbook import BacksOff, Diagnosis, EventView, OptIn, Plan, Runbook
from runbooks.stage import view_of
from signals.catalog import CATALOG
from signals.models import Series, SignalEvent, Source, Status
from signals.source import SOURCES, PollSource

RUNNING = (Status.ACTING, Status.VERIFYING)
KNOWN_WITHIN = timedelta(hours=1)


class LiveReads:
    """What is read from the resource itself at the moment of acting, never from a cache."""

    def __init__(self, runbook: Runbook, view: EventView, diagnosis: Diagnosis) -> None:
        self.opt_in: OptIn = runbook.opt_in(view)
        self.override: str = runbook.override(view, diagnosis)


def gather(
    event: SignalEvent, runbook: Runbook, diagnosis: Diagnosis, plan: Plan, live: LiveReads, at: datetime
) -> Facts:
    """The facts of this moment. `live` was read just before; the rest is BytePort's own record."""
    view, agent, policy = view_of(event), agent_settings(), policy_for(runbook)
    window, runs = _maintenance(event, plan, at), _runs(event, plan, _looked_back(runbook, policy, agent, at))
    return Facts(
        now=at,
        paused=agent.paused,
        paused_reason=agent.paused_reason,
        switched_on=is_switched_on(runbook),
        enabled=policy.enabled,
        prohibitions=(*undeclared(runbook, plan), *runbook.prohibitions(view, diagnosis)),
        verifiable=is_verifiable(runbook, view),
        opt_in=live.opt_in,
        opt_in_word=CATALOG[event.signal].opt_in,
        override=live.override,
        is_drill=view.resource.is_drill,
        dry_run=agent.dry_run,
        dry_run_is_forced=agent.dry_run_is_forced,
        runbook_dry_run=policy.dry_run,
        maintenance=window.name if window else "",
        maintenance_until=window.ends_at if window else None,
        cooldown_until=_cooldown_until(runs, runbook, policy, agent),
        ineffective=_ineffective(event, runs, agent, at),
        ineffective_limit=agent.ineffective_limit,
        budget=_budget(event, agent, at),
        needs_approval=policy.needs_approval,
        approved_by=_approved_by(event, at),
        resuming=event.status in RUNNING,
    )


def undeclared(runbook: Runbook, plan: Plan) -> tuple[str, ...]:
    """A plan may hold only what its runbook has declared."""
    return tuple(
        f"The plan holds {step.action}, which {runbook.name} has not declared."
        for step in plan.steps
        if step.action not in runbook.actions
    )


def is_verifiable(runbook: Runbook, view: EventView) -> bool:
    """BytePort can read the resource itself, or ask the source again, or the sender reports when it is over."""
    return runbook.can_reread(view) or _polled(view) or reports_end(view)


def reports_end(view: EventView) -> bool:
    """Whether the event's sender says so when the signal is over (`byteport.reports_end`, set by its source)."""
    return view.labels.get("byteport.reports_end") == "true"


def _maintenance(event: SignalEvent, plan: Plan, at: datetime) -> MaintenanceWindow | None:
    """A window over what the event is about, or over what its plan changes: the workload of a pod, say."""
    about = {event.resource, *(step.target for step in plan.steps)}
    windows = MaintenanceWindow.objects.filter(starts_at__lte=at, ends_at__gt=at)
    return next((one for one in windows if any(fnmatchcase(each, one.resources) for each in about)), None)


def _others(event: SignalEvent) -> QuerySet[SignalEvent]:
    return SignalEvent.objects.exclude(pk=event.pk)


class _Run(NamedTuple):
    """Another event that was acted on."""

    event: int
    runbook: str
    signal: str
    acted_at: datetime
    escalated_at: datetime | None


def _runs(event: SignalEvent, plan: Plan, since: datetime) -> list[_Run]:
    """Other events that were acted on since then, and were about the same thing.

    That is their resource, or what their plan changes: each of a workload's pods may have an event of its own.
    """
    same = Q(resource=event.resource)
    if plan.steps:
        same |= Q(plan__steps__0__target=plan.steps[0].target)
    runs = _others(event).filter(same, fleet=event.fleet, acted_at__gte=since)
    rows = runs.values_list("pk", "runbook", "signal", "acted_at", "escalated_at")
    return [_Run(pk, runbook, signal, began, handed_over) for pk, runbook, signal, began, handed_over in rows if began]


def _looked_back(runbook: Runbook, policy: RunbookPolicy, agent: AgentSettings, at: datetime) -> datetime:
    """Since when runs count: the longest pause may have begun then, and what went before it within the window."""
    return at - timedelta(seconds=longest_pause_s(runbook, policy.cooldown_s) + agent.ineffective_window_s)


def _cooldown_until(
    runs: Sequence[_Run], runbook: Runbook, policy: RunbookPolicy, agent: AgentSettings
) -> datetime | None:
    began = [run.acted_at for run in runs if run.runbook == runbook.name]
    if not began:
        return None
    window = timedelta(seconds=agent.ineffective_window_s)
    earlier = sum(one >= max(began) - window for one in began) - 1
    return max(began) + timedelta(seconds=pause_s(runbook, policy.cooldown_s, earlier))


def pause_s(runbook: Runbook, cooldown_s: float, earlier: int) -> float:
    """The pause after a run that `earlier` others went before: where the runbook backs off, it doubles each time."""
    if not isinstance(runbook, BacksOff):
        return cooldown_s
    return max(cooldown_s, min(cooldown_s * 2.0 ** min(earlier, 32), runbook.longest_cooldown_s))


def longest_pause_s(runbook: Runbook, cooldown_s: float) -> float:
    """What `pause_s` is at the most, however many went before."""
    return max(cooldown_s, runbook.longest_cooldown_s) if isinstance(runbook, BacksOff) else cooldown_s


def _ineffective(event: SignalEvent, runs: Sequence[_Run], agent: AgentSettings, at: datetime) -> int:
    """Runs on this resource that did not clear its signal, or after which it soon fired again."""
    since = at - timedelta(seconds=agent.ineffective_window_s)
    lately = [run for run in runs if run.signal == event.signal and run.acted_at >= since]
    others = [run.event for run in lately if run.escalated_at is None]
    return len(lately) - len(others) + (_fired_again(event, others, agent) if others else 0)


def _fired_again(event: SignalEvent, runs: Sequence[int], agent: AgentSettings) -> int:
    """After how many of these the signal soon came back."""
    refire = timedelta(seconds=agent.refire_window_s)
    again = SignalEvent.objects.filter(
        Q(fingerprint=OuterRef("fingerprint")) | Q(plan__steps__0__target=OuterRef("plan__steps__0__target")),
        signal=event.signal,
        fleet=event.fleet,
        pk__gt=OuterRef("pk"),
        detected_at__lt=OuterRef("resolved_at") + refire,
    )
    return SignalEvent.objects.filter(Exists(again), pk__in=runs).count()


def _budget(event: SignalEvent, agent: AgentSettings, at: datetime) -> Budget:
    runs = _runs_of_fleet(event, at)
    failing = _failing(event)
    return Budget(
        running=runs["running"],
        max_running=agent.max_concurrent,
        last_hour=runs["last_hour"],
        max_last_hour=agent.max_per_hour,
        neighbourhood_last_hour=runs["nearby"],
        max_neighbourhood_last_hour=agent.max_per_neighbourhood_hour,
        failing=failing,
        known=_known(event, at) if failing >= agent.storm_minimum else 0,
        storm_percent=agent.storm_percent,
        storm_minimum=agent.storm_minimum,
    )


def _failing(event: SignalEvent) -> int:
    """Units of the fleet with an open event."""
    failing = SignalEvent.objects.exclude(status=Status.RESOLVED).filter(fleet=event.fleet)
    return int(failing.aggregate(n=Count("unit", distinct=True))["n"])


def _known(event: SignalEvent, at: datetime) -> int:
    """Units of the fleet that were heard of lately: a look at every series of it."""
    known = Series.objects.filter(fleet=event.fleet, last_at__gte=at - KNOWN_WITHIN)
    return int(known.aggregate(n=Count("unit", distinct=True))["n"])


def _runs_of_fleet(event: SignalEvent, at: datetime) -> dict[str, int]:
    """The other runs of the event's fleet: how many go on, and how many began within the hour, in all and nearby.

    Asked in two parts, each of which has an index: what began lately, and what goes on since longer.
    """
    an_hour_ago, running = at - timedelta(hours=1), Q(status__in=RUNNING)
    reserved = Q(status=Status.DIAGNOSED)  # a plan that is about to begin
    runs = _others(event).filter(fleet=event.fleet)
    lately: dict[str, int] = runs.filter(acted_at__gte=an_hour_ago).aggregate(
        running=Count("pk", filter=running | reserved),
        last_hour=Count("pk"),
        nearby=Count("pk", filter=Q(neighbourhood=event.neighbourhood)),
    )
    longer = runs.filter(running, acted_at__lt=an_hour_ago).count()
    return {**lately, "running": lately["running"] + longer}


def _approved_by(event: SignalEvent, at: datetime) -> str:
    """Who has said yes, in time and lately: a yes holds for as long as the request did, and for a plan that has begun.

    What kept the plan waiting since, a pause say, may have lasted for days.
    """
    said = Approval.objects.filter(event=event, plan_hash=event.plan_hash, approved=True)
    in_time = said.filter(decided_at__lte=F("expires_at"))
    begun = event.acted_at if event.status in RUNNING and event.acted_at else at
    lately = in_time.filter(decided_at__gte=begun - (F("expires_at") - F("requested_at")))
    return lately.values_list("decided_by", flat=True).first() or ""


def _polled(view: EventView) -> bool:
    """Whether the event came from a source that BytePort can ask again."""
    row = Source.objects.filter(slug=view.source).only("kind").first()
    return row is not None and isinstance(SOURCES.get(row.kind), PollSource)
