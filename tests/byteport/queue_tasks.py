"""The tasks that the tests and the benchmark of the queue run in real worker processes."""

import os
import signal
import time
from pathlib import Path

from django.db import connection

TABLE = """
CREATE TABLE IF NOT EXISTS queue_runs (
    task bigint NOT NULL, pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


def record(task: int) -> None:
    """Writes down that it ran, when and in which process."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO queue_runs (task, pid) VALUES (%s, %s)", [task, os.getpid()])


def hold_while_file_exists(task: int, path: str) -> None:
    """Runs for as long as the file is there."""
    record(task)
    while Path(path).exists():
        time.sleep(0.02)


def record_before_and_after(task: int, path: str) -> None:
    """Writes down that it ran, once before and once after the file has gone."""
    hold_while_file_exists(task, path)
    record(task)


def kill_own_process(task: int) -> None:
    """Poison: takes its worker with it."""
    record(task)
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at_length(task: int) -> None:
    """Fails with a message that is longer than one packet between two processes may be."""
    record(task)
    raise RuntimeError("long " * 100_000)


def stamp(task: int) -> None:
    """Appends its number, the moment (machine's monotonic clock, nanoseconds) and its process to a file."""
    line = f"{task} {time.monotonic_ns()} {os.getpid()}\n".encode()
    file = os.open(os.environ["QUEUE_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)  # one write, so that lines of several workers do not mix
    os.close(file)
