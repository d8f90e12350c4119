"""Clusters: watch events handled a second beside the mere decoding of the same stream, memory, and time to an event.

Everything goes over real HTTP from an API server in a process of its own, which does nothing but send bytes that it has
made ready before. What is handled goes the whole way: struct, restart counts, workload, readings, PostgreSQL.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from django.conf import settings
from django.db import connection

from bench.queue import _database_url
from byteport.clients.kubernetes import clusters, reader
from byteport.clients.kubernetes.paths import path_of
from signals.following import DatabaseChannel
from signals.kubernetes.follower import Follower
from signals.models import SignalEvent, Source

PODS, PAGE, CHANGES, ROUNDS, EVENTS = 10_000, 250, 20_000, 5, 40
FLOODS = {"pods": 2, "events": 5}  # how often the changes are sent one after the other, for some seconds of work
PLACE = "bench"
PATIENCE_S = 120.0
WATCHER = """
import json, sys, threading, time
import django; django.setup()
from signals.following import DatabaseChannel
from signals.kubernetes.follower import Follower
from signals.models import Source
follower = Follower("kubernetes", DatabaseChannel(Source.objects.get(slug="kubernetes")))
threading.Thread(target=follower.run, args=[threading.Event()], daemon=True).start()
while not follower.clusters[0].pods_known.is_set():
    time.sleep(0.1)
