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
from byteport.core.outcome import ActionOutcome
from byteport.models import QueuedTask
from runbooks import act
from runbooks.action import Action, ActionCall

PATIENCE_S = 90.0


def work(until: Callable[[], bool], lease: timedelta) -> None:
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
    """Counts the boundaries (just before and just after each commit) and kills its own process at the chosen one.

    With `frugal`, the end of one commit and the beginning of the next are one boundary, unless an action was carried
    out in between, and a statement that found nothing to write makes none: to die at the one leaves the same behind
    as to die at the other.
    """

    def __init__(self, kill_at: int | None, seen: Any, *, frugal: bool = False) -> None:
        self._seen = seen
        self._kill_at = kill_at
        self._frugal = frugal
        self.acted = False

    def boundary(self) -> None:
        self._seen.value += 1
        if self._seen.value == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        commit = DatabaseWrapper._commit

        def watched_commit(wrapper: DatabaseWrapper) -> None:
            self._before()
            commit(wrapper)
            self._after()

        DatabaseWrapper._commit = watched_commit
        connection.execute_wrappers.append(self._autocommitted)
        action_of = act.action_of
        act.action_of = lambda row: Watched(action_of(row), self)

    def _before(self) -> None:
        if self.acted or not self._frugal:
            self.boundary()

    def _after(self) -> None:
        self.acted = False
        self.boundary()

    def _autocommitted(self, execute, sql, params, many, context):
        writes = connection.get_autocommit() and not str(sql).lstrip().startswith("SELECT")
        if writes:
            self._before()
        result = execute(sql, params, many, context)
        if writes and (context["cursor"].rowcount or not self._frugal):
            self._after()
        return result


class Watched:
    """An action whose executioner knows when it was carried out."""

    def __init__(self, action: Action, executioner: Executioner) -> None:
        self._action = action
        self._executioner = executioner

    def execute(self, call: ActionCall) -> ActionOutcome:
        try:
            return self._action.execute(call)
        finally:
            self._executioner.acted = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._action, name)
