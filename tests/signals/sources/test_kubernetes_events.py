"""The source `kubernetes_events`, followed as `manage.py watch` does. Real: PostgreSQL, HTTP to the stand-in API server
(tests/kubernetes), whose objects and errors were recorded, threads. Not real: kubelet and controllers, which the tests
play; and the times after which something counts as settled, which are shorter."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from byteport.core.errors import Temporary
from signals.following import Follow
from signals.kubernetes import follower, meter, reflector, troubles
from signals.kubernetes.cluster import Cluster, ClusterState
from signals.kubernetes.follower import Follower
from signals.kubernetes.harvest import Harvester
from signals.kubernetes.objects import Pod
from signals.models import Series, SignalEvent, Source
from tests.kubernetes.standin import PLACE, RECORDED, Fault, recorded
from tests.kubernetes.store import stamp

PATIENCE_S = 15.0
CART = f"kubernetes/{PLACE}/shop/deployment/boom"
WEB = f"kubernetes/{PLACE}/shop/deployment/web"
LONG_AGO = stamp(datetime.now(UTC) - timedelta(hours=1))
POD = recorded("pods_crashloop_exit_1")["items"][0]

real_database = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(troubles, "SETTLED_S", 0.3)
    monkeypatch.setattr(follower, "TICK_S", 0.2)
    monkeypatch.setattr(follower, "SAVE_S", 0.1)
    monkeypatch.setattr(follower, "REPORT_S", 0.1)
    monkeypatch.setattr(follower, "RECONCILE_S", 0.2)
    monkeypatch.setattr(follower, "ROUND_S", 0.1)
    monkeypatch.setattr(meter, "INTERVAL_S", 0.2)
    monkeypatch.setattr(reflector, "BACKOFF_S", (0.05, 0.2))


@contextmanager
def watching():
    """A watcher of the source, from one end of the block to the other."""
    Source.objects.get_or_create(slug="kubernetes", kind="kubernetes_events")
    thread = Follow("kubernetes")
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class MemoryChannel:
    """Keeps what it is given, for tests without a database. `away`: so often it takes nothing at first."""

    def __init__(self, away: int = 0) -> None:
        self.away, self.taken, self.kept = away, [], {}
        self.tried, self.kept_while_away = 0, False
        self.streams = {}

    def emit(self, readings):
        self.tried += 1
        if self.tried <= self.away:
            raise Temporary("PostgreSQL is away")
        self.taken += readings

    def recall(self, key):
        return b""

    def remember(self, key, state):
        self.kept_while_away |= self.tried <= self.away
        self.kept[key] = state

    def report(self, streams):
        self.streams = {stream.name: stream for stream in streams}

    def open_series(self):
        return []


@contextmanager
def following(away: int = 0):
    """The source's own thread, from one end of the block to the other, and what it hands over."""
    channel, stop = MemoryChannel(away), threading.Event()
    thread = threading.Thread(target=Follower("kubernetes", channel).run, args=[stop], daemon=True)
    thread.start()
    try:
        yield channel
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def until(holds, what="it"):
    """The first true value of `holds()`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"{what} did not come about within {PATIENCE_S:.0f} s; events: {list(SignalEvent.objects.values())}")


def opened(signal: str, **how) -> SignalEvent:
    return until(lambda: SignalEvent.objects.filter(signal=signal, **how).first(), signal)


def is_over(event: SignalEvent) -> None:
    until(lambda: SignalEvent.objects.filter(pk=event.pk, cleared_at__isnull=False).exists(), "its end")


def settled():
    """Waits until every stream has connected and reported, and says how they fare."""
    source = Source.objects.get(slug="kubernetes")
    until(lambda: source.streams.filter(contact_at__isnull=False, error="").count() >= 5, "the streams")
    return {stream.name: stream for stream in source.streams.all()}


def pod(restarts: int = 0, **how) -> dict:
    """The recorded pod, as healthy as `how` says."""
    raw = json.loads(json.dumps(POD))
    raw["metadata"] |= {"name": how.get("name", "boom-77db7844b9-j5279"), "uid": how.get("uid", "uid-1")}
    raw["metadata"]["creationTimestamp"] = stamp(datetime.now(UTC) - timedelta(hours=2))
    container = {"name": "app", "restartCount": restarts, "state": {"running": {}}}
    if restarts:
        ended = {
            "exitCode": how.get("code", 1),
            "reason": how.get("reason", "Error"),
            "finishedAt": how.get("ended", stamp()),
        }
        container["lastState"] = {"terminated": ended}
    if "waits" in how:
        container["state"] = {"waiting": {"reason": how["waits"]}}
    raw["status"]["containerStatuses"] = [container]
    ready = "True" if how.get("ready", True) else "False"
    raw["status"]["conditions"] = [{"type": "Ready", "status": ready, "lastTransitionTime": stamp()}]
    raw["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "200m"}}
    return raw


def backoff(at: datetime | None = None, message="Back-off restarting failed container", reason="BackOff") -> dict:
    """The recorded event of the kubelet's, as of now."""
    line = json.loads((RECORDED / "watch_events.jsonl").read_text().splitlines()[-3])["object"]
    line["involvedObject"] |= {"name": "boom-77db7844b9-j5279", "uid": "uid-1"}
    return line | {"lastTimestamp": stamp(at), "message": message, "reason": reason}