time.sleep(3)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
sizes = {name: int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}
print(json.dumps({"pods": len(follower.clusters[0].cluster.book.pods), **sizes}), flush=True)
"""


def run() -> Iterator[dict[str, Any]]:
    """Yields one line a measure."""
    Source.objects.get_or_create(slug="kubernetes", kind="kubernetes_events")
    for name, line_of in (("pods", pod_line), ("events", event_line)):
        yield rates(name, [line_of(number) for number in range(CHANGES)])
    yield memory()
    yield latency()


# --- the objects, as a cluster sends them


def pod(number: int) -> dict[str, Any]:
    """One of ten replicas of a Deployment, healthy, with what a real one has (about 3.5 kB)."""
    name, uid = f"cart-{number // 10}", f"00000000-0000-0000-0000-{number:012}"
    fields = {f"f:{part}": {"f:name": {}, "f:value": {}} for part in ("containers", "conditions", "hostIP", "podIP")}
    container = {
        "name": "app",
        "image": "registry.example.com/shop/cart:1.2.3",
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}},
        "env": [{"name": f"SETTING_{n}", "value": f"value of the setting {n}"} for n in range(12)],
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
    }
    status = {"name": "app", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": stamp(-3600)}}}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{name}-77db7844b9-{number:05}",
            "namespace": f"shop-{number % 50}",
            "uid": uid,
            "resourceVersion": str(1000 + number),
            "creationTimestamp": stamp(-7200),
            "labels": {"app": name, "pod-template-hash": "77db7844b9"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-77db7844b9", "uid": f"rs-{name}",
                 "controller": True, "blockOwnerDeletion": True}
            ],
            "managedFields": [{"manager": m, "operation": "Update", "fieldsV1": fields} for m in ("kcm", "kubelet")],
        },
        "spec": {"containers": [container], "nodeName": f"node-{number % 100}", "restartPolicy": "Always"},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp(-3500)}
                for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [status],
            "startTime": stamp(-3600),
        },
    }  # fmt: skip


def crashed(number: int) -> dict[str, Any]:
    """The same after a restart."""
    found = pod(number)
    ended = {"exitCode": 1, "reason": "Error", "finishedAt": stamp(0)}
    found["status"]["containerStatuses"][0] |= {"restartCount": 1, "lastState": {"terminated": ended}}
    return found


def pod_line(number: int) -> bytes:
    """Every twentieth change is a restart."""
    found = pod(number % PODS) if number % 20 else crashed(number % PODS)
    found["metadata"]["resourceVersion"] = str(100_000 + number)
    return line("MODIFIED", found)


def event_line(number: int) -> bytes:
    """Every tenth is a BackOff of one of two hundred pods; the others are what a cluster tells all day."""
    about = pod(number % 200)
    reason, message = "BackOff", "Back-off restarting failed container app in pod"
    if number % 10:
        reason, message = "Pulled", "Container image already present on machine"
    return line("ADDED", event(about, reason, message, 100_000 + number))


def event(about: dict[str, Any], reason: str, message: str, version: int) -> dict[str, Any]:
    meta = about["metadata"]
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": f"event-{version}", "namespace": meta["namespace"], "resourceVersion": str(version)},
        "involvedObject": {
            "kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"],
            "apiVersion": "v1", "fieldPath": "spec.containers{app}",
        },
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet", "host": "node-a"},
        "lastTimestamp": stamp(0),
        "count": 3,
        "type": "Warning",
    }  # fmt: skip


def line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}, separators=(",", ":")).encode() + b"\n"


def stamp(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the API server


class Plan(msgspec.Struct):
    """What the server has: pods to list, changes to send on one kind's watch, and a pipe of lines to pass on."""

    pods: int = 0
    flood: str = ""
    lines: list[bytes] = []
    pipe: Any = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Plan

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        *_, above, kind = url.path.split("/")
        query = parse_qs(url.query)
        if above == "pods":
            self._answer(200, json.dumps(crashed(int(kind.rsplit("-", 1)[1]))).encode())
        elif kind not in ("pods", "events", "deployments") or "metrics" in url.path:
            self._answer(404, b"{}")
        elif "watch" in query:
            self._watch(kind)
        else:
            begin = int(query.get("continue", ["0"])[0])
            self._answer(200, self._page(begin) if kind == "pods" else EMPTY)

    def _page(self, begin: int) -> bytes:
        end = min(begin + PAGE, self.plan.pods)
        meta = {"resourceVersion": "1000"} | ({"continue": str(end)} if end < self.plan.pods else {})
        return json.dumps({"metadata": meta, "items": [pod(number) for number in range(begin, end)]}).encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if kind == self.plan.flood:
            self._flood()
        while kind == "events" and self.plan.pipe is not None:
            self.wfile.write(chunked(self.plan.pipe.recv_bytes()))
        time.sleep(PATIENCE_S)

    def _flood(self) -> None:
        """Each change is a chunk of its own, as an API server sends it."""
        chunks = [chunked(body) for body in self.plan.lines]
        for begin in list(range(0, len(chunks), 50)) * FLOODS[self.plan.flood]:
            self.wfile.write(b"".join(chunks[begin : begin + 50]))

    def log_message(self, *args: Any) -> None:
        pass


EMPTY = b'{"metadata":{"resourceVersion":"1000"},"items":[]}'


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def _serve(plan: Plan, port: Connection) -> None:
    Handler.plan = plan
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def serving(plan: Plan) -> Iterator[Path]:
    """Runs the server in a process of its own. Yields the kubeconfig, which BytePort knows already."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    connection.close()
    process = fork.Process(target=_serve, args=[plan, there], daemon=True)
    process.start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kubeconfig")
        context = {"name": PLACE, "context": {"cluster": PLACE, "user": ""}}
        server = {"name": PLACE, "cluster": {"server": f"http://127.0.0.1:{here.recv()}"}}
        config = {"current-context": PLACE, "clusters": [server], "users": [], "contexts": [context]}
        path.write_text(json.dumps(config))
        settings.KUBECONFIG = str(path)
        clusters.forget(PLACE)
        try:
            yield path
        finally:
            process.kill()
            process.join()


# --- the measures


def rates(kind: str, lines: list[bytes]) -> dict[str, Any]:
    """Turn about, so that both meet the same load of the machine; the medians."""
    rounds: dict[str, list[float]] = {"handled": [], "decoded": [], "decoded_stdlib": []}
    pods, count = 200 if kind == "events" else 0, len(lines) * FLOODS[kind]
    for _ in range(ROUNDS):
        with serving(Plan(pods=pods, flood=kind, lines=lines)):
            rounds["decoded"].append(count / decoding_s(kind, count, msgspec.json.decode))
            rounds["decoded_stdlib"].append(count / decoding_s(kind, count, json.loads))
            rounds["handled"].append(count / handling_s(kind, count))
    medians = {name: round(statistics.median(values)) for name, values in rounds.items()}
    return {
        "name": f"kubernetes_watch_{kind}",
        "per_second": medians["handled"],
        "json_decode_per_second": medians["decoded"],
        "stdlib_json_decode_per_second": medians["decoded_stdlib"],
        "ratio": round(medians["handled"] / medians["decoded"], 2),
        "ratio_stdlib": round(medians["handled"] / medians["decoded_stdlib"], 2),
    }


def decoding_s(kind: str, count: int, decode: Callable[[bytes], Any]) -> float:
    """What it takes to read the stream and do no more with each change than to make Python's objects of its JSON."""
    lines = reader.watch(PLACE, path_of(kind.removesuffix("s")), resourceVersion="1000")
    decode(next(lines))
    begin = time.perf_counter()
    for _, body in zip(range(count - 1), lines, strict=False):
        decode(body)
    taken = time.perf_counter() - begin
    lines.close()
    return taken


