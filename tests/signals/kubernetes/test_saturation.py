"""The CPU of workloads, as the watcher counts it. Pure."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from byteport.core.resource import ResourceRef
from signals.kubernetes.objects import PodMetrics
from signals.kubernetes.pods import Known, Owner
from signals.kubernetes.saturation import saturations

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB = ResourceRef("kubernetes", "prod", "deployment", "web", "shop")


def pod(name: str, ready_for_s: float = 3600) -> Known:
    since = NOW.timestamp() - ready_for_s if ready_for_s else 0.0
    return Known(name, "shop", name, Owner(), ready_since=since, requests=(("app", 500.0),))


def measured(name: str, cpu: str, ago_s: float = 20) -> PodMetrics:
    raw = {
        "metadata": {"namespace": "shop", "name": name},
        "timestamp": f"{NOW - timedelta(seconds=ago_s):%Y-%m-%dT%H:%M:%SZ}",
        "containers": [{"name": "app", "usage": {"cpu": cpu}}],
    }
    return msgspec.convert(raw, PodMetrics)


def percent(found: list[PodMetrics], *pods: Known) -> float | None:
    saturation = saturations(found, pods, lambda known: WEB, NOW).get(WEB)
    return saturation.percent if saturation else None


def test_it_is_that_of_all_pods_together():
    assert percent([measured("a", "450m"), measured("b", "250m")], pod("a"), pod("b")) == pytest.approx(70)


@pytest.mark.parametrize("busy", [[], [measured("a", "480m", ago_s=301)]], ids=["silent", "stale"])
def test_a_workload_is_not_called_idle_while_a_pod_that_works_is_not_measured(busy):
    """The node of the busy one tells nothing; what the idle one says would clear the trouble."""
    assert percent([*busy, measured("b", "20m")], pod("a"), pod("b")) is None


@pytest.mark.parametrize("ready_for_s", [0, 60], ids=["not ready", "new"])
def test_a_pod_that_is_new_or_not_ready_need_not_be_measured_yet(ready_for_s):
    assert percent([measured("b", "400m")], pod("a", ready_for_s), pod("b")) == pytest.approx(80)


def test_where_nothing_is_measured_nothing_is_said():
    assert percent([], pod("a")) is None
