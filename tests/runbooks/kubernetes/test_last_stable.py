"""Which revision a Deployment can go back to. Pure, on ReplicaSets as they were recorded."""

from typing import Any

import pytest

from runbooks.kubernetes.objects import ReplicaSet, Workload, read_as
from runbooks.kubernetes.revisions import Stable, current_of, last_stable, numbers
from tests.kubernetes.standin import recorded

WEB = read_as(Workload, recorded("deployment_progress_deadline_exceeded"))
FAILED, WORKED = (read_as(ReplicaSet, one) for one in recorded("replicasets_with_revisions")["items"])


def replica_set(
    revision: str, name: str = "", *, replicas: int = 0, available: int = 0, history: str = ""
) -> ReplicaSet:
    named = name or f"abc{revision}"
    annotations = {"deployment.kubernetes.io/revision": revision}
    if history:
        annotations["deployment.kubernetes.io/revision-history"] = history
    raw: dict[str, Any] = {
        "metadata": {"name": f"web-{named}", "uid": named, "annotations": annotations},
        "spec": {"replicas": replicas, "template": {}},
        "status": {"availableReplicas": available},
    }
    raw["metadata"]["labels"] = {"pod-template-hash": named}
    return read_as(ReplicaSet, raw)


def web(revision: int, replicas: int = 2) -> Workload:
    raw = recorded("deployment_progress_deadline_exceeded")
    raw["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = str(revision)
    raw["spec"]["replicas"] = replicas
    return read_as(Workload, raw)


def chosen(revision: int, *owned: ReplicaSet, remembered: tuple[int, ...] = ()) -> int | None:
    found = last_stable(web(revision), owned, remembered)
    return found.revision if found else None


def test_the_recorded_failure_goes_back_to_what_still_serves():
    assert current_of(WEB, [FAILED, WORKED]) == FAILED
    assert last_stable(WEB, [FAILED, WORKED], ()) == Stable(
        "web-7b46c4b544", 1, "all 2 of its replicas still serve", remembered=False
    )


def test_what_byteport_has_seen_working_is_sure():
    found = last_stable(WEB, [FAILED, WORKED], {1})
    assert found is not None
    assert (found.remembered, found.why) == (True, "BytePort has seen it fully available")


def test_the_latest_that_worked_is_taken_and_never_the_broken_one():
    owned = [replica_set(n) for n in ("1", "2", "3", "4")]
    assert chosen(4, *owned, remembered=(1, 2, 4)) == 2
    assert chosen(4, *owned, remembered=(4,)) is None


def test_what_serves_now_comes_before_what_worked_once():
    owned = [replica_set("1"), replica_set("2", replicas=2, available=2), replica_set("3", replicas=1)]
    assert chosen(3, *owned, remembered=(1,)) == 2


@pytest.mark.parametrize(
    "earlier",
    [
        replica_set("1"),
        replica_set("1", replicas=2, available=1),
        replica_set("1", replicas=2),
        replica_set("x", replicas=2, available=2),
        replica_set("", "abc", replicas=2, available=2),
        replica_set("7", replicas=2, available=2),
    ],
)
def test_what_nothing_says_has_worked_is_not_gone_back_to(earlier):
    assert chosen(5, earlier) is None


def test_a_few_replicas_of_an_unfinished_rollout_are_no_proof():
    assert last_stable(web(3, replicas=10), [replica_set("2", replicas=1, available=1)], ()) is None


def test_a_revision_that_was_gone_back_to_is_known_by_its_earlier_numbers():
    again = replica_set("3", history="1")
    assert numbers(again.metadata) == {1, 3}
    assert chosen(4, again, remembered=(1,)) == 3


def test_a_replica_set_that_was_not_made_by_the_controller_is_not_gone_back_to():
    raw = recorded("replicasets_with_revisions")["items"][1]
    raw["metadata"]["name"] = "planted"
    assert last_stable(WEB, [read_as(ReplicaSet, raw)], {1}) is None