def deployment(name: str, *, failed: bool) -> dict:
    raw = recorded("deployment_progress_deadline_exceeded")
    raw["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    if not failed:
        fine = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        raw["status"]["conditions"] = [fine]
    return raw


# --- what it sees


@real_database
def test_a_backoff_event_opens_an_event_about_the_workload(cluster):
    cluster.store.put("deployment", deployment("boom", failed=False))
    cluster.store.put("pod", pod(2, ready=False))
    with watching():
        settled()
        cluster.store.put("event", backoff())
        event = opened("pod_crashloop")
    assert (event.resource, event.detail) == (CART, "app exit 1")
    assert event.labels == {
        "pod": "boom-77db7844b9-j5279",
        "container": "app",
        "reason": "Error",
        "exit_code": "1",
    }


@real_database
def test_the_third_restart_within_the_window_opens_an_event(cluster):
    cluster.store.put("pod", pod(7, ended=LONG_AGO))
    with watching():
        settled()
        for restarts in (8, 9):
            cluster.store.put("pod", pod(restarts))
        time.sleep(0.3)
        assert not SignalEvent.objects.exists()
        cluster.store.put("pod", pod(10))
        event = opened("pod_crashloop")
    assert event.value == 3


@real_database
def test_recorded_crash_loops_are_found_in_the_first_list_each_with_its_exit_code(cluster):
    cluster.store.put_list("pod", recorded("pods_crashloop_exit_1"))
    cluster.store.put_list("pod", recorded("pods_oomkilled"))
    with watching():
        opened("pod_crashloop", resource=CART, detail="app exit 1")
        event = opened("pod_crashloop", resource=f"kubernetes/{PLACE}/shop/deployment/leaky", detail="app exit 137")
    assert event.labels["reason"] == "OOMKilled"


@real_database
def test_an_old_event_about_a_pod_that_is_well_says_nothing(cluster):
    cluster.store.put("pod", pod(2))
    cluster.store.put("event", backoff(datetime.now(UTC) - timedelta(minutes=5)))
    with watching():
        settled()
        time.sleep(0.5)
    assert not SignalEvent.objects.exists()


@real_database
def test_an_event_about_a_pod_that_is_gone_says_nothing(cluster):
    with watching():
        settled()
        cluster.store.put("event", backoff())
        until(lambda: any(seen.right == "pods: get" for seen in cluster.seen), "the look at the pod")
        time.sleep(0.3)
    assert not SignalEvent.objects.exists()


@real_database
def test_a_node_out_of_memory_is_told_to_people(cluster):
    with watching():
        settled()
        event = backoff(reason="SystemOOM", message="System OOM encountered, victim process: java, pid: 4711")
        cluster.store.put("event", event | {"involvedObject": {"kind": "Node", "name": "node-a", "uid": "node-a"}})
        found = opened("kubernetes:SystemOOM")
    assert found.resource == f"kubernetes/{PLACE}/node/node-a"


@real_database
def test_words_that_no_database_could_keep_hide_nothing(cluster):
    """Whoever may write Events in one namespace must not blind BytePort to all of them."""
    with watching():
        settled()
        event = backoff(reason="SystemOOM", message="victim process: java\x00\x1b[2J, pid: 4711")
        cluster.store.put("event", event | {"involvedObject": {"kind": "Node", "name": "node-a", "uid": "node-a"}})
        found = opened("kubernetes:SystemOOM")
    assert found.labels["message"] == "victim process: java\ufffd\ufffd[2J, pid: 4711"


def test_an_event_that_repeats_itself_is_looked_at_once(cluster):
    with following() as channel:
        connected(channel)
        for _ in range(5):
            cluster.store.put("event", backoff())
        until(lambda: channel.streams[f"{PLACE}/events"].events == 5, "the events")
        time.sleep(0.3)
    assert len([seen for seen in cluster.seen if seen.right == "pods: get"]) == 1


@real_database
def test_an_image_that_cannot_be_pulled_is_no_crash_loop_and_is_told_under_a_name_of_its_own(cluster):
    cluster.store.put("pod", pod(ready=False, waits="ImagePullBackOff"))
    with watching():
        settled()
        cluster.store.put("event", backoff(message='Back-off pulling image "shop/cart:nope"'))
        event = opened("kubernetes:ImagePullBackOff")
    assert event.resource == CART
    assert SignalEvent.objects.count() == 1


@real_database
def test_a_failed_rollout_opens_an_event_that_is_over_when_a_rollout_completes(cluster):
    cluster.store.put("deployment", deployment("web", failed=True))
    with watching():
        event = opened("deployment_failed", resource=WEB)
        assert event.labels["reason"] == "ProgressDeadlineExceeded"
        assert event.labels["available"] == "true"
        cluster.store.put("deployment", deployment("web", failed=False))
        is_over(event)


@real_database
def test_a_rollout_that_the_controller_has_not_looked_at_yet_is_not_judged(cluster):
    raw = deployment("web", failed=True)
    raw["metadata"]["generation"] = raw["status"]["observedGeneration"] + 1
    cluster.store.put("deployment", raw)
    with watching():
        settled()
        time.sleep(0.3)
    assert not SignalEvent.objects.exists()


def certificate(days: float) -> dict:
    end = datetime.now(UTC) + timedelta(days=days)
    ready = {"type": "Ready", "status": "True" if days > 0 else "False", "reason": "Ready" if days > 0 else "Expired"}
    status = {"notAfter": stamp(end), "renewalTime": stamp(end - timedelta(days=30)), "conditions": [ready]}
    return {"metadata": {"namespace": "shop", "name": "tls", "uid": "uid-tls"}, "status": status}


@real_database
@pytest.mark.parametrize(("days", "severity"), [(10, "warning"), (2, "critical"), (-1, "critical")])
def test_a_certificate_past_its_renewal_time_opens_an_event_that_is_over_when_it_is_renewed(cluster, days, severity):
    cluster.store.put("certificate", certificate(days))
    with watching():
        event = opened("certificate_expiry", resource=f"kubernetes/{PLACE}/shop/certificate/tls")
        assert event.severity == severity
        cluster.store.put("certificate", certificate(80))
        is_over(event)


@real_database
def test_a_certificate_that_will_be_renewed_in_time_is_none(cluster):
    cluster.store.put("certificate", certificate(31))
    with watching():
        settled()
        time.sleep(0.3)
    assert not SignalEvent.objects.exists()


@real_database
def test_the_cpu_of_a_workload_is_measured_against_its_request(cluster):
    cluster.kinds.add("podmetrics")
    cluster.store.put("deployment", deployment("boom", failed=False))
    for number in (1, 2):
        cluster.store.put("pod", pod(name=f"boom-77db7844b9-{number}", uid=f"uid-{number}"))
        measured = {"timestamp": stamp(), "containers": [{"name": "app", "usage": {"cpu": f"{number * 60000000}n"}}]}
        cluster.store.put(
            "podmetrics", {"metadata": {"namespace": "shop", "name": f"boom-77db7844b9-{number}"}} | measured
        )
    with watching():
        series = until(lambda: Series.objects.filter(signal="cpu_saturation", last_value__isnull=False).first())
    assert (series.resource, series.last_value) == (CART, 45.0)


@real_database
def test_what_a_cluster_does_not_have_is_told_and_is_no_fault(cluster):
    cluster.kinds.remove("certificate")
    with watching():
        streams = settled()
    assert {name for name, stream in streams.items() if stream.note} == {f"{PLACE}/certificates", f"{PLACE}/cpu"}
    assert Source.objects.get(slug="kubernetes").last_error == ""


# --- when it is over


@real_database
def test_a_crash_loop_is_over_when_the_workloads_new_pods_stay_ready(cluster):
    cluster.store.put("deployment", deployment("boom", failed=False))
    cluster.store.put("pod", pod(3, ready=False, waits="CrashLoopBackOff"))
    with watching():
        event = opened("pod_crashloop", resource=CART)
        cluster.store.delete("pod", "shop", "boom-77db7844b9-j5279")
        cluster.store.put("pod", pod(name="boom-5bd7-x", uid="uid-2"))
        is_over(event)


@real_database
def test_what_ended_while_nobody_watched_is_over_too(cluster):
    cluster.store.put("deployment", deployment("web", failed=True))
    cluster.store.put("deployment", deployment("boom", failed=False))
    cluster.store.put("pod", pod(3, ready=False, waits="CrashLoopBackOff"))
    with watching():
        events = [opened("pod_crashloop"), opened("deployment_failed")]
    cluster.store.delete("pod", "shop", "boom-77db7844b9-j5279")
    cluster.store.delete("deployment", "shop", "web")
    with watching():
        for event in events:
            is_over(event)


# --- nothing is lost over a restart of the watcher


@real_database
def test_an_event_that_came_while_nobody_watched_is_found(cluster):
    cluster.store.put("pod", pod(1, ready=False))
    with watching():
        settled()
        until(states, "the state")
    cluster.store.put("event", backoff())
    with watching():
        opened("pod_crashloop")


@real_database
@pytest.mark.parametrize("at_once", [True, False], ids=["410 at once", "410 in the stream"])
def test_an_event_that_came_while_nobody_watched_is_found_also_when_the_version_is_too_old(cluster, at_once):
    cluster.gone_at_once = at_once
    cluster.store.put("pod", pod(1, ready=False))
    with watching():
        settled()
        until(states, "the state")
    cluster.store.put("event", backoff())
    cluster.store.put("pod", pod(1, ready=False))
    cluster.store.forget()
    with watching():
        opened("pod_crashloop")


@real_database
def test_restarts_on_both_sides_of_a_restart_of_the_watcher_count_together(cluster):
    cluster.store.put("pod", pod(5, ended=LONG_AGO))
    with watching():
        settled()
        cluster.store.put("pod", pod(6))
        until(lambda: b'"app":6' in states(), "the state")
    cluster.store.put("pod", pod(7))
    with watching():
        settled()
        assert not SignalEvent.objects.exists()
        cluster.store.put("pod", pod(8))
        assert opened("pod_crashloop").value == 3


def states() -> bytes:
    return b"".join(bytes(row.state) for row in Source.objects.get(slug="kubernetes").streamstate_set.all())


def test_while_postgresql_is_away_what_is_found_waits_and_nothing_is_remembered(cluster):
    cluster.store.put("pod", pod(3, ready=False, waits="CrashLoopBackOff"))
    with following(away=3) as channel:
        until(lambda: channel.kept, "the state")
    assert "pod_crashloop" in {reading.signal for reading in channel.taken}
    assert not channel.kept_while_away


# --- faults of the API server


def found_after(cluster, channel) -> None:
    """A crash that happens now is found."""
    cluster.store.put("pod", pod(1, ready=False, waits="CrashLoopBackOff"))
    until(lambda: any(reading.signal == "pod_crashloop" for reading in channel.taken), "the crash")


def connected(channel):
    until(lambda: sum(stream.contact_at is not None for stream in channel.streams.values()) == 5, "the streams")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "times": 12},
        {"status": 503, "times": 12},
        {"cut": True, "times": 12},
        {"status": 429, "retry_after_s": 1, "times": 5},
        {"body": b"<html>a proxy's page</html>", "times": 8},
        {"body": b'{"items": 5}', "times": 8},
        {"delay_s": 0.2, "times": 12},
    ],
    ids=lambda fault: next(iter(fault)) + str(next(iter(fault.values()))),
)
def test_it_goes_on_after_faults(cluster, fault):
    cluster.faults.append(Fault(**fault))
    with following() as channel:
        found_after(cluster, channel)


