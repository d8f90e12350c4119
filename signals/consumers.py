"""Who held how much of a host's memory, look by look: what a leak is judged by.

Each consumer is a series of its own beside the host's, under a signal that no catalog lists, so that it never fires.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from byteport.core.resource import ResourceRef
from signals.models import Sample, Series
from signals.reading import Reading
from signals.untrusted import OWN_SIGNALS

SIGNAL = f"{OWN_SIGNALS}memory_consumer"
KEPT = timedelta(days=1)  # a consumer that was not seen for so long is forgotten: containers and processes come and go
MOST_SAMPLES = 10_000

Course = Sequence[tuple[datetime, float]]  # bytes, in order of time


def name_of(consumer: Mapping[str, Any]) -> str:
    """Names one of `hostctl consumers` over time. A unit stays the same when it restarts; a lone process does not."""
    name = f"{consumer['kind']}:{consumer['name']}"
    main = consumer["main"]
    return f"{name}:{main['pid']}:{main['started']}" if consumer["kind"] == "process" else name


def consumer_readings(
    resource: ResourceRef, consumers: Sequence[Mapping[str, Any]], at: datetime, source: str
) -> Iterator[Reading]:
    """A look at the consumers of one host's memory (or one drill's) as readings, in bytes."""
    for consumer in consumers:
        value = float(consumer["rss_bytes"])
        yield Reading(signal=SIGNAL, resource=resource, at=at, value=value, detail=name_of(consumer), source=source)


def courses(resource: ResourceRef, since: datetime) -> dict[str, Course]:
    """What was kept of each consumer, by its name."""
    series = Series.objects.filter(signal=SIGNAL, resource=str(resource), last_at__gte=since)
    names = dict(series.values_list("fingerprint", "detail"))
    samples = Sample.objects.filter(fingerprint__in=names, at__gte=since).order_by("-at")
    found: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for fingerprint, at, value in samples.values_list("fingerprint", "at", "value")[:MOST_SAMPLES]:
        found[names[fingerprint]].append((at, value))
    return {name: course[::-1] for name, course in found.items()}


def forget(before: datetime) -> None:
    """Drops the series of consumers that are gone; their samples go by age, with all others."""
    Series.objects.filter(signal=SIGNAL, last_at__lt=before).delete()
