"""Sends prepared HTTP requests over kept connections: little more than send and recv, as it shares the machine."""

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

PATIENCE_S = 60.0


def request_of(path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_all(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, Counter[int]]:
    """Sends them all, each connection a share of them. Returns the seconds it took and the answers by status."""
    statuses: Counter[int] = Counter()
    begin = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        for counted in pool.map(lambda n: Counter(exchange(port, requests[n::connections])), range(connections)):
            statuses += counted
    return time.perf_counter() - begin, statuses


def exchange(port: int, requests: Sequence[bytes]) -> Iterator[int]:
    """One after the other over one connection; yields the statuses."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            wire.sendall(request)
            yield answer(wire)


def answer(wire: socket.socket) -> int:
    """Reads one answer to its end; its status."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(wire)
    head, _, rest = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(rest) < length:
        rest += _more(wire)
    return int(head[9:12])


def _more(wire: socket.socket) -> bytes:
    part = wire.recv(65_536)
    if not part:
        raise ConnectionError("the server has closed the connection")
    return part
