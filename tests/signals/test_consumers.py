"""What is remembered of who held a host's memory. Real: PostgreSQL, ingest, this host's processes by hostctl. The hosts
in between are made of plain answers."""

from datetime import UTC, datetime, timedelta

import pytest

from byteport.clients.hosts.inventory import local_name
from byteport.clients.hosts.reader import read
from byteport.core.clock import now
from signals import consumers, maintenance
from signals.ingest import ingest
from signals.models import Sample, Series, SignalEvent
from signals.sources.host import memory_of, memory_readings

pytestmark = pytest.mark.django_db
START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
WEB = memory_of("web-1")
GB = 1e9


def consumer(name="shop.service", kind="unit", rss=1 * GB, pid=10, started=1010):
    return {"kind": kind, "name": name, "rss_bytes": rss, "main": {"pid": pid, "started": started}}


def look(*seen, at=START, resource=WEB):
    return ingest(consumers.consumer_readings(resource, seen, at, "host"))


def test_the_course_of_each_consumer_is_kept_in_order_of_time():
    for minute in (2, 0, 1):
        look(consumer(rss=minute * GB), consumer("other.service"), at=START + timedelta(minutes=minute))
    found = consumers.courses(WEB, START)
    assert found["unit:shop.service"] == [(START + timedelta(minutes=n), n * GB) for n in range(3)]
    assert len(found["unit:other.service"]) == 3


def test_consumers_never_fire_however_much_they_hold():
    look(consumer(rss=1e15))
    assert not SignalEvent.objects.exists()


def test_hosts_and_drills_are_kept_apart():
    look(consumer(rss=5))
    look(consumer(rss=6), resource=memory_of("web-2"))
    assert [value for _, value in consumers.courses(WEB, START)["unit:shop.service"]] == [5]


def test_only_what_was_seen_since_is_told():
    look(consumer(), at=START)
    look(consumer(), at=START + timedelta(minutes=3))
    assert len(consumers.courses(WEB, START + timedelta(minutes=1))["unit:shop.service"]) == 1
    assert consumers.courses(WEB, START + timedelta(minutes=4)) == {}


def test_a_unit_is_one_series_over_restarts_and_a_process_is_its_pid_and_start():
    look(consumer(pid=10), consumer("python", "process", pid=20, started=1))
    look(consumer(pid=11), consumer("python", "process", pid=20, started=2), at=START + timedelta(seconds=10))
    found = consumers.courses(WEB, START)
    assert len(found["unit:shop.service"]) == 2
    assert {name for name in found if name.startswith("process:")} == {"process:python:20:1", "process:python:20:2"}


def test_what_was_not_seen_for_a_day_is_forgotten():
    look(consumer("old.service"), at=now() - timedelta(hours=25))
    look(consumer())
    maintenance.run()
    assert list(Series.objects.values_list("detail", flat=True)) == ["unit:shop.service"]
    assert Sample.objects.count() == 2, "samples go by age, with all others"


def test_hostile_names_are_kept_as_they_are():
    name = "x'; DROP TABLE samples; -- \u202e.service"
    look(consumer(name))
    assert f"unit:{name}" in consumers.courses(WEB, START)


def test_a_drills_memory_and_its_holders_are_readings_of_the_drill():
    drill = {"drill": "abcd1234", "percent": 92.0, "consumers": [consumer("leaky.service")]}
    readings = list(memory_readings("web-1", {"percent": 40.0, "drills": [drill]}, START))
    assert [(one.signal, one.resource.kind, one.value) for one in readings] == [
        ("memory_pressure", "memory", 40.0), ("memory_pressure", "drill", 92.0), (consumers.SIGNAL, "drill", 1 * GB),
    ]  # fmt: skip


def test_what_this_host_says_is_what_is_kept():
    found = read(local_name(), "consumers")["consumers"]
    here = memory_of(local_name())
    look(*found, resource=here)
    assert len(consumers.courses(here, START)) == len(found) > 0
