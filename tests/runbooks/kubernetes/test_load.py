"""The CPU of pods, and whether more replicas would take some of it. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runbooks.kubernetes.load import Measured, PodLoad, loads_of, percent_of, uneven, without_room
from runbooks.kubernetes.objects import Pod, read_as

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stamp(minutes: float) -> str:
    return f"{NOW - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"


def pod(name: str = "web-1", *, request: str | None = "500m", minutes: float = 30, **status: Any) -> Pod:
    resources = {} if request is None else {"requests": {"cpu": request}}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(minutes)}
    raw: dict[str, Any] = {
        "metadata": {"name": name, "uid": name},
        "status": {"phase": "Running", "conditions": [ready]},
    }
    raw["spec"] = {"containers": [{"name": "app", "resources": resources}, {"name": "side"}]}
    raw["status"] |= status
    return read_as(Pod, raw)


def measured(name: str = "web-1", cpu: str = "450m", minutes: float = 1) -> Measured:
    containers = [{"name": "app", "usage": {"cpu": cpu, "memory": "1Mi"}}, {"name": "side", "usage": {"cpu": "9"}}]
    raw = {"metadata": {"name": name}, "timestamp": stamp(minutes), "containers": containers}
    return read_as(Measured, raw)


def test_a_pods_load_is_what_its_containers_with_a_request_use():
    assert loads_of([pod()], [measured()], NOW) == [PodLoad("web-1", 0.45, 0.5, NOW - timedelta(minutes=1))]
    assert percent_of(loads_of([pod()], [measured(cpu="467123456n")], NOW)) == pytest.approx(93.42, abs=0.01)


@pytest.mark.parametrize(
    ("pods", "found"),
    [
        ([pod(request=None)], [measured()]),
        ([pod(request="lots")], [measured()]),
        ([pod()], [measured("another")]),
        ([pod()], [measured(minutes=6)]),
        ([], []),
    ],
)
def test_without_a_request_or_a_measurement_nothing_is_said(pods, found):
    assert percent_of(loads_of(pods, found, NOW)) is None


def loads(*percents: float) -> list[PodLoad]:
    return [PodLoad(f"web-{n}", percent / 100, 1.0) for n, percent in enumerate(percents)]


@pytest.mark.parametrize("percents", [(95,), (90, 95), (99, 88, 70), (120, 80, 60), (100, 95, 30)])
def test_a_load_that_all_share_is_even(percents):
    assert uneven(loads(*percents), [pod(f"web-{n}") for n in range(len(percents))], 75, NOW) == ""


@pytest.mark.parametrize(
    ("percents", "said"),
    [
        ((300, 20, 20), "lies on web-0"),
        ((20, 160), "lies on web-1"),
        ((130, 130, 5), "web-2 is nearly idle"),
        ((400, 90, 90, 90), ""),
    ],
)
def test_a_load_that_replicas_do_not_share_is_seen(percents, said):
    found = uneven(loads(*percents), [pod(f"web-{n}") for n in range(len(percents))], 75, NOW)
    assert (said in found) if said else not found


def test_a_pod_that_has_just_come_may_be_idle_yet():
    pods = [pod("web-0"), pod("web-1"), pod("web-2", minutes=1)]
    assert uneven(loads(130, 130, 5), pods, 75, NOW) == ""


def waiting(name: str, message: str) -> Pod:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(name, phase="Pending", conditions=[scheduled])


def test_pods_that_wait_for_room_are_seen():
    own = waiting("web-2", "0/3 nodes are available: 3 node(s) had untolerated taint.")
    short = waiting("other-1", "0/3 nodes are available: 3 Insufficient cpu.")
    picky = waiting("other-2", "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity.")
    assert "web-2 cannot be placed" in without_room([pod(), own], [])
    assert "other-1 waits for room" in without_room([pod()], [picky, short])
    assert without_room([pod()], [picky]) == ""
    assert without_room([pod(phase="Pending", conditions=[])], []) == ""
