"""Records as they could be, for the examples in `docs/examples/` and the tests that start from them."""

from datetime import UTC, datetime, timedelta

import msgspec

from byteport.clients.postgres.statements import DatabaseRow, SessionRow
from byteport.core.resource import ResourceRef
from incidents.record import Deed, Earlier, Entry, Gate, Look, Record
from incidents.trend import Point, Points
from runbooks.library import rolling_restart, terminate_idle_connections
from runbooks.runbook import Diagnosis, EventView, ManualStep, Plan, Step, Timing

START = datetime(2026, 3, 1, 3, 12, 40, tzinfo=UTC)
RESOURCE = "host/web-1/mount/%2Fvar"
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=80)


def at(seconds: float) -> datetime:
    """So many seconds after detection."""
    return START + timedelta(seconds=seconds)


def course() -> Points:
    """A disk that fills by 7.2 percentage points an hour, is cleaned up 5 s after detection, and stays at 71 %."""
    before = [(seconds, 91.2 + seconds * 0.002) for seconds in range(-1800, 1, 30)]
    values = [*before, (10, 84.0), (20, 71.4), (40, 71.3), (50, 71.3), (60, 71.4)]
    return Points(tuple(Point(at(seconds), value, value, value) for seconds, value in values), "%")


def gate(name: str, reason: str) -> Gate:
    return Gate(1, name, True, reason, at(2))


def deed(summary: str, action: str, begun: float, took: float, status: str, message: str, **result: object) -> Deed:
    return Deed(
        name=action,
        summary=summary,
        dry_run=False,
        status=status,
        message=message,
        result=result,
        started_at=at(begun),
        finished_at=at(begun + took),
    )


STEPS = (
    Step("journal", "host.journal_vacuum", RESOURCE, "Vacuum the system journal to 50 MB"),
    Step("rotated_logs", "host.delete_rotated_logs", RESOURCE, "Delete *.gz below the log folder older than 7 days"),
    Step("containers", "host.container_prune", RESOURCE, "Prune unused container images and artefacts"),
)
PLAN = Plan("cleanup_logs", "vacuum the journal; delete old rotated logs; prune containers.", STEPS, TIMING)

