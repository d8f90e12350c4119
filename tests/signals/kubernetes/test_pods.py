"""Restart counts, workloads, troubles. Pure, but for owners that are read from the stand-in."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from byteport.core.resource import ResourceRef
from signals.kubernetes.objects import Pod
from signals.kubernetes.pods import PodBook, Remembered
from signals.kubernetes.troubles import Key, Troubles
from signals.kubernetes.workloads import Workloads
from tests.kubernetes.standin import PLACE, recorded
from tests.kubernetes.store import stamp

START = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
CART = ResourceRef("kubernetes", PLACE, "deployment", "boom", "shop")


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def pod(restarts: int, *, minutes: float = 0, created: float = -60, ended: float | None = None, **how) -> Pod:
    """The recorded pod with so many restarts; `ended`: when its container ended last."""
    raw = recorded("pods_crashloop_exit_1")["items"][0]
    raw["metadata"] |= {"creationTimestamp": stamp(at(created)), "uid": how.get("uid", "uid-1")}
    status = raw["status"]["containerStatuses"][0]
    status["restartCount"] = restarts
    status["state"] = {"waiting": {"reason": how["waits"]}} if "waits" in how else {"running": {}}
    finished = stamp(at(minutes if ended is None else ended))
    status["lastState"] = {"terminated": {"exitCode": how.get("code", 1), "reason": "Error", "finishedAt": finished}}
    if not restarts:
        del status["lastState"]
    ready = next(c for c in raw["status"]["conditions"] if c["type"] == "Ready")
    ready |= {"status": "True" if how.get("ready") else "False"}
    return msgspec.convert(raw, Pod)


def fresh_book() -> PodBook:
    """One whose first list is complete."""
    book = PodBook()
    book.take(pod(0), START)
    book.keep_only(["uid-1"])
    book.touch(START)
    return book


def restart(book: PodBook, restarts: int, minutes: float, **how):
    crashes = book.take(pod(restarts, minutes=minutes, **how), at(minutes))
    book.touch(at(minutes))
    return crashes


# --- counting


def test_three_restarts_within_15_minutes_are_a_crash_loop():
    book = fresh_book()
    assert restart(book, 1, 1) == restart(book, 2, 7) == []
    [crash] = restart(book, 3, 14)
    assert (crash.container, crash.exit_code, crash.restarts) == ("app", 1, 3)


def test_three_restarts_over_a_longer_time_are_none():
    book = fresh_book()
    assert [restart(book, n + 1, n * 8) for n in range(6)] == [[]] * 6


def test_an_update_without_a_restart_says_nothing_new():
    book = fresh_book()
    for number in (1, 2, 3):
        restart(book, number, number)
    assert restart(book, 3, 4) == []


def test_several_restarts_between_two_looks_all_count():
    [crash] = restart(fresh_book(), 4, 5)
    assert crash.restarts == 4


def test_the_first_look_at_an_old_pod_counts_only_the_restart_that_is_on_record():
    assert PodBook().take(pod(500, ended=-1), START) == []
    book = PodBook()
    book.take(pod(500, ended=-1), START)
    assert book.pods["uid-1"].containers["app"].recent_restarts(START.timestamp()) == 1


def test_the_first_look_at_a_young_pod_counts_all_its_restarts():
    [crash] = PodBook().take(pod(3, created=-10, ended=-1), START)
    assert crash.restarts == 3


def test_waiting_to_restart_is_a_crash_loop_however_often_it_restarted():
    book = PodBook()
    [crash] = book.take(pod(1, waits="CrashLoopBackOff"), START)
    assert crash.exit_code == 1
    assert book.take(pod(1, waits="CrashLoopBackOff"), at(0.1)) == []


def test_a_crash_loop_that_goes_on_is_told_again_after_a_while():
    book = PodBook()
    book.take(pod(1, waits="CrashLoopBackOff"), START)
    assert list(book.lasting(at(4))) == []
    assert len(list(book.lasting(at(6)))) == 1
    assert list(book.lasting(at(6.1))) == []


def test_a_pod_that_is_being_deleted_or_has_ended_says_nothing():
    for part, fields in (("metadata", {"deletionTimestamp": stamp(START)}), ("status", {"phase": "Failed"})):
        raw = msgspec.to_builtins(pod(5, waits="CrashLoopBackOff", created=-5))
        raw[part] |= fields
        book = PodBook()
        assert book.take(msgspec.convert(raw, Pod), START) == []
        assert list(book.lasting(at(10))) == []


# --- over a restart of the watcher


def moved_on(book: PodBook) -> PodBook:
    """The next watcher's, from what this one has left behind."""
    return PodBook(msgspec.json.decode(msgspec.json.encode(book.remembered()), type=Remembered))


def test_restarts_on_both_sides_of_a_watchers_restart_count_together():
    book = fresh_book()
    restart(book, 1, 1)
    restart(book, 2, 2)
    [crash] = moved_on(book).take(pod(3, ended=5), at(6))
    assert crash.restarts == 3


def test_restarts_that_happened_in_between_are_all_counted():
    book = fresh_book()
    restart(book, 1, 1)
    [crash] = moved_on(book).take(pod(3, ended=5), at(6))
    assert crash.restarts == 3


def test_a_pod_that_had_not_restarted_before_is_known_not_to_have():
    [crash] = moved_on(fresh_book()).take(pod(3, ended=5), at(6))
    assert crash.restarts == 3


