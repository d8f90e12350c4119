"""Verification is evidence: the signal is read again from its source until enough good looks have come in a row.

No data, an unreachable source and an unknown state are inconclusive, never good.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from byteport.core.errors import Permanent, Temporary
from runbooks.act import parts
from runbooks.facts import reports_end
from runbooks.models import AgentAction, VerificationSample
from runbooks.runbook import EventView, Judgement, Look, Plan, ProgressState, RollsOut, Runbook, Timing
from runbooks.stage import Move, view_of
from signals.catalog import CATALOG
from signals.health import config_of, spent
from signals.ingest import FUTURE_SKEW
from signals.models import SignalEvent, Source, Status
from signals.reading import Reading, State
from signals.source import SOURCES, MetricSource, PollSource

# How long the next measurement may keep one waiting where its source does not say: until then it is on its way.
NEXT_WITHIN = timedelta(minutes=5)


class Verified(msgspec.Struct, frozen=True):
    """What the looks so far amount to. `helped` is None while it is not decided."""

    helped: bool | None
    reason: str = ""


def look(event: SignalEvent, at: datetime) -> Move:
    """Stage *verifying*: one look, kept as a row, and what all looks so far amount to."""
    runbook, _, plan = parts(event)
    reading, judgement = _look_once(event, runbook, view_of(event), plan, at)
    pause_s = max(plan.timing.verify_interval_s, reading.period_s if reading else 0)  # for a new measurement each
    earlier, behind = list(VerificationSample.objects.filter(event=event, at__gte=_since(event))), _behind(event)
    if reading is not None and _is_known(reading, earlier):
        if at - reading.at <= max(behind, NEXT_WITHIN):
            return Move(delay_s=pause_s)  # it says nothing new, one way or the other
        judgement = Judgement(Look.INCONCLUSIVE, "nothing has been measured since the look before")
    sample = _sample(event, reading, judgement, at)
    looks = [(each.at, Look(each.look)) for each in (*earlier, sample)]
    verified = conclude(looks, judgement, plan.timing, deadline(event, plan) + behind)
    if verified.helped is None:
        return Move(delay_s=pause_s, rows=(sample,))
    to = Status.RESOLVED if verified.helped else Status.ESCALATED
    return Move(to=to, reason=verified.reason, rows=(sample,))


def _sample(event: SignalEvent, reading: Reading | None, judgement: Judgement, at: datetime) -> VerificationSample:
    return VerificationSample(
        event=event,
        at=at,
        value=reading.value if reading and measures(event.signal) else None,
        measured_at=reading.at if reading and reading.state is State.MEASURED else None,
        look=judgement.look,
        message=judgement.message,
    )


def _is_known(reading: Reading, earlier: Sequence[VerificationSample]) -> bool:
    """Whether an earlier look has seen this very measurement: one counts once, however often it is looked at."""
    seen = [sample.measured_at for sample in earlier if sample.measured_at is not None]
    return reading.state is State.MEASURED and bool(seen) and reading.at <= max(seen)


def measures(signal: str) -> bool:
    """Whether a look's value is one of the signal's. Where senders judge, it is the runbook's own: pods, yes or no."""
    known = CATALOG.get(signal)
    return known is None or known.sends_values


def conclude(looks: Sequence[tuple[datetime, Look]], latest: Judgement, timing: Timing, until: datetime) -> Verified:
    """Resolved takes `good_samples` good looks in a row, the first of them before the deadline. Pure."""
    if latest.hopeless:
        return Verified(False, f"It did not help: {latest.message}")
    streak = _good_streak(looks)
    if len(streak) >= timing.good_samples:
        return Verified(True, f"{len(streak)} good looks in a row; the latest: {latest.message}")
    at = looks[-1][0]
    if at < until or (streak and streak[0] <= until):
        return Verified(None)
    if latest.look is Look.INCONCLUSIVE:
        return Verified(False, f"Could not verify within {timing.verify_deadline_s:g} s: {latest.message}")
    return Verified(False, f"It did not help within {timing.verify_deadline_s:g} s: {latest.message}")


