"""The reading client of clusters: it refuses every method but GET, and every GET but of what `paths` knows.

(`GET …/exec`, `…/proxy` and `…/portforward` are GET too, and change things.)
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from byteport.clients.kubernetes.call import Call
from byteport.clients.kubernetes.errors import Unreadable
from byteport.clients.kubernetes.paths import VERSION, target_of
from byteport.clients.kubernetes.wire import TIMEOUT_S, Lines, Wire
from byteport.core.errors import Refused

PAGE = 250  # objects a page: pods have about 10 kB each
MAX_PAGES = 4000
MAX_ITEMS = 5000
WATCH_IDLE_S = 150.0  # an API server sends a bookmark about once a minute


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


_PAGE_DECODER = msgspec.json.Decoder(_Page)


def only_get(call: Call) -> None:
    """Admits what reads. Raises Refused for all else."""
    if call.method != "GET":
        raise Refused(f"The reading client sends no {call.method}.")
    if call.path != VERSION and target_of(call.path) is None:
        raise Refused(f"The reading client does not read {call.path[:200]}.")


def get(place: str, path: str, *, timeout_s: float = TIMEOUT_S, **params: str | int | bool) -> dict[str, Any]:
    """One object, or one list of a bounded size. Raises what `errors` has."""
    body = Wire(place, only_get).send(Call.get(path, **params), timeout_s=timeout_s)
    return decoded(place, path, body)


def get_text(
    place: str, path: str, limit_bytes: int, *, timeout_s: float = TIMEOUT_S, **params: str | int | bool
) -> str:
    """The first `limit_bytes` of a text, as of a log. What is no UTF-8 is replaced, and so is NUL, which PostgreSQL
    takes in no text."""
    body = Wire(place, only_get).send_cut(Call.get(path, **params), limit_bytes=limit_bytes, timeout_s=timeout_s)
    return body.decode(errors="replace").replace("\0", "\ufffd")


def list_pages(place: str, path: str, *, page: int = PAGE, **params: str | int | bool) -> Iterator[bytes]:
    """A list's pages as they come, all of one moment. Raises Gone when it took so long that the moment is forgotten."""
    wire, token = Wire(place, only_get), ""
    for _ in range(MAX_PAGES):
        begun = {"continue": token} if token else {}
        body = wire.send(Call.get(path, limit=page, **begun, **params))
        yield body
        token = _token_of(place, path, body)
        if not token:
            return
    raise Unreadable(f"{path} on {place} has more than {MAX_PAGES} pages.")


def list_items(place: str, path: str, *, most: int = MAX_ITEMS, **params: str | int | bool) -> list[dict[str, Any]]:
    """A list's objects. Raises Unreadable where there are more than `most`: half a list would be a lie."""
    items: list[dict[str, Any]] = []
    for body in list_pages(place, path, page=PAGE, **params):
        items += decoded(place, path, body).get("items") or []
        if len(items) > most:
            raise Unreadable(f"{path} on {place} has more than {most} objects.")
    return items


def watch(place: str, path: str, *, idle_s: float = WATCH_IDLE_S, **params: str | int | bool) -> Lines:
    """What happens from now on, or from `resourceVersion`: one JSON object a line. `close()` ends it."""
    return Wire(place, only_get).stream(Call.get(path, watch=True, **params), idle_s=idle_s)


def decoded(place: str, path: str, body: bytes) -> dict[str, Any]:
    """The answer as an object. Raises Unreadable for anything else, as a proxy's page."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"{path} on {place}: the answer is no JSON object ({error}).") from error


def _token_of(place: str, path: str, body: bytes) -> str:
    try:
        return _PAGE_DECODER.decode(body).metadata.continue_
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"{path} on {place}: the answer is no list ({error}).") from error
