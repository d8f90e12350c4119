"""The statements that read, each with the shape of its rows; and the rules by which a session is left alone.

Sources: PostgreSQL's manual, "The Cumulative Statistics System" (pg_stat_activity), "pg_locks" and "System
Administration Functions" (pg_terminate_backend). What is used here is the same in PostgreSQL 14 to 18.
"""

from datetime import datetime

import msgspec

OPT_IN_SETTING = "byteport.auto_remediate"
IDLE_STATES = "('idle in transaction', 'idle in transaction (aborted)')"
MAX_DATABASES = 1000
QUERY_BYTES = 1000
MAX_WAITING = 100  # whom a session waits for is asked one by one, and each answer holds up the others' locks
MAX_SESSIONS = 200  # that are looked at one by one; the oldest come first
# Clients on whose read-only transactions something else relies: a parallel dump, the other half of a transaction.
RELIED_ON = "('pg_dump', 'pg_dumpall', 'pg_restore', 'postgres_fdw', 'dblink')"
UNCLEAR = "'it is not clear what it does'"
# What stands in the place of a query that one may not see.
# Of the server's own processes (an autovacuum worker, which comes and goes, has no user) nobody needs to see more.
HIDDEN = "a.usesysid IS NOT NULL AND a.state IS NULL AND a.query = '<insufficient privilege>'"


class DatabaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One database: its sessions that have been idle in a transaction for too long, and how many are not visible."""

    database: str
    role: str  # the one that BytePort is
    sessions: int
    writing: int  # of these, with a transaction id: uncommitted work
    oldest_s: float
    hidden: int
    max_connections: int


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session that has been idle in a transaction for too long. `why_left` is empty when it may be ended."""

    pid: int
    backend_start: datetime
    state_change: datetime
    user: str | None
    application: str
    client: str
    state: str
    idle_s: float
    transaction_s: float | None
    xid: str | None
    xmin_age: int | None  # transactions whose dead rows it keeps from being vacuumed
    blocks: int  # sessions that wait for its locks
    raw_query: bytes  # its latest statement, in the encoding of its own database
    why_left: str
    total: int  # such sessions in this database, also those beyond MAX_SESSIONS

    @property
    def query(self) -> str:
        return self.raw_query.decode(errors="replace")


class OptInRow(msgspec.Struct, frozen=True, kw_only=True):
    """The words of a database's opt-in, and whether the setting is there at all."""

    words: list[str]
    present: bool


class RightsRow(msgspec.Struct, frozen=True, kw_only=True):
    """What BytePort's role may do on a server."""

    role: str
    version: str
    is_superuser: bool
    sees_all: bool
    may_signal: bool
    is_private: bool  # nobody between can read along: encrypted, or on this machine
    opted_in: list[str]  # databases

    @property
    def lacks(self) -> list[str]:
        """The roles that it is no member of, and would need to be."""
        needed = (("pg_read_all_stats", self.sees_all), ("pg_signal_backend", self.may_signal))
        return [role for role, given in needed if not given]

    @property
    def told(self) -> str:
        """For people, in one line."""
        lacks = f", without {' and '.join(self.lacks)}" if self.lacks else ""
        opted_in = ", ".join(self.opted_in) or "no database"
        return f"PostgreSQL {self.version.split()[0]} as {self.role}{lacks}; opted in: {opted_in}"


class LeftRow(msgspec.Struct, frozen=True):
    """A session that is still there."""

    pid: int
    backend_start: datetime


class JudgedRow(msgspec.Struct, frozen=True):
    """One session judged by all rules; empty when it may be ended."""

    why_left: str


# Parameters: limit_s; only, the one database to look at, or NULL for all that are no drill's; drills, their names.
DATABASES = f"""
    SELECT d.datname AS database, current_user AS role, current_setting('max_connections')::int AS max_connections,
           count(a.pid) FILTER (WHERE a.idle) AS sessions,
           count(a.pid) FILTER (WHERE a.idle AND a.backend_xid IS NOT NULL) AS writing,
           count(a.pid) FILTER (WHERE a.hidden) AS hidden,
           coalesce(max(a.idle_s) FILTER (WHERE a.idle), 0) AS oldest_s
    FROM pg_database AS d
    LEFT JOIN (
        SELECT a.pid, a.datid, a.backend_xid, {HIDDEN} AS hidden,
               extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS idle_s,
               a.state IN {IDLE_STATES}
               AND a.state_change <= clock_timestamp() - make_interval(secs => %(limit_s)s) AS idle
        FROM pg_stat_activity AS a
    ) AS a ON a.datid = d.oid
    WHERE CASE WHEN %(only)s::text IS NULL
               THEN d.datallowconn AND NOT d.datistemplate AND d.datname !~ %(drills)s
               ELSE d.datname = %(only)s END
    GROUP BY d.datname ORDER BY sessions DESC, database LIMIT {MAX_DATABASES}"""

