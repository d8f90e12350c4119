"""Looks at many hosts at the same time, so that a slow one does not hold up the others."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
from django.db import connections

from byteport.core.errors import BytePortError
from byteport.core.ways import Address


class Look(msgspec.Struct, frozen=True):
    """What came of one look at one host."""

    host: Address
    at: datetime  # when it began
    result: dict[str, Any] | None = None
    error: str = ""  # why there is no result


class Looks:
    """At most `limit` looks at once, each in a thread of its own and never two at one host.

    Each has to end by itself, by its transport's time-out.
    """

    def __init__(self, look: Callable[[Address], dict[str, Any]], *, limit: int = 32, patience_s: float = 2.0) -> None:
        self._look = look
        self._limit = limit
        self._patience_s = patience_s
        self._done: SimpleQueue[Look] = SimpleQueue()
        self.running: set[str] = set()

    def take(self, due: Iterable[Address], at: datetime) -> list[Look]:
        """Begins looks at the hosts that are due, and returns all that have ended, those of earlier calls too.

        It waits for what it began itself, but no longer than its patience. What it had no room for stays due.
        """
        waiting = deque(host for host in due if host.name not in self.running)
        fresh: set[str] = set()
        ended: list[Look] = []
        until = time.monotonic() + self._patience_s
        while True:
            while waiting and len(self.running) < self._limit:
                fresh.add(self._begin(waiting.popleft(), at))
            patience_s = max(until - time.monotonic(), 0) if fresh or waiting else 0
            try:
                look = self._done.get(timeout=patience_s) if patience_s else self._done.get_nowait()
            except Empty:
                return ended
            self.running.discard(look.host.name)
            fresh.discard(look.host.name)
            ended.append(look)

    def _begin(self, host: Address, at: datetime) -> str:
        self.running.add(host.name)
        threading.Thread(target=self._run, args=(host, at), name=f"look-{host.name}", daemon=True).start()
        return host.name

    def _run(self, host: Address, at: datetime) -> None:
        look = Look(host, at, error="The look at it ended with an internal error; the log has it.")
        try:
            look = Look(host, at, result=self._look(host))
        except BytePortError as error:
            look = Look(host, at, error=str(error))
        finally:
            self._done.put(look)
            connections.close_all()  # this thread's own, should its transport have asked the database something
