"""The watcher on a real cluster, over its own death. Real: the API server, the watcher's processes, PostgreSQL."""

import os
import signal

import pytest

from signals.models import SignalEvent, StreamState
from tests.cluster.agent import configure, start_watcher, watching
from tests.cluster.kubelet import crashing
from tests.cluster.live import wait_for
from tests.cluster.objects import workload

pytestmark = pytest.mark.django_db(transaction=True)
ENDED_FROM_OUTSIDE = crashing(143)


def events_of(namespace):
    return list(SignalEvent.objects.filter(signal="pod_crashloop", resource__contains=f"/{namespace}/"))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_happens_while_no_watcher_runs_is_seen_by_the_next(live, stage, kubeconfigs, end):
    configure()
    kubelet = stage("crashloop")
    live.create("deployments", workload("web"), kubelet.namespace)
    kubelet.until(lambda: live.get("deployments", "web", kubelet.namespace)["status"].get("availableReplicas") == 2)
    first = start_watcher(kubeconfigs["watch"])
    wait_for(StreamState.objects.exists, "what the watcher remembers")
    os.kill(first, end)
    os.waitpid(first, 0)
    kubelet.fate = lambda pod: ENDED_FROM_OUTSIDE
    kubelet.until(lambda: "BackOff" in {event["reason"] for event in live.items("events", kubelet.namespace)})
    assert events_of(kubelet.namespace) == []
    with watching(kubeconfigs["watch"]):
        [event] = wait_for(lambda: events_of(kubelet.namespace), "the event")
    assert event.resource.endswith(f"/{kubelet.namespace}/deployment/web")
