"""The thread that asks a source. Real: the thread, PostgreSQL. The source is a stand-in that says what a test sets."""

import threading

import pytest

from byteport.core.errors import Temporary
from signals.models import Source
from signals.polling import Poller
from signals.source import SOURCES

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE_S = 20.0


class Asked:
    name, title, permissions = "asked", "Asked", ()

    def __init__(self):
        self.error, self.count, self.was_asked_again = None, 0, threading.Event()

    def interval_s(self):
        return 0.1

    def poll(self, config, now):
        self.count += 1
        if self.count > 1:
            self.was_asked_again.set()
        if self.error:
            raise self.error
        return []

    def reread(self, config, signal, resource, now):
        return None


@pytest.fixture
def asked(monkeypatch):
    made = Asked()
    monkeypatch.setitem(vars(SOURCES), "_found", {**SOURCES, "asked": made})
    return made


@pytest.fixture
def poller():
    Source.objects.create(slug="asked", kind="asked")
    return Poller("asked")


def test_it_asks_again_and_again_until_it_is_told_to_stop(asked, poller):
    poller.start()
    assert asked.was_asked_again.wait(PATIENCE_S)
    poller.stop()
    poller.join(PATIENCE_S)
    assert not poller.is_alive()


def test_each_fault_in_a_row_makes_the_pause_longer_and_an_answer_ends_the_row(asked, poller):
    asked.error = Temporary("no answer", delay_s=1)
    pause_s, faults = poller.turn(0)
    assert 0.1 < pause_s <= 6
    assert faults == 1
    assert poller.turn(100_000)[0] > pause_s
    asked.error = None
    pause_s, faults = poller.turn(faults)
    assert (pause_s, faults) == (0.1, 0)


def test_a_source_that_asks_for_more_patience_is_given_it(asked, poller):
    asked.error = Temporary("too many requests", delay_s=700)
    assert 6 < poller.turn(0)[0] <= 700
