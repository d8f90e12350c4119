"""Changes in PostgreSQL servers: the statements of `CHANGES` are all there are, and each judges as it acts."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import psycopg
from psycopg.rows import class_row

from byteport.clients.postgres import reader
from byteport.clients.postgres.connection import conversation
from byteport.clients.postgres.inventory import Target, target_for
from byteport.clients.postgres.statements import IDLE_STATES, ONE_SESSION
from byteport.core.errors import Permanent
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from runbooks.action import ActionCall, Probe, ProbeState
from runbooks.actions.fence import Permit, admit, heed_switches, opened

MAX_SESSIONS = 20  # of one action
DEADLINE_S = 120.0
GONE_WITHIN_S = 5.0  # a session that waits for its client ends within milliseconds of being told to
LOOK_S = 0.05

# One statement: the session of this process id is judged by every rule; then what it does is looked at afresh, and it
# is told to end only if it is still as it was judged. A session that wakes up in the instant between that look and the
# signal cannot be told from one that does not; see docs/databases.md.
CHANGES: Mapping[str, str] = MappingProxyType(
    {
        "end_session": f"""{ONE_SESSION}, fresh AS MATERIALIZED (
            SELECT judged.pid, pg_stat_clear_snapshot()::text AS nothing FROM judged WHERE judged.why_left = ''
        ), ended AS MATERIALIZED (
            SELECT a.pid, pg_terminate_backend(a.pid) AS told
            FROM fresh CROSS JOIN LATERAL pg_stat_get_activity(fresh.pid + length(fresh.nothing)) AS a
            WHERE a.backend_start = %(backend_start)s AND a.state_change = %(state_change)s AND a.state IN {IDLE_STATES}
              AND a.backend_xid IS NULL AND a.wait_event = 'ClientRead'
        )
        SELECT judged.why_left, coalesce(ended.told, false) AS told
        FROM judged LEFT JOIN ended ON ended.pid = judged.pid"""
    }
)


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session as it was when the plan was made; not another of its process id, nor this one once it has woken up."""

    pid: Annotated[int, msgspec.Meta(gt=0)]
    backend_start: Annotated[datetime, msgspec.Meta(tz=True)]
    state_change: Annotated[datetime, msgspec.Meta(tz=True)]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the action is given."""

    sessions: Annotated[tuple[Session, ...], msgspec.Meta(min_length=1, max_length=MAX_SESSIONS)]


class Answer(msgspec.Struct, frozen=True):
    """What the statement says of one session."""

    why_left: str
    told: bool


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the sessions of one action. `left`: why, by process id."""

    ended: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    left: dict[int, str] = {}


class EndIdleSessions:
    """Ends sessions that are idle in a transaction and hold nothing."""

    name = "postgres.end_idle_sessions"
    title = "End sessions that are idle in a transaction and have no uncommitted work"
    permissions = ("postgres: pg_read_all_stats", "postgres: pg_signal_backend")

    def simulate(self, call: ActionCall) -> ActionOutcome:
        target, sessions = target_for(call.target), sessions_of(call)
        with conversation(target, deadline_s=DEADLINE_S) as connection:
            judged = {s.pid: reader.judge(connection, _parameters(target, call.target, s)) for s in sessions}
        found = Ended(
            ended=tuple(pid for pid, row in judged.items() if row and not row.why_left),
            gone=tuple(pid for pid, row in judged.items() if row is None),
            left={pid: row.why_left for pid, row in judged.items() if row and row.why_left},
        )
        return ActionOutcome(Result.SIMULATED, told(found, "would end", "would leave"), figures(found))

    def execute(self, call: ActionCall) -> ActionOutcome:
        sessions = sessions_of(call)
        with opened(*(_permit(call.target, session) for session in sessions)):
            return outcome_of(_end_all(call, sessions))

    def probe(self, call: ActionCall, started_at: datetime) -> Probe:
        """None of them left: done. Else it may be done (again): each session is judged anew, and cannot end twice."""
        sessions = sessions_of(call)
        with conversation(target_for(call.target)) as connection:
            if reader.still_there(connection, map(_identity, sessions)):
                return Probe(ProbeState.ABSENT)
        pids = tuple(session.pid for session in sessions)
        why = f"{_counted(pids)} gone: ended by BytePort, whose worker died over it, or by themselves"
        return Probe(ProbeState.FINISHED, why, ActionOutcome(Result.DONE, why, figures(Ended(gone=pids))))


