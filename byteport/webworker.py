"""Gunicorn's worker with an end to its patience: who begins a request and does not go on with it, or asks for much and
does not take it, since his network was cut off or since he means harm, holds one of its few threads for ever otherwise.

Only reading and sending end. A request that has come in whole may take as long as it takes; and its answer too, as long
as some of it goes on arriving.
"""

import socket
import struct
import threading
import time
from typing import Any, Protocol

from gunicorn.workers.gthread import ThreadWorker

PATIENCE_S = 30.0  # for a whole request: 1 MB at 35 kB a second; and for an answer of which nothing arrives

TCP_INFO = getattr(socket, "TCP_INFO", None)  # `struct tcp_info` of <linux/tcp.h>, for which these are the offsets
TCP_INFO_BYTES, UNACKNOWLEDGED, ACKNOWLEDGED, UNSENT = 152, 24, 120, 144
DROP_WHAT_IS_LEFT = struct.pack("ii", 1, 0)  # SO_LINGER: once it is closed, the kernel keeps nothing for the client


class Connection(Protocol):
    sock: socket.socket
    client: Any


class Turn:
    """A connection whose request is being read or answered."""

    def __init__(self, at: float) -> None:
        self.since = at
        self._moved_at = at
        self._arrived: int | None = None

    def stands_still_s(self, arrived: int | None, at: float) -> float:
        """Seconds for which something has been under way to the client, and none of it has arrived."""
        if arrived is None or arrived != self._arrived:
            self._arrived, self._moved_at = arrived, at
        return at - self._moved_at


class Patience:
    """The connections whose request is being read or answered, and since when."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._turns: dict[Connection, Turn] = {}
        self._lock = threading.Lock()

    def begin(self, connection: Connection) -> None:
        with self._lock:
            self._turns[connection] = Turn(time.monotonic())

    def end(self, connection: Connection) -> None:
        with self._lock:
            self._turns.pop(connection, None)

    def end_reading_of_late_ones(self) -> None:
        """What waits for more of such a request is told that it has come to its end."""
        too_long = time.monotonic() - self._patience_s
        with self._lock:
            for connection in [each for each, turn in self._turns.items() if turn.since < too_long]:
                _shut(connection.sock, socket.SHUT_RD)

    def give_up_stuck_ones(self) -> list[Connection]:
        """What waits for a client to take more of its answer is told that there is no client any more."""
        at = time.monotonic()
        with self._lock:
            still_s = {each: turn.stands_still_s(arrived(each.sock), at) for each, turn in self._turns.items()}
            stuck = [each for each, seconds in still_s.items() if seconds > self._patience_s]
            for connection in stuck:
                _give_up(connection.sock)
                del self._turns[connection]
        return stuck


def arrived(sock: socket.socket) -> int | None:
    """How many bytes the other end has confirmed; None while nothing is under way to it, or where nobody tells."""
    if TCP_INFO is None:
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES)
        packets, waiting = (struct.unpack_from("=I", told, place)[0] for place in (UNACKNOWLEDGED, UNSENT))
        acknowledged: int = struct.unpack_from("=Q", told, ACKNOWLEDGED)[0]
    except (OSError, struct.error):
        return None  # it is closed already, or no TCP
    return acknowledged if packets or waiting else None


def _give_up(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP_WHAT_IS_LEFT)
    except OSError:
        return  # it is closed already
    _shut(sock, socket.SHUT_RDWR)


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        return  # it is closed already


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    patience_s = PATIENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = Patience(self.patience_s)

    def handle(self, conn: Connection) -> Any:
        """Runs in one of the threads."""
        self._patience.begin(conn)
        try:
            return super().handle(conn)
        finally:
            self._patience.end(conn)

    def notify(self) -> None:
        """Called about once a second by the main thread."""
        super().notify()
        self._patience.end_reading_of_late_ones()
        for connection in self._patience.give_up_stuck_ones():
            self.log.warning("%s took no more of its answer, and was cut off.", connection.client)
