"""The host source. Real: PostgreSQL, the threads, `hostctl` on this host. The hosts of the way `standin` are objects in
this process; hosts over real SSH are in tests/byteport/clients/hosts/test_ssh.py."""

import threading
from datetime import timedelta

import pytest

from byteport.clients.hosts.inventory import drill_prefix, local_name
from byteport.clients.hosts.protocol import HostAnswer
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.ways import WAYS, Way
from byteport.models import Host
from signals.source import SourceConfig
from signals.sources import host as module
from signals.sources.host import HostSource

pytestmark = pytest.mark.django_db
CONFIG = SourceConfig("host")
MOUNT = {"mount": "/", "device": "/dev/sda1", "fstype": "ext4", "percent": 91.0, "drill": None}
USAGE = {"status": "done", "reason": "", "result": {"mounts": [MOUNT], "read_only": [], "excluded": {}}}
MEMORY = {"status": "done", "reason": "", "result": {"percent": 40.0}}
BROKEN = {"status": "failed", "reason": "no /proc", "result": {}}


class StandIn:
    """Hosts by name: what each answers, or which error it raises."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.slow = threading.Event()

    def transport(self, address):
        outer = self

        class Transport:
            def run(self, request, *, timeout_s):
                outer.asked.append(address.name)
                if address.name == "slow":
                    assert outer.slow.wait(30)
                answer = outer.answers.get(address.name, {"usage": USAGE, "memory": MEMORY})
                if isinstance(answer, Exception):
                    raise answer
                return HostAnswer("done", result=answer)

        return Transport()


@pytest.fixture
def far(monkeypatch):
    standin = StandIn()
    ways = {**WAYS, "standin": Way(name="standin", title="Stand-in", transport=standin.transport, poll_s=30)}
    monkeypatch.setitem(vars(WAYS), "_found", ways)
    yield standin
    standin.slow.set()


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)  # against hanging; no measure of speed
    return HostSource()


def without_this_host():
    Host.objects.create(name=local_name(), way="local", enabled=False)


def add(*names, **fields):
    for name in names:
        Host.objects.create(name=name, way="standin", **fields)


def places(readings):
    return sorted({reading.resource.place for reading in readings})


def test_this_host_is_read_at_every_poll(source):
    for _ in range(2):
        readings = source.poll(CONFIG, now())
        assert places(readings) == [local_name()]
        assert {reading.signal for reading in readings} >= {"disk_pressure", "memory_pressure"}


def test_who_holds_the_memory_comes_along_where_the_host_tells(source, far):
    shop = {"kind": "unit", "name": "shop.service", "rss_bytes": 7e9, "main": {"pid": 10, "started": 1010}}
    consumers = {"status": "done", "reason": "", "result": {"consumers": [shop]}}
    far.answers["web-1"] = {"memory": {**MEMORY, "result": {"percent": 93.0}}, "consumers": consumers}
    add("web-1")
    found = [reading for reading in source.poll(CONFIG, now()) if reading.resource.place == "web-1"]
    assert [(reading.signal, reading.value, reading.detail) for reading in found] == [
        ("memory_pressure", 93.0, ""), ("byteport.memory_consumer", 7e9, "unit:shop.service"),
    ]  # fmt: skip


def test_every_host_that_is_reached_is_read_and_noted(source, far):
    add("web-1", "web-2")
    Host.objects.create(name="only-seen")
    at = now()
    assert places(source.poll(CONFIG, at)) == sorted([local_name(), "web-1", "web-2"])
    assert set(Host.objects.values_list("name", "last_success_at")) == {
        ("web-1", at), ("web-2", at), ("only-seen", None)
    }  # fmt: skip


def test_a_broken_host_is_told_by_name_and_fails_none_of_the_others(source, far):
    without_this_host()
    add("web-1", "web-2")
    far.answers["web-2"] = Permanent("its host key has changed")
    assert places(source.poll(CONFIG, now())) == ["web-1"]
    assert dict(Host.objects.exclude(way="local").values_list("name", "last_error")) == {
        "web-1": "", "web-2": "its host key has changed"
    }  # fmt: skip


def test_a_host_that_is_well_again_says_so(source, far):
    without_this_host()
    add("web-1", "web-2")
    far.answers["web-2"] = Temporary("away")
    at = now()
    source.poll(CONFIG, at)
    del far.answers["web-2"]
    assert places(source.poll(CONFIG, at + timedelta(seconds=61))) == ["web-1", "web-2"]
    assert not Host.objects.exclude(last_error="").exists()


def test_when_not_one_host_can_be_read_the_poll_fails(source, far):
    without_this_host()
    add("web-1")
    far.answers["web-1"] = Temporary("no route to it")
    with pytest.raises(Temporary, match="web-1: no route to it"):
        source.poll(CONFIG, now())
    assert Host.objects.get(name="web-1").last_error == "no route to it"


@pytest.mark.parametrize("hosts", [["web-1", "web-2"], ["web-1"]])
def test_half_a_look_gives_its_half_and_says_what_is_missing(source, far, hosts):
    without_this_host()
    add(*hosts)
    far.answers["web-1"] = {"usage": USAGE, "memory": BROKEN}
    readings = source.poll(CONFIG, now())
    assert [r.signal for r in readings if r.resource.place == "web-1"] == ["disk_pressure"]
    assert Host.objects.get(name="web-1").last_error == "memory: no /proc"


def test_while_half_a_look_waits_for_its_next_time_the_poll_is_well(source, far):
    without_this_host()
    add("web-1")
    far.answers["web-1"] = {"usage": USAGE, "memory": BROKEN}
    at = now()
    source.poll(CONFIG, at)
    assert source.poll(CONFIG, at + timedelta(seconds=1)) == []


def test_two_halves_that_fail_are_a_whole_that_cannot_be_read(source, far):
    without_this_host()
    add("web-1")
    far.answers["web-1"] = {"usage": BROKEN, "memory": BROKEN}
    with pytest.raises(Temporary, match="usage: no /proc; memory: no /proc"):
        source.poll(CONFIG, now())


def test_a_drill_of_another_byteport_on_the_same_host_is_left_to_that_one(source, far):
    without_this_host()
    add("web-1")
    ours, theirs = f"{drill_prefix()}0001", "zzzz0001"
    volumes = [{**MOUNT, "mount": f"/var/lib/byteport/drill/{name}", "drill": name} for name in (ours, theirs)]
    memory = {"status": "done", "reason": "", "result": {"percent": 40.0, "drills": services(ours, theirs)}}
    far.answers["web-1"] = {"usage": {**USAGE, "result": {**USAGE["result"], "mounts": volumes}}, "memory": memory}
    drills = [(r.signal, r.resource.name) for r in source.poll(CONFIG, now()) if r.resource.is_drill]
    assert drills == [("disk_pressure", ours), ("memory_pressure", ours)]


def services(*names):
    return [{"drill": name, "percent": 92.0, "consumers": []} for name in names]


def test_each_host_has_its_own_interval_and_a_broken_one_a_longer_one(source, far):
    without_this_host()
    add("web-1")
    add("web-2", poll_s=20)
    add("broken")
    far.answers["broken"] = Temporary("away")
    start = now()
    for seconds in range(0, 61, 10):
        source.poll(CONFIG, start + timedelta(seconds=seconds))
    assert {name: far.asked.count(name) for name in ("web-1", "web-2", "broken")} == {
        "web-1": 3, "web-2": 4, "broken": 2
    }  # fmt: skip


def test_a_way_that_is_not_looked_at_by_itself_can_be_told_to(source, far):
    without_this_host()
    vars(WAYS)["_found"]["standin"] = Way(name="standin", title="x", transport=far.transport, poll_s=None)
    add("node-1")
    add("node-2", poll_s=60)
    assert places(source.poll(CONFIG, now())) == ["node-2"]


def test_a_host_that_is_looked_at_more_often_is_asked_for_more_often(source, far):
    without_this_host()  # on which another test may be drilling
    assert source.interval_s() == 10
    add("web-1", poll_s=5)
    source.poll(CONFIG, now())
    assert source.interval_s() == 5


def test_a_slow_host_holds_up_nobody(far, monkeypatch):
    without_this_host()
    source = HostSource()
    add("slow", "web-1")
    assert places(source.poll(CONFIG, now())) == ["web-1"]
    assert source.interval_s() == module.QUICK_INTERVAL_S
    far.slow.set()


def test_a_host_that_was_switched_off_is_forgotten(source, far):
    without_this_host()
    add("web-1", "web-2")
    far.answers["web-2"] = Temporary("away")
    at = now()
    source.poll(CONFIG, at)
    Host.objects.filter(name="web-1").update(enabled=False)
    with pytest.raises(Temporary, match="None of 1 hosts"):
        source.poll(CONFIG, at + timedelta(seconds=61))