def test_it_goes_on_after_watches_break_off(cluster):
    with following() as channel:
        connected(channel)
        cluster.drop_watches()
        found_after(cluster, channel)


@pytest.mark.parametrize("at_once", [True, False], ids=["410 at once", "410 in the stream"])
def test_it_lists_anew_when_its_version_is_too_old(cluster, at_once):
    cluster.gone_at_once = at_once
    with following() as channel:
        connected(channel)
        cluster.faults.append(Fault(status=500, times=8, where=lambda seen: seen.verb == "watch"))
        cluster.drop_watches()
        cluster.store.put("pod", pod(1))
        cluster.store.put("pod", pod(1))
        cluster.store.forget()
        found_after(cluster, channel)
    assert len([seen for seen in cluster.seen if seen.right == "pods: list"]) == 2


def test_it_waits_as_long_as_it_is_asked_to(cluster):
    cluster.faults.append(Fault(status=429, retry_after_s=1, times=1, where=lambda seen: seen.right == "pods: list"))
    with following():
        until(lambda: len([seen for seen in cluster.seen if seen.right == "pods: list"]) == 2)
    first, second = (seen.at for seen in cluster.seen if seen.right == "pods: list")
    assert second - first >= 1.0


@real_database
def test_a_server_that_is_down_is_told_and_waited_for(cluster, tmp_path):
    path = tmp_path / "kubeconfig"
    right = path.read_text()
    path.write_text(right.replace(str(cluster.port), "1"))
    with watching():
        source = until(lambda: Source.objects.exclude(last_error="").first(), "the error")
        assert f"{PLACE}/pods: GET /api/v1/pods on {PLACE}" in source.last_error
        assert "refused" in source.last_error


