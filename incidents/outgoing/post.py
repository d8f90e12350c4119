"""One call of a webhook: the name resolved, the address judged, the body signed and sent, the answer understood.

It takes CONNECT_S and ANSWER_S at most, with what the resolver takes before; no redirect is followed and no proxy
asked. Of an answer, its beginning is read.
"""

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from http.client import HTTPException
from ipaddress import ip_address
from typing import NoReturn

import msgspec
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection

from byteport.core.clock import now
from byteport.core.destination import Address, Destination, destination_of, refusal
from byteport.core.errors import BytePortError, Temporary
from byteport.core.signature import signed_headers
from incidents.escalation.channel import Limited, Undeliverable
from incidents.markup import line

CONNECT_S = 5.0  # for each address that is tried, TLS included
ANSWER_S = 10.0  # from the request's first byte to the answer's last
ADDRESSES = 3  # of one name are tried
ANSWER_BYTES = 4096
SHOWN = 300  # characters of an answer
PAUSE_S = 60.0  # where 429 does not say how long
LONGEST_PAUSE_S = 3600.0
PATIENCE = frozenset({408, 425, 429})  # of a far end that may take it later, with all above 499


class Call(msgspec.Struct, frozen=True):
    """What is sent where."""

    url: str
    private: bool
    secret: str
    headers: Mapping[str, str]
    body: bytes


def post(call: Call) -> str:
    """Makes the call; what was answered, in a few words. Raises Temporary, Limited or Undeliverable."""
    to = _destination(call.url)
    addresses = _judged(to, call.private)
    try:
        with _connected(to, addresses) as connection, _cut_off_after(ANSWER_S, connection):
            return _exchange(connection, to, call)
    except BytePortError:
        raise
    except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:
        raise Temporary(_why(error)) from error


def _destination(url: str) -> Destination:
    try:
        return destination_of(url)
    except ValueError as error:
        raise Undeliverable(f"The address cannot be called: {error}.", remedy="Correct the webhook's URL.") from error


def _judged(to: Destination, private: bool) -> Sequence[Address]:
    """What the name resolves to. One address that is refused spoils all: it is no name to trust."""
    try:
        found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Temporary(f"{to.host} cannot be resolved: {error.strerror or error}") from error
    addresses = tuple(dict.fromkeys(ip_address(str(each[4][0]).partition("%")[0]) for each in found))
    for address in addresses:
        why = refusal(address, private=private, encrypted=to.is_encrypted)
        if why:
            remedy = "Correct its URL; or, if it is meant, switch on `in a private network` (docs/outgoing.md)."
            raise Undeliverable(f"{to.host} is not called: {why}.", remedy=remedy)
    return addresses


@contextmanager
def _connected(to: Destination, addresses: Sequence[Address]) -> Iterator[HTTPConnection]:
    """To the first that answers, by the very address that was judged."""
    tried = [_connection(to, address) for address in addresses[:ADDRESSES]]
    for number, connection in enumerate(tried, start=1):
        try:
            connection.connect()
        except (OSError, urllib3.exceptions.HTTPError):
            connection.close()
            if number == len(tried):
                raise
        else:
            break
    try:
        yield connection
    finally:
        connection.close()


def _connection(to: Destination, address: Address) -> HTTPConnection:
    if not to.is_encrypted:
        return HTTPConnection(str(address), to.port, timeout=CONNECT_S)
    return HTTPSConnection(
        str(address), to.port, timeout=CONNECT_S, ssl_context=_trust(), server_hostname=to.host.rstrip(".")
    )


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """The system's authorities (or SSL_CERT_FILE's), and Mozilla's."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


@contextmanager
def _cut_off_after(seconds: float, connection: HTTPConnection) -> Iterator[None]:
    """Ends whatever still goes on by then: a time-out of the socket begins anew with each byte."""
    assert connection.sock is not None
    connection.sock.settimeout(seconds)
    with socket.socket(fileno=os.dup(connection.sock.fileno())) as line_itself:
        over = threading.Event()

        def cut() -> None:
            over.set()
            with suppress(OSError):
                line_itself.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.start()
        try:
            yield
        except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:
            if over.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
            timer.join()


def _exchange(connection: HTTPConnection, to: Destination, call: Call) -> str:
    headers = {
        "Host": to.authority,
        "User-Agent": "BytePort",
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **call.headers,
        **signed_headers(call.secret, int(now().timestamp()), call.body),
    }
    connection.request("POST", to.path, body=call.body, headers=headers, preload_content=False, decode_content=False)
    reply = connection.getresponse()
    said = line(reply.read(ANSWER_BYTES).decode("utf-8", "replace"), SHOWN)
    answer = f"{reply.status} {said}".rstrip()
    if not 200 <= reply.status < 300:
        _refused(reply.status, reply.headers.get("Retry-After", ""), answer)
    return answer


def _refused(status: int, retry_after: str, answer: str) -> NoReturn:
    """What an answer other than yes means."""
    if status in PATIENCE or status >= 500:
        pause_s = _pause_s(status, retry_after)
        raise Limited(f"It answers {answer}", delay_s=pause_s) if pause_s else Temporary(f"It answers {answer}")
    if 300 <= status < 400:
        remedy = "Set the address that it redirects to."
        raise Undeliverable(f"It redirects to elsewhere, which is not followed: {answer}", remedy=remedy)
    remedy = "Look at the far end: it does not take what it is sent. Then send again what it has missed."
    raise Undeliverable(f"It answers {answer}", remedy=remedy)


def _pause_s(status: int, retry_after: str) -> float:
    """In seconds; 0 where it asks for none. A date instead of seconds is taken for a minute."""
    if retry_after.isdecimal() and retry_after.isascii():
        return min(float(retry_after[:9]), LONGEST_PAUSE_S)
    return PAUSE_S if status == 429 or retry_after else 0.0


def _why(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, urllib3.exceptions.NewConnectionError) else error
    if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
        return f"It cannot be connected to, or does not answer, in time ({CONNECT_S:g} s and {ANSWER_S:g} s)"
    return f"It cannot be called: {line(str(cause) or type(cause).__name__, SHOWN)}"
