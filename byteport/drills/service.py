"""A small service of BytePort's own that leaks: `leaky.py`, in a folder where `hostctl` looks for drills.

Its memory is measured against a budget. Where a cgroup may be made, that keeps the service from taking much more; where
not, a limit of the process does.
"""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from byteport.core.errors import Permanent
from byteport.drills import leaky
from byteport.drills.volume import Place
from runbooks.hostctl import DRILL_MARKER, Roots, run

END_PATIENCE_S = 10.0
CGROUPS = Path("/sys/fs/cgroup")


class Service:
    """The running service. `cgroup` is the folder of its cgroup, or None."""

    def __init__(self, place: Place, budget_bytes: int) -> None:
        self.name = place.name
        self.path = place.path
        self._place = place
        self._budget_bytes = budget_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.cgroup = _cgroup(self.name, budget_bytes + leaky.HEADROOM_BYTES)

    @classmethod
    def start(cls, plan: leaky.Plan) -> "Service":
        """Raises Permanent where no drill may be made."""
        service = cls(Place.make(), plan.budget_bytes)
        try:
            service._start(plan)
        except OSError as error:
            service.remove()
            raise Permanent(f"The drill's service cannot be started: {error.strerror}.") from error
        return service

    def _start(self, plan: leaky.Plan) -> None:
        self.path.mkdir(mode=0o700)
        (self.path / "leaky.service").write_text("[Service]\nX-Byteport-Restart=safe\n")
        (self.path / "steady.service").write_text("[Service]\n")
        argv = [sys.executable, "-I", "-S", leaky.__file__, json.dumps(plan._asdict())]
        # With BytePort's own settings it would be taken for a part of BytePort.
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, env={}, cwd="/", start_new_session=True)
        self.cgroup = _joined(self.cgroup, self._process.pid)
        started = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()[19]
        marker = {"id": self.name, "budget_bytes": self._budget_bytes, "supervisor": [self._process.pid, int(started)]}
        (self.path / DRILL_MARKER).write_text(json.dumps(marker))
        for file in self.path.iterdir():
            file.chmod(0o644)

    def percent(self) -> float:
        """As hostctl measures it; 0 while it cannot."""
        scope = {"kind": "drill", "id": self.name}
        answer: dict[str, Any] = run({"verb": "memory", "scope": scope}, Roots.of_this_host())
        return float(answer["result"].get("percent", 0.0))

    def remove(self) -> None:
        """Ends it and deletes its folder. Safe to call twice."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # it ends by that
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_PATIENCE_S)
            self._process.kill()
            self._process.wait()
        if self.cgroup is not None:
            _remove_cgroup(self.cgroup)
        shutil.rmtree(self.path, ignore_errors=True)
        self._place.release()


def _cgroup(name: str, limit_bytes: int) -> Path | None:
    """A cgroup of its own with a limit, of version 1 or 2; None where that is not allowed."""
    first = (CGROUPS / "memory", "memory.limit_in_bytes")
    top, limit = first if first[0].is_dir() else (CGROUPS, "memory.max")
    made = top / f"byteport-drill-{name}"
    try:
        for left in top.glob("byteport-drill-*"):
            with suppress(OSError):
                left.rmdir()  # of a drill that was killed; one that is in use cannot be removed
        made.mkdir()
        (made / limit).write_text(str(limit_bytes))
    except OSError:
        with suppress(OSError):
            made.rmdir()
        return None
    return made


def _joined(cgroup: Path | None, pid: int) -> Path | None:
    """The cgroup, with the process and all that it will start in it; None where that is not allowed."""
    if cgroup is None:
        return None
    try:
        (cgroup / "cgroup.procs").write_text(str(pid))
    except OSError:
        _remove_cgroup(cgroup)
        return None
    return cgroup


def _remove_cgroup(cgroup: Path) -> None:
    """The kernel takes a moment to see that it is empty."""
    until = time.monotonic() + END_PATIENCE_S
    while cgroup.exists() and time.monotonic() < until:
        with suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.01)
