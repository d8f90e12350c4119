"""pod_crashloop on a real cluster, from the event to its end, with the rights that the chart gives and no more.

Real: the API server, its RBAC and the controllers of kube-controller-manager; the watcher in a process of its own,
PostgreSQL, the queue, every stage and gate. The kubelet is played: it tells how containers end. Logs are empty there.
"""

import json

import pytest

from runbooks.models import AgentSettings
from tests.cluster.kubelet import HEALTHY, OOM, crashing
from tests.cluster.live import STRATEGIC
from tests.cluster.objects import OPT_IN, memory, workload

SIGNAL = "pod_crashloop"

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
ENDED_FROM_OUTSIDE = crashing(143)  # SIGTERM: what it needed was away, or a probe failed
ENDED_FOR_NO_KNOWN_REASON = crashing(1)


def is_restarted(pod):
    return RESTARTED_AT in pod["metadata"].get("annotations", {})


def until_restarted(pod):
    return HEALTHY if is_restarted(pod) else ENDED_FROM_OUTSIDE


def limit_of(pod_or_template):
    return pod_or_template["spec"]["containers"][0]["resources"]["limits"]["memory"]


def with_too_little(pod):
    return OOM if limit_of(pod) == "64Mi" else HEALTHY


def is_untouched(live, namespace, name="web"):
    """No change of its spec since it was made."""
    found = live.get("deployments", name, namespace)
    return found["metadata"]["generation"] == 1 and "byteport.io/last-action" not in found["metadata"]["annotations"]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_crash_loop_that_a_restart_cures_is_resolved(live, stage, agent, kind):
    kubelet = stage("crashloop")
    kubelet.fate = until_restarted
    plural = f"{kind.lower()}s"
    live.create(
        plural,
        workload("web", kind=kind, podManagementPolicy="Parallel") if kind == "StatefulSet" else workload("web"),
        kubelet.namespace,
    )
    event = agent(SIGNAL, kubelet).run("web", kind=kind.lower())
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    [action] = event.actions.all()
    assert (action.action, action.status) == ("kubernetes.rollout_restart", "done")
    found = live.get(plural, "web", kubelet.namespace)
    assert RESTARTED_AT in found["spec"]["template"]["metadata"]["annotations"]
    assert found["metadata"]["annotations"]["byteport.io/last-action"] == str(action.uid)
    assert event.postmortem_final


def test_what_ran_out_of_memory_gets_twice_the_limit_and_its_request_stays(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = with_too_little
    live.create("deployments", workload("web", resources=memory("64Mi", "32Mi")), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    found = live.get("deployments", "web", kubelet.namespace)
    [container] = found["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {"memory": "128Mi"}, "requests": {"memory": "32Mi"}}
    assert json.loads(found["metadata"]["annotations"]["byteport.io/original-memory-limits"]) == {"app": "64Mi"}


def test_a_limit_is_doubled_once_and_never_again(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = with_too_little
    live.create("deployments", workload("web", resources=memory("64Mi", "32Mi")), kubelet.namespace)
    running = agent(SIGNAL, kubelet)
    first = running.run("web", "resolved")
    kubelet.fate = lambda pod: OOM
    running.work(lambda: running.event("web").pk != first.pk)
    second = running.run("web")
    assert second.status == "escalated"
    assert not second.actions.exists()
    assert limit_of(live.get("deployments", "web", kubelet.namespace)["spec"]["template"]) == "128Mi"


def test_a_crash_of_unknown_cause_is_handed_over(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = lambda pod: ENDED_FOR_NO_KNOWN_REASON
    live.create("deployments", workload("web"), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "escalated"
    assert "exit code 1" in event.reason
    assert is_untouched(live, kubelet.namespace)


def test_a_restart_that_does_not_help_is_handed_over(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = lambda pod: ENDED_FROM_OUTSIDE
    live.create("deployments", workload("web"), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "escalated"
    assert [action.status for action in event.actions.all()] == ["done"]


def test_without_the_opt_in_nothing_is_done_and_the_command_that_gives_it_is_told(live, stage, agent):
    kubelet = stage("rollback")  # another word
    kubelet.fate = until_restarted
    live.create("deployments", workload("web"), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "escalated"
    assert "opt_in" in event.reason
    assert f"kubectl annotate namespace {kubelet.namespace} {OPT_IN}=rollback,crashloop --overwrite" in event.reason
    assert is_untouched(live, kubelet.namespace)


@pytest.mark.parametrize("moment", ["diagnosed", "acting"])
def test_the_opt_in_taken_back_at_the_last_moment_stops_it(live, stage, agent, moment):
    kubelet = stage("crashloop")
    kubelet.fate = until_restarted
    live.create("deployments", workload("web"), kubelet.namespace)
    running = agent(SIGNAL, kubelet)
    running.run("web", moment)
    live.patch("namespaces", kubelet.namespace, "", {"metadata": {"annotations": {OPT_IN: None}}})
    event = running.run("web")
    assert event.status == "escalated"
    assert "opt_in" in event.reason
    assert is_untouched(live, kubelet.namespace)


def test_a_persons_change_after_detection_stops_it(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = until_restarted
    live.create("deployments", workload("web"), kubelet.namespace)
    running = agent(SIGNAL, kubelet)
    running.run("web", "diagnosed")
    environment = [{"name": "app", "env": [{"name": "FIXED", "value": "yes"}]}]
    change = {"spec": {"template": {"spec": {"containers": environment}}}}
    live.patch("deployments", "web", kubelet.namespace, change, how=STRATEGIC)
    event = running.run("web")
    assert event.status == "escalated"
    assert "human_override" in event.reason
    found = live.get("deployments", "web", kubelet.namespace)
    assert found["metadata"]["generation"] == 2, "the person's change, and nobody else's"


def test_in_dry_run_it_says_what_it_would_do_and_does_nothing(live, stage, agent):
    AgentSettings.objects.update(dry_run=True)
    kubelet = stage("crashloop")
    kubelet.fate = until_restarted
    live.create("deployments", workload("web"), kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("web")
    assert event.status == "simulated", event.reason
    [action] = event.actions.all()
    assert "dry run accepts it" in action.message
    assert is_untouched(live, kubelet.namespace)


def test_a_bare_pod_is_left_alone(live, stage, agent):
    kubelet = stage("crashloop")
    kubelet.fate = lambda pod: ENDED_FROM_OUTSIDE
    template = workload("lonely")["spec"]["template"]
    live.create("pods", {**template, "metadata": {"name": "lonely"}}, kubelet.namespace)
    event = agent(SIGNAL, kubelet).run("lonely", kind="pod")
    assert event.status == "escalated"
    assert not event.actions.exists()
