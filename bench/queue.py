"""How long a task waits, how many run per second: real workers on Django's database, which must be migrated.

Latency counts from the call of `enqueue` in autocommit, so it includes signing, INSERT and COMMIT, to the
first line of the task. `queue_floor` is PostgreSQL's own part in the same run: INSERT with NOTIFY on one bare
connection, wake-up and claim on another. Run it as a module (`python -m`), for a script here would take the
place of the standard library's queue.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from byteport import queue

STAMP = "tests.byteport.queue_tasks.stamp"
WORKER = """
import django; django.setup()
import tests.byteport.queue_tasks
from byteport.pool import run_workers
run_workers()
"""
GIVE_UP_S = 60.0
IDLE_TASKS, PACED_TASKS, BULK_TASKS = 200, 1000, 5000


def run(workers: int = 4) -> Iterator[dict[str, Any]]:
    """Yields one dictionary per figure; times in milliseconds."""
    yield {"name": "queue_floor", **_spread(_floor_ms(IDLE_TASKS))}
    with (
        tempfile.TemporaryDirectory() as folder,
        _worker_processes(workers, stamps := Path(folder, "stamps")),
    ):
        _latencies_ms(stamps, 4 * workers, per_second=50)  # each worker has run something
        yield {"name": "queue_latency_idle", **_spread(_latencies_ms(stamps, IDLE_TASKS, 25))}
        yield {"name": "queue_latency_200_per_s", **_spread(_latencies_ms(stamps, PACED_TASKS, 200))}
        yield {"name": "queue_throughput", "per_second": round(_throughput(stamps, BULK_TASKS))}


def _spread(times_ms: list[float]) -> dict[str, float]:
    return {"median_ms": round(median(times_ms), 2), "p99_ms": round(quantiles(times_ms, n=100)[98], 2)}


def _latencies_ms(stamps: Path, count: int, per_second: float) -> list[float]:
    stamps.unlink(missing_ok=True)
    started_ns, begin = {}, time.monotonic()
    for task in range(count):
        time.sleep(max(0.0, begin + task / per_second - time.monotonic()))
        started_ns[task] = time.monotonic_ns()
        queue.enqueue(STAMP, task)
    return [(at_ns - started_ns[task]) / 1e6 for task, at_ns in _stamped(stamps, count)]


def _throughput(stamps: Path, count: int) -> float:
    stamps.unlink(missing_ok=True)
    queue.enqueue_many(STAMP, range(count))
    moments_ns = sorted(at_ns for _, at_ns in _stamped(stamps, count))
    return (count - 1) / (moments_ns[-1] - moments_ns[0]) * 1e9


def _stamped(stamps: Path, count: int) -> list[tuple[int, int]]:
    """(task, moment) of each of `count` tasks, once they have all run."""
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        lines = stamps.read_text().splitlines() if stamps.exists() else []
        if len(lines) >= count:
            return [(int(task), int(at_ns)) for task, at_ns, _ in map(str.split, lines)]
        time.sleep(0.1)
    raise TimeoutError(f"only {len(lines)} of {count} tasks ran within {GIVE_UP_S:.0f} s")


def _floor_ms(count: int) -> list[float]:
    giver, taker = queue.OwnConnection(), queue.OwnConnection(f"LISTEN {queue.CHANNEL}")
    given = {"queue": "bench-floor", "payloads": ["x" * 300], "dedup_keys": [None], "delay_s": 0.0}
    taken = {"queue": "bench-floor", "limit": 1, "lease_s": 60}
    times_ms = []
    for _ in range(count):
        begin = time.monotonic()
        giver.get().execute(queue._ENQUEUE, given)
        for _notice in taker.get().notifies(timeout=1.0, stop_after=1):
            pass
        taker.get().execute(queue._CLAIM, taken).fetchall()
        times_ms.append((time.monotonic() - begin) * 1e3)
    giver.get().execute("DELETE FROM queued_tasks WHERE queue = 'bench-floor'")
    giver.close()
    taker.close()
    return times_ms


@contextmanager
def _worker_processes(workers: int, stamps: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "DATABASE_URL": _database_url(),
        "BYTEPORT_SECRET_KEY": settings.SECRET_KEY,
        "BYTEPORT_WORKERS": str(workers),
        "QUEUE_STAMPS": str(stamps),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent.parent), *sys.path]),
    }
    process = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _database_url() -> str:
    given = connection.settings_dict
    user, password, host = (quote(str(given[key] or ""), safe="") for key in ("USER", "PASSWORD", "HOST"))
    port = f":{given['PORT']}" if given["PORT"] else ""
    return f"postgresql://{user}:{password}@{host}{port}/{quote(given['NAME'])}"
