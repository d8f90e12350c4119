"""A small file system of BytePort's own: a 64 MB ext4 image on a loop device, or a folder with a budget where that
is not allowed.

Its folder is the one place where `hostctl` looks for drill volumes. A lock held for the drill's life tells a volume in
use from one that a killed drill has left behind.
"""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from byteport.clients.hosts.inventory import drill_prefix
from byteport.core.errors import Permanent
from byteport.drills.drill import scaled
from runbooks.hostctl import DRILL_MARKER, Roots

SIZE_BYTES = 64 * 1000 * 1000
COMMAND_TIMEOUT_S = 30


class Place:
    """A folder for one drill, not made yet, with its lock file, locked."""

    def __init__(self, base: Path, name: str, lock: int) -> None:
        self.name = name
        self.path = base / name
        self._lock_path = base / f"{name}.lock"
        self._lock = lock

    @classmethod
    def make(cls) -> "Place":
        """Chooses one, and removes what dead drills have left. Raises Permanent."""
        base = Path(Roots.of_this_host().drills)
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_leftovers(base)
            name = drill_prefix() + secrets.token_hex(2)
            return cls(base, name, _new_lock(base, name))
        except OSError as error:
            raise Permanent(f"No drill can be made in {base}: {error.strerror}.") from error

    def release(self) -> None:
        """Safe to call twice."""
        self._lock_path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self._lock)


class Volume:
    """One drill's volume. `mounted` says whether it is a file system of its own or a folder with a budget."""

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.path = place.path
        self.image = place.path.with_name(f"{place.name}.img")
        self.size_bytes = scaled(SIZE_BYTES)
        self._place = place
        self.mounted = False

    @classmethod
    def make(cls) -> "Volume":
        """Makes one, the real thing where that is allowed. Raises Permanent."""
        volume = cls(Place.make())
        try:
            volume._make()
        except OSError as error:
            raise Permanent(f"No drill volume can be made at {volume.path}: {error.strerror}.") from error
        return volume

    def _make(self) -> None:
        self.path.mkdir(mode=0o700)
        self.mounted = self._mount()
        budget = None if self.mounted else self.size_bytes
        self.path.chmod(0o700)
        (self.path / DRILL_MARKER).write_text(json.dumps({"id": self.name, "budget_bytes": budget}))

    def _mount(self) -> bool:
        """A file system of its own needs root, and a kernel and sandbox that allow loop devices."""
        if os.geteuid() != 0:
            return False
        with self.image.open("wb") as image:
            image.truncate(self.size_bytes)
        made = _quietly("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        if made and _quietly("mount", "-o", "loop,nosuid,nodev,noexec", str(self.image), str(self.path)):
            return True
        self.image.unlink()
        return False

    def usage(self) -> float:
        """Percent used, as `df` reckons it, or of the budget."""
        if self.mounted:
            at = os.statvfs(self.path)
            used = at.f_blocks - at.f_bfree
            return 100 * used / (used + at.f_bavail)
        return 100 * _folder_bytes(self.path) / self.size_bytes

    def remove(self) -> None:
        """Unmounts and deletes it. Safe to call twice."""
        if os.path.ismount(self.path) and not _quietly("umount", str(self.path)):
            _quietly("umount", "--lazy", str(self.path))
        if not os.path.ismount(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
        self.image.unlink(missing_ok=True)
        self._place.release()


def remove_leftovers(base: Path) -> None:
    """Removes what drills have made that are dead, be it a volume or a plain folder."""
    for lock_path in base.glob("*.lock"):
        lock = _lock_of_the_dead(lock_path)
        if lock is not None:
            Volume(Place(base, lock_path.stem, lock)).remove()


def _new_lock(base: Path, name: str) -> int:
    """Makes the lock file and locks it before it gets its name, so that no other drill finds it free."""
    unnamed = base / f"{name}.new"
    lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(base / f"{name}.lock")
    return lock


def _lock_of_the_dead(lock_path: Path) -> int | None:
    """The lock, taken; None while its drill lives, or when another has just removed it."""
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _folder_bytes(folder: Path) -> int:
    """Bytes on disk of all files below."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _quietly(*argv: str) -> bool:
    """Runs a program; False when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
