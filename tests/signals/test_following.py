"""Who follows a source, and what people are told of it. Real: PostgreSQL with its advisory locks, HTTP to the stand-in
API server, threads, every view and template. Not real: two watchers are two objects in one process."""

import threading
import time
from contextlib import suppress
from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.management import call_command
from django.urls import reverse

from byteport import seeds
from byteport.core.clock import now
from byteport.core.errors import Temporary
from byteport.core.resource import ResourceRef
from byteport.management.commands.doctor import clusters
from signals import polling
from signals.following import DatabaseChannel, Follow
from signals.models import SignalEvent, Source, SourceStream
from signals.polling import Watch
from signals.reading import Reading, State
from signals.source import SOURCES, StreamHealth
from tests.kubernetes.standin import PLACE

PATIENCE_S = 15.0
NODE = ResourceRef("kubernetes", PLACE, "node", "node-a")


@pytest.fixture
def source(db) -> Source:
    return Source.objects.create(slug="kubernetes", kind="kubernetes_events")


@pytest.mark.django_db(transaction=True)
def test_one_watcher_follows_and_another_takes_over_when_it_ends(cluster, source, monkeypatch):
    monkeypatch.setattr(polling, "REFRESH_S", 0.1)
    watches = [(Watch(), threading.Event()) for _ in range(2)]
    threads = [threading.Thread(target=watch.run, args=[stop], daemon=True) for watch, stop in watches]
    for thread in threads:
        thread.start()
    until(lambda: any(watch._threads for watch, _ in watches))
    time.sleep(0.3)
    [leader] = [number for number, (watch, _) in enumerate(watches) if watch._threads]
    until(lambda: cluster.connections >= 4)
    watches[leader][1].set()
    until(lambda: watches[1 - leader][0]._threads)
    for _, stop in watches:
        stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    until(lambda: cluster.connections == 0)


def until(holds) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- pauses


class Followed:
    """Ends at once, or after as long as a test sets: the clock is set on."""

    name, title, permissions = "followed", "Followed", ()

    def __init__(self, clock):
        self.clock, self.lasts_s = clock, 0

    def follow(self, config, channel, stop):
        self.clock.shift(self.lasts_s)
        raise Temporary("no answer")


@pytest.mark.django_db(transaction=True)
def test_the_pause_grows_with_each_fault_in_a_row_and_a_day_without_any_ends_the_row(monkeypatch):
    with time_machine.travel(now(), tick=False) as clock:
        followed = Followed(clock)
        monkeypatch.setitem(vars(SOURCES), "_found", {**SOURCES, "followed": followed})
        Source.objects.create(slug="followed", kind="followed")
        follow = Follow("followed")
        pause_s, faults = follow.turn(5)
        assert pause_s > 40
        assert faults == 6
        followed.lasts_s = 86_400
        pause_s, faults = follow.turn(faults)
        assert pause_s < 3
        assert faults == 1


# --- what cannot be kept


@pytest.mark.django_db(transaction=True)
def test_one_reading_that_cannot_be_kept_does_not_hold_back_the_others(source):
    at = now()
    good, bad = (
        Reading(signal=f"kubernetes:{name}", resource=NODE, at=at, state=State.FIRING, labels={"message": message})
        for name, message in (("good", "fine"), ("bad", "no text \x00"))
    )
    DatabaseChannel(source).emit([bad, good])
    assert [event.signal for event in SignalEvent.objects.all()] == ["kubernetes:good"]


# --- the source's health


def streams(*errors: str) -> list[StreamHealth]:
    at = now() - timedelta(seconds=3)
    return [
        StreamHealth(name=f"prod/{name}", contact_at=at, event_at=at, lag_s=0.4, events=7, error=error)
        for name, error in zip(("pods", "events"), errors, strict=True)
    ]


def test_a_source_is_well_when_all_its_streams_are(source):
    channel = DatabaseChannel(source)
    channel.report(streams("", "the API server is down"))
    source.refresh_from_db()
    assert source.last_error == "prod/events: the API server is down"
    channel.report(streams("", ""))
    source.refresh_from_db()
    assert source.last_error == ""


def test_a_stream_that_is_not_reported_any_more_is_forgotten(source):
    channel = DatabaseChannel(source)
    channel.report(streams("", ""))
    channel.report(streams("", "")[:1])
    assert [stream.name for stream in SourceStream.objects.all()] == ["prod/pods"]


def test_what_is_remembered_is_recalled(source):
    channel = DatabaseChannel(source)
    assert channel.recall("prod") == b""
    channel.remember("prod", b"\x00one")
    channel.remember("prod", b"two")
    assert DatabaseChannel(source).recall("prod") == b"two"


@pytest.mark.parametrize("page", ["overview", "admin"])
def test_people_see_each_stream_with_its_lag_latest_event_and_error(client, source, page):
    client.force_login(User.objects.create_superuser("ada"))
    DatabaseChannel(source).report(streams("", "forbids BytePort to list events"))
    path = "/" if page == "overview" else reverse("admin:signals_source_change", args=[source.pk])
    text = client.get(path).content.decode()
    for said in ("prod/pods", "prod/events", "forbids BytePort to list events", "0.4"):
        assert said in text


def test_the_source_is_planted_where_a_cluster_is_configured(db, cluster, settings):
    seeds.plant()
    assert Source.objects.get(slug="kubernetes").kind == "kubernetes_events"
    Source.objects.all().delete()
    settings.KUBECONFIG = ""
    seeds.plant()
    assert not Source.objects.filter(slug="kubernetes").exists()


# --- doctor


def test_doctor_says_of_each_cluster_whether_it_answers_and_what_is_forbidden(cluster):
    [well] = clusters()
    assert (well.name, well.state) == (f"cluster {PLACE}", "ok")
    assert "all reads are allowed" in well.detail
    cluster.rights = {seen.right for seen in cluster.seen} - {"pods: watch"}
    first, missing = clusters()
    assert first.state == "ok"
    assert (missing.state, missing.detail) == ("warn", "may not: pods: watch")
    assert '{apiGroups: [""], resources: ["pods"], verbs: [watch]}' in missing.fix
    assert {seen.method for seen in cluster.seen} == {"GET"}


def test_doctor_tells_of_a_cluster_that_does_not_answer_and_of_a_kubeconfig_that_cannot_be_read(cluster, settings):
    cluster.tokens = set()
    [finding] = clusters()
    assert (finding.state, "Unauthorized" in finding.detail) == ("fail", True)
    settings.KUBECONFIG = "/nowhere/kubeconfig"
    [finding] = clusters()
    assert (finding.name, finding.state) == ("clusters", "fail")


@pytest.mark.django_db
def test_doctor_has_a_line_for_each_cluster(cluster):
    out = StringIO()
    with suppress(SystemExit):  # no worker runs here
        call_command("doctor", stdout=out)
    assert f"cluster {PLACE}: Kubernetes v" in out.getvalue()
