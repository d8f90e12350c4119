"""One incident: what happened, why, what was done about it; and the word of an operator on its plan."""

from collections.abc import Sequence

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST, require_safe

from byteport.core.clock import now
from incidents import operate, queries, trend
from incidents.handover import handed
from incidents.record import advice_for, clear_threshold
from incidents.roles import Deed
from incidents.views.page import actor, carry_out, go_back, only_for, show, signed_in
from incidents.views.story import is_for_information, progress, story
from runbooks.runbook import Diagnosis, ManualStep
from runbooks.stage import diagnosis_of, plan_of
from signals.models import SignalEvent, Status

LIVELY_S, CALM_S = 3, 15  # seconds between two updates: while the loop is at it, and at rest
AT_REST = (Status.ESCALATED, Status.SIMULATED, Status.AWAITING_APPROVAL)


@require_safe
@signed_in
def incident(request: HttpRequest, pk: int) -> HttpResponse:
    event, at = get_object_or_404(SignalEvent, pk=pk), now()
    record, plan, diagnosis = (
        queries.record_of(event),
        plan_of(event),
        diagnosis_of(event),
    )
    context = {
        "event": event,
        "record": record,
        "plan": plan,
        "diagnosis": diagnosis,
        "stages": progress(event, record, plan),
        "story": story(record),
        "trend": drawn_trend(event),
        "no_samples": trend.NO_SAMPLES,
        "manual_steps": manual_steps(event, diagnosis),
        "poll_s": poll_s(event),
        "handed": handed(event, at),
        "for_information": is_for_information(event),
        "can_be_ended": event.status in operate.ENDED_BY_HAND and event.cleared_at is None,
        "at": at,
    }
    return show(request, "incident", context)


def drawn_trend(event: SignalEvent) -> SafeString | None:
    """The value's course from before detection to the end, or to now; None where no samples are kept of it."""
    points, marks = trend.points_of(event), trend.marks_of(event)
    if not points.points:
        return None
    return trend.svg(points, threshold=event.threshold, clear=clear_threshold(event), marks=marks)


def poll_s(event: SignalEvent) -> int:
    """Seconds until an open page looks again; 0: the record is complete."""
    if event.status == Status.RESOLVED and event.postmortem_final:
        return 0
    return CALM_S if event.status in AT_REST else LIVELY_S


def manual_steps(event: SignalEvent, diagnosis: Diagnosis | None) -> Sequence[ManualStep]:
    """What a person who has taken over could do, from the runbook; nothing while BytePort is at it."""
    return advice_for(event, diagnosis) if event.status == Status.ESCALATED else ()


@require_POST
@only_for(Deed.APPROVE)
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    plan_hash = request.POST.get("plan_hash", "")
    carry_out(
        request,
        lambda: operate.approve(pk, actor=actor(request), plan_hash=plan_hash),
        f"You approved the plan of incident {pk}. BytePort goes on within seconds.",
    )
    return go_back(request, "incident", pk)


@require_POST
@only_for(Deed.APPROVE)
def refuse(request: HttpRequest, pk: int) -> HttpResponse:
    why, plan_hash = request.POST.get("why", "").strip(), request.POST.get("plan_hash", "")
    if not why:
        messages.error(request, "Say why you refuse the plan: it is what the next person reads.")
        return go_back(request, "incident", pk)
    carry_out(
        request,
        lambda: operate.refuse(pk, actor=actor(request), why=why, plan_hash=plan_hash),
        f"You refused the plan of incident {pk}. It is handed to people now.",
    )
    return go_back(request, "incident", pk)


@require_POST
@only_for(Deed.SIGNAL)
def end(request: HttpRequest, pk: int) -> HttpResponse:
    why = request.POST.get("why", "").strip()
    if not why:
        messages.error(request, "Say why it is over: it is what the next person reads.")
        return go_back(request, "incident", pk)
    done = f"Incident {pk} ends within seconds. Should it fire again, that is a new one."
    carry_out(request, lambda: operate.end(pk, actor=actor(request), why=why), done)
    return go_back(request, "incident", pk)


@require_POST
@only_for(Deed.OPERATE)
def send_again(request: HttpRequest, pk: int, delivery: int) -> HttpResponse:
    done = f"What people have to be told of incident {pk} is tried again within seconds."
    carry_out(request, lambda: operate.send_again(delivery, actor=actor(request)), done)
    return go_back(request, "incident", pk)
