"""Datadog at the far end of the wire: series of metrics and monitors over HTTP, by a server in this process.

What it gives out is checked against the client's own models, so that it says nothing that Datadog would not.
"""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from datadog_api_client import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.metrics_query_response import MetricsQueryResponse
from datadog_api_client.v1.model.monitor import Monitor

from byteport.clients import datadog as client
from byteport.core.clock import now

SITE = "datadoghq.eu"
DISK_MONITOR = "avg(last_5m):avg:system.disk.in_use{*} by {host,device} > 0.9"


class Asked(NamedTuple):
    """One request: its query by name, and the keys that came with it."""

    path: str
    query: dict[str, str]
    api_key: str
    application_key: str


class Datadog:
    """What it knows: series by metric, each with tags, unit and points; monitors, in order. And what it was asked."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[dict[str, str], str, list[tuple[datetime, Any]]]]] = {}
        self.monitors: list[dict[str, Any]] = []
        self.asked: list[Asked] = []
        self._refusal: tuple[int, bytes, dict[str, str]] | None = None

    def measure(self, metric, *values, unit="fraction", at=None, **tags):
        """A series with a point a minute, the last one at `at`."""
        at = at or minute(1)
        points = [(at - timedelta(minutes=len(values) - 1 - n), value) for n, value in enumerate(values)]
        self.series.setdefault(metric, []).append((tags, unit, points))

    def watch(self, groups, *, query=DISK_MONITOR, name="Disk of {{host.name}}", knows=True, **more):
        """A monitor. `groups`: a state by each group's tags; `knows`: whether the client knows such a monitor."""
        monitor = {
            "id": 9876 + len(self.monitors), "name": name, "type": "query alert", "query": query, "multi": True,
            "message": "@webhook-byteport", "tags": ["env:prod"], "priority": None, "overall_state": "Alert",
            "options": {"notify_no_data": True, "silenced": {}}, "matching_downtimes": [],
            "state": {"groups": {
                scope: {"name": scope, "status": status, "last_triggered_ts": 1772366100}
                for scope, status in groups.items()
            }}, **more,
        }  # fmt: skip
        if knows:
            require_known(monitor, Monitor)
        self.monitors.append(monitor)
        return monitor

    def turn(self, monitor, scope, status):
        """The group comes into another state, now."""
        group = monitor["state"]["groups"][scope]
        group["status"] = status
        group["last_resolved_ts" if status == "OK" else "last_triggered_ts"] = math.ceil(now().timestamp())

    def refuse(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        """From now on this is the answer to everything, until it relents."""
        self._refusal = (status, body, headers or {})

    def relent(self) -> None:
        self._refusal = None

    def answer(self, asked: Asked) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(asked)
        return self._refusal or (200, ANSWERS[asked.path](self, asked.query), {})

    def points(self, asked: dict[str, str]) -> bytes:
        """Of the span that it is asked for."""
        metric = asked["query"].partition(":")[2].partition("{")[0]
        start, end = int(asked["from"]), int(asked["to"])
        listed = [
            {
                "metric": metric, "scope": ",".join(f"{k}:{v}" for k, v in tags.items()),
                "tag_set": [f"{k}:{v}" for k, v in tags.items()], "interval": 60,
                "unit": [{"name": unit}, None],
                "pointlist": [[at.timestamp() * 1000, value] for at, value in points if start <= at.timestamp() < end],
            }
            for tags, unit, points in self.series.get(metric, ())
        ]  # fmt: skip
        answer = {"status": "ok", "query": asked["query"], "res_type": "time_series", "series": listed}
        require_known(answer, MetricsQueryResponse)
        return json.dumps(answer).encode()

    def page(self, asked: dict[str, str]) -> bytes:
        assert asked["group_states"] == "all"
        assert asked["with_downtimes"].lower() == "true"
        size, page = int(asked["page_size"]), int(asked["page"])
        return json.dumps(self.monitors[page * size : (page + 1) * size]).encode()


ANSWERS = {"/api/v1/query": Datadog.points, "/api/v1/monitor": Datadog.page}


def require_known(given: dict[str, Any], model: type) -> None:
    parsed = validate_and_convert_types(given, (model,), ["given"], True, True, Configuration())
    assert not parsed._unparsed


def minute(ago: int = 0) -> datetime:
    return now().replace(second=0, microsecond=0) - timedelta(minutes=ago)


def handler_of(far: Datadog) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            keys = self.headers["DD-API-KEY"], self.headers["DD-APPLICATION-KEY"]
            status, body, headers = far.answer(Asked(url.path, query, *keys))
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def standing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Datadog]:
    """A server of its own at SITE, and the keys `api` and `app` in the environment."""
    far = Datadog()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(far))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setitem(client.SITES, SITE, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DD_API_KEY", "api")
    monkeypatch.setenv("DD_APP_KEY", "app")
    yield far
    server.shutdown()
    server.server_close()
    thread.join(10)
