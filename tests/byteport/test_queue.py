"""The task queue, with real worker processes on a real PostgreSQL; processes are killed for real. Nothing is
mocked.

Waits have a limit, so that a failure ends; no limit says how fast the queue must be.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from django.conf import settings
from django.db import connection, transaction
from django_q.models import Failure

from byteport import heartbeats, pulse, queue
from byteport.models import Heartbeat, QueuedTask
from tests.byteport import queue_tasks

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = "tests.byteport.queue_tasks"
RECORD, HOLD = f"{TASKS}.record", f"{TASKS}.hold_while_file_exists"
WORKER = f"""
import django; django.setup()
import {TASKS}
from byteport.pool import run_workers
run_workers()
"""
LIMIT_S = 120.0

pytestmark = pytest.mark.django_db(transaction=True)
Spawn = Callable[..., psutil.Popen]


@pytest.fixture(autouse=True)
def runs_table(transactional_db: None) -> Iterator[None]:
    execute(queue_tasks.TABLE)
    yield
    execute("DROP TABLE queue_runs")


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Where the task `stamp` writes."""
    return tmp_path / "stamps"


@pytest.fixture
def spawn_workers(runs_table: None, stamps: Path) -> Iterator[Spawn]:
    """Starts a pool of workers on the test database: `spawn_workers(workers=2, lease_s=300)`."""
    pools: list[psutil.Popen] = []

    def spawn(workers: int = 2, lease_s: int = 300) -> psutil.Popen:
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "BYTEPORT_SECRET_KEY": settings.SECRET_KEY,
            "BYTEPORT_WORKERS": str(workers),
            "QUEUE_STAMPS": str(stamps),
            "BYTEPORT_PULSE_DIR": str(stamps.parent),
            "BYTEPORT_TASK_LEASE_S": str(lease_s),
            "BYTEPORT_TASK_TIMEOUT_S": str(min(lease_s, 240)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        }
        pools.append(psutil.Popen([sys.executable, "-c", WORKER], env=environment, cwd=ROOT))
        return pools[-1]

    yield spawn
    for pool in pools:
        for process in (pool, *children(pool)):
            kill(process)
        pool.wait()


def database_url() -> str:
    given = connection.settings_dict
    user, password, host = (quote(str(given[key] or ""), safe="") for key in ("USER", "PASSWORD", "HOST"))
    port = f":{given['PORT']}" if given["PORT"] else ""
    return f"postgresql://{user}:{password}@{host}{port}/{quote(given['NAME'])}"


