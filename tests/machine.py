"""Hosts of the tests' own: a mount namespace each, in which /var/log, /tmp, /etc/byteport and BytePort's folders are
folders below the machine's base. Whatever `hostctl` does there is real and touches nothing else. It needs root.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

PATIENCE_S = 20
FOLDERS = ("var/log", "tmp", "etc/byteport", "var/lib/byteport-agent", "run/byteport-agent")
DAY_S = 86_400
HOLDER = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(600)"


def why_not() -> str:
    """Why there can be no machine here; empty when there can."""
    if os.geteuid() != 0:
        return "only root can have a mount namespace of its own"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        return "no mount namespace of our own is allowed here"
    return ""


def no_loop_device() -> str:
    """Why no file system of its own can be mounted; empty when it can."""
    with tempfile.TemporaryDirectory() as folder:
        script = "truncate -s 1M i && mkfs.ext4 -q -F i && mkdir m && mount -o loop i m"
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=folder, capture_output=True, check=False)
    return "" if done.returncode == 0 else "no loop device may be mounted here"


WHY_NOT = why_not()
WHY_NO_LOOP = WHY_NOT or no_loop_device()
needs_machine = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
needs_loop = pytest.mark.skipif(bool(WHY_NO_LOOP), reason=WHY_NO_LOOP)


class Machine:
    """One host. `disks`: folders that are a real file system of their own, of so many MB; `bare`: it has no program but
    those that a test puts there."""

    def __init__(self, name: str, *, disks: Mapping[str, int] = MappingProxyType({}), bare: bool = False) -> None:
        self.name, self.disks, self.bare = name, disks, bare
        # Not below /tmp, which is another folder inside.
        self.base = Path(tempfile.mkdtemp(prefix="byteport-test-", dir="/var/tmp"))
        self.base.chmod(0o711)
        for folder in (*FOLDERS, "bin"):
            (self.base / folder).mkdir(parents=True)
        (self.base / "tmp").chmod(0o1777)
        for number, size_mb in enumerate(disks.values()):
            self._make_disk(self.base / f"disk{number}.img", size_mb)
        self.process = self._start()

    @property
    def inside(self) -> Path:
        """Its file system as it sees it itself."""
        return Path(f"/proc/{self.process.pid}/root")

    def main(self) -> str:
        """The shell command that is its first process."""
        return "exec sleep infinity"

    def mounts(self) -> list[str]:
        """Shell commands that make its file system."""
        mounts = [f'mount --bind "$BASE/{folder}" /{folder}' for folder in FOLDERS]
        for number, folder in enumerate(self.disks):
            where = shlex.quote(f"/{folder}")
            mounts.append(f'mkdir -p {where} && mount -o loop "$BASE/disk{number}.img" {where}')
        return mounts

    @property
    def programs(self) -> str:
        """Where `hostctl` looks for programs."""
        return f"{self.base}/bin" if self.bare else f"{self.base}/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def run(self, script: str, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Runs a shell script on it, as an agent there would."""
        env = {
            "PATH": f"{self.base}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "BYTEPORT_HOSTCTL_PATH": f"{self.base}/bin:/usr/bin:/bin",
        }
        argv = ["nsenter", "-t", str(self.process.pid), "-m", "--", "/bin/sh", "-c", script]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)

    def opt_in(self, words: str) -> None:
        file = self.base / "etc/byteport/annotations"
        file.write_text(f"byteport.io/auto-remediate: {words}\n")
        file.chmod(0o644)

    def program(self, name: str, script: str) -> Path:
        """A stand-in on its PATH that notes each call, then does as the script says. Returns its notes."""
        noted, path = self.base / f"{name}.calls", self.base / "bin" / name
        path.write_text(f'#!/bin/sh\necho "$*" >> {noted}\n{script}\n')
        path.chmod(0o755)
        return noted

    def without_journal(self) -> None:
        """What its journalctl says keeps the real one of this machine out of it."""
        self.program("journalctl", 'echo "Archived and active journals take up 1.0M in the file system."')

    def fill(self, name: str = "var/log/app.log.{}.gz", *, files: int = 16, days: float = 9) -> None:
        """Files of 1 MB and of that age; rotated logs unless it is told otherwise."""
        for number in range(files):
            old_file(self.inside / name.format(number), days, 1_000_000)

    @contextmanager
    def holding(self, path: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process on it that holds a file open."""
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "--"]
        holder = subprocess.Popen([*inside, "python3", "-c", HOLDER, path], stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline()
            yield holder
        finally:
            holder.kill()
            holder.wait()

    def stop(self) -> None:
        self.end()
        shutil.rmtree(self.base, ignore_errors=True)

    def end(self) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
                process.kill()
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def _make_disk(self, image: Path, size_mb: int) -> None:
        with image.open("wb") as file:
            file.truncate(size_mb * 1_000_000)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, timeout=PATIENCE_S)

    def _start(self) -> subprocess.Popen[bytes]:
        for folder in FOLDERS:  # what is mounted over has to be there
            Path("/", folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        script = " && ".join([*self.mounts(), 'touch "$BASE/ready"', self.main()])
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        started = subprocess.Popen(argv, env={"BASE": str(self.base), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        wait_for(lambda: (self.base / "ready").exists() or started.poll() is not None)
        assert started.poll() is None, f"{self.name} has ended at once"
        return started


def old_file(path: Path, days: float, size: int = 50_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    os.utime(path, (time.time() - days * DAY_S,) * 2)
    return path


def wait_for(condition, seconds: float = PATIENCE_S) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to it"
        time.sleep(0.02)
