"""A small API server over real HTTP, on kmock, whose answers are those recorded from a real one.

Real: HTTP, the wire format, list in pages, watch with resume, bookmarks and both forms of 410, JSON Patch with `test`,
`dryRun=All`, the status subresource, logs, tokens, RBAC. Not real: admission (but one rule), controllers, the kubelet.

    with serving() as cluster:
        cluster.store.put("pod", recorded("pods_crashloop_exit_1")["items"][0])
        cluster.faults.append(Fault(status=500, times=2))
"""

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp.web
import kmock
import pytest

from byteport.clients.kubernetes.clusters import forget
from byteport.clients.kubernetes.paths import KINDS
from tests.kubernetes.store import PatchRefusedError, Store

RECORDED = Path(__file__).parent / "recorded"
PLACE = "test"
TOKEN = "token-1"
PATIENCE_S = 10.0
_KIND_OF = {(kind.group, kind.version, kind.plural): kind.name for kind in KINDS.values()}
ALIAS = "namespaces-themselves"
NAMESPACE_ITSELF = re.compile(r"^(/api/v1)/namespaces((?:/[^/?]+)?(?:\?.*)?)$")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def recorded(name: str) -> dict:
    """One recorded answer, e.g. `pods_oomkilled`; of an error its body."""
    answer = json.loads((RECORDED / f"{name}.json").read_text())
    return answer["body"] if "http_status" in answer else answer


@dataclass
class Fault:
    """What befalls the next requests that match, instead of or before their answer."""

    status: int = 0
    retry_after_s: int | None = None
    delay_s: float = 0.0
    cut: bool = False  # close the connection without a word
    after: bool = False  # once the request has taken effect: its answer gets lost
    body: bytes | None = None
    times: int = 1
    where: Callable[["Seen"], bool] = lambda seen: True


class Seen:
    """One request as it came in. `verb` and `resource` are as RBAC has them."""

    def __init__(self, request: kmock.Request) -> None:
        self.at = time.monotonic()
        self.method = request.method.value
        self.path = request.url.raw_path.replace(ALIAS, "namespaces")
        self.params = dict(request.params)
        self.headers = dict(request.headers)
        self.body = request.body
        resource = request.resource
        self.plural = (resource.plural or "").replace(ALIAS, "namespaces") if resource else ""
        self.kind = _KIND_OF.get((resource.group, resource.version, self.plural), "") if resource else ""
        self.namespace, self.name, self.subresource = request.namespace or "", request.name or "", request.subresource
        group = f"{resource.group}/" if resource and resource.group else ""
        tail = f"/{request.subresource}" if request.subresource else ""
        self.resource = f"{group}{self.plural}{tail}" if self.plural else ""
        self.verb = _VERBS.get(self.method) or self._reading_verb()

    def _reading_verb(self) -> str:
        if self.params.get("watch") in ("1", "true"):
            return "watch"
        return "get" if self.name else "list"

    @property
    def right(self) -> str:
        """`apps/deployments: patch`."""
        return f"{self.resource}: {self.verb}"

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.params}"


