"""idle_in_transaction → terminate_idle_connections: end the sessions that hold nothing, leave and name all others.

What keeps a session from being ended are the rules in `byteport.clients.postgres.statements`. They are asked here for
the plan, and again by the very statement that ends a session.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from shlex import quote
from typing import Any

import msgspec
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from byteport.clients.postgres import inventory, reader
from byteport.clients.postgres.statements import OPT_IN_SETTING, DatabaseRow, OptInRow, SessionRow
from byteport.core.errors import Temporary
from byteport.core.masking import mask_literals, mask_secrets
from byteport.core.resource import ResourceRef
from byteport.core.units import human_duration
from runbooks.actions.postgres import MAX_SESSIONS
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
from signals.sources.postgres_sessions import idle_reading, named

STATEMENT_CHARACTERS = 160
SHOWN = 10  # of a kind, in sentences
LEAK_SHARE = 0.5  # of at least LEAK_SESSIONS by one application: it looks like a leak
LEAK_SESSIONS = 3


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One session as it is kept in the diagnosis. Its latest statement is without its values, and cut."""

    pid: int
    backend_start: datetime
    state_change: datetime
    user: str | None
    application: str
    client: str
    idle_s: float
    xmin_age: int | None
    blocks: int
    statement: str
    why_left: str

    @property
    def holder(self) -> str:
        """Whose it is: what sessions are grouped by."""
        application = f"application {self.application}" if self.application else "an application without a name"
        return f"{self.user or 'a role that is gone'}, {application}, from {self.client}"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a database. `total` counts also the sessions beyond those that were looked at one by one."""

    limit_s: float
    total: int = 0
    max_connections: int = 0
    host: str = ""
    port: str = ""
    sessions: tuple[Seen, ...] = ()


class TerminateIdleConnections:
    """The runbook of `idle_in_transaction`."""

    name = "terminate_idle_connections"
    signal = "idle_in_transaction"
    title = "End database sessions that are idle in a transaction and hold nothing"
    actions = ("postgres.end_idle_sessions",)
    permissions: tuple[str, ...] = ()
    cooldown_s = 600
    verify_deadline_s = 120

    def observe(self, event: EventView) -> dict[str, Any]:
        """`Facts` as plain data. Raises Temporary when there is no such session any more: the source will say so."""
        target = inventory.target_for(event.resource)
        found, seen = reader.databases(target, event.resource), reader.sessions(event.resource)
        if not found or not seen:
            raise Temporary(f"No session of {event.resource.label} is idle in a transaction for that long any more.")
        address = {key: str(conninfo_to_dict(target.conninfo).get(key) or "") for key in ("host", "port")}
        facts: dict[str, Any] = msgspec.to_builtins(facts_of(target.idle_limit_s, found[0], seen, address))
        return facts

    def diagnose(self, event: EventView, facts: dict[str, Any]) -> Diagnosis:
        known = msgspec.convert(facts, Facts)
        return Diagnosis(
            evidence=tuple(_evidence(event.resource, known)),
            inference=_inference(known),
            confident=False,
            facts=facts,
        )

    def plan(self, event: EventView, diagnosis: Diagnosis, timing: Timing) -> Plan | CannotPlan:
        known = msgspec.convert(diagnosis.facts, Facts)
        idle, left = _parted(known.sessions)
        if not idle:
            return CannotPlan(f"None may be ended of {_counted(known.total)}. {_names(left)}")
        chunks = [idle[first : first + MAX_SESSIONS] for first in range(0, len(idle), MAX_SESSIONS)]
        steps = tuple(_step(number, event.resource, chunk) for number, chunk in enumerate(chunks, start=1))
        rest = f" {_counted(len(left), 'is', 'are')} left alone: {_names(left)}" if left else ""
        return Plan(self.name, f"end {_counted(len(idle))} that hold nothing.{rest}", steps, timing)

    def prohibitions(self, event: EventView, diagnosis: Diagnosis) -> tuple[str, ...]:
        return ()  # what must not be ended is in no plan, and the statement that ends a session asks again

    def opt_in(self, event: EventView) -> OptIn:
        return opt_in_of(reader.opt_in(event.resource), event.resource, CATALOG[self.signal].opt_in)

    def override(self, event: EventView, diagnosis: Diagnosis) -> str:
        return ""  # a session that somebody has woken up meanwhile is seen by the statement itself

    def can_reread(self, event: EventView) -> bool:
        return event.resource.is_drill or inventory.is_known(event.resource.place)

    def reread(self, event: EventView, now: datetime) -> Reading | None:
        return idle_reading(event.resource, now)

    def judge(self, event: EventView, reading: Reading | None, timing: Timing) -> Judgement:
        if reading is None or reading.value is None:
            return Judgement(Look.INCONCLUSIVE, f"there is no reading of {event.resource.label}")
        if reading.value < timing.clear:
            return Judgement(Look.GOOD, "no session is idle in a transaction for too long")
        names = reading.labels.get("sessions", "")
        return Judgement(Look.BAD, f"{_counted(int(reading.value))} left{': ' if names else ''}{names}")

    def advise(self, event: EventView, diagnosis: Diagnosis | None) -> tuple[ManualStep, ManualStep, ManualStep]:
        known = msgspec.convert(diagnosis.facts, Facts) if diagnosis else Facts(limit_s=0)
        resource = event.resource
        return (
            ManualStep(
                "See the sessions, what they hold and who waits for them", psql(resource, known, _LOOK, resource.name)
            ),
            _end_one(resource, known),
            ManualStep(
                "Find where the application leaves its transactions open; until then let the server end them by itself",
                psql(resource, known, *_time_out(resource, known)),
            ),
        )


# --- what was seen


def facts_of(limit_s: float, row: DatabaseRow, seen: Sequence[SessionRow], address: dict[str, str]) -> Facts:
    return Facts(
        limit_s=limit_s,
        total=seen[0].total,
        max_connections=row.max_connections,
        sessions=tuple(map(_seen, seen)),
        **address,
    )


def _seen(row: SessionRow) -> Seen:
    kept = {name: getattr(row, name) for name in Seen.__struct_fields__ if name != "statement"}
    statement = " ".join(mask_secrets(mask_literals(row.query)).split())
    cut = statement if len(statement) <= STATEMENT_CHARACTERS else f"{statement[: STATEMENT_CHARACTERS - 1]}…"
    return Seen(**kept, statement=cut)


def opt_in_of(found: OptInRow, resource: ResourceRef, word: str) -> OptIn:
    """Reads the words of the database's setting. Pure."""
    words = [known for known in dict.fromkeys([*found.words, word]) if known not in ("", "off")]
    command = sql.SQL("ALTER DATABASE {} SET {} = {};").format(
        sql.Identifier(resource.name), sql.SQL(OPT_IN_SETTING), sql.Literal(",".join(words))
    )
    return OptIn(
        given=word in found.words and "off" not in found.words,
        where=f"{OPT_IN_SETTING} of {resource.label}",
        found=", ".join(found.words) or ("no word" if found.present else "not set"),
        remedy=f"as a superuser: {command.as_string()}",
    )


