"""The safe action executor: gates, approval, and one write-ahead step of the plan a call."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import uuid4

from django.db import IntegrityError, connection, transaction

from byteport.core.clock import now
from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.action import ACTIONS, Action, ActionCall, ProbeState, Rehearsed
from runbooks.facts import LiveReads, gather
from runbooks.guards import Then, Verdict, decide, evaluate
from runbooks.models import STARTED, AgentAction, Approval, GateVerdict
from runbooks.policy import agent_settings
from runbooks.runbook import RUNBOOKS, Diagnosis, Plan, Runbook, Step, StepKind
from runbooks.stage import Move, diagnosis_of, plan_of, view_of
from signals.happening import Happening
from signals.lifecycle import LostClaimError
from signals.models import SignalEvent, Status
from signals.outgoing import publish

RECHECK_S = 15.0  # how often a plan that has to wait looks again
PROBE_AGAIN_S = 3.0
PUT_BACK_AGAIN_S = 60.0
PUT_BACK_PATIENCE = timedelta(days=1)

Known = tuple[Runbook, Diagnosis, Plan]


def begin(event: SignalEvent, at: datetime) -> Move:
    """Stage *diagnosed*: every gate is asked; then the plan begins, is simulated, waits, asks, or is handed over."""
    runbook, diagnosis, plan = parts(event)
    live = LiveReads(runbook, view_of(event), diagnosis)
    with transaction.atomic():
        _lock_budget(event.fleet)
        verdicts = evaluate(gather(event, runbook, diagnosis, plan, live, at))
        refusal = decide(verdicts)
        if refusal is None:
            # The reservation: from here on this run counts in every budget, though its first step is yet to come.
            SignalEvent.objects.filter(pk=event.pk).update(acted_at=at)
    rows = verdict_rows(event, verdicts, at)
    objection = rehearse(plan) if refusal is None or refusal.then is Then.ASK else ""
    if objection:
        return Move(to=Status.ESCALATED, reason=f"The dry run refuses the plan. {objection}", rows=rows)
    if refusal is None:
        return Move(to=Status.ACTING, reason=f"Every gate allows it: {plan.summary}", rows=rows)
    return _held_back(event, plan, refusal, rows, at)


def parts(event: SignalEvent) -> Known:
    """The event's runbook, diagnosis and frozen plan."""
    diagnosis, plan = diagnosis_of(event), plan_of(event)
    if diagnosis is None or plan is None or event.runbook not in RUNBOOKS:
        raise Permanent(f"The plan of event {event.pk} cannot be read (runbook {event.runbook!r}).")
    return RUNBOOKS[event.runbook], diagnosis, plan