WORDS_AT = len(OPT_IN_SETTING) + 2  # where the value begins in `name=value`


def _words(where: str) -> str:
    """The opt-in's words of a line of pg_db_role_setting."""
    return f"""
        SELECT btrim(word) FROM pg_db_role_setting AS c
        CROSS JOIN LATERAL unnest(c.setconfig) AS line
        CROSS JOIN LATERAL unnest(string_to_array(substr(line, {WORDS_AT}), ',')) AS word
        WHERE {where} AND starts_with(lower(line), '{OPT_IN_SETTING}=')"""


OF_DATABASE = _words("c.setdatabase = s.datid AND c.setrole = 0")
OF_ROLE = _words("c.setdatabase IN (0, s.datid) AND c.setrole = s.usesysid")

OPT_IN = f"""
    SELECT ARRAY({OF_DATABASE}) AS words,
           EXISTS ({OF_DATABASE}) AS present
    FROM (SELECT oid AS datid FROM pg_database WHERE datname = %(database)s) AS s"""

RIGHTS = f"""
    SELECT current_user AS role, current_setting('server_version') AS version,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
           pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
           pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS may_signal,
           inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr()
               OR EXISTS (SELECT FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl) AS is_private,
           ARRAY(
               SELECT s.datname::text FROM (SELECT oid AS datid, datname FROM pg_database) AS s
               WHERE 'connections' IN ({OF_DATABASE}) AND 'off' NOT IN ({OF_DATABASE})
               ORDER BY s.datname LIMIT 100
           ) AS opted_in"""

# What a session holds beside plain read locks; its own locks on its transaction's ids are no work in themselves.
HELD = """
    (array_agg(DISTINCT mode || ' on ' || CASE
         WHEN locktype <> 'relation' THEN locktype
         WHEN database = (SELECT oid FROM pg_database WHERE datname = current_database()) THEN relation::regclass::text
         ELSE 'relation ' || relation END
     ) FILTER (WHERE locktype NOT IN ('virtualxid', 'transactionid', 'advisory') AND mode <> 'AccessShareLock')
    )[1:4] AS strong,
    count(*) FILTER (WHERE locktype = 'advisory') AS advisory"""

SESSION = """
    a.pid, a.datid, a.usesysid, a.application_name, a.state, a.query, a.wait_event, a.xact_start, a.backend_start,
    a.state_change, a.client_addr, a.client_port, a.backend_xid, a.backend_xmin, a.backend_type,
    d.datname, r.rolname, r.rolsuper, held.strong, coalesce(held.advisory, 0) AS advisory"""
NAMES = "LEFT JOIN pg_database AS d ON d.oid = a.datid LEFT JOIN pg_roles AS r ON r.oid = a.usesysid"


class Rule(msgspec.Struct, frozen=True):
    """Why a session is left: a condition over `s`, and SQL for the words. What cannot be told counts as a reason."""

    holds: str
    told: str


# Parameters: limit_s, and own, the application names of BytePort's other sessions.
RULES = (
    Rule("s.state IS NULL", UNCLEAR),
    Rule(f"s.state NOT IN {IDLE_STATES}", "'it is ' || s.state || ' now'"),
    Rule(
        "s.state_change > clock_timestamp() - make_interval(secs => %(limit_s)s)",
        "'it has been idle in this transaction for a short time only'",
    ),
    Rule("s.wait_event IS DISTINCT FROM 'ClientRead'", "'it does not wait for its client'"),
    Rule("s.backend_xid IS NOT NULL", "'it has uncommitted work (transaction id ' || s.backend_xid::text || ')'"),
    Rule("s.strong IS NOT NULL", "'it holds ' || array_to_string(s.strong, ', ')"),
    Rule("s.advisory > 0", "'it holds an advisory lock'"),
    Rule(
        "EXISTS (SELECT FROM pg_prepared_xacts AS p WHERE p.database = s.datname AND p.owner = s.rolname)",
        "'its user has a prepared transaction in this database'",
    ),
    Rule("s.rolsuper", "'it is a superuser''s'"),
    Rule("s.backend_type <> 'client backend'", "'it is a ' || s.backend_type"),
    Rule(
        "EXISTS (SELECT FROM pg_replication_slots AS p WHERE p.active_pid = s.pid)",
        "'it uses a replication slot'",
    ),
    Rule(
        "s.pid = pg_backend_pid() OR s.rolname IN (current_user, session_user)"
        " OR starts_with(s.application_name, 'byteport') OR s.application_name = ANY (%(own)s::text[])",
        "'it is BytePort''s own'",
    ),
    Rule(f"s.application_name IN {RELIED_ON}", "'something else relies on it (' || s.application_name || ')'"),
    Rule(f"'off' IN ({OF_ROLE})", "'its user is opted out'"),
)
# For one session that was looked at before. Parameters: database, pid, backend_start, state_change.
RULES_AGAIN = (
    Rule("s.datname <> %(database)s", "'it is in another database'"),
    Rule("s.backend_start <> %(backend_start)s", "'another session has its process id now'"),
    Rule("s.state_change <> %(state_change)s", "'it has woken up since'"),
    Rule(
        f"'connections' NOT IN ({OF_DATABASE}) OR 'off' IN ({OF_DATABASE})", "'its database is not opted in any more'"
    ),
)


