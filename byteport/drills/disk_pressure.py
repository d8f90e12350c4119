"""`drill disk_pressure`: a small real file system, filled past the threshold with real rotated logs of real ages."""

import gzip
import os
import secrets
import time
from pathlib import Path
from typing import Any

from byteport.clients.hosts.inventory import local_name
from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from byteport.drills import drill
from byteport.drills.drill import Say
from byteport.drills.volume import Volume

DAY_S = 86_400
FILE_BYTES = 1_000_000
TARGET_PERCENT = 91.0
# Shares of the files: what the runbook may delete, and what it must leave.
OLD_LOGS, STALE_TMP = 0.6, 0.15


class DiskPressure:
    """Fills a volume of its own with old rotated logs, stale temporary files, and fresh ones that must stay."""

    name = "disk_pressure"
    title = "A small file system fills up with rotated logs"
    platform = "host"

    def __init__(self) -> None:
        self._volume: Volume | None = None

    def prepare(self, say: Say) -> ResourceRef:
        if not local_name():
            raise Permanent(
                "This drill needs a host of BytePort's own, and BYTEPORT_LOCAL_HOST says that there is none."
            )
        self._volume = volume = Volume.make()
        if volume.mounted:
            say(f"made a file system of {volume.size_bytes // 1_000_000} MB at {volume.path}")
        else:
            budget = f"a folder with a budget of {volume.size_bytes // 1_000_000} MB stands in, at {volume.path}"
            say(f"no loop device may be mounted here: {budget}")
        drill.opt_in(volume.path, "disk")
        _fill(volume)
        say(f"filled it to {volume.usage():.1f} % with rotated logs and temporary files, and opted it in to `disk`")
        return ResourceRef("host", local_name(), "drill", volume.name)

    def figures(self) -> dict[str, Any]:
        return {"percent": round(self._volume.usage(), 1)} if self._volume else {}

    def remove(self) -> None:
        if self._volume is not None:
            self._volume.remove()


def _fill(volume: Volume) -> None:
    """Adds a file at a time, of the kind that is furthest behind its share, until the target is reached."""
    logs, tmp = volume.path / "var" / "log", volume.path / "tmp"
    logs.mkdir(parents=True)
    tmp.mkdir(mode=0o1777)
    number = 0
    while volume.usage() < TARGET_PERCENT:
        number += 1
        turn = (number * 0.618) % 1  # spreads the kinds evenly
        if turn < OLD_LOGS:
            _age(_rotated_log(logs, f"app.log.{number}.gz"), days=8 + number % 60)
        elif turn < OLD_LOGS + STALE_TMP:
            _age(_noise(tmp / f"upload-{number}.part"), days=3 + number % 5)
        elif number % 2:
            _age(_rotated_log(logs, f"recent.log.{number}.gz"), days=1 + number % 5)
        else:
            _age(_noise(logs / f"live-{number}.log"), days=0)


def _rotated_log(folder: Path, name: str) -> Path:
    """A real gzip file of about FILE_BYTES."""
    path = folder / name
    path.write_bytes(gzip.compress(secrets.token_bytes(drill.scaled(FILE_BYTES)), compresslevel=1))
    return path


def _noise(path: Path) -> Path:
    path.write_bytes(secrets.token_bytes(drill.scaled(FILE_BYTES)))
    return path


def _age(path: Path, *, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


DRILL = DiskPressure()