def _lock_budget(fleet: str) -> None:
    """One decision at a time in a fleet, until the transaction ends: two that look at once would both see room."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"byteport.budget:{fleet}"])


def _held_back(event: SignalEvent, plan: Plan, refusal: Verdict, rows: tuple[GateVerdict, ...], at: datetime) -> Move:
    if refusal.then is Then.SIMULATE:
        simulate(event, plan)
        reason = f"Dry-run: nothing was changed. BytePort would have done: {plan.summary}"
        return Move(to=Status.SIMULATED, reason=reason, rows=rows)
    if refusal.then is Then.WAIT:
        return Move(reason=refusal.reason, delay_s=_wait_s(refusal, at), rows=rows)
    if refusal.then is Then.ASK:
        return _ask(event, refusal, rows, at)
    return Move(to=Status.ESCALATED, reason=f"The gate `{refusal.gate}` refused. {refusal.reason}", rows=rows)


def _wait_s(refusal: Verdict, at: datetime) -> float:
    """Not past the known end of what holds it back, and often enough to see an early end."""
    if refusal.until is None:
        return RECHECK_S
    return min(RECHECK_S, max((refusal.until - at).total_seconds(), 0.5))


def _ask(event: SignalEvent, refusal: Verdict, rows: tuple[GateVerdict, ...], at: datetime) -> Move:
    asked = Approval.objects.filter(event=event, plan_hash=event.plan_hash).first()
    if asked is not None:  # it was decided, and not in time or not with a yes
        return Move(to=Status.ESCALATED, reason=_no_approval(asked), rows=rows)
    ttl = timedelta(seconds=agent_settings().approval_ttl_s)
    request = Approval(event=event, plan_hash=event.plan_hash, requested_at=at, expires_at=at + ttl)
    return Move(to=Status.AWAITING_APPROVAL, reason=refusal.reason, delay_s=ttl.total_seconds(), rows=(*rows, request))


def await_approval(event: SignalEvent, at: datetime) -> Move:
    """Stage *awaiting approval*: back to the gates with a yes; to people with a no or none in time."""
    asked = Approval.objects.filter(event=event, plan_hash=event.plan_hash).first()
    if asked is None:
        raise Permanent(f"Event {event.pk} waits for an approval that was never asked for.")
    if asked.approved and asked.decided_at and asked.decided_at <= asked.expires_at:
        return Move(to=Status.DIAGNOSED, reason=f"Approved by {asked.decided_by}.")
    if asked.approved is None and at < asked.expires_at:
        return Move(delay_s=(asked.expires_at - at).total_seconds())
    return Move(to=Status.ESCALATED, reason=_no_approval(asked))


def _no_approval(asked: Approval) -> str:
    if asked.approved is False:
        return f"{asked.decided_by} refused the plan: {asked.why or 'no reason was given'}."
    if asked.approved and asked.decided_at:
        return f"The plan was approved at {asked.decided_at:%Y-%m-%d %H:%M:%S} UTC; that is too long ago to act on it."
    return f"Nobody approved the plan by {asked.expires_at:%H:%M:%S} UTC; the request has lapsed."


def step(event: SignalEvent, at: datetime) -> Move:
    """Stage *acting*: carries out the plan's next step, or finds out what became of the one that was begun."""
    runbook, diagnosis, plan = parts(event)
    rows = {row.step: row for row in AgentAction.objects.filter(event=event, plan_hash=event.plan_hash, dry_run=False)}
    for planned in plan.steps:
        row = rows.get(planned.key)
        if row is None and planned.kind is StepKind.PUT_BACK:
            return _put_back(event, planned)
        if row is None:
            return _begin_step(event, (runbook, diagnosis, plan), planned, at)
        if row.status == STARTED and planned.kind is StepKind.PUT_BACK:
            return _find_out(row, _held_by_the_kill_switch)
        if row.status == STARTED:
            return _find_out(row, lambda row: _held_by_a_gate(event, (runbook, diagnosis, plan), row, at))
    return _after_last(plan, rows)


def _begin_step(event: SignalEvent, known: Known, planned: Step, at: datetime) -> Move:
    """Asks every gate once more, with the opt-in read at this moment, writes ahead, and only then acts."""
    verdicts = _asked_once_more(event, known, at)
    refusal = decide(verdicts)
    if refusal is not None:
        return _stopped(event, refusal, verdict_rows(event, verdicts, at), at)
    return _carry_out(_write_ahead(event, planned))


def _asked_once_more(event: SignalEvent, known: Known, at: datetime) -> tuple[Verdict, ...]:
    runbook, diagnosis, plan = known
    live = LiveReads(runbook, view_of(event), diagnosis)
    return evaluate(gather(event, runbook, diagnosis, plan, live, at))


def _stopped(event: SignalEvent, refusal: Verdict, rows: tuple[GateVerdict, ...], at: datetime) -> Move:
    """A plan that has begun and may not go on: it waits where waiting can help, or else a person takes over."""
    if refusal.then is Then.WAIT:
        return Move(reason=f"Stopped between two steps. {refusal.reason}", delay_s=_wait_s(refusal, at), rows=rows)
    reason = f"Stopped between two steps: the gate `{refusal.gate}` refused. {refusal.reason}"
    return Move(to=Status.ESCALATED, reason=reason, rows=rows)


