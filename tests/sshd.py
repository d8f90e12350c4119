"""Hosts to reach by SSH: real sshds on loopback, each with keys of its own, on a machine of its own (tests/machine.py).

They need root and Debian's openssh-server.
"""

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from tests import machine
from tests.machine import Machine, wait_for

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
BASHRC = "/root/.bashrc"
WHY_NOT = "" if SSHD else "Debian's openssh-server is not installed (as root: apt-get install openssh-server)"

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
SetEnv BYTEPORT_HOSTCTL_PATH={programs} PATH={path}
"""

needs_sshd = pytest.mark.skipif(bool(WHY_NOT or machine.WHY_NOT), reason=WHY_NOT or machine.WHY_NOT)


class Sshd(Machine):
    """One host. `path` is where its shells look for programs, `sudoers` what a user `byteport`, who is not root, may do
    there."""

    def __init__(self, name: str, *, path: str = "/usr/bin:/bin", sudoers: str = "", **options: Any) -> None:
        self.path, self.sudoers, self.port = path, sudoers, free_port()
        super().__init__(name, **options)
        wait_for(self._listens)

    @property
    def key_file(self) -> Path:
        return self.base / "ssh/client_key"

    @property
    def known_hosts_file(self) -> Path:
        return self.base / "ssh/known_hosts"

    @property
    def log(self) -> str:
        return (self.base / "ssh/log").read_text()

    def row(self) -> dict[str, object]:
        """The columns of its row in the inventory."""
        return {
            "name": self.name, "way": "ssh", "address": "127.0.0.1", "port": self.port,
            "user": "byteport" if self.sudoers else "root", "use_sudo": bool(self.sudoers),
            "key_file": str(self.key_file), "known_hosts_file": str(self.known_hosts_file),
        }  # fmt: skip

    def main(self) -> str:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        if not (self.base / "ssh").exists():
            (self.base / "ssh").mkdir()
            self._make_keys()
        config = CONFIG.format(port=self.port, base=self.base, path=self.path, programs=self.programs)
        (self.base / "ssh/config").write_text(config)
        return f'exec {SSHD} -D -f "$BASE/ssh/config" -E "$BASE/ssh/log"'

    def mounts(self) -> list[str]:
        mounts = super().mounts()
        if Path(BASHRC).exists():  # it might put other programs in front
            mounts.append(f"mount --bind /dev/null {BASHRC}")
        if self.sudoers:
            mounts += [f'mount --bind "$BASE/{file}" /{file}' for file in self._make_user()]
        return mounts

    def cut_connections(self) -> None:
        """Kills the sshds of all open connections."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if process.name().startswith("sshd"):
                process.send_signal(signal.SIGKILL)

    def change_host_key(self) -> None:
        """Somebody else answers at its address from now on."""
        self.end()
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(self.base / "ssh/host_key")
        (self.base / "ssh/log").unlink()
        self.process = self._start()
        wait_for(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None, f"sshd has ended: {self.log}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

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


@contextmanager
def running(*names: str, **options: Any) -> Iterator[list[Sshd]]:
    """Several hosts at once."""
    hosts: list[Sshd] = []
    try:
        for name in names:
            hosts.append(Sshd(name, **options))
        yield hosts
    finally:
        for host in hosts:
            host.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
