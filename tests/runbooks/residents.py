"""Processes that hold memory, and the things they may belong to, for the tests of memory in hostctl.

`Residents` makes a `/proc` in a folder: of real processes all is real (links to the real files) but the cgroup, which
is as the test says; of others everything is made up. Its `systemctl` and `docker` are stand-ins on PATH that note how
they were called and really end and start the process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.runbooks.test_hostctl import House

MB = 1_000_000
CLEAN = {"PATH": "/usr/bin:/bin"}  # with BytePort's own settings it would be taken for a part of BytePort
BALLOON = """
import sys, time
held = []
def grow(size):
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    held.append(block)
    print(sum(map(len, held)), flush=True)
grow(int(sys.argv[1]))
for line in sys.stdin:
    grow(int(line))
time.sleep(600)
"""
SYSTEMCTL = """#!{python}
import json, os, pathlib, signal, subprocess, sys, time
here = pathlib.Path({here!r})
verb, unit = sys.argv[1], sys.argv[-1]
with (here / "systemctl.calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
file = here / "units" / unit
if not file.exists():
    print("Id=" + unit + "\\nLoadState=not-found\\nActiveState=inactive\\nMainPID=0")
    sys.exit()
about = json.loads(file.read_text())
if verb == "show":
    wanted = next(word for word in sys.argv if word.startswith("--property=")).split("=")[1].split(",")
    print("\\n".join(key + "=" + value for key, value in about.items() if key in wanted))
elif verb == "try-restart":
    try:
        os.kill(int(about["MainPID"]), signal.SIGTERM)
    except ProcessLookupError:
        pass
    new = subprocess.Popen([*{balloon!r}, "1000000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, env={clean!r}, start_new_session=True)
    new.stdout.readline()
    script = {adopt!r}
    subprocess.run([sys.executable, "-c", script, str(new.pid), about["ControlGroup"], str(here)], check=True)
    (here / "started").open("a").write(str(new.pid) + "\\n")
    file.write_text(json.dumps({{**about, "MainPID": str(new.pid)}}))
"""
ADOPT = """
import os, pathlib, sys
pid, cgroup, here = sys.argv[1:]
folder = pathlib.Path(here) / "proc" / pid
folder.mkdir(parents=True)
for name in ("stat", "status", "cmdline", "environ", "oom_score_adj"):
    (folder / name).symlink_to("/proc/%s/%s" % (pid, name))
(folder / "exe").symlink_to(os.readlink("/proc/%s/exe" % pid))
(folder / "cgroup").write_text("0::%s\\n" % cgroup)
"""


class Balloon:
    """A real process that holds as much memory as it is told to."""

    def __init__(self, size: int) -> None:
        argv = [sys.executable, "-I", "-S", "-c", BALLOON, str(size)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=CLEAN)
        self.pid = self.process.pid
        self._answer()

    @property
    def started(self) -> int:
        return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()[19])

    @property
    def oom_score_adj(self) -> int:
        return int(Path(f"/proc/{self.pid}/oom_score_adj").read_text())

    def set_oom_score_adj(self, value: int) -> None:
        Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(value))

    def grow(self, size: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline(), "it did not grow"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Residents:
    """A host's processes, seen through a `/proc` of the test's own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.proc, self.units, self.cgroups = house.base / "proc", house.base / "units", house.base / "cgroup"
        for folder in (self.proc, self.units, self.cgroups):
            folder.mkdir()
        for name in ("meminfo", "vmstat", "pressure"):
            (self.proc / name).symlink_to(f"/proc/{name}")
        house.roots = house.roots._replace(proc=str(self.proc), cgroups=str(self.cgroups), programs=str(house.bin))
        self._balloons: list[Balloon] = []

    def balloon(self, cgroup: str, size: int = MB) -> Balloon:
        """A real process, in a cgroup of the test's making."""
        made = Balloon(size)
        self._balloons.append(made)
        subprocess.run([sys.executable, "-c", ADOPT, str(made.pid), cgroup, str(self.house.base)], check=True)
        return made

    def made_up(self, pid: int, comm: str = "app", **about: Any) -> int:
        """A process of the test's imagination. Returns its pid. Memory is in bytes."""
        folder = self.proc / str(pid)
        folder.mkdir()
        fields = ["S", about.get("parent", 1), *["0"] * 17, about.get("started", 1000 + pid), "0"]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(map(str, fields))}\n")
        anon, shared = about.get("anon", MB) // 1024, about.get("shared", 0) // 1024
        memory = f"VmRSS:\t{anon + shared} kB\nRssAnon:\t{anon} kB\nRssShmem:\t{shared} kB\nVmSwap:\t0 kB\n"
        (folder / "status").write_text(f"Name:\t{comm[:15]}\n" + ("" if about.get("kernel") else memory))
        (folder / "cgroup").write_text(about.get("cgroups", f"0::{about.get('cgroup', '/')}\n"))
        (folder / "exe").symlink_to(about.get("exe", "/opt/app/bin/app"))
        (folder / "cmdline").write_bytes("\0".join(about.get("cmdline", ["/opt/app/bin/app"])).encode() + b"\0")
        (folder / "environ").write_bytes(about.get("environ", b"PATH=/bin\0"))
        (folder / "oom_score_adj").write_text(f"{about.get('oom_score_adj', 0)}\n")
        return pid

    def unit(self, name: str, pid: int, label: str | None = "X-Byteport-Restart=safe", **properties: str) -> Path:
        """What systemd knows of a unit; with a drop-in that holds the label. Returns the drop-in."""
        files = self.house.base / "etc/systemd/system"
        drop_in = files / f"{name}.d" / "byteport.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text("[Unit]\nDescription=x\n[Service]\nExecStart=/opt/app/bin/app\n")
        drop_in.write_text(f"[Service]\n{label}\n" if label else "")
        about = {
            "Id": name, "Names": name, "LoadState": "loaded", "ActiveState": "active", "MainPID": str(pid),
            "ControlGroup": f"/system.slice/{name}", "FragmentPath": str(files / name), "DropInPaths": str(drop_in),
            "NeedDaemonReload": "no", "Transient": "no", "DefaultDependencies": "yes", "RefuseManualStart": "no",
            "RefuseManualStop": "no", "RequiredBy": "", "BoundBy": "", "ConsistsOf": "",
        }  # fmt: skip
        (self.units / name).write_text(json.dumps({**about, **properties}))
        return drop_in

    def systemctl(self) -> None:
        program = self.house.bin / "systemctl"
        balloon = [sys.executable, "-I", "-S", "-c", BALLOON]
        program.write_text(
            SYSTEMCTL.format(
                python=sys.executable, here=str(self.house.base), balloon=balloon, clean=CLEAN, adopt=ADOPT
            )
        )
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """How systemctl was called."""
        noted = self.house.base / "systemctl.calls"
        return [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []

    @property
    def restarts(self) -> list[list[str]]:
        return [call for call in self.calls if call[0] != "show"]

    def end(self) -> None:
        for balloon in self._balloons:
            balloon.end()
        noted = self.house.base / "started"
        for pid in noted.read_text().split() if noted.exists() else ():
            os.kill(int(pid), 9)


@contextmanager
def residents_of(house: House) -> Iterator[Residents]:
    made = Residents(house)
    made.systemctl()
    try:
        yield made
    finally:
        made.end()