def why_left(rules: tuple[Rule, ...]) -> str:
    """SQL for all reasons that hold, or cannot be told not to; an empty text when there is none."""
    reasons = (f"CASE WHEN ({rule.holds}) IS NOT FALSE THEN coalesce({rule.told}, {UNCLEAR}) END" for rule in rules)
    return f"concat_ws('; ', {', '.join(reasons)})"


SESSIONS = f"""
    WITH held AS MATERIALIZED (
        SELECT pid, {HELD} FROM pg_locks
        WHERE pid IN (SELECT a.pid FROM pg_stat_activity AS a WHERE a.state IN {IDLE_STATES})
        GROUP BY pid
    ), blocked AS MATERIALIZED (
        SELECT blocker AS pid, count(*) AS waiting
        FROM (SELECT a.pid FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock' LIMIT {MAX_WAITING}) AS w
        CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS blocker
        GROUP BY blocker
    ), s AS MATERIALIZED (
        SELECT {SESSION}
        FROM pg_stat_get_activity(NULL) AS a LEFT JOIN held ON held.pid = a.pid {NAMES}
        WHERE d.datname = %(database)s AND a.state IN {IDLE_STATES}
          AND a.state_change <= clock_timestamp() - make_interval(secs => %(limit_s)s)
    )
    SELECT s.pid, s.backend_start, s.state_change, s.rolname AS user, s.application_name AS application, s.state,
           CASE WHEN s.client_port = -1 OR s.client_addr IS NULL THEN 'a local socket' ELSE host(s.client_addr) END
               AS client,
           extract(epoch FROM clock_timestamp() - s.state_change)::float8 AS idle_s,
           extract(epoch FROM clock_timestamp() - s.xact_start)::float8 AS transaction_s,
           s.backend_xid::text AS xid, age(s.backend_xmin) AS xmin_age, coalesce(blocked.waiting, 0) AS blocks,
           substr(textsend(s.query), 1, {QUERY_BYTES}) AS raw_query, {why_left(RULES)} AS why_left,
           count(*) OVER () AS total
    FROM s LEFT JOIN blocked ON blocked.pid = s.pid
    ORDER BY s.state_change, s.pid LIMIT {MAX_SESSIONS}"""

# One session, looked at again. The locks come first and what it does last: if it is still idle in the same
# transaction then, it has taken no lock in between. (The inner one cannot run before the outer one has given the pid.)
ONE_SESSION = f"""
    WITH held AS MATERIALIZED (
        SELECT %(pid)s::int AS pid, {HELD} FROM pg_locks WHERE pid = %(pid)s
    ), s AS MATERIALIZED (
        SELECT {SESSION}
        FROM held CROSS JOIN LATERAL pg_stat_get_activity(held.pid) AS a {NAMES}
    ), judged AS MATERIALIZED (
        SELECT s.pid, {why_left((*RULES_AGAIN, *RULES))} AS why_left FROM s
    )"""
JUDGE = f"{ONE_SESSION} SELECT judged.why_left FROM judged"

# Those of the given sessions that are still there. Parameters: pids, backend_starts.
STILL_THERE = """
    SELECT a.pid, a.backend_start FROM pg_stat_activity AS a
    JOIN unnest(%(pids)s::int[], %(backend_starts)s::timestamptz[]) AS given (pid, backend_start)
      ON given.pid = a.pid AND given.backend_start = a.backend_start"""

READS = frozenset({DATABASES, SESSIONS, OPT_IN, RIGHTS, JUDGE, STILL_THERE})
