"""Nodes of a cluster through Jobs. Real: the requests over HTTP, the fence, the container with a root of its own and
just the capabilities that the Job asks for, `hostctl` in it on a node without Python, the files and the file system
that it works on, PostgreSQL and the loop.

Not real: the API server is the stand-in of tests/kubernetes; the Job controller and the kubelet are tests/nodes.py;
`journalctl` is a stand-in. A real API server: tests/cluster/test_node.py.
"""

import shlex
import threading
from uuid import uuid4

import msgspec
import pytest

from byteport.clients.hosts import node as module
from byteport.clients.hosts import node_job
from byteport.clients.hosts.node import PERMISSIONS, NodeTransport
from byteport.clients.hosts.node_job import JobFence, NodeJob
from byteport.clients.hosts.protocol import HostRequest, Scope
from byteport.clients.kubernetes.call import JSON, JSON_PATCH, Call
from byteport.clients.kubernetes.paths import path_of
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Permanent, Refused, Temporary
from byteport.core.outcome import Result
from byteport.core.permissions import cluster_permissions
from byteport.core.resource import ResourceRef
from byteport.core.ways import Address
from byteport.models import Host
from byteport.settings import BASE_DIR
from runbooks import hostctl
from runbooks.action import ACTIONS, ActionCall, ProbeState
from signals.models import SignalEvent
from tests import incident
from tests.kubernetes.standin import PLACE, Fault
from tests.machine import Machine, needs_loop, needs_machine, old_file, wait_for
from tests.nodes import IMAGE, NAMESPACE, Node

PATIENCE_S = 60  # against hanging; no measure of speed
FACTS = HostRequest(verb="facts")
HOST = Address(name="node-1", way="node", cluster=PLACE, node="node-1")


@pytest.fixture(autouse=True)
def _quick(settings, monkeypatch):
    settings.NODE_IMAGE, settings.NAMESPACE, settings.NODE_PULL_SECRETS = IMAGE, NAMESPACE, []
    monkeypatch.setattr(module, "LOOK_S", 0.05)


@pytest.fixture
def machine():
    made = Machine("node-1", disks={"var/log": 20})
    made.without_journal()
    yield made
    made.stop()


@pytest.fixture
def node(cluster, machine):
    made = Node("node-1", cluster, machine)
    yield made
    made.join()


@pytest.fixture
def idle(cluster):
    """A node whose pods a test tells the fate of."""
    return Node("node-1", cluster, None)


def ask(request=FACTS, *, timeout_s=PATIENCE_S):
    return NodeTransport(HOST).run(request, timeout_s=timeout_s)


def jobs_left(cluster):
    return cluster.store.listed("job", "")


def changing(cluster):
    return [(seen.method, seen.resource) for seen in cluster.changing()]


# --- what a node answers


@needs_loop
def test_a_node_without_python_answers_and_nothing_is_left(cluster, node):
    answer = ask(HostRequest(verb="gauges"))
    mounts = {mount["mount"]: mount for mount in answer.result["usage"]["result"]["mounts"]}
    assert mounts["/var/log"]["fstype"] == "ext4", "its mounts are seen as the node itself sees them"
    assert changing(cluster) == [("POST", "batch/jobs"), ("DELETE", "batch/jobs")]
    assert jobs_left(cluster) == []


@needs_loop
def test_what_is_held_open_on_the_node_is_seen_from_the_job(node, machine):
    held = old_file(machine.inside / "tmp/held", 9)
    free = old_file(machine.inside / "tmp/free", 9)
    with machine.holding("/tmp/held"):
        answer = ask(HostRequest(verb="clear_tmp", action_id=str(uuid4())))
    assert answer.status == "done"
    assert answer.result["left"] == {"open": 1}
    assert held.exists()
    assert not free.exists()


def test_the_opt_in_is_the_nodes_annotation(idle):
    transport = NodeTransport(HOST)
    assert not transport.annotations(Scope("host"), timeout_s=PATIENCE_S).present
    idle.opt_in("memory, disk")
    found = transport.annotations(Scope("host"), timeout_s=PATIENCE_S)
    assert found.words == ("memory", "disk")
    assert found.where == "the annotation byteport.io/auto-remediate of the node node-1 in test"
    idle.opt_in("disk,off")
    assert transport.annotations(Scope("host"), timeout_s=PATIENCE_S).words == ()