def handling_s(kind: str, count: int) -> float:
    """From the first change handled to the last, with all that follows from them in PostgreSQL."""
    with following() as follower:
        [stream] = [t for t in follower.clusters[0].threads if t.health.name == f"{PLACE}/{kind}"]
        begin = until(lambda: stream.health.events and time.perf_counter())
        first = stream.health.events
        until(lambda: stream.health.events >= count)
        until(lambda: not follower._waiting and not follower._wake.is_set())
        return (time.perf_counter() - begin) * count / (count - first)


@contextmanager
def following() -> Iterator[Follower]:
    follower = Follower("kubernetes", DatabaseChannel(Source.objects.get(slug="kubernetes")))
    stop = threading.Event()

    def follow() -> None:
        follower.run(stop)
        connection.close()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError("a measure did not come to its end")
        time.sleep(0.001)
    return found


def memory() -> dict[str, Any]:
    """Resident memory of a watcher's whole process, Django and all, that watches 10,000 pods; and its peak."""
    with serving(Plan(pods=PODS)) as path:
        environment = {
            **os.environ,
            "DATABASE_URL": _database_url(),
            "BYTEPORT_SECRET_KEY": settings.SECRET_KEY,
            "BYTEPORT_KUBECONFIG": str(path),
        }
        done = subprocess.run(
            [sys.executable, "-c", WATCHER], env=environment, stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S
        )
    found = json.loads(done.stdout)
    return {
        "name": "kubernetes_memory",
        "pods": found["pods"],
        "resident_mb": round(found["VmRSS"] * 1.048576),
        "peak_mb": round(found["VmHWM"] * 1.048576),
    }


def latency() -> dict[str, Any]:
    """From the moment that a BackOff event is given to the server, until its signal event is in PostgreSQL."""
    here, there = multiprocessing.Pipe()
    times_ms = []
    SignalEvent.objects.all().delete()
    with serving(Plan(pods=EVENTS * 10, pipe=there)), following() as follower:
        until(follower.clusters[0].pods_known.is_set)
        for number in range(EVENTS):
            before = SignalEvent.objects.count()
            body = line(
                "ADDED", event(pod(number * 10), "BackOff", "Back-off restarting failed container", 5000 + number)
            )
            begin = time.perf_counter()
            here.send_bytes(body)
            until(lambda before=before: SignalEvent.objects.count() > before)
            times_ms.append((time.perf_counter() - begin) * 1000)
            time.sleep(0.05)
    return {
        "name": "kubernetes_backoff_to_event",
        "median_ms": round(statistics.median(times_ms), 1),
        "p95_ms": round(statistics.quantiles(times_ms, n=20)[18], 1),
        "events": EVENTS,
    }