def test_an_expired_token_is_read_anew(cluster, tmp_path):
    with following() as channel:
        connected(channel)
        cluster.tokens = {"token-2"}
        (tmp_path / "token").write_text("token-2")
        cluster.drop_watches()
        found_after(cluster, channel)


@real_database
def test_a_missing_right_is_named_with_the_rule_to_add_and_the_other_streams_go_on(cluster):
    cluster.rights = {"pods: list", "pods: watch", "events: list", "events: watch", "apps/deployments: list"}
    with watching():
        source = until(lambda: Source.objects.filter(last_error__contains="deployments").first(), "the error")
        assert '{apiGroups: ["apps"], resources: ["deployments"], verbs: [watch]}' in source.last_error
        cluster.store.put("pod", pod(1, ready=False, waits="CrashLoopBackOff"))
        opened("pod_crashloop")
        rule = '{apiGroups: ["apps"], resources: ["replicasets"], verbs: [get]}'
        until(lambda: rule in Source.objects.get().last_error, "the second rule")


def harvester_of(*pods: dict) -> Harvester:
    """Knows these pods, all of which have crashed, and of no workload yet."""
    known = Cluster(PLACE, "kubernetes", ClusterState(), threading.Event())
    at = datetime.now(UTC)
    for raw in pods:
        known.note_crashes(known.book.take(msgspec.convert(raw, Pod), at))
    return Harvester(known)


