"""The task queue: PostgreSQL as django-q2's broker. `byteport.pool` runs the workers that empty it.

Enqueueing is an INSERT on Django's own connection, hence part of the caller's transaction. A task is handed
out under a lease of `Q_CLUSTER["retry"]` seconds and deleted when it is done, so it runs *at least once*:
after a crash, a lost acknowledgement or an overrun lease it runs again. Tasks therefore carry ids only, and
claim their own row by compare-and-swap (`loop.advance`), which makes the effect happen once.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import structlog
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django_q.brokers import Broker
from django_q.conf import Conf
from django_q.models import Task
from django_q.signing import BadSignature, SignedPackage

from byteport import pulse
from byteport.core import clock
from byteport.core.backoff import backoff_s
from byteport.heartbeats import alive, heartbeat
from byteport.models import QueuedTask

log = structlog.get_logger()

CHANNEL = "byteport_queue"
POLL_S = 1.0  # the longest wait without a look at the table, should a notification get lost
LOCKED_S = 0.02  # pause when a due task is locked by a transaction that is about to end
BACKOFF_S = (0.1, 5.0)  # between attempts to reach the database: the first, the longest
ACK_PATIENCE_S = 30.0  # then the acknowledgement is given up: the lease ends and the task runs again
BEAT_S = 5.0
FAILURES_KEPT = timedelta(days=30)
PACKAGE_LIMIT_BYTES = 65_536

Claimed = tuple[int, int, str]  # id, attempts, payload


# --- enqueueing

_ENQUEUE = f"""
WITH added AS (
    INSERT INTO queued_tasks (queue, payload, dedup_key, visible_at)
    SELECT %(queue)s, payload, dedup_key, clock_timestamp() + %(delay_s)s * interval '1 second'
    FROM unnest(%(payloads)s::text[], %(dedup_keys)s::text[]) AS given (payload, dedup_key)
    ON CONFLICT (dedup_key) WHERE attempts = 0
    DO UPDATE SET visible_at = LEAST(queued_tasks.visible_at, EXCLUDED.visible_at)
)
SELECT pg_notify('{CHANNEL}', '')
"""  # noqa: S608 (a constant)


def enqueue(func: str, *args: Any, delay_s: float = 0.0, dedup_key: str | None = None) -> None:
    """Has a worker call `func`, a dotted path, once this transaction has committed and `delay_s` has passed.

    With `dedup_key` at most one task of this key waits; the earlier of both times holds. Pass ids only.
    """
    _insert([_package(func, args)], [dedup_key], delay_s)


def enqueue_many(func: str, ids: Iterable[int | str], *, delay_s: float = 0.0, dedup_prefix: str | None = None) -> None:
    """`enqueue(func, id)` for each id, in one statement. With `dedup_prefix`, each key is prefix and id."""
    # One order for everybody, so that two transactions with the same keys cannot wait for each other.
    ordered = sorted(set(ids), key=str) if dedup_prefix is not None else list(ids)
    if ordered:
        keys = [None if dedup_prefix is None else f"{dedup_prefix}{each}" for each in ordered]
        _insert([_package(func, (each,)) for each in ordered], keys, delay_s)


def _insert(payloads: Sequence[str], dedup_keys: Sequence[str | None], delay_s: float) -> None:
    values: dict[str, Any] = {
        "queue": Conf.CLUSTER_NAME,
        "payloads": list(payloads),
        "dedup_keys": list(dedup_keys),
        "delay_s": delay_s,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ENQUEUE, values)


def _package(func: str, args: tuple[Any, ...]) -> str:
    """django-q2's signed package, as `async_task` makes it but without its random name in words."""
    task = {
        "id": uuid4().hex,
        "name": f"{func.rpartition('.')[2]} {' '.join(map(str, args))}"[:100],
        "func": func,
        "args": args,
        "kwargs": {},
        "ack_failure": Conf.ACK_FAILURES,
        "started": clock.now(),
    }
    package: str = SignedPackage.dumps(task)
    if len(package) > PACKAGE_LIMIT_BYTES:
        raise ValueError(f"a task of {func} has {len(package)} bytes; pass ids, not objects")
    return package


# --- the broker

