"""Changes to hosts, all of them verbs of `hostctl`, which keeps a journal of their ids on the host itself.

The fence reads a host's opt-in right before a verb leaves for it, whatever the gates have seen.
"""

from datetime import datetime
from typing import Any

import msgspec

from byteport.clients.hosts.inventory import transport_for
from byteport.clients.hosts.protocol import HostAnswer, HostRequest
from byteport.clients.hosts.reader import read, scope_of
from byteport.core.errors import Temporary
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.action import ActionCall, Probe, ProbeState
from runbooks.actions.fence import Permit, admit, heed_switches, opened
from runbooks.host_opt_in import host_opt_in


class HostPermit(msgspec.Struct, frozen=True):
    """Admits one verb on one host, if that is opted in at this moment and nobody has switched BytePort off."""

    permit: Permit
    target: ResourceRef
    opt_in: str

    def refusal(self, call: object) -> str:
        refusal = self.permit.refusal(call) or self._not_opted_in()
        if not refusal:
            heed_switches(in_dry_run=self.target.is_drill or not self.opt_in)
        return refusal

    def _not_opted_in(self) -> str:
        if not self.opt_in:
            return ""
        found = host_opt_in(self.target, self.opt_in)
        return "" if found.given else f"it is not opted in to `{self.opt_in}` ({found.where}: {found.found})"


class HostAction(msgspec.Struct, frozen=True):
    """One changing verb of `hostctl`. `opt_in`: the word it takes; none for what only takes back BytePort's own."""

    name: str
    title: str
    verb: str
    opt_in: str
    timeout_s: float = 180.0

    @property
    def permissions(self) -> tuple[str, ...]:
        return (f"host: {self.verb}",)

    def simulate(self, call: ActionCall) -> ActionOutcome:
        answer = _send(call.target, self._request(call, dry_run=True), timeout_s=self.timeout_s)
        if answer.status != "done":
            return outcome_of(answer)
        return ActionOutcome(Result.SIMULATED, answer.reason, answer.result)

    def execute(self, call: ActionCall) -> ActionOutcome:
        with opened(HostPermit(_permit(call.target, self.verb), call.target, self.opt_in)):
            answer = _send(call.target, self._request(call), timeout_s=self.timeout_s)
        if answer.status == "refused" and answer.reason in ("running", "interrupted"):
            raise Temporary(f"{self.verb} was begun under this id already: {answer.reason}", delay_s=2.0)
        return outcome_of(answer)

    def probe(self, call: ActionCall, started_at: datetime) -> Probe:
        found = read(call.target.place, "probe", scope_of(call.target), action_id=call.id)
        return _probe_of(found, started_at)

    def _request(self, call: ActionCall, *, dry_run: bool = False) -> HostRequest:
        action_id = None if dry_run else call.id
        return HostRequest(
            verb=self.verb,
            scope=scope_of(call.target),
            action_id=action_id,
            args=call.params,
            dry_run=dry_run,
        )


def _permit(target: ResourceRef, verb: str) -> Permit:
    return Permit("host", target.place, verb, str(target))


def _send(target: ResourceRef, request: HostRequest, *, timeout_s: float) -> HostAnswer:
    """The one place from which a changing verb leaves. What only counts (a dry run) needs no permit."""
    if not request.dry_run:
        admit(_permit(target, request.verb))
    return transport_for(target.place).run(request, timeout_s=timeout_s)


def outcome_of(answer: HostAnswer) -> ActionOutcome:
    return ActionOutcome(Result(answer.status), answer.reason, answer.result)


def _probe_of(found: dict[str, Any], started_at: datetime) -> Probe:
    """Reads the host's journal entry. One that is absent after a reboot may have gone with it: unknown."""
    state = found["state"]
    if state == "finished":
        answer = msgspec.convert(found["answer"], HostAnswer)
        return Probe(ProbeState.FINISHED, answer.reason, outcome_of(answer))
    if state == "running":
        return Probe(ProbeState.RUNNING)
    if state == "interrupted":
        return Probe(ProbeState.UNKNOWN, "It was begun on the host and cut off before it could say how it ended.")
    if found["boot_time"] > started_at.timestamp():
        return Probe(ProbeState.UNKNOWN, "The host was restarted meanwhile, and its journal of this action is gone.")
    return Probe(ProbeState.ABSENT)


ACTIONS = (
    HostAction("host.journal_vacuum", "Vacuum the system journal to 50 MB", "journal_vacuum", "disk"),
    HostAction("host.delete_rotated_logs", "Delete rotated logs older than 7 days", "delete_rotated_logs", "disk"),
    HostAction("host.container_prune", "Prune unused container images and artefacts", "container_prune", "disk"),
    HostAction("host.clear_tmp", "Clear files in /tmp unused for 48 h", "clear_tmp", "disk"),
    HostAction(
        "host.adjust_oom_score", "Protect bystanders from being killed for want of memory", "adjust_oom_score", "memory"
    ),
    HostAction("host.restore_oom_score", "Put the bystanders' oom_score_adj back", "restore_oom_score", ""),
    HostAction(
        "host.restart_unit", "Restart a systemd unit that is labelled safe to restart", "restart_unit", "memory"
    ),
    HostAction(
        "host.restart_container",
        "Restart a container that is labelled safe to restart",
        "restart_container",
        "memory",
    ),
)