def execute(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def runs() -> list[tuple[int, int]]:
    """(task, pid) of each run so far, oldest first."""
    return [(task, pid) for task, pid in execute("SELECT task, pid FROM queue_runs ORDER BY at")]


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s; ran: {runs()[-20:]}"
        time.sleep(0.02)
    return answer


def has_run(task: int) -> bool:
    return bool(execute("SELECT 1 FROM queue_runs WHERE task = %s", task))


def is_empty() -> bool:
    return not QueuedTask.objects.exists()


def children(pool: psutil.Popen) -> list[psutil.Process]:
    return pool.children() if pool.is_running() else []


def kill(process: psutil.Process) -> None:
    if process.is_running():
        process.kill()


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def drop_all_other_connections() -> None:
    execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


def end_all_leases() -> None:
    execute("UPDATE queued_tasks SET visible_at = now() WHERE attempts > 0")
    execute("SELECT pg_notify(%s, '')", queue.CHANNEL)


# --- enqueueing


def test_a_committed_transaction_leaves_its_task_and_a_rolled_back_one_leaves_none() -> None:
    with transaction.atomic():
        queue.enqueue(RECORD, 1)
        transaction.set_rollback(True)
    assert is_empty()

    with transaction.atomic():
        queue.enqueue(RECORD, 2)
    assert QueuedTask.objects.count() == 1


def test_one_task_of_a_dedup_key_waits_and_the_earlier_time_holds(spawn_workers: Spawn) -> None:
    queue.enqueue(RECORD, 1, delay_s=3600, dedup_key="event:1")
    queue.enqueue(RECORD, 1, delay_s=7200, dedup_key="event:1")
    queue.enqueue_many(RECORD, [1, 2, 2], delay_s=0, dedup_prefix="event:")
    queue.enqueue(RECORD, 1, delay_s=60, dedup_key="event:1")

    assert QueuedTask.objects.count() == 2
    spawn_workers()
    wait_for(is_empty)
    assert sorted(task for task, _ in runs()) == [1, 2]


def test_a_task_of_the_same_key_may_be_enqueued_while_one_runs(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    spawn_workers(workers=1)
    queue.enqueue(HOLD, 1, str(gate), dedup_key="event:1")
    wait_for(lambda: has_run(1))
    queue.enqueue(RECORD, 2, dedup_key="event:1")
    gate.unlink()
    wait_for(lambda: has_run(2))


def test_a_package_that_carries_more_than_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="pass ids"):
        queue.enqueue(RECORD, "x" * 100_000)


# --- running


@pytest.mark.proof
def test_each_of_ten_thousand_tasks_runs_once_over_several_pools(spawn_workers: Spawn, stamps: Path) -> None:
    for _ in range(2):
        spawn_workers(workers=2)
    queue.enqueue_many(f"{TASKS}.stamp", range(10_000))
    wait_for(is_empty)

    lines = [line.split() for line in stamps.read_text().splitlines()]
    assert sorted(int(task) for task, _, _ in lines) == list(range(10_000))
    assert len({pid for _, _, pid in lines}) == 4


def test_a_delayed_task_is_not_early_and_at_most_a_poll_late(spawn_workers: Spawn) -> None:
    spawn_workers()
    queue.enqueue(RECORD, 0)
    wait_for(is_empty)
    enqueued_at = execute("SELECT clock_timestamp()")[0][0]
    queue.enqueue(RECORD, 1, delay_s=0.5)
    wait_for(lambda: has_run(1))

    waited_s = (execute("SELECT at FROM queue_runs WHERE task = 1")[0][0] - enqueued_at).total_seconds()
    assert 0.5 <= waited_s < 0.5 + queue.POLL_S + 1.0  # the last second is the machine's, were it busy


def test_no_task_waits_behind_a_long_one_while_another_worker_is_idle(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    spawn_workers(workers=1)
    queue.enqueue(HOLD, 0, str(gate))
    wait_for(lambda: has_run(0))
    queue.enqueue_many(RECORD, range(1, 20))
    time.sleep(0.5)
    assert len(runs()) == 1  # the only worker is busy, and its pool has taken nothing in reserve

    spawn_workers(workers=1)
    wait_for(lambda: len(runs()) == 20)
    gate.unlink()
    wait_for(is_empty)


def test_workers_that_are_told_to_stop_finish_what_they_began(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    pool = spawn_workers()
    queue.enqueue(HOLD, 1, str(gate))
    wait_for(lambda: has_run(1))
    pool.terminate()
    time.sleep(0.5)
    assert is_alive(pool)

    gate.unlink()
    assert pool.wait(LIMIT_S) == 0
    assert is_empty()
    assert not heartbeats.alive("worker")


def test_a_failure_with_a_very_long_message_is_recorded_and_done(spawn_workers: Spawn) -> None:
    spawn_workers()
    queue.enqueue(f"{TASKS}.fail_at_length", 1)
    wait_for(is_empty)
    assert [task for task, _ in runs()] == [1]
    assert "(cut)" in Failure.objects.get().result


# --- what dies, and what goes on


def test_a_task_whose_worker_was_killed_runs_again_after_its_lease(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    spawn_workers(lease_s=2)
    queue.enqueue(HOLD, 1, str(gate))
    wait_for(lambda: has_run(1))
    os.kill(runs()[0][1], signal.SIGKILL)
    gate.unlink()
    wait_for(is_empty)

    (first, second) = runs()
    assert first[0] == second[0] == 1
    assert first[1] != second[1]


def test_a_pool_goes_on_whichever_of_its_idle_processes_is_killed(spawn_workers: Spawn) -> None:
    pool = spawn_workers()
    queue.enqueue(RECORD, -1)
    wait_for(is_empty)
    for task, victim in enumerate(children(pool)):
        victim.kill()
        wait_for(lambda victim=victim: not victim.is_running() and len(children(pool)) == 4)
        queue.enqueue_many(RECORD, [task] * 5)
        wait_for(is_empty)
    assert len(runs()) == 1 + 4 * 5


def test_no_process_outlives_a_killed_sentinel(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    pool = spawn_workers()
    queue.enqueue(HOLD, 1, str(gate))
    wait_for(lambda: has_run(1))
    orphans = children(pool)
    assert len(orphans) == 4
    pool.kill()
    wait_for(lambda: not any(map(is_alive, orphans)))


def test_a_task_that_kills_its_workers_is_set_aside_and_others_run(spawn_workers: Spawn) -> None:
    spawn_workers()
    queue.enqueue(f"{TASKS}.kill_own_process", 1)
    attempts = settings.Q_CLUSTER["max_attempts"]
    for attempt in range(1, attempts + 1):
        wait_for(lambda attempt=attempt: len(runs()) == attempt)
        end_all_leases()
    queue.enqueue_many(RECORD, range(2, 10))
    wait_for(is_empty)

    assert len(runs()) == attempts + 8
    failure = Failure.objects.get()
    assert (failure.func, failure.args, failure.attempt_count) == (
        f"{TASKS}.kill_own_process",
        (1,),
        attempts,
    )


def test_workers_go_on_after_the_database_has_dropped_all_their_connections(spawn_workers: Spawn) -> None:
    pool = spawn_workers()
    queue.enqueue_many(RECORD, range(20))
    wait_for(is_empty)
    processes = children(pool)
    drop_all_other_connections()
    queue.enqueue_many(RECORD, range(20, 40))
    wait_for(is_empty)

    assert sorted(task for task, _ in runs()) == list(range(40))
    assert children(pool) == processes


def test_a_task_that_lost_the_database_half_way_runs_again(spawn_workers: Spawn, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    spawn_workers(workers=1, lease_s=3)
    queue.enqueue(f"{TASKS}.record_before_and_after", 1, str(gate))
    wait_for(lambda: has_run(1))
    drop_all_other_connections()
    gate.unlink()
    wait_for(is_empty)
    assert len(runs()) == 1 + 2


# --- leases


def test_a_late_acknowledgement_leaves_the_task_to_its_new_worker() -> None:
    slow, quick = queue.PostgresBroker(), queue.PostgresBroker()
    queue.enqueue(RECORD, 1)
    [(late_ack_id, _)] = slow.dequeue()
    end_all_leases()
    [(ack_id, _)] = quick.dequeue()

    slow.acknowledge(late_ack_id)
    assert QueuedTask.objects.count() == 1
    quick.acknowledge(ack_id)
    assert is_empty()


def test_a_task_is_leased_to_one_worker_only_and_counted_as_such() -> None:
    one, other = queue.PostgresBroker(), queue.PostgresBroker()
    queue.enqueue(RECORD, 1)
    queue.enqueue(RECORD, 2, delay_s=3600)
    assert (one.queue_size(), one.lock_size()) == (1, 0)
    assert len(one.dequeue()) == 1
    assert other.dequeue() == []
    assert (one.queue_size(), one.lock_size()) == (0, 1)


def test_a_package_that_nobody_can_read_is_set_aside_at_last() -> None:
    broker = queue.PostgresBroker()
    broker.enqueue("forged")
    for _ in range(settings.Q_CLUSTER["max_attempts"]):
        [(ack_id, _)] = broker.dequeue()
        broker.fail(ack_id)
        end_all_leases()
    assert broker.dequeue() == []
    assert is_empty()
    assert Failure.objects.get().name == "unreadable"


# --- heartbeats


def test_a_heartbeat_tells_who_is_alive_and_forgets_the_long_dead() -> None:
    heartbeats.heartbeat("watch", {"sources": 3})
    execute("UPDATE heartbeats SET process = 'watch@gone:1', seen_at = now() - interval '2 minutes'")
    execute(
        "INSERT INTO heartbeats (process, role, seen_at, detail)"
        " VALUES ('watch@old:1', 'watch', now() - interval '2 days', '{}')"
    )
    heartbeats.heartbeat("watch", {"sources": 4})

    assert [(beat.process, beat.detail) for beat in heartbeats.alive("watch")] == [
        (heartbeats.process_name("watch"), {"sources": 4})
    ]
    assert set(Heartbeat.objects.values_list("process", flat=True)) == {
        "watch@gone:1",
        heartbeats.process_name("watch"),
    }
    heartbeats.farewell("watch")
    assert heartbeats.alive("watch") == []


def test_a_pool_of_workers_shows_in_the_heartbeats_and_to_probes(spawn_workers: Spawn, tmp_path: Path) -> None:
    pool = spawn_workers(workers=2)
    [beat] = wait_for(lambda: heartbeats.alive("worker"))
    assert beat.process.endswith(f":{pool.pid}")
    assert {"status", "workers", "restarts", "waiting", "leased"} <= beat.detail.keys()
    wait_for(lambda: all((tmp_path / f"worker.{sign}").exists() for sign in pulse.SIGNS))
    assert queue.PostgresBroker().get_stats("*") == [queue.PostgresBroker().get_stat(beat.detail["key"])]