def test_the_remedy_is_a_command():
    words = shlex.split(NodeTransport(HOST).remedy("memory,disk"))
    assert words == ["kubectl", "annotate", "node", "node-1", "byteport.io/auto-remediate=memory,disk", "--overwrite"]


def test_a_node_that_is_none_is_told(cluster):
    with pytest.raises(Permanent, match='"node-1" not found'):
        NodeTransport(HOST).annotations(Scope("host"), timeout_s=PATIENCE_S)


@pytest.mark.parametrize("name", ["$(reboot)", "../../secrets", "a b", "-rf", "x\ny", "UPPER"])
def test_a_hostile_name_leads_nowhere(cluster, name):
    hostile = msgspec.structs.replace(HOST, node=name)
    with pytest.raises(Permanent, match="cannot be a name in Kubernetes"):
        NodeTransport(hostile).annotations(Scope("host"), timeout_s=PATIENCE_S)
    assert cluster.seen == []


def test_the_image_has_the_program_where_the_job_looks_for_it():
    dockerfile = (BASE_DIR / "Dockerfile").read_text(encoding="utf-8")
    folder = node_job.PROGRAM.removesuffix("/runbooks/hostctl.py")
    assert f"WORKDIR {folder}\n" in dockerfile
    assert "COPY runbooks runbooks\n" in dockerfile
    assert node_job.HOST_ROOT == hostctl.HOST_ROOT


def test_without_an_image_or_a_namespace_nothing_is_sent(cluster, settings):
    settings.NODE_IMAGE = ""
    with pytest.raises(Permanent, match="BYTEPORT_NODE_IMAGE"):
        ask()
    assert cluster.seen == []


def test_it_needs_just_the_rights_that_the_chart_gives(cluster, idle):
    idle.status = lambda pod: {"phase": "Failed", "reason": "Evicted"}
    cluster.rights = {f"{one.group}/{one.resource}: {verb}".removeprefix("/")
                      for one in cluster_permissions(PERMISSIONS) for verb in one.verbs}  # fmt: skip
    with pytest.raises(Temporary, match="Evicted"):
        ask()
    NodeTransport(HOST).annotations(Scope("host"), timeout_s=PATIENCE_S)
    assert {seen.right for seen in cluster.seen} | {"pods/log: get"} == cluster.rights


# --- pods and clusters that fail


def test_a_pod_that_the_kubelet_rejects_is_told(cluster, idle):
    idle.status = lambda pod: {"phase": "Failed", "reason": "OutOfpods", "message": "Node didn't have enough resource"}
    with pytest.raises(Temporary, match=r"did not run it \(OutOfpods: Node didn't have enough resource\)"):
        ask()
    assert jobs_left(cluster) == []


def test_an_image_that_cannot_be_pulled_is_told(cluster, idle, monkeypatch):
    monkeypatch.setattr(module, "START_S", 0.5)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    idle.status = lambda pod: {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
    with pytest.raises(Temporary, match=r"did not begin within 0\.5 s \(ImagePullBackOff: Back-off pulling image\)"):
        ask()
    assert jobs_left(cluster) == []


def test_a_namespace_that_admits_no_such_pod_is_told(cluster, monkeypatch):
    monkeypatch.setattr(module, "START_S", 0.3)
    with pytest.raises(Temporary, match=r"No pod was made on node-1 .* the namespace byteport admits it"):
        ask()
    assert jobs_left(cluster) == []


def test_a_job_that_takes_too_long_is_given_up_and_removed(cluster, idle):
    running = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}
    idle.status = lambda pod: running
    with pytest.raises(Temporary, match=r"did not answer within 0\.3 s"):
        ask(timeout_s=0.3)
    assert jobs_left(cluster) == []


