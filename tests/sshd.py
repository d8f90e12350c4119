"""Hosts to reach by SSH: real sshds on loopback, each with keys of its own and in a mount namespace of its own.

In that namespace /var/log, /tmp, /etc/byteport and BytePort's own folders are folders below the host's base, so that
whatever `hostctl` does there is real and touches nothing else. It needs root and Debian's openssh-server.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import psutil
import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
PATIENCE_S = 20
BASHRC = "/root/.bashrc"
FOLDERS = ("var/log", "tmp", "etc/byteport", "var/lib/byteport-agent", "run/byteport-agent")

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {base}/ssh/host_key
AuthorizedKeysFile {base}/ssh/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
MaxStartups 100
SetEnv BYTEPORT_HOSTCTL_PATH={base}/bin:/usr/bin:/bin PATH={path}
"""


def why_not() -> str:
    """Why no sshd can be run here; empty when it can."""
    if SSHD is None:
        return "Debian's openssh-server is not installed (apt-get install openssh-server)"
    if os.geteuid() != 0:
        return "only root can run an sshd in a mount namespace of its own"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        return "no mount namespace of our own is allowed here"
    return ""


needs_sshd = pytest.mark.skipif(bool(why_not()), reason=why_not())


class Sshd:
    """One host. `path` is where its shells look for programs, `disk_mb` the size of a real file system at /var/log,
    `sudoers` what a user `byteport`, who is not root, may do there."""

    def __init__(self, name: str, *, path: str = "/usr/bin:/bin", disk_mb: int = 0, sudoers: str = "") -> None:
        self.name, self.sudoers = name, sudoers
        # Not below /tmp, which is another folder inside.
        self.base = Path(tempfile.mkdtemp(prefix="byteport-sshd-", dir="/var/tmp"))
        for folder in (*FOLDERS, "ssh", "bin"):
            (self.base / folder).mkdir(parents=True)
        self.base.chmod(0o711)
        (self.base / "tmp").chmod(0o1777)
        self.port = free_port()
        self.key_file, self.known_hosts_file = self.base / "ssh/client_key", self.base / "ssh/known_hosts"
        self.disk = self._make_disk(disk_mb) if disk_mb else None
        self._make_keys()
        (self.base / "ssh/config").write_text(CONFIG.format(port=self.port, base=self.base, path=path))
        self.log = self.base / "ssh/log"
        self._process = self._start()

    def row(self) -> dict[str, object]:
        """The columns of its row in the inventory."""
        return {
            "name": self.name, "way": "ssh", "address": "127.0.0.1", "port": self.port,
            "user": "byteport" if self.sudoers else "root", "use_sudo": bool(self.sudoers),
            "key_file": str(self.key_file), "known_hosts_file": str(self.known_hosts_file),
        }  # fmt: skip

    def opt_in(self, words: str) -> None:
        file = self.base / "etc/byteport/annotations"
        file.write_text(f"byteport.io/auto-remediate: {words}\n")
        file.chmod(0o644)

    def program(self, name: str, script: str) -> Path:
        """A stand-in on the host's PATH that notes each call, then does as the script says. Returns its notes."""
        noted, path = self.base / f"{name}.calls", self.base / "bin" / name
        path.write_text(f'#!/bin/sh\necho "$*" >> {noted}\n{script}\n')
        path.chmod(0o755)
        return noted

    def sessions(self) -> list[psutil.Process]:
        """The sshds of open connections, outermost first."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in below if process.name().startswith("sshd")]

    def cut_connections(self) -> None:
        for process in self.sessions():
            process.send_signal(signal.SIGKILL)

    def change_host_key(self) -> None:
        """Somebody else answers at its address from now on."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self.base / "ssh/host_key")
        self._end()
        self.log.unlink()
        self._process = self._start()

    def stop(self) -> None:
        self._end()
        shutil.rmtree(self.base, ignore_errors=True)

    def _end(self) -> None:
        for process in psutil.Process(self._process.pid).children(recursive=True):
            process.kill()
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def _make_disk(self, size_mb: int) -> Path:
        image = self.base / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_mb * 1_000_000)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, timeout=PATIENCE_S)
        return image

    def _make_keys(self) -> None:
        host_key, client_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        host_key.write_private_key(self.base / "ssh/host_key")
        client_key.write_private_key(self.key_file)
        client_key.write_public_key(self.base / "ssh/authorized_keys")
        for file in (self.base / "ssh/host_key", self.key_file):
            file.chmod(0o600)
        line = host_key.export_public_key().decode().strip()
        self.known_hosts_file.write_text(f"[127.0.0.1]:{self.port} {line}\n")

    def _make_user(self) -> tuple[str, ...]:
        """A user of the host's own, and what it may do by sudo: files to mount over the machine's."""
        for file, line in (("etc/passwd", "byteport:x:4711:4711::/:/bin/sh"), ("etc/shadow", "byteport:*:19000::::::")):
            (self.base / file).write_text(Path("/", file).read_text() + line + "\n")
        sudoers = self.base / "etc/sudoers.d/byteport"
        sudoers.parent.mkdir()
        sudoers.write_text(self.sudoers + "\n")
        sudoers.chmod(0o440)
        return "etc/passwd", "etc/shadow", "etc/sudoers.d"

    def _start(self) -> subprocess.Popen[bytes]:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for folder in FOLDERS:  # what is mounted over has to be there
            Path("/", folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        mounts = [f'mount --bind "$BASE/{folder}" /{folder}' for folder in FOLDERS]
        if Path(BASHRC).exists():  # it might put other programs in front
            mounts.append(f"mount --bind /dev/null {BASHRC}")
        if self.sudoers:
            mounts += [f'mount --bind "$BASE/{file}" /{file}' for file in self._make_user()]
        if self.disk:
            mounts.append('mount -o loop "$BASE/disk.img" /var/log')
        script = " && ".join([*mounts, f'exec {SSHD} -D -f "$BASE/ssh/config" -E "$BASE/ssh/log"'])
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        started = subprocess.Popen(argv, env={"BASE": str(self.base), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        self._process = started
        self.wait_until_it_listens()
        return started

    def wait_until_it_listens(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, f"sshd has ended: {self.log.read_text() if self.log.exists() else ''}"
            assert time.monotonic() < until, "sshd does not listen"
            time.sleep(0.02)


@contextmanager
def running(*names: str, **options: object) -> Iterator[list[Sshd]]:
    """Several hosts at once."""
    hosts: list[Sshd] = []
    try:
        for name in names:
            hosts.append(Sshd(name, **options))  # type: ignore[arg-type]
        yield hosts
    finally:
        for host in hosts:
            host.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