def crashed(name: str) -> dict:
    raw = pod(3, uid=f"uid-{name}", name=f"{name}-77db7844b9-j5279", waits="CrashLoopBackOff")
    raw["metadata"]["ownerReferences"][0] |= {"name": f"{name}-77db7844b9", "uid": f"uid-replicaset-{name}"}
    return raw


def test_where_no_workload_may_be_read_all_that_was_found_is_told_at_once(cluster):
    cluster.rights = set()
    harvester = harvester_of(*[crashed(f"app{number}") for number in range(5)])
    readings, complete = harvester.harvest(datetime.now(UTC), pods_known=True)
    assert len(readings) == 5
    assert complete
    assert "replicasets" in harvester.problem


def test_what_cannot_be_looked_up_time_and_again_does_not_keep_back_the_others(cluster):
    cluster.faults.append(Fault(status=500, times=100, where=lambda seen: seen.name == "app0-77db7844b9"))
    harvester = harvester_of(*[crashed(f"app{number}") for number in range(5)])
    at = datetime.now(UTC)
    first, second = (harvester.harvest(at, pods_known=True) for _ in range(2))
    names = {reading.resource.name for reading in first[0] + second[0]}
    assert names == {f"app{number}" for number in range(1, 5)}
    assert not second[1]  # the one that is missing stays to be looked up
    cluster.faults.clear()
    readings, complete = harvester.harvest(at, pods_known=True)
    assert [reading.resource.name for reading in readings] == ["app0"]
    assert complete


