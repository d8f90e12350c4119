"""cpu_saturation on a real cluster, from the measurement to its end, with the rights that the chart gives and no more.

Real: the API server, its RBAC, the controllers; the watcher, PostgreSQL, the queue, every stage and gate. The kubelet
and the metrics server are played; the sustained window is none.
"""

import pytest

from signals.models import SignalPolicy
from tests.cluster.kubelet import HEALTHY, NO_ROOM
from tests.cluster.objects import workload
from tests.cluster.players import MetricsServer, metrics_api

SIGNAL = "cpu_saturation"

MAX_REPLICAS = "byteport.io/max-replicas"
QUICK = {"threshold": 85, "critical": 98, "clear": 75, "sustain_s": 0, "max_gap_s": 90}
LOAD = 190  # millicores: two pods of 100 are saturated by it, three or four are not


@pytest.fixture
def saturated(live, stage, transactional_db):
    """Makes a Deployment of two pods, whose CPU is nearly used up."""
    SignalPolicy.objects.update_or_create(pk="cpu_saturation", defaults=QUICK)

    def make(*words: str, most="4", **metadata):
        kubelet = stage(*words)
        annotations = {MAX_REPLICAS: most} if most else {}
        resources = {"requests": {"cpu": "100m"}}
        live.create(
            "deployments", workload("web", annotations=annotations, resources=resources, **metadata), kubelet.namespace
        )
        kubelet.until(lambda: live.get("deployments", "web", kubelet.namespace)["status"].get("availableReplicas") == 2)
        return kubelet, MetricsServer(live, kubelet.namespace, LOAD)

    with metrics_api(live):
        yield make


def replicas(live, namespace):
    return live.get("deployments", "web", namespace)["spec"]["replicas"]


def test_a_saturated_deployment_gets_more_replicas_within_its_own_bound(live, saturated, agent):
    kubelet, metrics = saturated("scale")
    metrics.tick()
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert 2 < replicas(live, kubelet.namespace) <= 4


def test_where_more_replicas_do_not_help_a_person_is_told(live, saturated, agent):
    kubelet, metrics = saturated("scale")
    metrics.is_shared, metrics.load_millicores = False, LOAD // 2
    metrics.tick()
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert event.status == "escalated"
    assert replicas(live, kubelet.namespace) <= 4


def test_without_a_bound_on_the_workload_nothing_is_scaled(live, saturated, agent):
    kubelet, metrics = saturated("scale", most="")
    metrics.tick()
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert event.status == "escalated"
    assert replicas(live, kubelet.namespace) == 2


def test_what_an_autoscaler_owns_is_left_to_it(live, saturated, agent):
    kubelet, metrics = saturated("scale")
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 9}
    live.create("horizontalpodautoscalers", {"metadata": {"name": "web"}, "spec": spec}, kubelet.namespace)
    metrics.tick()
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert event.status == "escalated"
    assert not event.actions.exists()


def test_where_there_is_no_room_for_the_pods_that_are_wanted_already_none_are_added(live, saturated, agent):
    kubelet, metrics = saturated("scale")
    metrics.tick()
    live.patch("deployments", "web", kubelet.namespace, {"spec": {"replicas": 3}})
    known = {pod["metadata"]["uid"] for pod in live.items("pods", kubelet.namespace)}
    kubelet.fate = lambda pod: HEALTHY if pod["metadata"]["uid"] in known else NO_ROOM
    kubelet.until(lambda: len(live.items("pods", kubelet.namespace)) == 3)
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert event.status == "escalated"
    assert replicas(live, kubelet.namespace) == 3


def test_without_the_opt_in_nothing_is_scaled(live, saturated, agent):
    kubelet, metrics = saturated("crashloop")
    metrics.tick()
    event = agent(SIGNAL, kubelet, metrics).run("web")
    assert event.status == "escalated"
    assert "opt_in" in event.reason
    assert replicas(live, kubelet.namespace) == 2
