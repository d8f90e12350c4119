"""idle_in_transaction: three sessions that hold nothing, and one that holds work and commits it a little later."""

import msgspec

from byteport.clients.postgres.statements import DatabaseRow, SessionRow
from byteport.core.resource import ResourceRef
from incidents.record import Entry, Look, Record
from incidents.trend import Point, Points
from runbooks.library import terminate_idle_connections
from runbooks.runbook import EventView, Plan
from tests.incidents.examples.base import START, TIMING, at, deed, gate
from tests.incidents.examples.cleanup_logs import CLEANUP_LOGS

SHOP = ResourceRef("postgres", "prod", "database", "shop")
SHOP_EVENT = EventView(
    id=31, signal="idle_in_transaction", resource=SHOP, detail="", severity="warning", value=4.0, threshold=0.0,
    detected_at=START, source="postgres",
)  # fmt: skip
WORK = "it has uncommitted work (transaction id 748112); it holds RowExclusiveLock on orders"


def session(pid: int, minutes: float, **fields: object) -> SessionRow:
    values: dict[str, object] = {
        "user": "shop", "application": "sidekiq", "client": "10.20.0.14", "state": "idle in transaction",
        "backend_start": at(-5400), "state_change": at(-60 * minutes), "idle_s": 60 * minutes, "transaction_s": None,
        "xid": None, "xmin_age": None, "blocks": 0, "raw_query": b"SELECT * FROM carts WHERE id = 4711",
        "why_left": "", "total": 4, **fields,
    }  # fmt: skip
    return SessionRow(pid=pid, **values)  # type: ignore[arg-type]


def idle_in_transaction() -> Record:
    runbook = terminate_idle_connections.RUNBOOK
    row = DatabaseRow(
        database="shop", role="byteport_agent", sessions=4, writing=1, oldest_s=324, hidden=0, max_connections=100
    )
    writing = {"user": "ann", "application": "psql", "client": "10.20.0.7", "raw_query": b"UPDATE orders SET total = 0"}
    seen = (
        session(20911, 5.4, xmin_age=12_408, blocks=1),
        session(20914, 5.3),
        session(21077, 5.2),
        session(21190, 5.1, **writing, why_left=WORK),
    )
    address = {"host": "db.example.com", "port": "5432"}
    facts = msgspec.to_builtins(terminate_idle_connections.facts_of(300, row, seen, address))
    diagnosis = runbook.diagnose(SHOP_EVENT, facts)
    plan = runbook.plan(SHOP_EVENT, diagnosis, msgspec.structs.replace(TIMING, clear=1))
    assert isinstance(plan, Plan)
    good, left = "no session is idle in a transaction for too long", f"1 session left: pid 21190 of ann (psql): {WORK}"
    ended = f"3 good looks in a row; the latest: {good}"
    points = [*((seconds, 0) for seconds in range(-1800, 0, 60)), (0, 4), (10, 1), (40, 1), (50, 0), (60, 0), (70, 0)]
    return msgspec.structs.replace(
        CLEANUP_LOGS,
        id=31, signal="idle_in_transaction", title="Idle in transaction", unit="sessions", label=SHOP.label,
        resource=str(SHOP), source="postgres", reason=ended, resolved_at=at(70), value_then=4, value_last=0,
        threshold=0, clear=1, runbook=runbook.name, diagnosis=diagnosis, plan=plan,
        timeline=(
            Entry(at(0), "postgres", "detected", "4.0 is above the threshold of 0."),
            Entry(at(1), "byteport", "diagnosed", f"{diagnosis.inference} Plan: {plan.summary}"),
            Entry(at(2), "byteport", "acting", f"Every gate allows it: {plan.summary}"),
            Entry(at(4), "byteport", "verifying", "All 1 steps were gone through; now their effect is looked at."),
            Entry(at(70), "byteport", "resolved", ended),
        ),
        gates=(
            *CLEANUP_LOGS.gates[:3],
            gate("opt_in", f"Opted in to `connections` (byteport.auto_remediate of {SHOP.label}: connections)."),
            *CLEANUP_LOGS.gates[4:],
        ),
        deeds=(
            deed(
                plan.steps[0].summary, plan.steps[0].action, 2.6, 0.3, "done",
                "ended 3 sessions (pid 20911, 20914, 21077)", ended=3, left=0, gone=0, why_left={},
            ),
        ),
        looks=(
            Look(at(40), 1, "bad", left), Look(at(50), 0, "good", good), Look(at(60), 0, "good", good),
            Look(at(70), 0, "good", good),
        ),
        earlier=(), earlier_count=0,
        trend=Points(tuple(Point(at(seconds), value, value, value) for seconds, value in points), "sessions"),
    )  # fmt: skip


EXAMPLE = idle_in_transaction()
