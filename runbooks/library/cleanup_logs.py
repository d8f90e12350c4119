"""disk_pressure → cleanup_logs: vacuum the journal, delete old rotated logs, prune containers, clear stale /tmp files.

Everything that it may delete is fixed in `runbooks.hostctl`; nothing here names a path.
"""

from collections.abc import Iterator
from datetime import datetime
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.hosts.inventory import is_reachable
from byteport.clients.hosts.reader import read, scope_of
from byteport.core.resource import ResourceRef
from byteport.core.units import human_bytes
from runbooks.host_opt_in import host_opt_in
from runbooks.runbook import (
    CannotPlan,
    Diagnosis,
    EventView,
    Judgement,
    Look,
    ManualStep,
    OptIn,
    Plan,
    Step,
    Timing,
)
from signals.catalog import CATALOG
from signals.reading import Reading
from signals.sources.host import disk_reading, mount_of, volume_of

HOPELESS_PERCENT = 95.0


class Measure(msgspec.Struct, frozen=True):
    """One of the four steps. `key` is also what the survey calls it where it says on which mount it frees space."""

    key: str
    action: str
    summary: str


MEASURES = (
    Measure("journal", "host.journal_vacuum", "Vacuum the system journal to 50 MB"),
    Measure("rotated_logs", "host.delete_rotated_logs", "Delete *.gz below /var/log older than 7 days"),
    Measure("containers", "host.container_prune", "Prune unused container images and artefacts"),
    Measure("tmp", "host.clear_tmp", "Clear files in /tmp unused for 48 h"),
)


class CleanupLogs:
    """The runbook of `disk_pressure`."""

    name = "cleanup_logs"
    signal = "disk_pressure"
    title = "Clean up logs, container artefacts and stale temporary files"
    actions = tuple(measure.action for measure in MEASURES)
    permissions: tuple[str, ...] = ()
    cooldown_s = 600
    verify_deadline_s = 120

    def observe(self, event: EventView) -> dict[str, Any]:
        """`{"mount": its line of `usage` or None, "survey": the answer of `survey`}`."""
        place = event.resource.place
        mount = mount_of(event.resource, read(place, "usage")["mounts"])
        return {"mount": mount, "survey": read(place, "survey", scope_of(event.resource))}

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        freeable, held = _freeable_bytes(event, facts), _held_bytes(facts)
        inference = f"{human_bytes(freeable)} in old logs and stale temporary files can be freed."
        if held > freeable:
            inference = (
                f"Files that were deleted but are still held open take {human_bytes(held)}, more than can be freed:"
                " their space comes back when whoever holds them closes them, and BytePort ends no process for that."
            )
        return Diagnosis(evidence=tuple(_evidence(event, facts)), inference=inference, confident=False, facts=facts)

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        if diagnosis.facts["mount"] is None:
            return CannotPlan(f"{event.resource.label} is not mounted any more, or cannot be read.")
        useful = _useful(event, diagnosis.facts)
        if not useful:
            return CannotPlan(f"Nothing that BytePort may clean up lies on {event.resource.label}.")
        target = str(volume_of(event.resource.place, diagnosis.facts["mount"]))  # also where the event names a device
        steps = tuple(Step(m.key, m.action, target, m.summary) for m in useful)
        return Plan(self.name, "; ".join(m.summary[0].lower() + m.summary[1:] for m in useful) + ".", steps, timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()

    def opt_in(self, event: EventView) -> OptIn:
        return host_opt_in(event.resource, CATALOG[self.signal].opt_in)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        return ""  # files come and go on a host; there is no change that says "a person is at it"

    def can_reread(self, event: EventView) -> bool:
        return is_reachable(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        return disk_reading(event.resource, now)

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, f"there is no reading of {event.resource.label}")
        shown = f"{reading.value:.1f} % used"
        if reading.value >= HOPELESS_PERCENT:
            return Judgement(Look.BAD, f"{shown}, which is {HOPELESS_PERCENT:g} % or more", hopeless=True)
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, f"{shown}, below {timing.clear:g} %")
        return Judgement(Look.BAD, f"{shown}, not below {timing.clear:g} %")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        mount = diagnosis.facts.get("mount") if diagnosis else None
        path = _shell_path(event.resource, (mount or {}).get("mount", ""))
        return (
            ManualStep(
                f"See what takes the space on {event.resource.label}",
                f"du -xh --max-depth=2 -- {path} | sort -rh | head -25",
            ),
            ManualStep(
                "Look for files that were deleted but are still held open",
                f"lsof -nP +L1 -- {path}",
            ),
            ManualStep(
                "Delete what is no longer needed, or enlarge the file system; then check",
                f"df -h -- {path} && df -i -- {path}",
            ),
        )


