"""memory_pressure: a service that leaks beside a database, and is restarted."""

import msgspec

from byteport.core.resource import ResourceRef
from incidents.record import Entry, Look, Record
from incidents.trend import Point, Points
from runbooks.library import rolling_restart
from runbooks.runbook import EventView, Plan
from tests.incidents.examples.base import START, TIMING, at, deed, gate
from tests.incidents.examples.cleanup_logs import CLEANUP_LOGS

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


EXAMPLE = memory_pressure()
