"""The pool of worker processes that empties the task queue.

It is django-q2's sentinel, pusher, workers and monitor with other pipes between them. Its own
are `multiprocessing.Queue`s, whose semaphore a worker holds while it waits: one SIGKILL (the OOM killer's,
say) of an idle worker and all its siblings wait for ever. Here only sockets are waited on, and the kernel
cleans up after the dead.
"""

import ctypes
import os
import pickle
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EMSGSIZE
from multiprocessing import RLock
from multiprocessing.sharedctypes import RawValue
from typing import Any, Literal
from uuid import uuid4

from django.db import Error as DatabaseError
from django.db import connection
from django_q.cluster import Sentinel, get_mp_context
from django_q.signals import post_execute_in_worker, post_spawn
from django_q.worker import worker

from byteport.heartbeats import farewell
from byteport.queue import POLL_S

PACKET_LIMIT_BYTES = 262_144  # above what the kernel passes in one packet (net.core.wmem_max, 208 KiB)
STOP: Literal["STOP"] = "STOP"  # django-q2's word for the end of work


# --- the pipes between the processes


def _readable(file: socket.socket | int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


class Flag:
    """`multiprocessing.Event` without a lock: safe to set in a signal handler and to be killed over."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        return _readable(self._fd, timeout_s)


class Timer:
    """A worker's time left, shared with the sentinel. A lock that died with its holder is waited for 1 s."""

    def __init__(self) -> None:
        self._cell = RawValue("f", -1.0)
        self._lock = RLock()

    @contextmanager
    def get_lock(self) -> Iterator[None]:
        held = self._lock.acquire(timeout=1.0)
        try:
            yield
        finally:
            if held:
                self._lock.release()

    @property
    def value(self) -> float:
        return float(self._cell.value)

    @value.setter
    def value(self, seconds: float) -> None:
        with self.get_lock():
            self._cell.value = seconds


class Handover:
    """The way of a task from the pusher to a worker: from hand to hand, to one that is waiting for it.

    An idle worker rings and leaves one end of a fresh socket with the pusher, who answers it with a task. So
    no task is claimed before there is a worker for it: none lies here behind a long one, its lease running,
    while workers of another pool are idle. A worker that dies while it waits hangs up; if the pusher dies,
    the worker rings again.
    """

    def __init__(self, stopping: Flag) -> None:
        self._stopping = stopping
        self._bell, self._door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._waiting: list[socket.socket] = []

    def get(self) -> Any:
        """For the worker: the next task, or "STOP"."""
        while True:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with mine:
                with theirs:
                    try:
                        socket.send_fds(self._bell, [b"!"], [theirs.fileno()])
                    except BrokenPipeError:
                        return STOP
                packet = mine.recv(PACKET_LIMIT_BYTES)
            if packet:
                return pickle.loads(packet)  # noqa: S301 (from our own parent's other child)

    def idle(self) -> int:
        """For the pusher: how many workers wait. Waits for the first, but not for ever."""
        self._waiting = [one for one in self._waiting if not _readable(one, 0)]  # readable: hung up
        if not self._waiting:
            self._answer_door(timeout_s=POLL_S)
        while self._answer_door(timeout_s=0):
            pass
        return len(self._waiting)

    def put(self, task: Any) -> None:
        """For the pusher: gives the task to a waiting worker. For the sentinel: "STOP" sends all home."""
        if task == STOP:
            self._close_door()
            return
        packet = pickle.dumps(task)
        while self._waiting or self.idle() or not self._stopping.is_set():  # else its lease will end
            if self._waiting and _sent(self._waiting.pop(0), packet):
                return

    def _answer_door(self, timeout_s: float) -> bool:
        if not _readable(self._door, timeout_s):
            return False
        _, fds, _, _ = socket.recv_fds(self._door, 1, 1, socket.MSG_CMSG_CLOEXEC)
        self._waiting += [socket.socket(fileno=fd) for fd in fds]
        return bool(fds)

    def _close_door(self) -> None:
        """From here on ringing fails; who rang before is hung up on, rings again and sees that."""
        self._door.shutdown(socket.SHUT_RD)
        while self._answer_door(timeout_s=0):
            pass
        while self._waiting:
            self._waiting.pop().close()

    def qsize(self) -> int:
        return 0

    def empty(self) -> bool:
        return True

    def close(self) -> None:
        """Part of a queue's interface; nothing to do."""

    join_thread = close


def _sent(hand: socket.socket, packet: bytes) -> bool:
    with hand:
        try:
            hand.send(packet)
        except (BrokenPipeError, ConnectionResetError):  # that worker has just died
            return False
    return True


class Mailbox:
    """Results on their way from the workers to the monitor. The kernel sends a packet whole or not at all."""

    def __init__(self) -> None:
        self._inside, self._slot = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def put(self, result: Any) -> None:
        try:
            self._slot.send(pickle.dumps(result))
        except OSError as error:
            if error.errno != EMSGSIZE:
                raise
            self.put({**result, "result": f"{result['result']!s:.10000} … (cut)"})

    def get(self) -> Any:
        return pickle.loads(self._inside.recv(PACKET_LIMIT_BYTES))  # noqa: S301 (from our own siblings)

    def qsize(self) -> int:
        return 0 if self.empty() else 1

    def empty(self) -> bool:
        return not _readable(self._inside, 0)

    def close(self) -> None:
        """Part of a queue's interface; nothing to do."""

    join_thread = close


# --- the workers


class Pool(Sentinel):  # type: ignore[misc]
    """django-q2's sentinel, with pipes that outlive its children, and children that do not outlive it."""

    def __init__(self, stop: Flag) -> None:
        super().__init__(stop, Flag(), uuid4(), start=False)
        self.event_out = Flag()
        self.task_queue = Handover(self.event_out)
        self.result_queue = Mailbox()
        self.broker.idle_workers = self.task_queue.idle

    def spawn_worker(self) -> None:
        self.spawn_process(worker, self.task_queue, self.result_queue, Timer(), self.timeout)

    def spawn_process(self, target: Callable[..., None], *args: Any) -> Any:
        process: Any = get_mp_context().Process(target=_child, args=(os.getpid(), target, *args), daemon=True)
        if target is worker:
            process.timer = args[2]  # the sentinel reads it
            self.pool.append(process)
        process.start()
        return process


def run_workers() -> None:
    """Runs `Q_CLUSTER["workers"]` workers until SIGTERM or SIGINT; tasks that have begun are finished first.

    Import the tasks' modules before: the workers are forked from this process, and share what it has loaded.
    """
    stop = Flag()
    pool = Pool(stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    post_spawn.connect(_connect_early)
    post_execute_in_worker.connect(_keep_if_database_was_lost)
    pool.start()
    with suppress(DatabaseError):
        farewell("worker")


def _child(parent: int, target: Callable[..., None], *args: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sentinel sees to it
    _die_with(parent)
    target(*args)


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent is gone: nobody would guard what an orphan does."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that call
        os._exit(1)


def _connect_early(**_: Any) -> None:
    with suppress(DatabaseError):
        connection.ensure_connection()


def _keep_if_database_was_lost(task: dict[str, Any], **_: Any) -> None:
    """A task that lost the database could not record its failure: it keeps its lease, and runs again."""
    lost = connection.connection is None or (connection.errors_occurred and not connection.is_usable())
    if lost and not task["success"]:
        task["ack_failure"] = False