def _useful(event: EventView, facts: dict[str, Any]) -> list[Measure]:
    """The measures that can free space on this very mount. On a drill's volume all of them lie."""
    lies_on, mount = facts["survey"].get("lies_on", {}), facts["mount"]
    return [m for m in MEASURES if event.resource.is_drill or (mount and lies_on.get(m.key) == mount["mount"])]


def _shell_path(resource: ResourceRef, mounted_at: str) -> str:
    """The mount for a person's shell, which finds out by itself where a device is mounted if BytePort could not."""
    if resource.kind != "mount":
        return "/"
    name = mounted_at or resource.name
    return f'"$(findmnt -nfo TARGET -S {quote(name)})"' if name.startswith("/dev/") else quote(name)


def _freeable_bytes(event: EventView, facts: dict[str, Any]) -> int:
    survey = facts["survey"]
    keys = {measure.key for measure in _useful(event, facts)} & {"rotated_logs", "tmp"}
    return sum(int(survey[key].get("would_delete", {}).get("bytes", 0)) for key in keys)


def _held_bytes(facts: dict[str, Any]) -> int:
    """What deleted files that are held open take on this very mount."""
    by_mount = facts["survey"]["deleted_open"].get("by_mount", {})
    return int(by_mount.get(facts["mount"]["mount"], 0)) if facts["mount"] else 0


def _evidence(event: EventView, facts: dict[str, Any]) -> Iterator[str]:
    mount, survey = facts["mount"], facts["survey"]
    if mount is not None and "percent" in mount:
        sizes = f"{human_bytes(mount['used_bytes'])} of {human_bytes(mount['total_bytes'])}"
        system = f"{mount['fstype']} on {mount['device']}" if mount["device"] else "a folder with a budget"
        place = "" if event.resource.name == mount["mount"] or mount.get("drill") else f" mounted at {mount['mount']}"
        yield f"{event.resource.label} is {mount['percent']:.1f} % full ({sizes}; {system}{place})."
    for part, what in (
        ("rotated_logs", "rotated logs older than 7 days"),
        ("tmp", "temporary files unused for 48 h"),
    ):
        found = survey[part].get("would_delete")
        if found:
            yield f"{found['files']} {what}: {human_bytes(found['bytes'])}."
    if survey["journal"].get("bytes"):
        yield f"The system journal takes {human_bytes(survey['journal']['bytes'])}."
    for biggest in survey["biggest_files"][:3]:
        yield f"Among the biggest files in the log folder: {biggest['path']}, {human_bytes(biggest['bytes'])}."
    if survey.get("runtime"):
        yield f"Container images are {survey['runtime']}'s, in {survey['runtime_folder']}."
    held = _held_bytes(facts)
    if held:
        here = [one for one in survey["deleted_open"]["top"] if one["mount"] == mount["mount"]]
        holders = ", ".join(sorted({f"{one['comm']} ({one['pid']})" for one in here}))
        yield f"Deleted files that are still held open take {human_bytes(held)}, the biggest by {holders}."


RUNBOOK = CleanupLogs()
