"""Many hosts looked at at once. Real: the threads; the hosts are functions that answer when they are told to."""

import threading
import time
from datetime import UTC, datetime

import pytest

from byteport.core.errors import Temporary
from byteport.core.ways import Address
from signals.looks import Looks

AT = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 30  # against hanging; no measure of speed


def host(name):
    return Address(name=name, way="standin")


class Hosts:
    """Answer at once, but for those that are held back until they are let go."""

    def __init__(self):
        self.held = {}
        self.asked = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def hold(self, name):
        self.held[name] = threading.Event()

    def __call__(self, address):
        with self._lock:
            self.asked.append(address.name)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if address.name in self.held:
                assert self.held[address.name].wait(PATIENCE_S)
            if address.name.startswith("broken"):
                raise Temporary(f"{address.name} is broken")
            if address.name.startswith("odd"):
                raise ZeroDivisionError
            return {"name": address.name}
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture
def hosts():
    made = Hosts()
    yield made
    for event in made.held.values():
        event.set()


def taken_later(looks, count):
    ended, until = [], time.monotonic() + PATIENCE_S
    while len(ended) < count:
        assert time.monotonic() < until
        ended += looks.take([], AT)
    return ended


def test_a_slow_host_holds_up_nobody_and_its_look_comes_with_a_later_call(hosts):
    hosts.hold("slow")
    looks = Looks(hosts, patience_s=0.2)
    first = looks.take([host("slow"), host("a"), host("b")], AT)
    assert sorted(look.host.name for look in first) == ["a", "b"]
    assert looks.running == {"slow"}
    hosts.held["slow"].set()
    [late] = taken_later(looks, 1)
    assert (late.host.name, late.at, late.result) == ("slow", AT, {"name": "slow"})


def test_a_host_is_never_looked_at_twice_at_once(hosts):
    hosts.hold("slow")
    looks = Looks(hosts, patience_s=0.05)
    for _ in range(3):
        assert looks.take([host("slow")], AT) == []
    assert hosts.asked == ["slow"]


def test_an_earlier_slow_host_costs_later_calls_no_waiting(hosts):
    hosts.hold("slow")
    looks = Looks(hosts, patience_s=PATIENCE_S)
    looks._patience_s = 0.05
    looks.take([host("slow")], AT)
    looks._patience_s = PATIENCE_S
    [look] = looks.take([host("a")], AT)
    assert look.host.name == "a"


def test_no_more_than_the_limit_are_looked_at_at_once_and_all_get_their_turn(hosts):
    looks = Looks(hosts, limit=3, patience_s=PATIENCE_S)
    ended = looks.take([host(f"h{n}") for n in range(20)], AT)
    assert len(ended) == 20
    assert hosts.most_at_once <= 3


def test_hosts_that_hang_leave_the_rest_due(hosts):
    for name in ("x", "y"):
        hosts.hold(name)
    looks = Looks(hosts, limit=2, patience_s=0.05)
    assert looks.take([host("x"), host("y"), host("z")], AT) == []
    assert looks.running == {"x", "y"}
    assert "z" not in hosts.asked


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_goes_wrong_is_told_by_name_and_ends_the_look(hosts):
    looks = Looks(hosts, patience_s=PATIENCE_S)
    ended = {look.host.name: look for look in looks.take([host("broken"), host("odd"), host("a")], AT)}
    assert ended["broken"].error == "broken is broken"
    assert "internal error" in ended["odd"].error
    assert ended["a"].error == ""
    assert looks.running == set()
