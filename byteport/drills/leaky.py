"""The service of `drill memory_pressure`, a program of its own: a supervisor and the two processes that it keeps alive.

    python3 -I -S leaky.py '{"budget_bytes": 96000000, "grows_to": 0.985, "growth_s": 0.0025, "after": 0.5}'

`leaky` quickly grows until both together hold 91 % of the budget, then on by `growth_s` of it a second, up to
`grows_to`. Started again, it stays at `after`. `steady` holds what it holds. All end when the supervisor's stdin does.
"""

import json
import os
import re
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MOST_AT_ONCE = 1_000_000  # between two looks at how much it is
TICK_S = 0.02
AT_ONCE = 0.91
STEADY_BYTES, STEADY_OOM_SCORE_ADJ = 2_000_000, 500
HEADROOM_BYTES = 64 * 1024 * 1024  # for what Python itself maps


class Plan(NamedTuple):
    """Shares are of the budget."""

    budget_bytes: int
    grows_to: float
    growth_s: float  # a second
    after: float


class Balloon:
    """Memory that is really held."""

    def __init__(self) -> None:
        self._held: list[bytearray] = []

    def grow(self, size: int) -> None:
        self._held.append(bytearray(b"x") * size)


def held_by(pid: int) -> int:
    """Bytes that the kernel could not just drop, as hostctl counts them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(int(kb) * 1024 for kb in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status, re.MULTILINE))


def prefer_to_be_killed(score: int) -> None:
    """Should the kernel have to kill, then rather a drill than anything else. Everybody may raise their own."""
    Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def steady(supervisor: int) -> None:
    balloon = Balloon()
    balloon.grow(STEADY_BYTES)
    prefer_to_be_killed(STEADY_OOM_SCORE_ADJ)
    while os.getppid() == supervisor:
        time.sleep(TICK_S)


def leaky(plan: Plan, supervisor: int, bystander: int, run: int) -> None:
    balloon, began = Balloon(), time.monotonic()
    prefer_to_be_killed(1000)
    while os.getppid() == supervisor:
        share = plan.after if run else min(AT_ONCE + plan.growth_s * (time.monotonic() - began), plan.grows_to)
        missing = int(share * plan.budget_bytes) - held_by(os.getpid()) - held_by(bystander)
        if missing > 0:
            balloon.grow(min(missing, MOST_AT_ONCE))
        if missing < MOST_AT_ONCE:
            time.sleep(TICK_S)


def child(name: str, body: Callable[..., None], *arguments: Any) -> int:
    """Starts a process that bears this name, for hostctl to tell its unit by."""
    pid = os.fork()
    if pid:
        return pid
    try:
        Path("/proc/self/comm").write_text(name, encoding="ascii")
        body(*arguments)
    finally:
        os._exit(0)


def supervise(plan: Plan) -> None:
    """Until stdin ends. What has ended is started again."""
    me, run = os.getpid(), 0
    bystander = child("steady", steady, me)
    main = child("leaky", leaky, plan, me, bystander, run)
    while not select.select([sys.stdin], [], [], TICK_S)[0]:
        if os.waitpid(main, os.WNOHANG)[0]:
            run += 1
            main = child("leaky", leaky, plan, me, bystander, run)
    for pid in (main, bystander):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def program() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it may be started by somebody who ignores or blocks it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    most = plan.budget_bytes + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # whatever goes wrong, it stays small
    supervise(plan)


if __name__ == "__main__":
    program()
