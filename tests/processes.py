"""Work in processes of its own, forked from the test with database connections of their own."""

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable

from django.db import connection


def forked(body: Callable[[], None]) -> int:
    """Starts `body` in a forked process. Returns its pid."""
    connection.close()
    gc.freeze()  # else the child goes through all that the tests have imported, which takes it a quarter of a second
    pid = os.fork()
    if pid:
        gc.unfreeze()
        return pid
    code = 1
    try:
        body()
        code = 0
    except BaseException:  # noqa: BLE001 (told, and turned into the exit code)
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int, patience_s: float = 120.0) -> int:
    """Waits for a forked process. Its exit code, or minus the signal that ended it. One that hangs is a failure."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"process {pid} did not end within {patience_s:g} s")
