"""What the examples in clusters share: a workload `shop/cart`, and one action whose effect is waited for."""

from collections.abc import Sequence
from typing import Any

import msgspec

from byteport.core.resource import ResourceRef
from incidents.record import Entry, Look, Record
from incidents.trend import Points
from runbooks.runbook import EventView, Plan, Runbook
from signals.catalog import CATALOG
from tests.incidents.examples.base import START, TIMING, at, deed, gate
from tests.incidents.examples.cleanup_logs import CLEANUP_LOGS

CART = ResourceRef("kubernetes", "prod", "deployment", "cart", "shop")
TOOK_S = 0.4
UNMEASURED = Points()


def view(number: int, signal: str, resource: ResourceRef, **more: Any) -> EventView:
    known = {"detail": "", "severity": "critical", "value": None, "threshold": None, "source": "kubernetes", **more}
    return EventView(id=number, signal=signal, resource=resource, detected_at=START, **known)


def treated(
    event: EventView,
    runbook: Runbook,
    found: msgspec.Struct,
    *,
    fired: str,
    changes: Sequence[str],
    waited: Sequence[tuple[float, str]] = (),
    good: str,
    ended_s: float,
    trend: Points = UNMEASURED,
    **more: Any,
) -> Record:
    """Diagnosed and planned by the runbook itself from what it `found`; then all goes well.

    `changes`: the fields that its action changed. `waited`: what was seen of the rollout, by seconds after detection.
    """
    known = CATALOG[event.signal]
    diagnosis = runbook.diagnose(event, msgspec.to_builtins(found))
    plan = runbook.plan(event, diagnosis, msgspec.structs.replace(TIMING, clear=known.clear))
    assert isinstance(plan, Plan)
    step, label, ended = plan.steps[0], event.resource.label, f"3 good looks in a row; the latest: {good}"
    where = f"byteport.io/auto-remediate of namespace {event.resource.namespace} in {event.resource.place}"
    told = f"{label} was changed: {'; '.join(changes)}"
    more = {"value_last": None, **more}
    return msgspec.structs.replace(
        CLEANUP_LOGS,
        id=event.id, signal=event.signal, title=known.title, unit=known.unit, label=label, resource=str(event.resource),
        source=event.source, severity=event.severity, reason=ended, resolved_at=at(ended_s), value_then=event.value,
        threshold=event.threshold, clear=known.clear, judged_by_value=known.sends_values, runbook=runbook.name,
        diagnosis=diagnosis, plan=plan,
        timeline=(
            Entry(at(0), event.source, "detected", fired),
            Entry(at(1), "byteport", "diagnosed", f"{diagnosis.inference} Plan: {plan.summary}"),
            Entry(at(2), "byteport", "acting", f"Every gate allows it: {plan.summary}"),
            Entry(at(3), "byteport", "verifying", "All 1 steps were gone through; now their effect is looked at."),
            *(Entry(at(seconds), "byteport", "note", message) for seconds, message in waited),
            Entry(at(ended_s), "byteport", "resolved", ended),
        ),
        gates=(
            *CLEANUP_LOGS.gates[:3],
            gate("opt_in", f"Opted in to `{known.opt_in}` ({where}: {known.opt_in})."),
            *CLEANUP_LOGS.gates[4:],
        ),
        deeds=(deed(step.summary, step.action, 2.5, TOOK_S, "done", told, changes=list(changes)),),
        looks=tuple(Look(at(ended_s - back), more["value_last"], "good", good) for back in (20, 10, 0)),
        earlier=(), earlier_count=0, trend=trend,
        **more,
    )  # fmt: skip