def _good_streak(looks: Sequence[tuple[datetime, Look]]) -> list[datetime]:
    """The times of the good looks since the last one that was not good."""
    streak: list[datetime] = []
    for at, judged in looks:
        streak = [*streak, at] if judged is Look.GOOD else []
    return streak


def _since(event: SignalEvent) -> datetime:
    """When the last action ended: only what is seen after it counts."""
    done = AgentAction.objects.filter(event=event, plan_hash=event.plan_hash, dry_run=False)
    latest = done.order_by("-finished_at").values_list("finished_at", flat=True).first()
    return latest or event.acted_at or event.detected_at


def deadline(event: SignalEvent, plan: Plan) -> datetime:
    return _since(event) + timedelta(seconds=plan.timing.verify_deadline_s)


def _behind(event: SignalEvent) -> timedelta:
    """How long after a change its source can tell of it: the deadline is for the change, not for the vendor."""
    row = Source.objects.filter(slug=event.source).first()
    source = SOURCES.get(row.kind) if row else None
    if row is None or not isinstance(source, MetricSource):
        return timedelta(0)
    try:
        return timedelta(seconds=source.behind_s(row.options, event.signal))
    except Permanent:  # its options are none (any more): the look itself says so
        return timedelta(0)


def _look_once(
    event: SignalEvent, runbook: Runbook, view: EventView, plan: Plan, at: datetime
) -> tuple[Reading | None, Judgement]:
    try:
        underway = _underway(event, runbook, view, plan)
        if underway is not None:
            return None, underway
        reading = _of_the_past(_reread(event, runbook, view, at), at)
    except (Temporary, Permanent) as error:
        return None, Judgement(Look.INCONCLUSIVE, f"the source could not be read: {error}")
    if reading is not None and reading.state is State.MEASURED and reading.at < _since(event):
        return reading, Judgement(Look.INCONCLUSIVE, "the latest measurement began before the last action ended")
    if reading is not None and reading.state is State.RESOLVED:
        return reading, Judgement(Look.GOOD, f"{view.source} reports that it is over")
    if reading is not None and reading.state is State.FIRING and reading.value is None:
        return reading, Judgement(Look.BAD, f"{view.source} still reports it")
    return reading, runbook.judge(view, reading, plan.timing)


def _of_the_past(reading: Reading | None, at: datetime) -> Reading | None:
    """Raises Permanent for another: by such a clock, what was measured before the fix would count as measured after."""
    if reading is not None and reading.at > at + FUTURE_SKEW:
        raise Permanent("its measurement lies in the future: a clock is wrong")
    return reading


def _underway(event: SignalEvent, runbook: Runbook, view: EventView, plan: Plan) -> Judgement | None:
    """What to say while the change is not complete; None once it is, or where a change is complete at once."""
    if not isinstance(runbook, RollsOut):
        return None
    found = runbook.progress(view, plan, _since(event))
    if found.state is ProgressState.COMPLETE:
        return None
    if found.state is ProgressState.STUCK:
        return Judgement(Look.BAD, f"it is stuck: {found.message}", hopeless=True)
    return Judgement(Look.INCONCLUSIVE, f"it is progressing: {found.message}")


def _reread(event: SignalEvent, runbook: Runbook, view: EventView, at: datetime) -> Reading | None:
    """From where the signal came, or from the resource itself, or else by the sender's own word."""
    row = Source.objects.filter(slug=event.source).first()
    source = SOURCES.get(row.kind) if row else None
    if row is not None and isinstance(source, PollSource):
        config = config_of(row)
        try:
            return source.reread(config, view.signal, view.resource, at)
        finally:
            spent(row.slug, config.progress, at=at)
    if runbook.can_reread(view):
        return runbook.reread(view, at)
    if reports_end(view) and event.cleared_at is not None:
        return Reading(signal=view.signal, resource=view.resource, at=event.cleared_at, state=State.RESOLVED)
    return None
