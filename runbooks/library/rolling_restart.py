"""memory_pressure → rolling_restart: protect the bystanders, restart what leaks, put the protection back.

What leaks is judged by growth over the looks (`runbooks.leaks`), never by size. What may be restarted, and what never,
is fixed in `runbooks.hostctl`, which reads the label and the main process once more right before.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from shlex import quote
from typing import Any

import msgspec

from byteport.clients.hosts.inventory import is_reachable
from byteport.clients.hosts.reader import read, scope_of
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from runbooks.host_opt_in import host_opt_in
from runbooks.leaks import MIN_LOOKS, Verdict, growth_of
from runbooks.memory import Found, Holder, cause, evidence, limit_mib, shortage, story
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
    StepKind,
    Timing,
)
from signals.catalog import CATALOG
from signals.consumers import courses, name_of
from signals.reading import Reading
from signals.sources.host import memory_reading

BOOT_TIME_ROUNDS_S = (
    1.0  # when a process began is known by the time of the boot, which the kernel tells in whole seconds
)
WINDOW = timedelta(hours=1)  # of the looks that growth is judged by
KEPT_LOOKS = 60  # of each consumer, spread over the window
# Looks of its own, where too few were kept to see a leak by: so many at most, with such a pause between two.
MOST_LOOKS, LOOK_PAUSE_S, DRILL_PAUSE_S = 10, 2.0, 0.1
ENOUGH_S = 15.0  # who has not grown within this time is not waited for
ASKED = 5  # whether they may be restarted; hostctl takes no more


class RollingRestart:
    """The runbook of `memory_pressure`."""

    name = "rolling_restart"
    signal = "memory_pressure"
    title = "Restart the service that leaks memory"
    actions = ("host.adjust_oom_score", "host.restart_unit", "host.restart_container", "host.restore_oom_score")
    permissions: tuple[str, ...] = ()
    cooldown_s = 900
    verify_deadline_s = 120

    def observe(self, event: EventView) -> dict[str, Any]:
        """A `Found` as plain data. Takes up to half a minute where too little was kept to judge growth by."""
        resource = event.resource
        kept = courses(resource, now() - WINDOW)
        first, began = _read(resource, "memory"), time.monotonic()
        seen = [(now(), _read(resource, "consumers"))]
        while len(seen) < MOST_LOOKS and not _enough(seen, kept, first["total_bytes"]):
            time.sleep(DRILL_PAUSE_S if resource.is_drill else LOOK_PAUSE_S)
            seen.append((now(), _read(resource, "consumers")))
        last, took_s = _read(resource, "memory"), time.monotonic() - began
        pages = max(last["swap_in_pages"] - first["swap_in_pages"], 0)
        consumers = [{**one, "course": _course(one, seen, kept)} for one in seen[-1][1]["consumers"]]
        _ask(resource, consumers, last["total_bytes"])
        memory = {**last, "drills": None, "swapped_in_bytes_s": pages * last["page_bytes"] / took_s}
        return {"memory": memory, "holders": consumers, "others": seen[-1][1]["others"]}

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        found = msgspec.convert(facts, Found)
        leaking = found.leaking
        sure = bool(leaking) and found.growth(leaking[0]).verdict is Verdict.LEAKING
        return Diagnosis(
            evidence=tuple(evidence(event, found)),
            inference=f"{shortage(event, found.memory)} {cause(found)}",
            confident=sure or found.memory.is_available,
            facts=facts,
        )

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        found = msgspec.convert(diagnosis.facts, Found)
        if found.memory.is_available:
            return CannotPlan(f"{shortage(event, found.memory)} Nothing is to be restarted for that.")
        if not found.leaking:
            return CannotPlan(f"{cause(found)} {story(event, found)}")
        worst = found.leaking[0]
        if worst.refusal:
            return CannotPlan(f"{cause(found)} It is not restarted: {worst.refusal}. {story(event, found)}")
        steps = tuple(_steps(event, found, worst))
        return Plan(
            self.name, "; ".join(step.summary[0].lower() + step.summary[1:] for step in steps) + ".", steps, timing
        )

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        found = msgspec.convert(diagnosis.facts, Found)
        return tuple(f"{holder.critical}, which is never restarted." for holder in found.leaking[:1] if holder.critical)

    def opt_in(self, event: EventView) -> OptIn:
        return host_opt_in(event.resource, CATALOG[self.signal].opt_in)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        return ""  # a restart by somebody else is seen at the last moment, by the main process that was named

    def can_reread(self, event: EventView) -> bool:
        return is_reachable(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        return memory_reading(event.resource, _read(event.resource, "memory"), now)

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, f"there is no reading of {event.resource.label}")
        shown = f"{reading.value:.1f} % used"
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, f"{shown}, below {timing.clear:g} %")
        return Judgement(Look.BAD, f"{shown}, not below {timing.clear:g} %")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        found = msgspec.convert(diagnosis.facts, Found) if diagnosis and diagnosis.facts else None
        look = ManualStep(
            f"See who holds the memory of {event.resource.place}, and how hard it swaps",
            "ps -eo pid,ppid,user,rss,oom_score_adj,lstart,comm --sort=-rss | head -15; free -m; "
            "cat /proc/pressure/memory; vmstat 1 5",
        )
        if found is None or not found.holders:
            cgroups = ManualStep("See it by unit and container", "systemd-cgtop --batch --iterations=1 --order=memory")
            kills = ManualStep(
                "See whether the kernel has killed for want of memory", "journalctl -k -g oom --since -1h"
            )
            return look, cgroups, kills
        worst = (found.leaking or found.holders)[0]
        return look, _limit(found, worst), _restart(worst)


def _read(resource: ResourceRef, verb: str, **args: Any) -> dict[str, Any]:
    return read(resource.place, verb, scope_of(resource), **args)


def _course(
    consumer: Mapping[str, Any],
    seen: Sequence[tuple[datetime, dict[str, Any]]],
    kept: Mapping[str, Sequence[tuple[datetime, float]]],
) -> list[tuple[float, float]]:
    """The looks at one consumer since its main process began: unix time and bytes, in order, not too many."""
    name, since = name_of(consumer), (consumer["since"] or 0.0) - BOOT_TIME_ROUNDS_S
    points = {at.timestamp(): value for at, value in kept.get(name, ())}
    for at, answer in seen:
        points |= {at.timestamp(): float(one["rss_bytes"]) for one in answer["consumers"] if name_of(one) == name}
    course = sorted((at, value) for at, value in points.items() if at >= since)
    every = -(-len(course) // KEPT_LOOKS) or 1
    return course[::-1][::every][::-1]


def _enough(
    seen: Sequence[tuple[datetime, dict[str, Any]]],
    kept: Mapping[str, Sequence[tuple[datetime, float]]],
    total_bytes: int,
) -> bool:
    """Whether it can be told who leaks: each of the greatest was looked at; one of them grows, or all had time to."""
    growths = [growth_of(_course(one, seen, kept), total_bytes) for one in seen[-1][1]["consumers"][:ASKED]]
    looked_at = all(growth.looks >= MIN_LOOKS for growth in growths)
    return looked_at and (any(growth.leaks for growth in growths) or all(g.span_s >= ENOUGH_S for g in growths))


def _ask(resource: ResourceRef, consumers: list[dict[str, Any]], total_bytes: int) -> None:
    """Notes at those that grow whether they may be restarted, the fastest first."""
    growths = [(growth_of(one["course"], total_bytes), one) for one in consumers]
    growing = [(growth.bytes, number) for number, (growth, _) in enumerate(growths) if growth.leaks]
    asked = [consumers[number] for _, number in sorted(growing, reverse=True)[:ASKED]]
    if asked:
        wanted = [{key: one[key] for key in ("kind", "name", "runtime")} for one in asked]
        answers = _read(resource, "restartable", consumers=wanted)["consumers"]
        for one, answer in zip(asked, answers, strict=True):
            one["restart"] = answer


# -------------------------------------------------------------------------------------------------- the steps


def _steps(event: EventView, found: Found, worst: Holder) -> Iterator[Step]:
    target, spared = str(event.resource), [[one.biggest["pid"], one.biggest["started"]] for one in found.bystanders]
    if spared:
        summary = f"Protect {len(spared)} bystander{'s' if len(spared) > 1 else ''} from being killed instead"
        yield Step("protect", "host.adjust_oom_score", target, summary, {"processes": spared}, StepKind.PREPARE)
    yield _restart_step(target, worst)
    if spared:
        summary = "Put the bystanders' oom_score_adj back"
        yield Step("put_back", "host.restore_oom_score", target, summary, {}, StepKind.PUT_BACK)


def _restart_step(target: str, worst: Holder) -> Step:
    main = {"pid": worst.restart["pid"], "started": worst.restart["started"]}
    summary = f"Restart {worst.label}"
    if worst.kind == "unit":
        return Step("restart", "host.restart_unit", target, summary, {"unit": worst.name, **main})
    params = {"runtime": worst.runtime, "container": worst.name, **main}
    return Step("restart", "host.restart_container", target, summary, params)


# ------------------------------------------------------------------------------------------------- the advice


def _limit(found: Found, holder: Holder) -> ManualStep:
    mib, name = limit_mib(found, holder), quote(holder.name)
    title = f"Limit {holder.label} to {mib} MiB, so that it is restarted or killed before the host is short"
    if holder.kind == "unit":
        return ManualStep(title, f"systemctl set-property -- {name} MemoryMax={mib}M")
    if holder.runtime in ("docker", "podman"):
        return ManualStep(title, f"{holder.runtime} update --memory {mib}m --memory-swap {mib}m {name}")
    if holder.runtime == "crictl":
        return ManualStep(f"{title}: in its pod's resources.limits.memory", f"crictl inspect {name} | head -60")
    return ManualStep(
        f"{title}: run it as a unit with MemoryMax={mib}M", f"tr '\\0' ' ' < /proc/{_pid(holder)}/cmdline"
    )


def _restart(holder: Holder) -> ManualStep:
    name, title = quote(holder.name), f"Restart {holder.label}, if it may be"
    if holder.kind == "unit":
        return ManualStep(title, f"systemctl try-restart -- {name}{_labelling(holder)}")
    if holder.runtime in ("docker", "podman"):
        return ManualStep(
            f"{title}; BytePort may when it carries byteport.restart=safe", f"{holder.runtime} restart {name}"
        )
    if holder.runtime == "crictl":
        return ManualStep(f"{title}; BytePort may when its pod carries byteport.restart=safe", f"crictl stop {name}")
    return ManualStep(f"End {holder.label}, if it may be: nothing starts it again", f"kill -TERM {_pid(holder)}")


def _labelling(holder: Holder) -> str:
    """What lets BytePort do it the next time, where only that was missing."""
    if not holder.restart.get("unlabelled"):
        return ""
    folder = quote(f"/etc/systemd/system/{holder.name}.d")
    drop_in = quote(f"/etc/systemd/system/{holder.name}.d/byteport.conf")
    return (
        "\n# and to let BytePort do so the next time:\n"
        f"mkdir -p {folder} && printf '[Service]\\nX-Byteport-Restart=safe\\n' > {drop_in} && systemctl daemon-reload"
    )


def _pid(holder: Holder) -> int:
    return int(holder.biggest["pid"])


RUNBOOK = RollingRestart()