def _parted(sessions: Iterable[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Those that may be ended, by whose they are, and those that are left."""
    idle: list[Seen] = []
    left: list[Seen] = []
    for session in sessions:
        (left if session.why_left else idle).append(session)
    return sorted(idle, key=lambda session: (session.holder, session.pid)), left


def _evidence(resource: ResourceRef, known: Facts) -> Iterator[str]:
    oldest = max(session.idle_s for session in known.sessions)
    yield (
        f"{_counted(known.total, 'is', 'are')} idle in a transaction of {resource.label} for more than"
        f" {human_duration(known.limit_s)}, the oldest for {human_duration(oldest)}."
        f" That is {100 * known.total / known.max_connections:.1f} % of {known.max_connections} connections."
    )
    for holder, count in islice(_holders(known.sessions), SHOWN):
        yield _of_holder(count, [session for session in known.sessions if session.holder == holder])
    kept_back = max((session.xmin_age or 0 for session in known.sessions), default=0)
    if kept_back:
        yield f"They keep vacuum from removing the dead rows of the last {kept_back:,} transactions."
    waiting = sum(session.blocks for session in known.sessions)
    if waiting:
        yield f"Others wait for locks that they hold: {_counted(waiting)}."
    for session in islice(_parted(known.sessions)[1], SHOWN):
        yield f"Left alone: {named(session)}."


def _holders(sessions: Iterable[Seen]) -> Iterator[tuple[str, int]]:
    """Whose they are, and how many each; the most first."""
    yield from Counter(session.holder for session in sessions).most_common()


def _of_holder(count: int, sessions: Sequence[Seen]) -> str:
    idle = [human_duration(f(session.idle_s for session in sessions)) for f in (min, max)]
    span = idle[0] if idle[0] == idle[1] else f"{idle[0]} to {idle[1]}"
    statement = Counter(session.statement for session in sessions).most_common(1)[0][0]
    return f"{count} of {sessions[0].holder}: idle for {span}; latest statement: {statement or 'none'}"


def _inference(known: Facts) -> str:
    idle, _ = _parted(known.sessions)
    holder, count = next(_holders(known.sessions))
    if not idle:
        return "Each of them holds something, or is not BytePort's to end."
    if count >= max(LEAK_SESSIONS, LEAK_SHARE * len(known.sessions)):
        return (
            f"{count} of {len(known.sessions)} are of {holder}: it seems to begin transactions that it does not end"
            f" (a leak). {_counted(len(idle), 'holds', 'hold')} nothing and can be ended."
        )
    return f"No single application stands out. {_counted(len(idle), 'holds', 'hold')} nothing and can be ended."


# --- what to do


def _step(number: int, resource: ResourceRef, sessions: Sequence[Seen]) -> Step:
    whose = ", ".join(f"{count} of {holder}" for holder, count in islice(_holders(sessions), 3))
    more = "" if len(list(_holders(sessions))) <= 3 else ", and others"
    params = {
        "sessions": [
            {
                "pid": session.pid,
                "backend_start": session.backend_start.isoformat(),
                "state_change": session.state_change.isoformat(),
            }
            for session in sessions
        ]
    }
    summary = f"End {_counted(len(sessions))} ({whose}{more})"
    return Step(f"sessions-{number}", TerminateIdleConnections.actions[0], str(resource), summary, params)


def _counted(count: int, *verbs: str) -> str:
    """`1 session`, `3 sessions`; with two verbs, `1 session is`, `3 sessions are`."""
    verb = f" {verbs[count != 1]}" if verbs else ""
    return f"{count} session{'s' if count != 1 else ''}{verb}"


def _names(sessions: Sequence[Seen]) -> str:
    more = f"; and {len(sessions) - SHOWN} more" if len(sessions) > SHOWN else ""
    return f"{'; '.join(map(named, sessions[:SHOWN]))}{more}."


# --- what a person can do


_LOOK = sql.SQL(
    "SELECT a.pid, a.usename, a.application_name, a.client_addr, now() - a.state_change AS idle, a.backend_xid,"
    " (SELECT string_agg(DISTINCT l.mode, ', ') FROM pg_locks l WHERE l.pid = a.pid) AS locks,"
    " (SELECT count(*) FROM pg_stat_activity w WHERE a.pid = ANY (pg_blocking_pids(w.pid))) AS blocks, a.query"
    " FROM pg_stat_activity a WHERE a.datname = {} AND a.state LIKE 'idle in transaction%'"
    " ORDER BY a.state_change"
)
_END_ONE = sql.SQL(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {} AND backend_start = {} AND datname = {}"
)
_LOCKS = sql.SQL("SELECT * FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = {})")
_TIME_OUT = "SET idle_in_transaction_session_timeout = '5min'"


def psql(resource: ResourceRef, known: Facts, statement: sql.SQL, *values: object) -> str:
    """A command line of psql, quoted for SQL and for the shell. A name stands in it only as a value."""
    filled = statement.format(*(value if isinstance(value, sql.Composable) else sql.Literal(value) for value in values))
    address = {"host": known.host, "port": known.port, "dbname": resource.name}
    where = make_conninfo(**{key: value for key, value in address.items() if value})
    return f"psql {quote(where)} -X -c {quote(filled.as_string())}"


def _end_one(resource: ResourceRef, known: Facts) -> ManualStep:
    """The session that holds most up; the one that is left, since the others BytePort may end by itself."""
    idle, left = _parted(known.sessions)
    worst = max([*left, *idle], key=lambda session: (bool(session.why_left), session.blocks), default=None)
    if worst is None:
        return ManualStep("See which locks are held in the database", psql(resource, known, _LOCKS, resource.name))
    return ManualStep(
        f"Ask its owner about {named(worst)}; what it has not committed is lost when it is ended",
        psql(resource, known, _END_ONE, worst.pid, worst.backend_start.isoformat(), resource.name),
    )


def _time_out(resource: ResourceRef, known: Facts) -> tuple[sql.SQL, *tuple[sql.Composable, ...]]:
    """For the role that most of them are of; where that is not known, for the whole database."""
    database = sql.Identifier(resource.name)
    users = Counter(session.user for session in known.sessions if session.user).most_common(1)
    if users:
        return sql.SQL(f"ALTER ROLE {{}} IN DATABASE {{}} {_TIME_OUT}"), sql.Identifier(users[0][0]), database
    return sql.SQL(f"ALTER DATABASE {{}} {_TIME_OUT}"), database


RUNBOOK = TerminateIdleConnections()
