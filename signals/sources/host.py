"""The hosts that BytePort reaches itself: usage of each mount, memory and swap. So far: the one it runs on."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from byteport.clients.hosts.inventory import local_name
from byteport.clients.hosts.reader import read
from byteport.core.resource import ResourceRef
from signals.reading import Reading
from signals.source import SourceConfig

INTERVAL_S = 10.0
DRILL_INTERVAL_S = 1.0


class HostSource:
    """Reads `/proc` and the mounted file systems through `hostctl`."""

    name = "host"
    title = "Hosts that BytePort reaches itself"
    permissions: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._drill_seen = False

    def interval_s(self) -> float:
        """Every ten seconds; every second while a drill's volume exists, so that its story is told within a minute."""
        return DRILL_INTERVAL_S if self._drill_seen else INTERVAL_S

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        place = local_name()
        volumes = disk_readings(place, read(place, "usage"), now)
        self._drill_seen = any(reading.resource.is_drill for reading in volumes)
        return [*volumes, memory_reading(place, read(place, "memory"), now)]

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        if signal == "memory_pressure":
            return memory_reading(resource.place, read(resource.place, "memory"), now)
        return disk_reading(resource, now)


def disk_reading(resource: ResourceRef, now: datetime) -> Reading | None:
    """One mount's usage, read now. None when it is not mounted (any more)."""
    readings = disk_readings(resource.place, read(resource.place, "usage"), now)
    return next((reading for reading in readings if reading.resource == resource), None)


def disk_readings(place: str, usage: dict[str, Any], now: datetime) -> list[Reading]:
    """The answer of `usage` as readings. What could not be measured yields none, so that its window starts again."""
    return [
        Reading(
            signal="disk_pressure",
            resource=volume_of(place, mount),
            at=now,
            value=float(mount["percent"]),
            source=SOURCE.name,
            labels={"device": mount["device"], "fstype": mount["fstype"], "mountpoint": mount["mount"]},
        )
        for mount in usage["mounts"]
        if mount.get("percent") is not None
    ]


def volume_of(place: str, mount: dict[str, Any]) -> ResourceRef:
    """What one line of `usage` is about."""
    if mount.get("drill"):
        return ResourceRef("host", place, "drill", mount["drill"])
    return ResourceRef("host", place, "mount", mount["mount"])


def memory_reading(place: str, memory: dict[str, Any], now: datetime) -> Reading:
    """The answer of `memory` as a reading; swap goes along as labels."""
    return Reading(
        signal="memory_pressure",
        resource=ResourceRef("host", place, "memory", "memory"),
        at=now,
        value=float(memory["percent"]),
        source=SOURCE.name,
        labels={key: str(memory[key]) for key in ("swap_total_bytes", "swap_free_bytes") if key in memory},
    )


SOURCE = HostSource()
