"""What a signal costs, and a list, with a long history in `signal_events` beside a short one; a storm; and memory.

`BENCH_EVENTS` sets the length of the history (default 1,000,000; to make ten million takes a quarter of an hour),
`BENCH_ALERTS` the number of distinct alerts for the memory of the web process (default 300,000).
"""

import os
import time
from collections.abc import Callable, Iterator
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
from byteport.sealing import seal
from signals.ingest import ingest
from signals.maintenance import make_partitions
from signals.models import SignalEvent, Source
from signals.reading import Reading, State
from tests.webserver import address_of_test_database, serving

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
DISTINCT = int(os.environ.get("BENCH_ALERTS", "300000"))
SHORT = 10_000
SIGNALS, LOOKS = 400, 15
STORM_SIGNALS, STORM_RESOURCES = 100_000, 1000

HISTORY = """
    INSERT INTO signal_events (fingerprint, signal, resource, fleet, neighbourhood, unit, detail, source, severity,
                               labels, detected_at, last_seen_at, status, resolved_by, resolved_at, reason, due_at)
    SELECT gen_random_uuid(), 'disk_pressure', 'host/h' || n %% 5000 || '/mount/%%2Fvar', 'host', 'host/h' || n %% 5000,
           'host/h' || n %% 5000, '', 'host', 'warning', '{}', at, at, 'resolved', 'itself', at, 'It cleared.', NULL
    FROM generate_series(%s, %s) AS n, LATERAL (SELECT now() - (%s - n) * interval '10 seconds' AS at) AS t"""


def run() -> Iterator[dict[str, Any]]:
    make_partitions()
    SignalEvent.objects.all().delete()
    client = Client(HTTP_HOST="127.0.0.1")
    client.force_login(get_user_model().objects.create_superuser("bench"))
    lengthen(0, SHORT)
    short = figures(client)
    lengthen(SHORT, EVENTS)
    long = figures(client)
    for name, before in short.items():
        ratio = round(long[name] / before, 2)
        yield {"name": f"{name}_with_history", "events": EVENTS, "ms": long[name], "short_ms": before, "ratio": ratio}
    Source.objects.all().delete()
    options = {"max_per_second": 10**9}
    Source.objects.create(slug="alertmanager", kind="alertmanager", sealed_secret=seal(SECRET), options=options)
    with serving(address_of_test_database()) as port:
        yield storm(port)
        yield memory(port)


def lengthen(first: int, last: int) -> None:
    with connection.cursor() as cursor:
        for begin in range(first, last, 500_000):
            cursor.execute(HISTORY, [begin + 1, min(begin + 500_000, last), EVENTS])
        cursor.execute("VACUUM ANALYZE signal_events")


def figures(client: Client) -> dict[str, float]:
    """Milliseconds, median: a signal that opens an event, the first page of the list, the overview."""
    numbers = iter(range(10**6))
    return {
        "open_event": timed(lambda: ingest([firing(f"{time.time_ns()}-{next(numbers)}")]), SIGNALS),
        "list_page": timed(lambda: page(client, "/incidents/"), LOOKS),
        "overview_page": timed(lambda: page(client, "/"), LOOKS),
    }


def page(client: Client, address: str) -> None:
    status = client.get(address).status_code
    assert status == 200, f"{address} answers {status}"


def firing(name: str) -> Reading:
    resource = ResourceRef("host", name, "mount", "/var")
    return Reading(signal="disk_pressure", resource=resource, at=now(), state=State.FIRING, source="bench")


def timed(work: Callable[[], Any], times: int) -> float:
    work()
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return round(1000 * median(took), 2)


def storm(port: int) -> dict[str, Any]:
    """100,000 signals for 1,000 resources: as many events, and none lost."""
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
