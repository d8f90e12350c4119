"""A worker, fed from the queue's table; and what kills its process, with SIGKILL, at a chosen boundary."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper
from django_q.signing import SignedPackage

from byteport import tasks
from byteport.models import QueuedTask

LEASE = timedelta(seconds=0.3)
PATIENCE_S = 90.0


def work(until: Callable[[], bool], lease: timedelta = LEASE) -> None:
    """Takes due tasks from the queue and runs them; a task that was leased too long is taken again."""
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, "the incident does not end"
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE queued_tasks SET visible_at = clock_timestamp() + %s, attempts = attempts + 1 WHERE id ="
                " (SELECT id FROM queued_tasks WHERE visible_at <= clock_timestamp() ORDER BY visible_at LIMIT 1"
                "  FOR UPDATE SKIP LOCKED) RETURNING id, payload",
                [lease],
            )
            taken = cursor.fetchone()
        if taken is None:
            time.sleep(0.02)
            continue
        task = SignedPackage.loads(taken[1])
        getattr(tasks, task["func"].rpartition(".")[2])(*task["args"])
        QueuedTask.objects.filter(pk=taken[0]).delete()


class Executioner:
    """Counts the boundaries (just before and just after each commit) and kills its own process at the chosen one."""

    def __init__(self, kill_at: int | None, seen: Any) -> None:
        self._seen = seen
        self._kill_at = kill_at

    def boundary(self) -> None:
        self._seen.value += 1
        if self._seen.value == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        commit = DatabaseWrapper._commit

        def watched_commit(wrapper: DatabaseWrapper) -> None:
            self.boundary()
            commit(wrapper)
            self.boundary()

        DatabaseWrapper._commit = watched_commit
        connection.execute_wrappers.append(self._autocommitted)

    def _autocommitted(self, execute, sql, params, many, context):
        writes = connection.get_autocommit() and not str(sql).lstrip().startswith("SELECT")
        if writes:
            self.boundary()
        result = execute(sql, params, many, context)
        if writes:
            self.boundary()
        return result