CLEANUP_LOGS = Record(
    id=12,
    signal="disk_pressure",
    title="Disk pressure",
    unit="%",
    label="/var on web-1",
    resource=RESOURCE,
    source="host",
    severity="warning",
    status="resolved",
    resolved_by="byteport",
    reason="3 good looks in a row; the latest: 71.4 % used, below 80 %",
    detected_at=at(0),
    acted_at=at(2),
    resolved_at=at(60),
    value_then=91.2,
    value_last=71.4,
    threshold=85,
    clear=80,
    runbook="cleanup_logs",
    diagnosis=Diagnosis(
        evidence=(
            "/var on web-1 is 91.2 % full (36.5 GB of 40.0 GB; ext4 on /dev/vda2).",
            "42 rotated logs older than 7 days: 6.1 GB.",
            "The system journal takes 1.6 GB.",
            "Among the biggest files in the log folder: /var/log/shop/access.log.3.gz, 2.1 GB.",
        ),
        inference="6.1 GB in old logs and stale temporary files can be freed.",
        confident=False,
        facts={"mount": {"total_bytes": 40_000_000_000}},
    ),
    plan=PLAN,
    timeline=(
        Entry(at(0), "host", "detected", "91.2 is above the threshold of 85, for 60 s on end."),
        Entry(at(1), "byteport", "diagnosed", f"6.1 GB can be freed. Plan: {PLAN.summary}"),
        Entry(at(2), "byteport", "acting", f"Every gate allows it: {PLAN.summary}"),
        Entry(at(10), "byteport", "verifying", "All 3 steps were gone through; now their effect is looked at."),
        Entry(at(60), "byteport", "resolved", "3 good looks in a row; the latest: 71.4 % used, below 80 %"),
    ),
    gates=(
        gate("paused", "BytePort is not paused."),
        gate("never", "The plan holds nothing that BytePort must never do."),
        gate("verifiable", "The signal can be read again after the action."),
        gate("opt_in", "Opted in to `disk` (/etc/byteport/annotations of web-1: disk)."),
        gate("human_override", "Nobody else has changed the resource since detection."),
        gate("dry_run", "Dry-run is off."),
        gate("maintenance_window", "No maintenance window covers it."),
        gate("cooldown", "It did not run on this resource within the cooldown."),
        gate("ineffective_loop", "Earlier fixes of this resource have lasted, or there were none."),
        gate("budget", "Within the budgets."),
        gate("approval", "The policy asks for no approval."),
    ),
    deeds=(
        deed(
            STEPS[0].summary, STEPS[0].action, 2.4, 3.1, "done", "freed 1.5 GB",
            usage_bytes=1_600_000_000, freed_bytes=1_547_000_000,
        ),
        deed(
            STEPS[1].summary, STEPS[1].action, 5.7, 3.9, "done", "deleted 41 of 42 files, 6.1 GB",
            folder="/var/log", found={"files": 42, "bytes": 6_150_000_000},
            deleted={"files": 41, "bytes": 6_120_000_000}, left={"open": 1}, errors={},
        ),
        deed(
            STEPS[2].summary, STEPS[2].action, 9.7, 0.2, "skipped", "neither docker nor crictl is installed here",
        ),
    ),
    looks=(
        Look(at(40), 71.3, "good", "71.3 % used, below 80 %"),
        Look(at(50), 71.3, "good", "71.3 % used, below 80 %"),
        Look(at(60), 71.4, "good", "71.4 % used, below 80 %"),
    ),
    earlier=(Earlier(9, at(-9 * 86_400), "byteport"), Earlier(4, at(-20 * 86_400), "byteport")),
    earlier_count=2,
    trend=course(),
    base_url="https://byteport.example.com",
)  # fmt: skip

ADVICE = (
    ManualStep("See what takes the space on /var on web-1", "du -xh --max-depth=2 -- /var | sort -rh | head -25"),
    ManualStep("Look for files that were deleted but are still held open", "lsof -nP +L1 -- /var"),
    ManualStep("Delete what is no longer needed, then check", "df -h -- /var && df -i -- /var"),
)


# --- idle_in_transaction: three sessions that hold nothing, and one that holds work and commits it a little later

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


TERMINATE_IDLE_CONNECTIONS = idle_in_transaction()


# --- memory_pressure: a service that leaks beside a database, and is restarted

MEMORY = ResourceRef("host", "web-1", "memory", "memory")
MEMORY_EVENT = EventView(
    id=33, signal="memory_pressure", resource=MEMORY, detail="", severity="warning", value=93.6, threshold=90.0,
    detected_at=START, source="host",
)  # fmt: skip
GB = 1_000_000_000


def held_by(name: str, pid: int, size_gb: float, grown_gb: float = 0.0, **more: object) -> dict[str, object]:
    """A unit that has come to hold so much within the last hour."""
    course = [(seconds, (size_gb + grown_gb * seconds / 3600) * GB) for seconds in range(-3600, 1, 60)]
    biggest = {"pid": pid, "started": 100 * pid, "comm": name.split(".", maxsplit=1)[0], "rss_bytes": int(size_gb * GB)}
    known = {"kind": "unit", "name": name, "rss_bytes": int(size_gb * GB), "biggest": biggest, "oom_score_adj": 0}
    return {**known, "processes": 4, "course": course, **more}


