"""The hosts that BytePort reaches itself, whichever way: usage of each mount, memory and swap."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from byteport.clients.hosts.inventory import drill_prefix, reachable, transport_to
from byteport.clients.hosts.reader import read, read_by, scope_of
from byteport.core.errors import Temporary
from byteport.core.resource import ResourceRef
from byteport.core.ways import WAYS, Address
from byteport.models import Host
from signals.consumers import consumer_readings
from signals.looks import Look, Looks
from signals.reading import Reading
from signals.source import SourceConfig

INTERVAL_S = 10.0
QUICK_INTERVAL_S = (
    1.0  # while a drill's volume exists, so that its story is told within a minute; or looks are under way
)
FAULT_S = 60.0  # a host that could not be read is asked no more often than that
PATIENCE_S = 2.0  # that one poll waits for slow hosts; their readings come with a later one


class HostSource:
    """Reads `/proc` and the mounted file systems through `hostctl`, on many hosts at once."""

    name = "host"
    title = "Hosts that BytePort reaches itself"
    permissions: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._looks = Looks(gauges_of, patience_s=PATIENCE_S)
        self._next: dict[str, datetime] = {}  # when a host is due; absent: now
        self._failing: dict[str, str] = {}  # hosts whose latest look failed, in part or as a whole, and why
        self._unread: set[str] = set()  # those of which nothing could be read
        self._drill_seen = False
        self._interval_s = INTERVAL_S

    def interval_s(self) -> float:
        return QUICK_INTERVAL_S if self._drill_seen or self._looks.running else self._interval_s

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        """Looks at the hosts that are due. One that cannot be read is noted by name and fails none of the others.

        Raises Temporary when there is not one of which anything can be read.
        """
        known = {host.name: host for host in reachable() if interval_of(host) is not None}
        self._interval_s = min([INTERVAL_S, *(interval_of(host) or INTERVAL_S for host in known.values())])
        self._forget_all_but(known)
        ended = self._looks.take(self._due(known, now), now)
        readings = [reading for look in ended for reading in self._taken(look)]
        note_health(ended, self._failing)
        if known and len(self._unread) == len(known):
            name, why = next(iter(self._failing.items()))
            raise Temporary(f"None of {len(known)} hosts can be read; {name}: {why}")
        return readings

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        if signal == "memory_pressure":
            return memory_reading(resource, read(resource.place, "memory", scope_of(resource)), now)
        return disk_reading(resource, now)

    def _forget_all_but(self, known: Mapping[str, Address]) -> None:
        self._next = {name: at for name, at in self._next.items() if name in known}
        self._failing = {name: why for name, why in self._failing.items() if name in known}
        self._unread &= known.keys()

    def _due(self, known: Mapping[str, Address], now: datetime) -> list[Address]:
        """Those whose time has come, the longest overdue first."""
        due = [host for host in known.values() if self._next.get(host.name, now) <= now]
        return sorted(due, key=lambda host: self._next.get(host.name, now))

    def _taken(self, look: Look) -> list[Reading]:
        """A look's readings, and when its host is due again."""
        name, pause_s = look.host.name, interval_of(look.host) or 0.0
        seen, faults = readings_of(look)
        readings = [one for one in seen if not one.resource.is_drill or one.resource.name.startswith(drill_prefix())]
        if look.error or faults:
            self._failing[name] = look.error or "; ".join(faults)
            pause_s = max(pause_s, FAULT_S) if look.error else pause_s
        else:
            self._failing.pop(name, None)
        (self._unread.discard if readings else self._unread.add)(name)
        if look.host.way == "local":
            self._drill_seen = any(reading.resource.is_drill for reading in readings)
            pause_s = 0.0
        self._next[name] = look.at + timedelta(seconds=pause_s)
        return readings


def interval_of(host: Address) -> float | None:
    """Seconds between two looks. None: it is not looked at."""
    return WAYS[host.way].poll_s if host.poll_s is None else float(host.poll_s)


def gauges_of(host: Address) -> dict[str, Any]:
    """One look at one host, whose address is known: it asks nothing but the host."""
    return read_by(transport_to(host), host.name, "gauges")


