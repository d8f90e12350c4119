"""`manage.py agent …`: how the agent is, dry-run, and the kill switch."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

import msgspec

from byteport.cli import Report, ReportCommand, actor, pairs, section, stamp, switch, table
from byteport.core.clock import now
from byteport.core.errors import Refused
from byteport.core.units import human_duration
from incidents import operate, queries
from runbooks.policy import agent_settings

FORCED = ", kept on by this deployment (BYTEPORT_FORCE_DRY_RUN)"
MISSING = {
    "worker": "No worker is alive: no incident goes on. Start one: manage.py worker (or everything: manage.py up)",
    "watch": "No watcher is alive: no source is asked. Start one: manage.py watch (or everything: manage.py up)",
}


class Switches(msgspec.Struct, frozen=True):
    dry_run: bool
    paused: bool
    paused_reason: str


class SourceState(msgspec.Struct, frozen=True):
    """`state`: ok, late, failing, silent or off. `lag_s`: since the last success."""

    slug: str
    kind: str
    state: str
    last_success_at: datetime | None
    lag_s: float | None
    last_error: str


class AgentStatus(msgspec.Struct, frozen=True):
    """The whole agent at a glance. `incidents` counts the open ones by status, `processes` the living by role."""

    dry_run: bool
    dry_run_is_forced: bool
    paused: bool
    paused_reason: str
    incidents: dict[str, int]
    processes: dict[str, int]
    gone: list[str]
    queue: queries.Queue
    sources: list[SourceState]
    sources_total: int


class Command(ReportCommand):
    help = "Shows how the agent is; switches dry-run; pauses and resumes it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        deeds = parser.add_subparsers(dest="deed", required=True, metavar="status|dry-run|pause|resume")
        self.add_deed(deeds, "status", "Dry-run, pause, open incidents, processes, queue and sources.")
        dry_run = self.add_deed(deeds, "dry-run", "On: nothing is changed, BytePort only says what it would do.")
        dry_run.add_argument("to", choices=["on", "off"])
        dry_run.add_argument("--yes", action="store_true", help="Do not ask before dry-run is switched off.")
        pause = self.add_deed(deeds, "pause", "The kill switch: no action is begun anywhere.")
        pause.add_argument("--why", default="", help="Shown to everybody while it is paused.")
        self.add_deed(deeds, "resume", "Ends the pause.")

    def report(self, **options: Any) -> Report:
        deed = options["deed"]
        if deed == "status":
            status = status_at(now())
            return Report(status, lines_of(status))
        if deed == "dry-run":
            return self._dry_run(options["to"] == "on", sure=options["yes"])
        if deed == "pause":
            operate.pause(actor=actor(), why=options["why"])
            return _switched("BytePort is paused: no action is begun until somebody resumes it.")
        operate.resume(actor=actor())
        return _switched("BytePort goes on.")

    def _dry_run(self, on: bool, *, sure: bool) -> Report:
        agent = agent_settings()
        would_act = not on and agent.dry_run and not agent.dry_run_is_forced
        if would_act and not sure and not self.is_sure(_warning()):
            raise Refused("Dry-run stays on.")
        operate.set_dry_run(on, actor=actor())
        if on:
            return _switched("Dry-run is on: BytePort changes nothing any more.")
        return _switched("Dry-run is off: BytePort acts from now on, within its gates.")


def _warning() -> str:
    afresh = queries.looked_at_afresh(queries.runbook_rows())
    again = f" {afresh} simulated incident(s) will be looked at afresh." if afresh else ""
    return f"BytePort will act on its own from now on, wherever it is opted in.{again} Switch dry-run off?"


def _switched(line: str) -> Report:
    agent = agent_settings()
    return Report(Switches(agent.dry_run, agent.paused, agent.paused_reason), [line])


def status_at(at: datetime) -> AgentStatus:
    agent, processes, sources = agent_settings(), queries.processes(), queries.source_health(at)
    return AgentStatus(
        dry_run=agent.dry_run,
        dry_run_is_forced=agent.dry_run_is_forced,
        paused=agent.paused,
        paused_reason=agent.paused_reason,
        incidents=queries.open_counts(),
        processes={role: len(beats) for role, beats in processes.alive.items()},
        gone=[beat.process for beat in processes.gone],
        queue=queries.queue(),
        sources=[_state_of(health) for health in sources.listed],
        sources_total=sources.total,
    )


def _state_of(health: queries.SourceHealth) -> SourceState:
    row = health.source
    error = row.last_error if health.state == "failing" else ""
    return SourceState(row.slug, row.kind, health.state, row.last_success_at, health.lag_s, error)


def _ago(seconds: float | None) -> str:
    return human_duration(seconds) if seconds is not None else ""


def lines_of(status: AgentStatus) -> list[str]:
    queue = status.queue
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(status.incidents.items()))
    alive = ", ".join(f"{count} {role}" for role, count in status.processes.items() if count or role in MISSING)
    lines = pairs(
        [
            ("dry-run", switch(status.dry_run) + (FORCED if status.dry_run_is_forced else "")),
            ("paused", (status.paused_reason or "yes") if status.paused else "no"),
            ("open incidents", counts or "none"),
            ("processes", alive + (f"; gone: {', '.join(status.gone)}" if status.gone else "")),
            ("queue", f"{queue.ready} ready, {queue.running} running, {queue.delayed} delayed"),
            ("longest due", human_duration(queue.oldest_due_s) if queue.oldest_due_s > 1 else ""),
        ]
    )
    rows = [(s.slug, s.kind, s.state, stamp(s.last_success_at), _ago(s.lag_s), s.last_error) for s in status.sources]
    header = ("source", "kind", "state", "last success (UTC)", "ago", "error")
    more = [f"{left_out} more; those that fail come first"] if (left_out := status.sources_total - len(rows)) else []
    missing = [hint for role, hint in MISSING.items() if not status.processes.get(role)]
    return [*lines, *section("Sources", [*table(header, rows), *more] if rows else []), *section("To do", missing)]
