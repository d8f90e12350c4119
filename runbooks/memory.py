"""A host's memory as its runbook sees it: how short it is, who holds it, who leaks; and all that in words. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from byteport.core.units import human_bytes, human_duration
from runbooks.leaks import Growth, Verdict, growth_of
from runbooks.runbook import EventView
from signals.catalog import CATALOG

TOLD = 5  # of those that hold the most
BYSTANDERS, LOWEST = 5, -500  # hostctl protects no more of them, and none further
# From here on it shows that memory is missing: bytes swapped in a second, percent of the time that some task stalls.
SWAPPING_BYTES_S, STALLING_PERCENT = 1_000_000, 1.0
LIMIT_STEP = 64 * 1024 * 1024


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of memory, with all that is known of it."""

    kind: str
    name: str
    runtime: str = ""
    kubernetes: bool = False
    rss_bytes: int
    swap_bytes: int = 0
    limit_bytes: int | None = None
    oom_kills: int | None = None
    processes: int = 1
    biggest: dict[str, Any]
    oom_score_adj: int | None = None
    critical: str = ""
    course: list[tuple[float, float]] = []
    restart: dict[str, Any] = {}  # the answer of `restartable`; empty: it was not asked

    @property
    def label(self) -> str:
        if self.kind == "process":
            return f"the process {self.name} ({self.biggest['pid']})"
        return f"the container {self.title}" if self.kind == "container" else self.name

    @property
    def title(self) -> str:
        return self.restart.get("title") or (self.name[:12] if self.kind == "container" else self.name)

    @property
    def refusal(self) -> str:
        """Why it is not restarted."""
        return self.critical or self.restart.get("refusal", "it was not asked whether it may be restarted")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `memory`, with what two of them tell."""

    total_bytes: int
    available_bytes: int
    percent: float
    cached_bytes: int = 0
    shmem_bytes: int = 0
    unreclaimable_bytes: int = 0
    huge_pages_bytes: int = 0
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    pressure: dict[str, float] | None = None
    swapped_in_bytes_s: float = 0.0

    @property
    def is_available(self) -> bool:
        """Whoever calls it used counts page cache, which the kernel gives up when it is asked to."""
        return self.percent < CATALOG["memory_pressure"].clear

    @property
    def stalls(self) -> bool:
        stalled = (self.pressure or {}).get("some_avg10", 0.0) >= STALLING_PERCENT
        return stalled or self.swapped_in_bytes_s >= SWAPPING_BYTES_S


class Found(msgspec.Struct, frozen=True):
    """What `observe` has read. `others`: how many consumers are not among the holders, and what they hold."""

    memory: Memory
    holders: tuple[Holder, ...]
    others: dict[str, int]

    def growth(self, holder: Holder) -> Growth:
        return growth_of(holder.course, self.memory.total_bytes)

    @property
    def leaking(self) -> list[Holder]:
        """Those that leak, as far as can be told, the fastest first."""
        grown = [holder for holder in self.holders if self.growth(holder).leaks]
        return sorted(grown, key=lambda holder: self.growth(holder).bytes, reverse=True)

    @property
    def bystanders(self) -> list[Holder]:
        """Those that the kernel should not take instead: neither critical nor leaking."""
        spared = (h for h in self.holders if not h.critical and not h.kubernetes and not self.growth(h).leaks)
        return [holder for holder in spared if (holder.oom_score_adj or 0) > LOWEST][:BYSTANDERS]


def shortage(event: EventView, memory: Memory) -> str:
    """Page cache or true exhaustion, and by what that is told."""
    shown = f"{memory.percent:.1f} % of memory is in use by what the kernel cannot give up (MemAvailable)"
    if memory.is_available:
        what = "It has eased by itself" if event.source == "host" else "This is page cache, not exhaustion"
        return f"{what}: only {shown}, {human_bytes(memory.available_bytes)} are available."
    if memory.stalls:
        return f"This is true exhaustion, not page cache: {shown}, and tasks wait for memory ({_waiting(memory)})."
    return f"Memory is scarce, and not for page cache: {shown}; tasks do not wait for it yet ({_waiting(memory)})."


def _waiting(memory: Memory) -> str:
    swapped = f"{human_bytes(memory.swapped_in_bytes_s)} a second swapped in" if memory.swap_total_bytes else "no swap"
    if memory.pressure is None:
        return f"{swapped}, and no PSI here"
    return f"{swapped}, PSI {memory.pressure.get('some_avg10', 0.0):.1f} % of the last 10 s"


def _grown(growth: Growth) -> str:
    return f"{human_bytes(growth.bytes)} in {human_duration(growth.span_s)}, over {growth.looks} looks"


def cause(found: Found) -> str:
    if found.memory.is_available:
        return "Nobody has to be blamed."
    if not found.leaking:
        return "None of those that hold the most has grown, so which one leaks cannot be told: size alone says nothing."
    worst = found.leaking[0]
    growth = found.growth(worst)
    if growth.verdict is Verdict.LEAKING:
        return f"{worst.label} leaks: it has grown by {_grown(growth)}, and gives nothing back."
    return f"{worst.label} may leak, as a guess: it has grown by {_grown(growth)}, which is little to judge by."


def story(event: EventView, found: Found) -> str:
    """For whoever takes over: host, swap, the greatest consumers, what to limit."""
    top = ", ".join(f"{holder.label} {human_bytes(holder.rss_bytes)}" for holder in found.holders[:3])
    worst = (found.leaking or found.holders or (None,))[0]
    limit = f" Suggested limit for {worst.label}: {limit_mib(found, worst)} MiB." if worst else ""
    return f"{event.resource.label}: {_swap(found.memory)} Most is held by {top or 'nobody that can be seen'}.{limit}"


def _swap(memory: Memory) -> str:
    if not memory.swap_total_bytes:
        return "There is no swap."
    used = memory.swap_total_bytes - memory.swap_free_bytes
    back = human_bytes(memory.swapped_in_bytes_s)
    return f"{human_bytes(used)} of {human_bytes(memory.swap_total_bytes)} swap are in use, {back} a second come back."


def evidence(event: EventView, found: Found) -> Iterator[str]:
    memory = found.memory
    total, available = human_bytes(memory.total_bytes), human_bytes(memory.available_bytes)
    yield f"{event.resource.label}: {memory.percent:.1f} % of {total} in use, {available} available (MemAvailable)."
    others = (
        ("page cache", memory.cached_bytes - memory.shmem_bytes),
        ("tmpfs and shared memory", memory.shmem_bytes),
        ("the kernel's own", memory.unreclaimable_bytes),
        ("huge pages", memory.huge_pages_bytes),
    )
    parts = [f"{what} {human_bytes(size)}" for what, size in others if size > 0]
    if parts:
        yield f"Besides what programs hold: {', '.join(parts)}."
    yield _swap(memory)
    if memory.pressure is not None:
        some, full = memory.pressure.get("some_avg10", 0.0), memory.pressure.get("full_avg10", 0.0)
        yield f"Pressure (PSI), last 10 s: {some:.1f} % of the time a task waited for memory, {full:.1f} % all did."
    else:
        yield "This kernel tells no pressure (PSI)."
    for holder in found.holders[:TOLD]:
        yield _holding(holder, found.growth(holder))
    if found.others.get("consumers"):
        yield f"{found.others['consumers']} others hold {human_bytes(found.others['rss_bytes'])} together."


def _holding(holder: Holder, growth: Growth) -> str:
    """One consumer in a sentence."""
    limit = f", limit {human_bytes(holder.limit_bytes)}" if holder.limit_bytes else ""
    kills = f", {holder.oom_kills} killed in it for want of memory" if holder.oom_kills else ""
    held = f"{holder.label} holds {human_bytes(holder.rss_bytes)} in {holder.processes} processes{limit}{kills}"
    if growth.verdict is Verdict.UNKNOWN:
        return f"{held}; too few looks ({growth.looks}) to say whether it grows."
    if growth.bytes <= 0:
        return f"{held}; it has not grown over {growth.looks} looks in {human_duration(growth.span_s)}."
    why = f" It is not restarted: {holder.refusal}." if growth.leaks and holder.refusal else ""
    return f"{held}; it has grown by {_grown(growth)}.{why}"


def limit_mib(found: Found, holder: Holder) -> int:
    """A limit that leaves room: half as much again as it held before it grew, or a quarter more than it holds."""
    growth = found.growth(holder)
    room = growth.first_bytes * 1.5 if growth.leaks else holder.rss_bytes * 1.25
    return -(-int(room) // LIMIT_STEP) * LIMIT_STEP // 1024 // 1024
