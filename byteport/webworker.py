"""Gunicorn's worker with an end to its patience: who begins a request and does not go on with it, or asks for much and
does not take it, since his network was cut off or since he means harm, holds one of its few threads for ever otherwise.

Only reading and sending end. A request that has come in whole may take as long as it takes; and its answer too, as long
as some of it goes on arriving.
"""

import socket
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

PATIENCE_S = 30.0  # for a whole request: 1 MB at 35 kB a second
# With a client that takes nothing of an answer, or so little at a time that the kernel never finds its window wide open
# (some kB a second): an answer is seldom more than 1 MB, which arrives within that time at 8 kB a second.
SENDING_PATIENCE_S = 120.0
LINGER_S = 2.0  # for the other end to close a connection too, as gunicorn has it
# The kernel's own patience with a peer that takes nothing more, tcp(7); only Linux has it.
TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


class Connection(Protocol):
    sock: socket.socket


class Patience:
    """The connections whose request is being read or answered, and since when."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[Connection, float] = {}
        self._lock = threading.Lock()

    def begin(self, connection: Connection) -> None:
        with self._lock:
            self._since[connection] = time.monotonic()

    def end(self, connection: Connection) -> None:
        with self._lock:
            self._since.pop(connection, None)

    def end_reading_of_late_ones(self) -> None:
        """What waits for more of such a request is told that it has come to its end."""
        too_long = time.monotonic() - self._patience_s
        with self._lock:
            for connection in [each for each, since in self._since.items() if since < too_long]:
                _end_reading(connection.sock)


def _give_up_sending(sock: socket.socket, after_s: float) -> None:
    """The kernel is to end a connection on which it could send nothing for so long."""
    if TCP_USER_TIMEOUT is not None and sock.family != socket.AF_UNIX:
        with suppress(OSError):  # it is closed already
            sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, round(after_s * 1000))


def _end_reading(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RD)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    patience_s = PATIENCE_S
    sending_patience_s = SENDING_PATIENCE_S
    linger_s = LINGER_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = Patience(self.patience_s)

    def handle(self, conn: Connection) -> Any:
        """Runs in one of the threads."""
        self._patience.begin(conn)
        _give_up_sending(conn.sock, self.sending_patience_s)
        try:
            return super().handle(conn) or self._parted_from(conn.sock)
        finally:
            self._patience.end(conn)

    def _parted_from(self, sock: socket.socket) -> bool:
        """Half-closes and waits, here: gunicorn does it in the main thread, and meanwhile no other request is begun.

        That one still closes it, and finds no more to wait for. Always False, as for any connection that is over.
        """
        with suppress(OSError):  # it is closed already
            util.close_graceful(sock.dup(), timeout=self.linger_s)
        _end_reading(sock)
        return False

    def notify(self) -> None:
        """Called about once a second by the main thread."""
        super().notify()
        self._patience.end_reading_of_late_ones()
