"""What the stand-ins for GitHub and Postmark share: a real HTTP server, and what can go wrong on the way to it."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None


@dataclass
class Answer:
    status: int
    body: Any = None  # bytes as they are, anything else as JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next request of this kind. `after`: what was asked for is done all the same."""

    method: str  # a pattern, as is the path
    path: str
    answer: Answer | None = None  # None: the line is cut, or after a pause (`hang_s`) it is answered as it should be
    after: bool = False
    hang_s: float = 0.0
    times: int = 1

    def meets(self, asked: Asked) -> bool:
        return re.fullmatch(self.method, asked.method) is not None and re.fullmatch(self.path, asked.path) is not None


class FarEnd(Protocol):
    def answer(self, asked: Asked) -> Answer: ...


@dataclass
class Wire:
    """What was asked, what is to go wrong, and both sides' breaches of the contract."""

    base: str = ""
    asked: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda moment: None  # "before" and "after" each
    lock: threading.RLock = field(default_factory=threading.RLock)

    def writes(self) -> list[str]:
        return [line for line in self.asked if not line.startswith("GET")]

    def fault_for(self, asked: Asked) -> Fault | None:
        fault = next((f for f in self.faults if f.meets(asked)), None)
        if fault is not None:
            fault.times -= 1
            self.faults = [each for each in self.faults if each.times > 0]
        return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: Wire
    far_end: FarEnd

    def log_message(self, *args: Any) -> None:
        """Not to the test's output."""

    def do_GET(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self.wire.lock:
            self.wire.asked.append(f"{self.command} {self.path}")
            self.wire.on_request("before")
            answer, hang_s = self._answer(Asked(self.command, parts.path, query, self.headers, raw))
            self.wire.on_request("after")
        time.sleep(hang_s)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    do_POST = do_PATCH = do_GET  # noqa: N815

    def _answer(self, asked: Asked) -> tuple[Answer | None, float]:
        fault = self.wire.fault_for(asked)
        if fault is None:
            return self.far_end.answer(asked), 0.0
        if not fault.after:
            return fault.answer, fault.hang_s
        proper = self.far_end.answer(asked)
        return (proper if fault.hang_s and fault.answer is None else fault.answer), fault.hang_s

    def _send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or has lost its patience hangs up."""


@contextmanager
def served(wire: Wire, far_end: FarEnd) -> Iterator[None]:
    """Runs it until the end of the block, and then looks whether both sides have kept to the contract."""
    server = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {"wire": wire, "far_end": far_end}))
    wire.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
    if wire.breaches:
        raise AssertionError("\n".join(wire.breaches[:5]))