# ANY(ARRAY(…)) has the inner part run once and the outer one go by primary key, whatever the planner thinks
# that LIMIT will let through; as a join it came out as a scan of 100,000 tasks for the sake of one.
_CLAIM = """
UPDATE queued_tasks
SET visible_at = now() + %(lease_s)s * interval '1 second', attempts = attempts + 1
WHERE id = ANY (ARRAY (
    SELECT id FROM queued_tasks
    WHERE queue = %(queue)s AND visible_at <= now()
    ORDER BY visible_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
RETURNING id, attempts, payload
"""
_NEXT = """
SELECT extract(epoch FROM min(visible_at) - clock_timestamp())::float8 FROM queued_tasks WHERE queue = %s
"""
_ACKNOWLEDGE = "DELETE FROM queued_tasks WHERE id = %s AND attempts = %s"


class Outage:
    """One line in the log when the database goes away and one when it is back; and the pace in between."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._began: float | None = None
        self._faults = 0

    def failed(self, error: Exception) -> float:
        """Seconds to wait before the next attempt."""
        if self._began is None:
            self._began, self._faults = time.monotonic(), 0
            log.warning("database away", work=self._work, error=str(error).strip())
        pause_s = backoff_s(self._faults, *BACKOFF_S)
        self._faults += 1
        return pause_s

    def over(self) -> None:
        if self._began is not None:
            away_s = round(time.monotonic() - self._began, 1)
            log.warning("database back", work=self._work, away_s=away_s)
            self._began = None


class OwnConnection:
    """A connection beside Django's, opened on first use: always in autocommit, and free to LISTEN.

    It must not be used before a fork and after it in the child, too.
    """

    def __init__(self, *statements: str) -> None:
        self._statements = statements
        self._connection: psycopg.Connection[Any] | None = None

    def get(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        parameters = connection.get_connection_params()
        for djangos in ("cursor_factory", "context", "prepare_threshold"):
            parameters.pop(djangos, None)
        # A peer that vanished without a word is noticed within 15 s, not after a quarter of an hour.
        patience = {
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        }
        opened = psycopg.connect(**{**patience, **parameters}, autocommit=True, prepare_threshold=2)
        for statement in self._statements:
            opened.execute(statement)
        return opened


class PostgresBroker(Broker):  # type: ignore[misc]
    """django-q2's broker on the table `queued_tasks`. An `ack_id` is "id:attempts": good for one lease only.

    A task that was handed out `max_attempts` times and never acknowledged kills its workers: it is set aside
    as a failed task of django-q2's, where the admin shows it and can submit it again.
    """

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self.idle_workers: Callable[[], int] = lambda: int(Conf.BULK)
        self._taking, self._acking, self._beating = map(Outage, ("taking", "acknowledging", "heartbeat"))
        self._next_beat = 0.0
        # A claim or an acknowledgement lost in a crash of the server means a second run, which is allowed
        # for; that saves two waits for the disk per task. And the planner, who often sees this table empty,
        # shall not scan it.
        tuning = ("SET synchronous_commit = off", "SET enable_seqscan = off")
        self._claims = OwnConnection(*tuning, f"LISTEN {CHANNEL}")
        self._acks = OwnConnection(*tuning)

    def __getstate__(self) -> str:
        return str(self.list_key)

    def __setstate__(self, list_key: str) -> None:
        self.__init__(list_key)  # type: ignore[misc]

    @staticmethod
    def get_cache() -> None:
        """No cache: the health of the workers is in the table `heartbeats`."""

    def ping(self) -> bool:
        return True

    def info(self) -> str:
        return "PostgreSQL"

    def enqueue(self, task: str) -> None:
        """For django-q2's own callers; BytePort's use the function `enqueue`."""
        _insert([task], [None], 0.0)

    # taking tasks: called by the pusher

    def dequeue(self) -> list[tuple[str, str]]:
        """Claims one due task per idle worker, or waits for some. Outlasts a database that is away."""
        limit = self.idle_workers()
        if not limit:
            return []
        try:
            claimed = self._claim(limit)
            if not claimed:
                self._wait()
            ready = [task for task in claimed if not self._set_aside(task)]
        except (psycopg.Error, DatabaseError) as error:
            self._claims.close()
            connection.close()
            time.sleep(self._taking.failed(error))
            return []
        self._taking.over()
        return [(f"{task_id}:{attempts}", payload) for task_id, attempts, payload in ready]

    def _claim(self, limit: int) -> list[Claimed]:
        values = {"queue": self.list_key, "limit": limit, "lease_s": Conf.RETRY}
        return self._claims.get().execute(_CLAIM, values).fetchall()

    def _wait(self) -> None:
        """Returns when tasks were enqueued, when the next one becomes visible, or after `POLL_S`."""
        listening = self._claims.get()
        row = listening.execute(_NEXT, [self.list_key]).fetchone()
        until_next_s = POLL_S if row is None or row[0] is None else row[0]
        if listening.pgconn.notifies():  # came along with an answer; notifies() would not look there
            return
        timeout_s = min(until_next_s, POLL_S) if until_next_s > 0 else LOCKED_S
        for _ in listening.notifies(timeout=timeout_s, stop_after=1):
            pass

    def _set_aside(self, claimed: Claimed) -> bool:
        task_id, attempts, payload = claimed
        if not 0 < Conf.MAX_ATTEMPTS < attempts:
            return False
        task = _opened(payload)
        with transaction.atomic():
            Task.objects.update_or_create(id=task["id"], defaults=_as_failed(task, attempts - 1))
            QueuedTask.objects.filter(pk=task_id, attempts=attempts).delete()
        connection.close()  # this process seldom needs it
        log.error("task set aside", task=task["name"], func=task["func"], attempts=attempts - 1)
        return True

    # finishing tasks: called by the monitor

    def acknowledge(self, task_id: str) -> None:
        """Deletes the task, provided that the lease of this `ack_id` is still the last one."""
        deadline = time.monotonic() + ACK_PATIENCE_S
        while True:
            try:
                self._acks.get().execute(_ACKNOWLEDGE, task_id.split(":"))
            except psycopg.Error as error:
                self._acks.close()
                if time.monotonic() > deadline:
                    log.warning("acknowledgement given up, the task will run again", ack_id=task_id)
                    return
                time.sleep(self._acking.failed(error))
            else:
                self._acking.over()
                return

    def fail(self, task_id: str) -> None:
        """A package with a strange signature stays leased: the next worker may have the right secret key."""
        log.error("task unreadable", ack_id=task_id, hint="do all processes have the same secret key?")

    def delete(self, task_id: str) -> None:
        self.acknowledge(task_id)

    # sizes and health: called by the sentinel and the console

    def _tasks(self) -> Any:
        return QueuedTask.objects.filter(queue=self.list_key)

    def queue_size(self) -> int:
        """Tasks that could run now."""
        return int(self._tasks().filter(visible_at__lte=Now()).count())

    def lock_size(self) -> int:
        """Tasks that are leased to a worker."""
        return int(self._tasks().filter(Q(attempts__gt=0), visible_at__gt=Now()).count())

    def purge_queue(self) -> int:
        return int(self._tasks().delete()[0])

    delete_queue = purge_queue

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Turns the sentinel's statistics, which come twice a second, into a heartbeat every `BEAT_S`."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT_S
        pulse.beat("worker", "alive")
        try:
            close_old_connections()
            heartbeat("worker", {**self._detail(value), "key": key, "stat": value})
        except DatabaseError as error:
            self._beating.failed(error)
            connection.close()
        else:
            self._beating.over()
            pulse.beat("worker", "ready")

    def _detail(self, value: str) -> dict[str, Any]:
        stat = SignedPackage.loads(value)
        return {
            "status": str(stat.status),
            "workers": stat.workers,
            "restarts": stat.reincarnations,
            "waiting": self.queue_size(),
            "leased": self.lock_size(),
        }

    def get_stat(self, key: str) -> str | None:
        return next((beat.detail["stat"] for beat in alive("worker") if beat.detail["key"] == key), None)

    def get_stats(self, pattern: str) -> list[str]:
        return [beat.detail["stat"] for beat in alive("worker")]


def forget_failures() -> None:
    """Drops django-q2's record of failed tasks by age: it keeps each of them for ever."""
    Task.objects.filter(stopped__lt=clock.now() - FAILURES_KEPT).delete()


def _opened(payload: str) -> dict[str, Any]:
    try:
        return dict(SignedPackage.loads(payload))
    except (TypeError, BadSignature):
        unknown = dict.fromkeys(("name", "func"), "unreadable")
        return {**unknown, "id": uuid4().hex, "args": (), "started": clock.now()}


def _as_failed(task: Mapping[str, Any], attempts: int) -> dict[str, Any]:
    return {
        "name": task["name"],
        "func": task["func"],
        "args": task["args"],
        "kwargs": {},
        "started": task["started"],
        "stopped": clock.now(),
        "result": f"Set aside: handed to a worker {attempts} times and never finished.",
        "success": False,
        "attempt_count": attempts,
        "cluster": Conf.CLUSTER_NAME,
    }
