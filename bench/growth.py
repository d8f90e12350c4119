"""What a signal costs, and a list, with a long history in `signal_events` beside a short one; a storm; and memory.

Both histories end now and had an incident every ten seconds, of which BytePort acted on every tenth: the short one is
that of a new installation on its second day, the long one that of an old one. Each has a database of its own, vacuumed
and analysed as autovacuum would have done while it grew, and they are measured turn about, so that what else the
machine does hits both.

`BENCH_EVENTS` sets the length of the history (default 1,000,000; to make ten million takes a quarter of an hour),
`BENCH_ALERTS` the number of distinct alerts for the memory of the web process (default 300,000).
"""

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from bench.load import send_all
from bench.webhooks import SECRET, firing_notification, notification, notification_of
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.loop import advance
from byteport.sealing import seal
from runbooks.models import AgentSettings
from signals.ingest import ingest
from signals.maintenance import make_partitions
from signals.models import SignalEvent, Source, Status
from signals.reading import Reading, State
from tests.standin import Platform, installed
from tests.webserver import address_of_test_database, serving

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
DISTINCT = int(os.environ.get("BENCH_ALERTS", "300000"))
SHORT = 10_000
ROUNDS, SIGNALS, LOOKS = 20, 25, 3
STORM_SIGNALS, STORM_RESOURCES = 100_000, 1000

HISTORY = """
    INSERT INTO signal_events (fingerprint, signal, resource, fleet, neighbourhood, unit, detail, source, severity,
                               labels, detected_at, last_seen_at, acted_at, status, resolved_by, resolved_at, reason,
                               due_at)
    SELECT gen_random_uuid(), 'disk_pressure', 'host/h' || n %% 5000 || '/mount/%%2Fvar', 'host', 'host/h' || n %% 5000,
           'host/h' || n %% 5000, '', 'host', 'warning', '{}', at, at, CASE WHEN n %% 10 = 0 THEN at END, 'resolved',
           'byteport', at, 'It cleared.', NULL
    FROM generate_series(%s, %s) AS n, LATERAL (SELECT now() - (%s - n) * interval '10 seconds' AS at) AS t"""


def run() -> Iterator[dict[str, Any]]:
    make_partitions()
    SignalEvent.objects.all().delete()
    yield from histories()
    Source.objects.all().delete()
    options = {"max_per_second": 10**9}
    Source.objects.create(slug="alertmanager", kind="alertmanager", sealed_secret=seal(SECRET), options=options)
    with serving(address_of_test_database()) as port:
        yield storm(port)
        yield memory(port)


# --- a long history beside a short one


def histories() -> Iterator[dict[str, Any]]:
    """One line a figure: milliseconds, median."""
    client = Client(HTTP_HOST="127.0.0.1")
    client.force_login(get_user_model().objects.create_superuser("bench"))
    without_limits = {"dry_run": True, "max_per_hour": 10**6, "max_concurrent": 10**6, "storm_minimum": 10**6}
    AgentSettings.objects.update_or_create(pk=1, defaults=without_limits)
    took: dict[str, list[float]] = defaultdict(list)
    with twin_database("short") as short:
        with using(short):
            lengthen(EVENTS - SHORT)
        lengthen(0)
        for _ in range(ROUNDS):
            with using(short):
                look(client, "short", took)
            look(client, "long", took)
    for name in ("open_event", "first_stages", "list_page", "overview_page"):
        short_ms, long_ms = (round(1000 * median(took[f"{name} {length}"]), 2) for length in ("short", "long"))
        ratio = round(long_ms / short_ms, 2)
        yield {"name": f"{name}_with_history", "events": EVENTS, "ms": long_ms, "short_ms": short_ms, "ratio": ratio}


@contextmanager
def twin_database(suffix: str) -> Iterator[str]:
    """A copy of the database as it is now, dropped afterwards. Yields its name."""
    connection.creation.clone_test_db(suffix, verbosity=0, autoclobber=True)
    try:
        yield connection.creation.get_test_db_clone_settings(suffix)["NAME"]
    finally:
        connection.creation.destroy_test_db(suffix=suffix, verbosity=0)


@contextmanager
def using(database: str) -> Iterator[None]:
    """Has Django work with another database until the end of the block."""
    usual = connection.settings_dict["NAME"]
    connect_to(database)
    try:
        yield
    finally:
        connect_to(usual)


def connect_to(database: str) -> None:
    connection.close()
    connection.settings_dict["NAME"] = database


def lengthen(first: int) -> None:
    """Makes the history from its event number `first` on to its latest."""
    with connection.cursor() as cursor:
        for begin in range(first, EVENTS, 500_000):
            cursor.execute(HISTORY, [begin + 1, min(begin + 500_000, EVENTS), EVENTS])
        cursor.execute("VACUUM ANALYZE signal_events")


def look(client: Client, length: str, took: dict[str, list[float]]) -> None:
    """A signal that opens an event; its stages up to what dry-run has to say, every gate among them; two pages."""
    opened = deque[int]()
    took[f"open_event {length}"] += timed(lambda: opened.extend(ingest([firing()]).opened), SIGNALS)
    with installed(Platform()):
        took[f"first_stages {length}"] += timed(lambda: first_stages(opened.popleft()), SIGNALS)
    took[f"list_page {length}"] += timed(lambda: page(client, "/incidents/"), LOOKS)
    took[f"overview_page {length}"] += timed(lambda: page(client, "/"), LOOKS)


def first_stages(event_id: int) -> None:
    for _ in range(2):
        advance(event_id)
    assert SignalEvent.objects.filter(pk=event_id, status=Status.SIMULATED).exists()


def page(client: Client, address: str) -> None:
    status = client.get(address).status_code
    assert status == 200, f"{address} answers {status}"


def firing() -> Reading:
    """Of a host that was never heard of."""
    resource = ResourceRef("host", f"new-{time.time_ns()}", "mount", "/var")
    return Reading(signal="disk_pressure", resource=resource, at=now(), state=State.FIRING, source="bench")


def timed(work: Callable[[], Any], times: int) -> list[float]:
    """Seconds that each took, once it was warm."""
    work()
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return took


# --- many at once


def storm(port: int) -> dict[str, Any]:
    """100,000 signals for 1,000 resources: as many events as these, and no signal lost.

    They come as Alertmanager sends them, notifications of a group of 100 alerts each, over four connections at once.
    """
    before = SignalEvent.objects.count()
    requests = [firing_notification(number, 100, STORM_RESOURCES) for number in range(STORM_SIGNALS // 100)]
    took, statuses = send_all(port, requests, 4)
    return {
        "name": "storm",
        "signals": STORM_SIGNALS,
        "seconds": round(took, 1),
        "events": SignalEvent.objects.count() - before,
        "accepted": 100 * statuses[202],
    }


def memory(port: int) -> dict[str, Any]:
    """Resident memory of the web process before and after distinct alerts, each of which is seen once."""
    send_all(port, [notification(number) for number in range(200)], 4)
    before = resident_mb(port)
    for first in range(0, DISTINCT // 100, 500):
        send_all(port, [notification_of(first + n, 100, distinct=True) for n in range(500)], 4)
    after = resident_mb(port)
    ratio = round(after / before, 2)
    return {"name": "memory", "distinct_alerts": DISTINCT, "mb_before": before, "mb_after": after, "ratio": ratio}


def resident_mb(port: int) -> float:
    """Of the gunicorn that serves this port and its worker."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"127.0.0.1:{port}".encode() in (process / "cmdline").read_bytes():
                pages += int((process / "statm").read_text().split()[1])
        except OSError:
            continue
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