def readings_of(look: Look) -> tuple[list[Reading], list[str]]:
    """A look's readings, and what of it failed."""
    gauges = look.result or {}
    faults = [f"{name}: {part['reason']}" for name, part in gauges.items() if part["status"] != "done"]
    return list(_readings(look.host.name, gauges, look.at)), faults


def _readings(place: str, gauges: dict[str, Any], at: datetime) -> Iterator[Reading]:
    good = {name: part["result"] for name, part in gauges.items() if part["status"] == "done"}
    if "usage" in good:
        yield from disk_readings(place, good["usage"], at)
    if "memory" in good:
        yield from memory_readings(place, good["memory"], at)
    if "consumers" in good:
        yield from consumer_readings(memory_of(place), good["consumers"]["consumers"], at, SOURCE.name)


def note_health(ended: Sequence[Look], failing: Mapping[str, str]) -> None:
    """Writes at each host when it was read, or why it was not."""
    for at in {look.at for look in ended}:
        read_then = [look.host.name for look in ended if look.at == at and look.host.name not in failing]
        Host.objects.filter(name__in=read_then).update(last_success_at=at, last_error="")
    for look in ended:
        if look.host.name in failing:
            error = failing[look.host.name][:2000]
            Host.objects.filter(name=look.host.name).update(last_error_at=look.at, last_error=error)


def disk_reading(resource: ResourceRef, now: datetime) -> Reading | None:
    """One mount's usage, read now. None when it is not mounted (any more)."""
    found = mount_of(resource, read(resource.place, "usage")["mounts"])
    return _disk_reading(resource, found, now) if found and found.get("percent") is not None else None


def mount_of(resource: ResourceRef, mounts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The line of `usage` that a resource is about: by where it is mounted, or else by the device, as some agents name
    disks (`/dev/sda1`, `sda1`). None where there is none, or a device is mounted in several ways."""
    by_point = [mount for mount in mounts if volume_of(resource.place, mount) == resource]
    if by_point or resource.kind != "mount":
        return by_point[-1] if by_point else None
    devices = (resource.name, f"/dev/{resource.name}")
    by_device = [mount for mount in mounts if mount["device"] in devices and not mount.get("drill")]
    return by_device[0] if len(by_device) == 1 else None


def disk_readings(place: str, usage: dict[str, Any], now: datetime) -> list[Reading]:
    """The answer of `usage` as readings. What could not be measured yields none, so that its window starts again."""
    return [
        _disk_reading(volume_of(place, mount), mount, now)
        for mount in usage["mounts"]
        if mount.get("percent") is not None
    ]


def _disk_reading(resource: ResourceRef, mount: dict[str, Any], now: datetime) -> Reading:
    return Reading(
        signal="disk_pressure",
        resource=resource,
        at=now,
        value=float(mount["percent"]),
        source=SOURCE.name,
        labels={"device": mount["device"], "fstype": mount["fstype"], "mountpoint": mount["mount"]},
    )


def volume_of(place: str, mount: dict[str, Any]) -> ResourceRef:
    """What one line of `usage` is about."""
    if mount.get("drill"):
        return ResourceRef("host", place, "drill", mount["drill"])
    return ResourceRef("host", place, "mount", mount["mount"])


def memory_of(place: str) -> ResourceRef:
    return ResourceRef("host", place, "memory", "memory")


def memory_readings(place: str, memory: dict[str, Any], now: datetime) -> Iterator[Reading]:
    """The answer of `memory` as readings: of the host, and of each drill with who holds its memory."""
    yield memory_reading(memory_of(place), memory, now)
    for drill in memory.get("drills", ()):
        resource = ResourceRef("host", place, "drill", drill["drill"])
        yield memory_reading(resource, drill, now)
        yield from consumer_readings(resource, drill["consumers"], now, SOURCE.name)


def memory_reading(resource: ResourceRef, memory: dict[str, Any], now: datetime) -> Reading:
    """One measure of memory as a reading; swap goes along as labels."""
    return Reading(
        signal="memory_pressure",
        resource=resource,
        at=now,
        value=float(memory["percent"]),
        source=SOURCE.name,
        labels={key: str(memory[key]) for key in ("swap_total_bytes", "swap_free_bytes") if key in memory},
    )


SOURCE = HostSource()