def memory_facts() -> dict[str, object]:
    memory = {
        "total_bytes": 32 * GB, "available_bytes": int(2.05 * GB), "percent": 93.6, "cached_bytes": int(1.4 * GB),
        "shmem_bytes": int(0.3 * GB), "unreclaimable_bytes": int(0.6 * GB), "huge_pages_bytes": 0,
        "swap_total_bytes": 4 * GB, "swap_free_bytes": GB, "pressure": {"some_avg10": 18.4, "full_avg10": 6.2},
        "swapped_in_bytes_s": 9.4e6,
    }  # fmt: skip
    may = {"pid": 4120, "started": 412000, "title": "shop.service", "refusal": "", "unlabelled": False}
    holders = [
        held_by("shop.service", 4120, 14.2, 3.1, restart=may),
        held_by("postgresql@16-main.service", 911, 9.0, critical="postgres (911) is a database"),
        held_by("nginx.service", 1202, 0.9),
        held_by("node_exporter.service", 1310, 0.2),
    ]
    return {"memory": memory, "holders": holders, "others": {"consumers": 63, "rss_bytes": int(1.9 * GB)}}


def memory_pressure() -> Record:
    runbook = rolling_restart.RUNBOOK
    diagnosis = runbook.diagnose(MEMORY_EVENT, memory_facts())
    plan = runbook.plan(MEMORY_EVENT, diagnosis, msgspec.structs.replace(TIMING, clear=85))
    assert isinstance(plan, Plan)
    good = "52.1 % used, below 85 %"
    ended = f"3 good looks in a row; the latest: {good}"
    before = [(seconds, 93.6 + seconds * 0.0027) for seconds in range(-1800, 1, 30)]
    points = [*before, (10, 52.0), (40, 52.1), (50, 52.1), (60, 52.1)]
    protect, restart, put_back = plan.steps
    return msgspec.structs.replace(
        CLEANUP_LOGS,
        id=33, signal="memory_pressure", title="Memory pressure", label=MEMORY.label, resource=str(MEMORY),
        reason=ended, value_then=93.6, value_last=52.1, threshold=90, clear=85, runbook=runbook.name,
        diagnosis=diagnosis, plan=plan,
        timeline=(
            Entry(at(0), "host", "detected", "93.6 is above the threshold of 90, for 90 s on end."),
            Entry(at(1), "byteport", "diagnosed", f"{diagnosis.inference} Plan: {plan.summary}"),
            Entry(at(2), "byteport", "acting", f"Every gate allows it: {plan.summary}"),
            Entry(at(10), "byteport", "verifying", "All 3 steps were gone through; now their effect is looked at."),
            Entry(at(60), "byteport", "resolved", ended),
        ),
        gates=(
            *CLEANUP_LOGS.gates[:3],
            gate("opt_in", "Opted in to `memory` (/etc/byteport/annotations of web-1: memory)."),
            *CLEANUP_LOGS.gates[4:],
        ),
        deeds=(
            deed(
                protect.summary, protect.action, 2.4, 0.2, "done",
                "oom_score_adj lowered: nginx (1202): 0 → -300, node_exporter (1310): 0 → -300",
            ),
            deed(
                restart.summary, restart.action, 2.8, 5.6, "done", "restarted shop.service: 14200.0 MB → 910.4 MB",
                title="shop.service", percent_before=93.7, available_before_bytes=int(2.02 * GB),
                rss_before_bytes=int(14.2 * GB), percent_after=52.0, available_after_bytes=int(15.4 * GB),
                rss_after_bytes=int(0.91 * GB), main_process="20733, started at tick 9120455",
            ),
            deed(
                put_back.summary, put_back.action, 8.6, 0.2, "done",
                "oom_score_adj put back: nginx (1202): -300 → 0, node_exporter (1310): -300 → 0",
            ),
        ),
        looks=(Look(at(40), 52.1, "good", good), Look(at(50), 52.1, "good", good), Look(at(60), 52.1, "good", good)),
        earlier=(), earlier_count=0,
        trend=Points(tuple(Point(at(seconds), value, value, value) for seconds, value in points), "%"),
    )  # fmt: skip


ROLLING_RESTART = memory_pressure()