def test_an_object_that_cannot_be_read_does_not_hide_the_others(cluster):
    cluster.store.put("pod", pod(1, uid="uid-0", name="broken") | {"status": {"containerStatuses": "none"}})
    with following() as channel:
        found_after(cluster, channel)
        cluster.store.put("pod", pod(1, uid="uid-9", name="worse") | {"status": 7})
        until(lambda: "2 objects" in channel.streams[f"{PLACE}/pods"].note, "the note")


# --- several clusters, and what is known of them


@real_database
def test_several_clusters_are_watched_at_once_each_by_its_name(cluster, tmp_path, settings):
    settings.KUBECONFIG = str(cluster.write_kubeconfig(tmp_path, "prod", "staging"))
    settings.KUBE_CONTEXTS = ["prod", "staging"]
    cluster.store.put("pod", pod(3, ready=False, waits="CrashLoopBackOff"))
    with watching():
        for name in ("prod", "staging"):
            opened("pod_crashloop", resource=f"kubernetes/{name}/shop/deployment/boom")


@real_database
def test_the_healthy_workloads_are_known_so_that_a_storm_can_be_told_from_one_failure(cluster):
    cluster.store.put("deployment", deployment("boom", failed=False))
    cluster.store.put("pod", pod())
    with watching():
        series = until(lambda: Series.objects.filter(signal="ready_pods").first())
    assert (series.resource, series.unit, series.last_value) == (CART, CART, 1.0)


@real_database
def test_lag_and_latest_event_are_known(cluster):
    cluster.store.put("pod", pod(1))
    with watching():
        settled()
        cluster.store.put("event", backoff())
        stream = until(lambda: settled()[f"{PLACE}/events"].event_at and settled()[f"{PLACE}/events"])
    assert 0 <= stream.lag_s < 5


@real_database
def test_without_a_cluster_the_source_says_what_to_do(settings):
    settings.KUBECONFIG = ""
    with watching():
        until(lambda: Source.objects.filter(last_error__contains="BYTEPORT_KUBECONFIG").exists(), "the error")