def _write_ahead(event: SignalEvent, planned: Step) -> AgentAction:
    try:
        return AgentAction.objects.create(
            event=event,
            uid=uuid4(),
            plan_hash=event.plan_hash,
            step=planned.key,
            action=planned.action,
            target=planned.target,
            params=planned.params,
            summary=planned.summary,
            dry_run=False,
            started_at=now(),
        )
    except IntegrityError as error:
        raise LostClaimError(f"step {planned.key} of event {event.pk} was begun by another worker") from error


def _carry_out(row: AgentAction) -> Move:
    """Makes the call and completes its row. A Temporary leaves it `started`: the next call probes."""
    action, call = action_of(row), call_of(row)
    try:
        outcome = action.execute(call)
    except Refused as error:
        _complete(row, ActionOutcome(Result.REFUSED, error.reason))
        return Move(to=Status.ESCALATED, reason=f"The fence refused {row.action}: {error.reason}")
    except Permanent as error:
        outcome = ActionOutcome(Result.FAILED, str(error))
    _complete(row, outcome)
    return Move()


def _find_out(row: AgentAction, held: Callable[[AgentAction], Move | None]) -> Move:
    """A row that was left `started`: look what happened; never simply do it again. Where nothing has happened yet, it
    is carried out now, unless it is `held`: hours may have passed since the gates were asked."""
    probe = action_of(row).probe(call_of(row), row.started_at)
    if probe.state is ProbeState.ABSENT:
        return held(row) or _carry_out(row)
    if probe.state is ProbeState.RUNNING:
        return Move(delay_s=PROBE_AGAIN_S)
    outcome = probe.outcome or ActionOutcome(Result.UNKNOWN, probe.message or "Nobody can tell whether it finished.")
    _complete(row, outcome)
    return Move()


def _held_by_a_gate(event: SignalEvent, known: Known, row: AgentAction, at: datetime) -> Move | None:
    """What the gates have against it by now. Unless that passes, it will not be carried out any more."""
    verdicts = _asked_once_more(event, known, at)
    refusal = decide(verdicts)
    if refusal is None:
        return None
    if refusal.then is not Then.WAIT:
        _complete(row, ActionOutcome(Result.REFUSED, f"It was cut off before it was carried out. {refusal.reason}"))
    return _stopped(event, refusal, verdict_rows(event, verdicts, at), at)


def _after_last(plan: Plan, rows: dict[str, AgentAction]) -> Move:
    fixes = [rows[planned.key] for planned in plan.steps if planned.kind is StepKind.FIX]
    if any(row.status in (Result.DONE, Result.UNKNOWN) for row in fixes):
        return Move(
            to=Status.VERIFYING,
            reason=f"All {len(plan.steps)} steps were gone through; now their effect is looked at.",
            delay_s=plan.timing.verify_delay_s,
        )
    failures = "; ".join(f"{row.summary}: {row.message}" for row in fixes)
    return Move(to=Status.ESCALATED, reason=f"No step could be carried out. {failures}")


def owed(event: SignalEvent) -> Step | None:
    """What a plan that was cut off has yet to put back; None when there is nothing, or no longer."""
    plan = plan_of(event) if event.acted_at else None
    last = [planned for planned in plan.steps if planned.kind is StepKind.PUT_BACK] if plan else []
    if not last:
        return None
    rows = AgentAction.objects.filter(event=event, plan_hash=event.plan_hash, dry_run=False)
    status = dict(rows.values_list("step", "status"))
    begun = set(status) - {planned.key for planned in last}
    open_ones = (planned for planned in last if status.get(planned.key, STARTED) == STARTED)
    return next(open_ones, None) if begun else None


def put_back(event: SignalEvent, at: datetime) -> Move:
    """Stage *escalated*: people have it; what the plan owes is put back all the same, as often as it takes."""
    planned = owed(event)
    if planned is None:
        return Move()
    row = AgentAction.objects.filter(event=event, plan_hash=event.plan_hash, step=planned.key, dry_run=False).first()
    try:
        move = _find_out(row, _held_by_the_kill_switch) if row else _put_back(event, planned)
    except Temporary as error:
        if row and event.escalated_at and at > event.escalated_at + PUT_BACK_PATIENCE:
            _complete(row, ActionOutcome(Result.UNKNOWN, f"Given up without knowing how it ended: {error}"))
        return Move(delay_s=PUT_BACK_AGAIN_S)
    return Move(delay_s=move.delay_s)