def ended(log, code=0):
    """A pod that has printed this."""

    def status(pod):
        meta = pod["metadata"]
        ended.store.logs[meta["namespace"], meta["name"], "hostctl", False] = log
        return {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": code}}}]}

    return status


def test_an_answer_that_is_too_big_is_cut_off(cluster, idle):
    ended.store = cluster.store
    idle.status = ended("y" * 2_000_000)
    with pytest.raises(Permanent, match="more than 1048576 bytes"):
        ask()
    assert jobs_left(cluster) == []


def test_what_is_no_answer_is_told_with_its_last_words(cluster, idle):
    ended.store = cluster.store
    idle.status = ended("Killed\n", 137)
    with pytest.raises(Temporary, match=r"ended with 137 and no readable answer: .*Killed"):
        ask()


@pytest.mark.parametrize("right", ["batch/jobs: create", "pods: list"])
def test_a_right_that_is_missing_is_named(cluster, idle, right):
    idle.takes = False
    rights = {"batch/jobs: create", "batch/jobs: delete", "pods: list", "pods/log: get"}
    cluster.rights = rights - {right}
    with pytest.raises(BytePortError, match=f"forbids BytePort to {right.partition(': ')[2]}") as told:
        ask()
    sent = right != "batch/jobs: create"
    assert isinstance(told.value, Temporary if sent else Permanent), "what was sent may have been done"
    assert jobs_left(cluster) == []


def test_the_answer_to_the_creation_getting_lost_leaves_no_job(cluster, idle):
    idle.takes = False
    cluster.faults.append(Fault(cut=True, after=True, where=lambda seen: seen.method == "POST"))
    with pytest.raises(Temporary):
        ask()
    assert jobs_left(cluster) == []


def test_a_job_that_nobody_is_there_to_remove_ends_and_goes_by_itself(cluster, idle, monkeypatch):
    """The caller is killed right after it has made the Job."""
    idle.takes = False
    cluster.faults.append(Fault(status=500, times=100, where=lambda seen: seen.method == "DELETE"))
    monkeypatch.setattr(module, "START_S", 0.1)
    with pytest.raises(Temporary):
        ask(timeout_s=30)
    [job] = jobs_left(cluster)
    assert job["spec"]["activeDeadlineSeconds"] == 31
    assert job["spec"]["ttlSecondsAfterFinished"] == 120
    assert job["spec"]["backoffLimit"] == 0


# --- the fence


JOB = NodeJob(
    name="byteport-node-0123456789abcdef", namespace=NAMESPACE, node="node-1", image=IMAGE,
    request="eyJ2ZXJiIjoiZmFjdHMifQ==", deadline_s=60,
)  # fmt: skip


def test_the_fence_admits_the_creation_and_the_removal_of_its_own_job():
    JobFence(JOB).admit(JOB.creation())
    JobFence(JOB).admit(JOB.removal())


def mutated(path, value):
    """The Job's creation with one thing in its body changed, or added."""
    body = msgspec.json.decode(JOB.creation().body)
    target = body
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return Call("POST", path_of("job", NAMESPACE), (), msgspec.json.encode(body), JSON)


POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)
MUTATIONS = {
    "another name": (("metadata", "name"), "web"),
    "another namespace": (("metadata", "namespace"), "kube-system"),
    "another node": ((*POD, "nodeName"), "node-2"),
    "another image": ((*CONTAINER, "image"), "evil:1"),
    "another command": ((*CONTAINER, "command"), ["sh", "-c", "rm -rf /host"]),
    "another request": ((*CONTAINER, "args"), ["eyJ2ZXJiIjoiY2xlYXJfdG1wIn0=", "host-root"]),
    "privileged": ((*CONTAINER, "securityContext", "privileged"), True),
    "another capability": ((*CONTAINER, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
    "an environment": ((*CONTAINER, "env"), [{"name": "PYTHONPATH", "value": "/host"}]),
    "a second container": ((*POD, "initContainers"), [{"name": "x", "image": "evil:1"}]),
    "an account": ((*POD, "serviceAccountName"), "admin"),
    "a token": ((*POD, "automountServiceAccountToken"), True),
    "the node's network": ((*POD, "hostNetwork"), True),
    "the node's processes": ((*POD, "hostPID"), True),
    "another volume": ((*POD, "volumes", 0, "hostPath", "path"), "/etc"),
    "a volume more": ((*POD, "volumes"), [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    "no end": (("spec", "activeDeadlineSeconds"), None),
    "again and again": (("spec", "backoffLimit"), 6),
    "no removal": (("spec", "ttlSecondsAfterFinished"), 10**9),
    "many": (("spec", "parallelism"), 100),
}


@pytest.mark.parametrize(("path", "value"), MUTATIONS.values(), ids=MUTATIONS)
def test_the_fence_refuses_a_job_of_any_other_shape(path, value):
    with pytest.raises(Refused, match="not the Job for that node"):
        JobFence(JOB).admit(mutated(path, value))


@pytest.mark.parametrize(
    "call",
    [
        Call("POST", path_of("job", "kube-system"), (), JOB.creation().body, JSON),
        Call("POST", path_of("job", NAMESPACE), (("dryRun", "All"),), JOB.creation().body, JSON),
        Call("POST", path_of("pod", NAMESPACE), (), JOB.creation().body, JSON),
        Call("POST", path_of("job", NAMESPACE), (), b"{", JSON),
        Call("PUT", path_of("job", NAMESPACE, JOB.name), (), JOB.creation().body, JSON),
        Call("PATCH", path_of("job", NAMESPACE, JOB.name), (), b"[]", JSON_PATCH),
        Call("DELETE", path_of("job", NAMESPACE, "byteport-node-ffffffffffffffff"), node_job.REMOVAL),
        Call("DELETE", path_of("job", NAMESPACE), node_job.REMOVAL),
        Call("DELETE", path_of("pod", NAMESPACE, JOB.name), node_job.REMOVAL),
        Call("DELETE", path_of("job", NAMESPACE, JOB.name), (("gracePeriodSeconds", "0"),)),
        Call("DELETE", path_of("job", NAMESPACE, JOB.name), node_job.REMOVAL, b"{}"),
        Call("GET", path_of("node", name="node-1")),
    ],
    ids=lambda call: f"{call.method} {call.path} {call.params}",
)
def test_the_fence_refuses_every_other_call(call):
    with pytest.raises(Refused):
        JobFence(JOB).admit(call)


@pytest.mark.parametrize("change", [{"name": "web"}, {"request": "$(reboot)"}, {"request": "e30="}])
def test_the_fence_refuses_a_job_that_byteport_does_not_make(change):
    odd = msgspec.structs.replace(JOB, **change)
    for call in (odd.creation(), *([odd.removal()] if "name" in change else [])):
        with pytest.raises(Refused):
            JobFence(odd).admit(call)


# --- changes, and the whole loop


def row():
    return Host.objects.create(name="node-1", way="node", cluster=PLACE, node="node-1", poll_s=60)


@needs_machine
@pytest.mark.django_db
def test_a_job_that_is_given_up_in_mid_action_is_found_in_the_nodes_journal_and_not_repeated(cluster, node, machine):
    incident.quick()
    row()
    node.opt_in("disk")
    noted = machine.program(
        "journalctl",
        'case "$1" in --vacuum*) while [ ! -e /tmp/go ]; do sleep 0.05; done; echo "freed 8.0M of archived" ;;'
        ' *) echo "Archived and active journals take up 80.0M in the file system." ;; esac',
    )
    call = ActionCall(str(uuid4()), "host.journal_vacuum", ResourceRef("host", "node-1", "mount", "/var/log"))
    action, begun_at = ACTIONS["host.journal_vacuum"], now()

    def cut() -> None:
        wait_for(lambda: noted.exists() and "--vacuum" in noted.read_text())
        cluster.faults.append(Fault(status=503, times=1, where=lambda seen: seen.kind == "pod"))

    cutting = threading.Thread(target=cut)
    cutting.start()
    with pytest.raises(Temporary):
        action.execute(call)
    cutting.join()
    assert jobs_left(cluster) == []
    assert action.probe(call, begun_at).state is ProbeState.RUNNING
    (machine.base / "tmp/go").touch()
    wait_for(lambda: action.probe(call, begun_at).state is ProbeState.FINISHED)
    found = action.probe(call, begun_at)
    assert found.outcome is not None
    assert found.outcome.result is Result.DONE
    assert action.execute(call) == found.outcome
    assert noted.read_text().count("--vacuum") == 1


@needs_loop
@pytest.mark.django_db
def test_a_full_disk_of_a_node_is_seen_treated_and_proved(cluster, node, machine):
    incident.quick()
    row()
    node.opt_in("disk")
    machine.fill()
    incident.poll()
    event = incident.run(SignalEvent.objects.get(resource="host/node-1/mount/%2Fvar%2Flog"))
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert {a.action: a.status for a in event.actions.all()}["host.delete_rotated_logs"] == "done"
    assert event.gates.get(gate="opt_in", round=1).reason.startswith("Opted in to `disk` (the annotation")
    assert jobs_left(cluster) == []
