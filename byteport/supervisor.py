"""Runs BytePort's processes side by side: one log, restarts with back-off, one orderly stop."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from django.conf import settings

STOP_PATIENCE_S = 20.0  # then what has not stopped is killed
RESTART_PAUSE_S = (1.0, 30.0)  # before a restart: at first, at most
STEADY_S = 60.0  # a process that ran this long starts again from the first pause

Say = Callable[[str, str], None]  # (process name, line)


class Spec(msgspec.Struct, frozen=True):
    """A process to keep running. `once`: it is expected to end, and is not started again. `environment`: what is added
    to ours."""

    name: str
    argv: tuple[str, ...]
    once: bool = False
    environment: Mapping[str, str] = {}


def manage(*arguments: str) -> tuple[str, ...]:
    """The command line of one of BytePort's own commands."""
    return (sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments)


class Child:
    """One process and the thread that reads its log."""

    def __init__(self, spec: Spec, say: Say) -> None:
        self.spec = spec
        self._say = say
        self._starts = 0
        self._started_at = 0.0
        self._next_start = 0.0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._starts += 1
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*_dies_with_us(), *self.spec.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A session of its own: Ctrl-C reaches BytePort alone, which then stops its processes in order.
            start_new_session=True,
            env={**os.environ, "BYTEPORT_LOG_FORMAT": "console", "PYTHONUNBUFFERED": "1", **self.spec.environment},
        )
        threading.Thread(target=self._read_log, args=(self.process,), daemon=True).start()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._say(self.spec.name, line.rstrip("\n"))

    def look_after(self) -> None:
        """Starts it again when it has ended, after a pause that grows with each early end."""
        if self.process is None or self.process.poll() is None:
            return
        if self.spec.once:
            return
        if not self._next_start:
            self._plan_restart(self.process.returncode)
        elif time.monotonic() >= self._next_start:
            self._next_start = 0.0
            self.start()

    def _plan_restart(self, code: int) -> None:
        if time.monotonic() - self._started_at > STEADY_S:
            self._starts = 1
        first, longest = RESTART_PAUSE_S
        pause = min(first * 2 ** (self._starts - 1), longest)
        self._next_start = time.monotonic() + pause
        self._say(self.spec.name, f"ended with {code}; it is started again in {pause:g} s")

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, until: float) -> None:
        """Waits for its end, and kills it and what it started when it takes too long."""
        if self.process is None:
            return
        try:
            self.process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._say(self.spec.name, "did not stop in time and is killed")
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _dies_with_us() -> Sequence[str]:
    """Has the kernel stop the process should BytePort itself be killed."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


class Supervisor:
    """Keeps a set of processes running until it is stopped."""

    def __init__(self, specs: Sequence[Spec], say: Say) -> None:
        self.children = [Child(spec, say) for spec in specs]
        self._stop_asked = threading.Event()

    def start(self) -> None:
        for child in self.children:
            child.start()

    def run(self) -> None:
        """Looks after them until `stop` is asked for; call it in the thread that called `start`."""
        while not self._stop_asked.wait(0.2):
            for child in self.children:
                child.look_after()

    def ask_to_stop(self) -> None:
        """Safe in a signal handler."""
        self._stop_asked.set()

    def stop(self) -> None:
        """Stops them, the last first, and waits until each has ended."""
        for child in reversed(self.children):
            child.ask_to_stop()
        until = time.monotonic() + STOP_PATIENCE_S
        for child in reversed(self.children):
            child.wait(until)