def _put_back(event: SignalEvent, planned: Step) -> Move:
    """It only takes back what BytePort did itself, so that no gate stands in its way but the kill switch."""
    return _held_by_the_kill_switch() or _carry_out(_write_ahead(event, planned))


def _held_by_the_kill_switch(row: AgentAction | None = None) -> Move | None:
    if not agent_settings().paused:
        return None
    return Move(reason="BytePort is paused: what it changed is put back when it goes on.", delay_s=RECHECK_S)


def _complete(row: AgentAction, outcome: ActionOutcome) -> None:
    """Completes the row, once. Somebody who probed it may have been first; their finding stands."""
    at = now()
    fields = {"status": outcome.result, "message": outcome.message, "result": outcome.data, "finished_at": at}
    with transaction.atomic():
        if AgentAction.objects.filter(pk=row.pk, status=STARTED).update(**fields):
            publish(Happening.ACTED, [row.event_id], at, [row.pk])


def rehearse(plan: Plan) -> str:
    """Has the platform itself judge each step that it can judge beforehand. What it has against it, or nothing."""
    for planned in plan.steps:
        action = ACTIONS[planned.action]
        if isinstance(action, Rehearsed) and action.rehearsed:
            call = ActionCall(str(uuid4()), planned.action, ResourceRef.parse(planned.target), planned.params)
            outcome = _simulated(action, call)
            if outcome.result in (Result.FAILED, Result.REFUSED):
                return f"{planned.summary}: {outcome.message}"
    return ""


def simulate(event: SignalEvent, plan: Plan) -> None:
    """Runs every step as the platform's own dry run and keeps what it would have done."""
    for planned in plan.steps:
        uid = uuid4()
        call = ActionCall(str(uid), planned.action, ResourceRef.parse(planned.target), planned.params)
        started_at = now()
        outcome = _simulated(ACTIONS[planned.action], call)
        AgentAction.objects.get_or_create(
            event=event,
            plan_hash=event.plan_hash,
            step=planned.key,
            dry_run=True,
            defaults={
                "uid": uid,
                "action": planned.action,
                "target": planned.target,
                "params": planned.params,
                "summary": planned.summary,
                "status": outcome.result,
                "message": outcome.message,
                "result": outcome.data,
                "started_at": started_at,
                "finished_at": now(),
            },
        )


def _simulated(action: Action, call: ActionCall) -> ActionOutcome:
    try:
        return action.simulate(call)
    except Refused as error:
        return ActionOutcome(Result.REFUSED, error.reason)
    except Permanent as error:
        return ActionOutcome(Result.FAILED, str(error))


def action_of(row: AgentAction) -> Action:
    return ACTIONS[row.action]


def call_of(row: AgentAction) -> ActionCall:
    return ActionCall(str(row.uid), row.action, ResourceRef.parse(row.target), row.params)


def verdict_rows(event: SignalEvent, verdicts: tuple[Verdict, ...], at: datetime) -> tuple[GateVerdict, ...]:
    """This round's verdicts as rows, unless they are those of the round before."""
    latest = GateVerdict.objects.filter(event=event).order_by("-round").values_list("round", flat=True).first() or 0
    before = GateVerdict.objects.filter(event=event, round=latest).values_list("gate", "allowed", "reason")
    if list(before) == [(verdict.gate, verdict.allowed, verdict.reason) for verdict in verdicts]:
        return ()
    return tuple(
        GateVerdict(
            event=event,
            round=latest + 1,
            ordinal=ordinal,
            gate=verdict.gate,
            allowed=verdict.allowed,
            reason=verdict.reason,
            at=at,
        )
        for ordinal, verdict in enumerate(verdicts)
    )
