"""`manage.py drill pod_crashloop` on a real cluster. Real: every process that the command starts, the API server, the
namespace. Where the cluster has nodes, the pod is real too; where it has none, the kubelet is played."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from byteport.clients.kubernetes.clusters import forget
from byteport.core.errors import Permanent
from byteport.core.resource import DRILL_NAMESPACE
from byteport.drills import pod_crashloop
from byteport.drills.pod_crashloop import PodCrashloop
from tests.cluster.kubelet import HEALTHY, Kubelet, crashing
from tests.cluster.live import KUBECONFIG, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 240  # against hanging; no measure of speed


def drill_namespaces(live):
    names = {one["metadata"]["name"] for one in live.items("namespaces")}
    return {name for name in names if DRILL_NAMESPACE.fullmatch(name)}


def until_restarted(pod):
    restarted = "kubectl.kubernetes.io/restartedAt" in pod["metadata"].get("annotations", {})
    return HEALTHY if restarted else crashing(143)


def manage(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "manage.py"), *arguments]


def test_a_drill_ends_resolved_and_leaves_nothing_behind(live, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "BYTEPORT_"))}
    env |= {"BYTEPORT_STATE_DIR": str(tmp_path / "state"), "BYTEPORT_KUBECONFIG": KUBECONFIG}
    subprocess.run(manage("migrate", "-v0"), env=env, check=True, timeout=PATIENCE_S, cwd="/")
    before = drill_namespaces(live)
    drill = subprocess.Popen(
        manage("drill", "pod_crashloop", "--json"), env=env, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    [namespace] = wait_for(lambda: drill_namespaces(live) - before, "the drill's namespace")
    if not live.items("nodes"):
        kubelet = Kubelet(live, namespace)
        kubelet.fate = until_restarted
        kubelet.until(lambda: drill.poll() is not None, "the end of the drill")
    told, _ = drill.communicate(timeout=PATIENCE_S)
    summary = json.loads(told)
    assert drill.returncode == 0, summary
    assert (summary["status"], summary["resolved_by"]) == ("resolved", "byteport")
    assert [action["action"] for action in summary["actions"]] == ["kubernetes.rollout_restart"]
    assert (summary["before"]["ready_pods"], summary["after"]["ready_pods"]) == (0, 1)
    wait_for(lambda: namespace not in drill_namespaces(live), "the namespace's end")


def test_where_nothing_runs_pods_it_fails_clearly_and_leaves_nothing_behind(live, settings, monkeypatch):
    if live.items("nodes"):
        pytest.skip("this cluster has nodes that run pods")
    settings.KUBECONFIG, settings.KUBE_CONTEXTS = KUBECONFIG, []
    [place] = pod_crashloop.cluster_names()
    forget(place)
    monkeypatch.setattr(pod_crashloop, "CRASH_PATIENCE_S", 2.0)
    before = drill_namespaces(live)
    drill = PodCrashloop()
    with pytest.raises(Permanent, match="no node has taken it"):
        drill.prepare(lambda line: None)
    drill.remove()
    assert drill_namespaces(live) == before
    forget(place)
