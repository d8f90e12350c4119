"""The one place from which a request to an API server leaves. `admit` is asked immediately before each does.

Bytes in, bytes out, over the official client's own pool of connections; every wait and every size is bounded. No
redirect is followed and nothing is sent twice, but after 401, once, with credentials that were read anew.
"""

import http.client
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Self, cast
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from byteport.clients.kubernetes.call import Call
from byteport.clients.kubernetes.clusters import Endpoint, endpoint_of, forget
from byteport.clients.kubernetes.errors import Unavailable, Unreadable, refusal
from byteport.core.errors import Refused

Admit = Callable[[Call], None]

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0
LIMIT_BYTES = 64 * 1024 * 1024  # of one answer: a page of a list of large objects
ERROR_BYTES = 64 * 1024
LINE_BYTES = 16 * 1024 * 1024  # of one object in a watch: etcd keeps none above 1.5 MiB
CHUNK_BYTES = 128 * 1024
USER_AGENT = "byteport"

# Nothing that a server or a library might normalise: no escapes, no empty segments, no `.` or `..`.
PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:-]+)+")


class Wire:
    """Sends calls to one cluster, each of which `admit` lets pass, or stops by raising Refused."""

    def __init__(self, place: str, admit: Admit) -> None:
        self.place = place
        self._admit = admit

    def send(self, call: Call, *, timeout_s: float = TIMEOUT_S, limit_bytes: int = LIMIT_BYTES) -> bytes:
        """One answer's body, whole. Raises Refused, and what `errors` has."""
        with self._answer(call, timeout_s) as response:
            until = time.monotonic() + timeout_s
            body = b"".join(_bounded(response, limit_bytes + 1, until))
        if len(body) > limit_bytes:
            raise Unreadable(f"{call.path} on {self.place}: the answer has more than {limit_bytes} bytes.")
        return body

    def send_cut(self, call: Call, *, limit_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
        """The first bytes of an answer, as of a log; what is beyond the limit is not even read."""
        with self._answer(call, timeout_s) as response:
            return b"".join(_bounded(response, limit_bytes, time.monotonic() + timeout_s))

    def stream(self, call: Call, *, idle_s: float) -> "Lines":
        """An answer that goes on, line by line, once it has begun. `idle_s` without a byte ends it with Unavailable."""
        return Lines(self, call, idle_s)

    @contextmanager
    def _answer(self, call: Call, timeout_s: float) -> Iterator[urllib3.BaseHTTPResponse]:
        with _own_errors(self.place, call):
            response = self.open(call, timeout_s)
            try:
                yield response
            finally:
                response.close()

    def open(self, call: Call, timeout_s: float) -> urllib3.BaseHTTPResponse:
        """Sends the call. An answer of 2xx, its body not read yet; raises what any other stands for."""
        response = self._request(call, timeout_s)
        if response.status == 401:
            response.close()
            forget(self.place)
            response = self._request(call, timeout_s)
        if not 200 <= response.status < 300:
            headers, body = dict(response.headers.items()), _error_body(response, timeout_s)
            response.close()
            raise refusal(self.place, call, response.status, headers, body)
        return response

    def _request(self, call: Call, timeout_s: float) -> urllib3.BaseHTTPResponse:
        if not PLAIN_PATH.fullmatch(call.path):
            raise Refused(f"{call.path[:200]!r} is not a path that BytePort makes.")
        endpoint = endpoint_of(self.place)
        headers = _headers(endpoint, call)
        url = f"{endpoint.url}{call.path}" + (f"?{urlencode(call.params)}" if call.params else "")
        self._admit(call)
        return endpoint.pool.request(
            call.method,
            url,
            body=call.body or None,
            headers=headers,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )


class Lines(Iterator[bytes]):
    """The lines of an answer that goes on, such as a watch. Ends when the server ends it, or after `close`."""

    def __init__(self, wire: Wire, call: Call, idle_s: float) -> None:
        self.is_closed = False
        with _own_errors(wire.place, call):
            self._response = wire.open(call, idle_s)
        self._lines = self._read(wire.place, call)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self._lines)

    def close(self) -> None:
        """Ends it at once, also from another thread while this one waits for a byte."""
        self.is_closed = True
        with suppress(OSError, ValueError, RuntimeError):  # it has ended by itself
            self._response.shutdown()
        with suppress(ValueError):  # the thread that reads it is waiting, and closes it as soon as it wakes
            self._lines.close()
            self._response.close()

    def _read(self, place: str, call: Call) -> Generator[bytes, None, None]:
        try:
            with _own_errors(place, call):
                yield from _split(_chunks(self._response), call, place, self)
        except Unavailable:
            if not self.is_closed:
                raise
        finally:
            self._response.close()


def _split(chunks: Iterator[bytes], call: Call, place: str, lines: Lines) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        if lines.is_closed:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise Unreadable(f"{call.path} on {place}: one line has more than {LINE_BYTES} bytes.")
        yield from filter(None, whole)
    if rest:
        yield rest


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """What has come in, as it comes in, without waiting for more."""
    answer = cast("urllib3.HTTPResponse", response)
    if answer.chunked:
        yield from answer.stream(CHUNK_BYTES)  # a chunk at a time
        return
    while chunk := answer.read1(CHUNK_BYTES):
        yield chunk


def _bounded(response: urllib3.BaseHTTPResponse, most_bytes: int, until: float) -> Iterator[bytes]:
    """The body up to `most_bytes`, as long as it comes in time. Raises Unavailable when it does not."""
    taken = 0
    for chunk in _chunks(response):
        yield chunk[: most_bytes - taken]
        taken += len(chunk)
        if taken >= most_bytes:
            return
        if time.monotonic() > until:
            raise Unavailable(f"The answer took too long; {taken} bytes had come.")


def _error_body(response: urllib3.BaseHTTPResponse, timeout_s: float) -> bytes:
    """What an error says of itself; nothing when that does not come in time."""
    with suppress(Unavailable, HTTPError, OSError):
        return b"".join(_bounded(response, ERROR_BYTES, time.monotonic() + timeout_s))
    return b""


def _headers(endpoint: Endpoint, call: Call) -> dict[str, str]:
    headers = {"Accept": "application/json, */*", "User-Agent": USER_AGENT}
    authorization = endpoint.authorization()
    if authorization:
        headers["Authorization"] = authorization
    if call.content_type:
        headers["Content-Type"] = call.content_type
    return headers


@contextmanager
def _own_errors(place: str, call: Call) -> Iterator[None]:
    try:
        yield
    except (HTTPError, http.client.HTTPException, OSError) as error:
        raise Unavailable(f"{call.method} {call.path} on {place}: {error or type(error).__name__}") from error