def test_after_a_long_time_without_a_watcher_nothing_is_guessed():
    book = fresh_book()
    restart(book, 1, 1)
    assert moved_on(book).take(pod(60, ended=118), at(120)) == []


def test_the_time_of_the_last_word_is_not_that_of_the_first_pod_of_a_list():
    book = moved_on(fresh_book())
    book.take(pod(0, uid="another"), at(120))
    assert book.take(pod(60, ended=118), at(120)) == []


def test_a_list_after_a_gap_finds_what_restarted_and_forgets_what_is_gone():
    book = fresh_book()
    [crash] = book.take(pod(3, minutes=10), at(10))
    book.keep_only(["uid-1"])
    assert crash.restarts == 3
    book.keep_only([])
    assert book.pods == {}
    assert book.remembered().counts == {}


# --- workloads


def known(book: PodBook):
    return book.pods["uid-1"]


def test_a_deployments_pod_is_about_the_deployment(cluster):
    book, workloads = fresh_book(), Workloads(PLACE)
    assert workloads.known(known(book)) is None
    workloads.deployments.add(("shop", "boom"))
    assert workloads.known(known(book)) == CART
    assert cluster.seen == []


def test_a_replicaset_whose_deployment_is_not_known_is_read_once(cluster):
    owner = {"kind": "Rollout", "name": "canary", "uid": "u", "controller": True, "apiVersion": "argoproj.io/v1alpha1"}
    name = known(fresh_book()).owner.name
    cluster.store.put("replicaset", {"metadata": {"namespace": "shop", "name": name, "ownerReferences": [owner]}})
    workloads = Workloads(PLACE)
    for _ in range(2):
        assert workloads.find(known(fresh_book())).kind == "rollout"
    assert len(cluster.seen) == 1


def test_a_replicaset_that_is_gone_is_known_by_its_name(cluster):
    assert Workloads(PLACE).find(known(fresh_book())) == CART


@pytest.mark.parametrize(
    ("owner", "kind", "name"),
    [
        ({"kind": "StatefulSet", "name": "db"}, "statefulset", "db"),
        ({"kind": "Job", "name": "migrate"}, "job", "migrate"),
        ({"kind": "Node", "name": "node-a"}, "pod", "boom-77db7844b9-j5279"),
        (None, "pod", "boom-77db7844b9-j5279"),
    ],
)
def test_other_pods_are_about_what_owns_them_and_bare_ones_about_themselves(owner, kind, name):
    raw = recorded("pods_crashloop_exit_1")["items"][0]
    raw["metadata"]["ownerReferences"] = [{**owner, "uid": "u", "controller": True}] if owner else []
    book = PodBook()
    book.take(msgspec.convert(raw, Pod), START)
    [found] = book.pods.values()
    assert Workloads(PLACE).known(found) == ResourceRef("kubernetes", PLACE, kind, name, "shop")


# --- when it is over

KEY = Key("pod_crashloop", CART, "app exit 1")


def over(troubles: Troubles, book: PodBook, minutes: float, workload=CART):
    return list(troubles.over(book.pods.values(), lambda pod: workload, at(minutes)))


def troubled(minutes: float = 3) -> tuple[Troubles, PodBook]:
    troubles, book = Troubles(), fresh_book()
    for number in (1, 2, 3):
        restart(book, number, number)
    assert troubles.fires(KEY, at(minutes))
    return troubles, book


def test_the_same_trouble_is_not_told_twice_within_seconds():
    troubles, _ = troubled()
    assert not troubles.fires(KEY, at(3.1))
    assert troubles.fires(KEY, at(3.2))


def test_it_is_over_once_no_pod_restarted_within_the_window_and_all_are_ready():
    troubles, book = troubled()
    restart(book, 3, 4, ready=True)
    assert over(troubles, book, 10) == over(troubles, book, 19) == []
    assert over(troubles, book, 20.1) == [KEY]
    assert over(troubles, book, 30) == []


def test_it_is_not_over_while_a_pod_is_not_ready():
    troubles, book = troubled()
    restart(book, 3, 4, ready=False)
    assert [over(troubles, book, minutes) for minutes in (19, 21, 60)] == [[]] * 3


def test_new_pods_that_stay_ready_for_a_minute_end_it():
    troubles, book = troubled()
    book.drop("uid-1")
    book.take(pod(0, uid="uid-2", ready=True), at(5))
    assert over(troubles, book, 5) == over(troubles, book, 5.9) == []
    assert over(troubles, book, 6.1) == [KEY]


def test_a_new_crash_begins_the_minute_again():
    troubles, book = troubled()
    book.drop("uid-1")
    assert over(troubles, book, 5) == []
    troubles.fires(KEY, at(5.5))
    assert over(troubles, book, 6.1) == []
    assert over(troubles, book, 7.2) == [KEY]


def test_a_workload_without_pods_is_at_rest_and_one_beside_an_unknown_pod_is_not():
    troubles, book = troubled()
    assert [over(troubles, book, minutes, workload=None) for minutes in (20, 22)] == [[]] * 2
    book.drop("uid-1")
    assert [over(troubles, book, minutes) for minutes in (23, 24.1)] == [[], [KEY]]


def test_what_is_remembered_is_small():
    book = PodBook()
    for number in range(1000):
        restarts = 0 if number % 5 else 7
        book.take(pod(restarts, uid=f"00000000-0000-0000-0000-{number:012}", created=-90, ended=-60), START)
    assert len(msgspec.json.encode(book.remembered())) < 20_000