class ApiServer(kmock.KubernetesScaffold):
    """kmock parses the requests and answers discovery; the objects are the store's."""

    async def __call__(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        """kmock takes the path of a namespace itself for one without a resource, and fails at that of their list."""
        url = NAMESPACE_ITSELF.sub(rf"\1/{ALIAS}\2", str(request.rel_url))
        return await super().__call__(request.clone(rel_url=url))

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        return await self.cluster.answer(request) or await super()._handle(request)


class Cluster:
    """The far end of the wire, for tests to set up and to look at."""

    def __init__(self) -> None:
        self.store = Store()
        self.kinds = {name for name in KINDS if name not in ("podmetrics", "scaledobject", "application")}
        self.tokens = {TOKEN}
        self.rights: set[str] | None = None  # e.g. {"pods: list"}; None: all
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.gone_at_once = False  # which of the two forms a watch from a forgotten version is answered with
        self.bookmark_s = 0.2
        self.port = 0
        self._wakers: set[asyncio.Event] = set()
        self._drops = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self.connections = 0  # watches that are open now

    # --- for tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write_kubeconfig(self, folder: Path, *names: str) -> Path:
        """A kubeconfig with a context for each name, all of this server, whose token is in a file beside it."""
        token = folder / "token"
        token.write_text(TOKEN)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": names[0],
            "clusters": [{"name": "standin", "cluster": {"server": self.url}}],
            "users": [{"name": "byteport", "user": {"tokenFile": str(token)}}],
            "contexts": [{"name": name, "context": {"cluster": "standin", "user": "byteport"}} for name in names],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        for name in names:
            forget(name)
        return path

    def changing(self) -> list[Seen]:
        """The requests that would change something, had they been no dry run."""
        return [seen for seen in self.seen if seen.method != "GET" and seen.params.get("dryRun") != "All"]

    def drop_watches(self) -> None:
        """Ends every open watch, as a restart of the API server does."""
        self._drops += 1
        self._notify()

    # --- the server

    async def answer(self, request: kmock.Request) -> aiohttp.web.StreamResponse | None:
        seen = Seen(request)
        self.seen.append(seen)
        faulty = await self._faulty(request, seen, after=False)
        if faulty is not None:
            return faulty
        if seen.headers.get("Authorization", "").partition(" ")[2] not in self.tokens:
            return failure(401, "Unauthorized", "Unauthorized")
        if not seen.plural:
            return None  # discovery, which kmock answers
        if self.rights is not None and seen.right not in self.rights:
            return self._forbidden(request, seen)
        if seen.kind not in self.kinds:
            return aiohttp.web.Response(status=404, text="404 page not found\n")
        response = await self._serve(request, seen)
        return await self._faulty(request, seen, after=True) or response

    async def _faulty(self, request: kmock.Request, seen: Seen, *, after: bool) -> aiohttp.web.StreamResponse | None:
        fault = next((fault for fault in self.faults if fault.after is after and fault.where(seen)), None)
        if fault is None:
            return None
        fault.times -= 1
        if fault.times <= 0:
            self.faults.remove(fault)
        await asyncio.sleep(fault.delay_s)
        if fault.cut:
            request._raw_request.transport.abort()
            return aiohttp.web.Response(status=500)  # which nobody hears
        if fault.body is not None:
            return aiohttp.web.Response(status=fault.status or 200, body=fault.body)
        if fault.status:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            return failure(fault.status, "InternalError", f"an injected {fault.status}", headers)
        return None

    def _forbidden(self, request: kmock.Request, seen: Seen) -> aiohttp.web.Response:
        body = recorded("error_403_forbidden")
        group = request.resource.group
        where = f' in the namespace "{seen.namespace}"' if seen.namespace else " at the cluster scope"
        body["message"] = (
            f'{seen.plural} is forbidden: User "system:serviceaccount:byteport:byteport-agent" cannot'
            f' {seen.verb} resource "{seen.plural}" in API group "{group}"{where}'
        )
        body["details"] = {"group": group, "kind": seen.plural}
        return aiohttp.web.json_response(body, status=403)

    async def _serve(self, request: kmock.Request, seen: Seen) -> aiohttp.web.StreamResponse:
        if seen.verb == "watch":
            return await self._watch(request, seen)
        if seen.verb == "list":
            return self._list(seen)
        if seen.verb == "create":
            return aiohttp.web.json_response(self.store.create(seen.kind, json.loads(seen.body)), status=201)
        obj = self.store.get(seen.kind, seen.namespace, seen.name)
        if obj is None:
            return self._missing(request, seen)
        return self._patch(seen) if seen.verb == "patch" else self._read_or_delete(obj, seen)

    def _read_or_delete(self, obj: dict, seen: Seen) -> aiohttp.web.Response:
        if seen.subresource == "log":
            return self._log(seen)
        if seen.verb == "delete":
            self.store.delete(seen.kind, seen.namespace, seen.name)
        return aiohttp.web.json_response(obj)

    def _missing(self, request: kmock.Request, seen: Seen) -> aiohttp.web.Response:
        body = recorded("error_404_not_found")
        resource = f"{seen.plural}.{request.resource.group}".removesuffix(".")
        body["message"] = f'{resource} "{seen.name}" not found'
        body["details"] = {"name": seen.name, "group": request.resource.group, "kind": seen.plural}
        return aiohttp.web.json_response(body, status=404)

    def _patch(self, seen: Seen) -> aiohttp.web.Response:
        manager = seen.params.get("fieldManager") or seen.headers.get("User-Agent", "unknown").partition("/")[0]
        dry_run = seen.params.get("dryRun") == "All"
        content_type, key = seen.headers.get("Content-Type", ""), (seen.kind, seen.namespace, seen.name)
        try:
            after = self.store.patch(key, content_type, seen.body, seen.subresource or "", manager, dry_run)
        except PatchRefusedError as error:
            return aiohttp.web.json_response(error.status, status=422)
        return aiohttp.web.json_response(after)

    def _log(self, seen: Seen) -> aiohttp.web.Response:
        previous = seen.params.get("previous") == "true"
        text = self.store.logs.get((seen.namespace, seen.name, seen.params.get("container", ""), previous))
        if text is None:
            which = "previous terminated container" if previous else "container"
            message = f'{which} "{seen.params.get("container", "")}" in pod "{seen.name}" not found'
            return failure(400, "BadRequest", message)
        lines = text.splitlines(keepends=True)[-int(seen.params.get("tailLines", 10**9)) :]
        body = "".join(lines).encode()[: int(seen.params.get("limitBytes", 10**9))]
        return aiohttp.web.Response(body=body, content_type="text/plain")

    def _list(self, seen: Seen) -> aiohttp.web.Response:
        with self.store.lock:
            version = self.store.version
            found = [obj for obj in self.store.listed(seen.kind, seen.namespace) if _selected(obj, seen.params)]
        limit, begin = int(seen.params.get("limit") or len(found) or 1), 0
        if seen.params.get("continue"):
            version, begin = (int(part) for part in seen.params["continue"].split("."))
            if version <= self.store.forgotten:
                return failure(410, "Expired", "The provided continue parameter is too old.")
        meta = {"resourceVersion": str(version)}
        if begin + limit < len(found):
            meta |= {"continue": f"{version}.{begin + limit}", "remainingItemCount": len(found) - begin - limit}
        page = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in found[begin:][:limit]]
        return aiohttp.web.json_response({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": page})

    async def _watch(self, request: kmock.Request, seen: Seen) -> aiohttp.web.StreamResponse:
        after = int(seen.params.get("resourceVersion") or self.store.version)
        gone = recorded("error_410_gone_watch")["object"]
        expired = 0 < after < self.store.forgotten
        if expired and self.gone_at_once:
            return aiohttp.web.json_response(gone, status=410)
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request._raw_request)
        self.connections += 1
        try:
            if expired:
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            else:
                async for line in self._changes(seen, after):
                    await response.write(line)
            await response.write_eof()
        except (ConnectionError, aiohttp.ClientError):
            pass  # the client has gone
        finally:
            self.connections -= 1
        return response

    async def _changes(self, seen: Seen, after: int) -> AsyncIterator[bytes]:
        until = time.monotonic() + float(seen.params.get("timeoutSeconds") or 3600)
        bookmarks, drops, wake = seen.params.get("allowWatchBookmarks") == "true", self._drops, asyncio.Event()
        self._wakers.add(wake)
        try:
            while not self._closing and self._drops == drops and time.monotonic() < until:
                wake.clear()
                before, after = after, self.store.version
                for _, _, body in self.store.changes(seen.kind, seen.namespace, before, after):
                    yield body + b"\n"
                try:
                    await asyncio.wait_for(wake.wait(), self.bookmark_s)
                except TimeoutError:
                    if bookmarks:
                        yield _bookmark(seen.kind, after)
        finally:
            self._wakers.discard(wake)

    def _notify(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for wake in self._wakers:
            wake.set()

    async def _run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        handler = ApiServer()
        object.__setattr__(handler, "cluster", self)
        self._loop = asyncio.get_running_loop()
        self.store.listeners.append(self._notify)
        async with handler, kmock.Server(handler) as server:
            self.port = server.port
            ready.set()
            await stop.wait()
            self._closing = True
            self._wake_all()


def _selected(obj: dict, params: dict) -> bool:
    wanted = [term for term in params.get("labelSelector", "").split(",") if term]
    labels = obj["metadata"].get("labels", {})
    by_labels = all(labels.get(key) == value for key, _, value in (term.partition("=") for term in wanted))
    fields = [term for term in params.get("fieldSelector", "").split(",") if term]
    return by_labels and all(_field(obj, key) == value for key, _, value in (term.partition("=") for term in fields))


def _field(obj: dict, path: str) -> str:
    for part in path.split("."):
        obj = obj.get(part, {})
    return obj if isinstance(obj, str) else ""


def _bookmark(kind: str, version: int) -> bytes:
    obj = {"kind": kind.capitalize(), "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}}
    return json.dumps({"type": "BOOKMARK", "object": obj}).encode() + b"\n"


def failure(code: int, reason: str, message: str, headers: dict | None = None) -> aiohttp.web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body |= {"message": message, "reason": reason, "code": code}
    return aiohttp.web.json_response(body, status=code, headers=headers)


@contextmanager
def serving() -> Iterator[Cluster]:
    """Runs one until the end of the block, in a thread of its own."""
    cluster, ready = Cluster(), threading.Event()
    stops: list[Callable[[], None]] = []

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        await cluster._run(ready, stop)

    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    thread = threading.Thread(target=lambda: asyncio.run(main()), name="standin", daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S), "the stand-in did not start"
    try:
        yield cluster
    finally:
        stops[0]()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the stand-in did not end"


@pytest.fixture
def cluster(tmp_path: Path, settings) -> Iterator[Cluster]:
    """A running stand-in that BytePort knows as the cluster `test`."""
    with serving() as running:
        settings.KUBECONFIG = str(running.write_kubeconfig(tmp_path, PLACE))
        settings.KUBE_CONTEXTS = []
        forget(PLACE)
        yield running
        forget(PLACE)
