"""`drill idle_in_transaction`: real sessions in a database of the drill's own; three leak, one has uncommitted work.

BytePort has to end the three and leave the fourth, which commits its work once the others are gone. So the drill shows
both: that a leak is treated, and that work outlives it.
"""

import select
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg

from byteport.clients.postgres import inventory, reader
from byteport.core.errors import BytePortError, Permanent
from byteport.core.resource import ResourceRef
from byteport.drills.drill import Say
from runbooks.actions import drill_database
from runbooks.actions.drill_database import DrillDatabase
from signals.catalog import CATALOG

LEAKING = ("shop", "shop", "reports")  # applications that begin a transaction, read, and forget it
WORKING = "till"  # the one that has not committed yet what it has written
SEEN_PATIENCE_S = 20.0
LOOK_S = 0.1

Session = psycopg.Connection[Any]


class IdleInTransaction:
    """Opens the sessions, and lets the one with work commit it when the others have been ended."""

    name = "idle_in_transaction"
    title = "Database sessions stay idle in a transaction; one of them has uncommitted work"
    platform = "postgres"

    def __init__(self) -> None:
        self._database: DrillDatabase | None = None
        self._sessions: list[Session] = []
        self._closing = threading.Event()
        self._waiting: threading.Thread | None = None

    def prepare(self, say: Say) -> ResourceRef:
        word = CATALOG[self.name].opt_in
        self._closing.clear()
        self._database = database = drill_database.make(word)
        say(f"made the database {database.name}, with a role of the same name, opted in to `{word}`")
        working = self._begin(WORKING, "CREATE TABLE sales (amount int)", "COMMIT", "INSERT INTO sales VALUES (1)")
        leaking = [self._begin(application, "SELECT count(*) FROM sales") for application in LEAKING]
        self._waiting = threading.Thread(target=self._commit_after, args=(working, leaking), daemon=True)
        self._waiting.start()
        say(f"{len(leaking)} sessions have read and are idle in their transaction; one more has written, and waits")
        resource = inventory.drill_ref(database.name)
        _wait_until_seen(resource, len(leaking) + 1)
        return resource

    def figures(self) -> dict[str, Any]:
        """`{"idle_sessions": 4, "committed_sales": 0}`; empty before anything was made."""
        if self._database is None:
            return {}
        idle = _idle_sessions(inventory.drill_ref(self._database.name))
        return {"idle_sessions": idle, "committed_sales": self._committed()}

    def remove(self) -> None:
        self._closing.set()
        if self._waiting is not None:
            self._waiting.join()
        while self._sessions:
            self._sessions.pop().close()
        self._waiting = None
        if self._database is not None:
            self._remove(self._database)
        self._database = None

    def _remove(self, database: DrillDatabase) -> None:
        try:
            database.remove()
        except BytePortError as error:
            raise Permanent(f"{error}\nThe database {database.name} is left; the next drill removes it.") from error

    def _begin(self, application: str, *statements: str) -> Session:
        assert self._database is not None
        try:
            session = psycopg.connect(self._database.conninfo(application))
            self._sessions.append(session)
            for statement in statements:
                session.execute(statement)
        except psycopg.Error as error:
            raise Permanent(f"The drill's role {self._database.name} cannot work: {str(error).strip()}") from None
        return session

    def _committed(self) -> int:
        """How many sales others can see."""
        session = self._begin("drill", "SELECT 1")
        row = session.execute("SELECT count(*) FROM sales").fetchone()
        session.close()
        return row[0] if row else 0

    def _commit_after(self, working: Session, leaking: list[Session]) -> None:
        """Waits for the server to hang up on every leaking session; then commits, as the application would."""
        left = {session.fileno() for session in leaking}
        while left and not self._closing.is_set():
            ended, _, _ = select.select(left, [], [], LOOK_S)
            left -= set(ended)
        if not left:
            with suppress(psycopg.OperationalError):  # then `figures` tells that the work is lost
                working.commit()


def _idle_sessions(resource: ResourceRef) -> int:
    rows = reader.databases(inventory.target_for(resource), resource)
    return rows[0].sessions if rows else 0


def _wait_until_seen(resource: ResourceRef, count: int) -> None:
    """Until BytePort itself can see them, and they are idle for as long as it takes to count."""
    until = time.monotonic() + SEEN_PATIENCE_S
    while _idle_sessions(resource) < count:
        if time.monotonic() > until:
            raise Permanent(f"The drill's sessions are not seen within {SEEN_PATIENCE_S:g} s.")
        time.sleep(LOOK_S)


DRILL = IdleInTransaction()
