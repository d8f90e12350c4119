"""Webhooks over real HTTP, with the senders' real payloads, beside the bare SQL upsert of the same rows.

The web process is gunicorn as `manage.py up` runs it; the load comes from this process, on the same cores. Each answer
is given after commit.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from bench.ingest import bare_upsert, columns_of, line, timed
from bench.load import request_of, send_all
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.sealing import seal
from signals.maintenance import make_partitions
from signals.models import Source
from signals.reading import Reading, State
from tests.webserver import address_of_test_database, serving

SECRET = "bench"
BEARER = {"Authorization": f"Bearer {SECRET}"}
RESOURCES = 1000
BATCHES, ALERTS, BATCH_CONNECTIONS = 400, 100, 4
SINGLES, SINGLE_CONNECTIONS = 4000, 16


def run() -> Iterator[dict[str, Any]]:
    make_partitions()
    Source.objects.all().delete()
    for kind in ("alertmanager", "generic"):
        Source.objects.create(slug=kind, kind=kind, sealed_secret=seal(SECRET))
    with serving(address_of_test_database()) as port:
        yield batches(port)
        yield singles(port)


def batches(port: int) -> dict[str, Any]:
    """Alertmanager's notifications of 100 alerts."""
    requests = [notification(number) for number in range(BATCHES)]
    send_all(port, requests[:20], BATCH_CONNECTIONS)
    took, statuses = send_all(port, requests, BATCH_CONNECTIONS)
    assert statuses == {202: BATCHES}, statuses
    return line("webhook_alertmanager_100", BATCHES * ALERTS / took, bare(BATCHES, ALERTS))


def singles(port: int) -> dict[str, Any]:
    """Single signals in BytePort's own format, in concurrent requests."""
    requests = [message(number) for number in range(SINGLES)]
    send_all(port, requests[:50], SINGLE_CONNECTIONS)
    took, statuses = send_all(port, requests, SINGLE_CONNECTIONS)
    assert statuses == {202: SINGLES}, statuses
    return line("webhook_single", SINGLES / took, bare(SINGLES // 2, 1))


def bare(count: int, size: int) -> float:
    """Rows a second of the bare upsert, in batches of `size` on one connection."""
    prepared = [columns_of(rows(number, size)) for number in range(count)]
    return count * size / sum(timed(bare_upsert, columns) for columns in prepared)


def rows(number: int, size: int) -> list[Reading]:
    """What the bare statement keeps of a batch: the same resources as the alerts are about."""
    at = now() - timedelta(hours=1) + timedelta(milliseconds=number)
    return [
        Reading(
            signal="bare", resource=_resource(number * size + n), at=at, value=1.0, state=State.FIRING, source="bare"
        )
        for n in range(size)
    ]


def _resource(number: int) -> ResourceRef:
    return ResourceRef("host", f"web-{number % RESOURCES}", "mount", "/var")


def notification(number: int) -> bytes:
    return notification_of(number, ALERTS)


def firing_notification(number: int, alerts: int, resources: int) -> bytes:
    return _posted([_alert(n % resources, "firing") for n in range(number * alerts, (number + 1) * alerts)])


def notification_of(number: int, alerts: int, *, distinct: bool = False) -> bytes:
    """As Alertmanager 0.27 posts it: alerts of node-exporter's mixin, with its labels."""
    hosts = range(number * alerts, (number + 1) * alerts)
    return _posted([_alert(host if distinct else host % RESOURCES) for host in hosts])


def _posted(alerts: list[dict[str, Any]]) -> bytes:
    body = {
        "version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "resolved", "receiver": "byteport",
        "groupLabels": {}, "commonLabels": {"job": "node-exporter"}, "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093", "alerts": alerts,
    }  # fmt: skip
    return request_of("/hooks/alertmanager", BEARER, json.dumps(body).encode())


def _alert(host: int, status: str = "resolved") -> dict[str, Any]:
    return {
        "status": status,
        "labels": {
            "alertname": "NodeFilesystemAlmostOutOfSpace", "instance": f"web-{host}:9100", "mountpoint": "/var",
            "device": "/dev/sda1", "fstype": "ext4", "job": "node-exporter", "severity": "warning",
        },
        "annotations": {"summary": "Filesystem has less than 5% space left.", "description": "…", "runbook_url": "x"},
        "startsAt": "2026-03-01T11:00:00.000Z", "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=node", "fingerprint": f"{host:016x}",
    }  # fmt: skip


def message(number: int) -> bytes:
    body = {"signal": "disk_pressure", "resource": str(_resource(number)), "status": "resolved"}
    return request_of("/hooks/generic", BEARER, json.dumps(body).encode())