def sessions_of(call: ActionCall) -> tuple[Session, ...]:
    """The action's parameters. Raises Permanent when they are not as they should be."""
    try:
        return msgspec.convert(call.params, Params).sessions
    except msgspec.ValidationError as error:
        raise Permanent(f"The parameters of {call.action} cannot be read: {error}.") from error


def _permit(target: ResourceRef, session: Session) -> Permit:
    which = f"{target} {session.pid} {session.backend_start.isoformat()}"
    return Permit("postgres", target.place, "end_session", which)


def _end_all(call: ActionCall, sessions: Sequence[Session]) -> Ended:
    """Each by a statement of its own, under the action's id, which the server's log and other sessions can see."""
    target = target_for(call.target)
    with conversation(target, application=f"byteport {call.id}", deadline_s=DEADLINE_S) as connection:
        heed_switches(in_dry_run=call.target.is_drill)  # once for all: what is half done has no better answer
        answers = {session: _send(connection, target, call.target, session) for session in sessions}
        ending = [session for session, answer in answers.items() if answer and answer.told]
        stuck = _still_there_after_a_while(connection, ending)
    left = {s.pid: a.why_left or "it has just woken up" for s, a in answers.items() if a and not a.told}
    return Ended(
        ended=tuple(session.pid for session in ending if session not in stuck),
        gone=tuple(session.pid for session, answer in answers.items() if answer is None),
        left=left | {session.pid: "it was told to end, and is still there" for session in stuck},
    )


def _send(
    connection: psycopg.Connection[Any], target: Target, resource: ResourceRef, session: Session
) -> Answer | None:
    """The one place from which a changing statement leaves. None when there is no such session any more."""
    permit = _permit(resource, session)
    admit(permit)
    statement, parameters = CHANGES[permit.operation], _parameters(target, resource, session)
    return connection.cursor(row_factory=class_row(Answer)).execute(statement, parameters).fetchone()


def _parameters(target: Target, resource: ResourceRef, session: Session) -> dict[str, Any]:
    return {"database": resource.name, **msgspec.structs.asdict(session), **reader.rule_parameters(target)}


def _identity(session: Session) -> tuple[int, datetime]:
    return session.pid, session.backend_start


def _still_there_after_a_while(connection: psycopg.Connection[Any], ending: Sequence[Session]) -> list[Session]:
    until = time.monotonic() + GONE_WITHIN_S
    while ending:
        there = reader.still_there(connection, map(_identity, ending))
        ending = [session for session in ending if _identity(session) in there]
        if time.monotonic() > until:
            break
        time.sleep(LOOK_S)
    return list(ending)


# --- what came of it, for people and for programs


def outcome_of(found: Ended) -> ActionOutcome:
    """Done when something was ended, or nothing is left to end."""
    result = Result.DONE if found.ended or not found.left else Result.SKIPPED
    return ActionOutcome(result, told(found, "ended", "left"), figures(found))


def told(found: Ended, ended: str, left: str) -> str:
    """`ended 2 sessions (pid 11, 12); left 1: pid 13: it has woken up since`."""
    parts = [f"{ended} {_counted(found.ended)}"] if found.ended else []
    if found.left:
        why = ", ".join(f"pid {pid}: {reasons}" for pid, reasons in found.left.items())
        parts.append(f"{left} {len(found.left)} ({why})")
    if found.gone:
        parts.append(f"{_counted(found.gone)} gone already")
    return "; ".join(parts)


def _counted(pids: Sequence[int]) -> str:
    return f"{len(pids)} session{'s' if len(pids) != 1 else ''} (pid {', '.join(map(str, pids))})"


def figures(found: Ended) -> dict[str, Any]:
    counts = {"ended": len(found.ended), "left": len(found.left), "gone": len(found.gone)}
    return {**counts, "why_left": {str(pid): why for pid, why in found.left.items()}}


ACTIONS = (EndIdleSessions(),)
