"""From a webhook's answer to the loop's first stage, and to the first action, while 1,000 signals a second come in.

Real: gunicorn, HTTP, PostgreSQL, the queue and its workers, every stage and gate. What is acted on is the stand-in of
tests/standin.py: the action itself takes no time.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from django.conf import settings
from django.db import connection

from bench.load import exchange, request_of
from bench.webhooks import BEARER, SECRET, notification_of
from byteport.sealing import seal
from runbooks.models import AgentAction, AgentSettings
from signals.maintenance import make_partitions
from signals.models import SignalEvent, Source
from tests.webserver import address_of_test_database, serving

INCIDENTS = 300
APART_S = 0.05
LOAD_PER_S, LOAD_ALERTS = 50, 20
GIVE_UP_S = 60.0
WORKER = """
import os, time
import django; django.setup()
from byteport import loop
from tests.standin import Platform, installed
stamps, claim = os.open(os.environ["STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), loop.claim
def stamped(event_id, at):
    os.write(stamps, f"{event_id} {time.time()}\\n".encode())
    return claim(event_id, at)
loop.claim = stamped
from byteport.pool import run_workers
with installed(Platform(), steps=1):
    run_workers()
"""


def run() -> Iterator[dict[str, Any]]:
    make_partitions()
    Source.objects.all().delete()
    for slug, kind in (("alertmanager", "alertmanager"), ("generic", "generic")):
        Source.objects.create(slug=slug, kind=kind, sealed_secret=seal(SECRET), options={"reports_end": True})
    AgentSettings.objects.update_or_create(
        pk=1, defaults={"dry_run": False, "max_per_hour": 10**6, "max_concurrent": 10**6, "storm_minimum": 10**6}
    )
    with tempfile.TemporaryDirectory() as folder, serving(address_of_test_database()) as port:
        stamps = Path(folder, "stamps")
        stamps.touch()
        with workers(stamps), load(port):
            answered = dict(incidents(port))
            begun = wait_for(stamps, answered)
        yield {"name": "webhook_to_first_stage", **spread([begun[pk] - answered[pk] for pk in answered])}
        started = {row.event_id: row.started_at.timestamp() for row in AgentAction.objects.filter(event__in=answered)}
        yield {"name": "webhook_to_first_action", **spread([started[pk] - answered[pk] for pk in started])}


def incidents(port: int) -> Iterator[tuple[int, float]]:
    """One firing signal after the other; the event that each opened, and when it was answered."""
    for number in range(INCIDENTS):
        body = {"signal": "disk_pressure", "resource": f"host/new-{number}/mount/%2F", "status": "firing"}
        list(exchange(port, [request_of("/hooks/generic", BEARER, json.dumps(body).encode())]))
        answered = time.time()
        yield SignalEvent.objects.values_list("pk", flat=True).get(resource=body["resource"]), answered
        time.sleep(APART_S)


@contextmanager
def load(port: int) -> Iterator[None]:
    """1,000 alerts a second about other things."""
    stop = threading.Event()

    def send() -> None:
        requests, begin = [notification_of(number, LOAD_ALERTS) for number in range(50)], time.monotonic()
        for number in range(10**6):
            list(exchange(port, [requests[number % 50]]))
            if stop.wait(max(0.0, begin + number / LOAD_PER_S - time.monotonic())):
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


@contextmanager
def workers(stamps: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "STAMPS": str(stamps),
        "DATABASE_URL": address_of_test_database(),
        "BYTEPORT_SECRET_KEY": settings.SECRET_KEY,
        "DJANGO_SETTINGS_MODULE": "byteport.settings",
    }
    process = subprocess.Popen([sys.executable, "-c", WORKER], env=environment, cwd=settings.BASE_DIR)
    time.sleep(5)  # until they listen
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for(stamps: Path, answered: dict[int, float]) -> dict[int, float]:
    """When each event's first stage began."""
    until = time.monotonic() + GIVE_UP_S
    while time.monotonic() < until:
        begun: dict[int, float] = {}
        for line in stamps.read_text().splitlines():
            pk, at = line.split()
            begun.setdefault(int(pk), float(at))
        acted = AgentAction.objects.filter(event__in=answered).count()
        if answered.keys() <= begun.keys() and acted >= len(answered):
            break
        time.sleep(0.2)
    connection.close()
    return begun


def spread(times_s: list[float]) -> dict[str, Any]:
    ms = [1000 * each for each in times_s]
    return {"median_ms": round(median(ms), 1), "p99_ms": round(quantiles(ms, n=100)[98], 1), "of": len(ms)}
