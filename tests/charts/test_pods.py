"""The chart's pods: how little they may do to their node, what they are told, and how they are looked after.

Real: Helm renders the chart. Not real: nothing is started; whether the probes' program works is in test_pulse.py.
"""

import shlex

import pytest
from django.conf import settings

from byteport import pulse
from byteport.clients.hosts import node_job
from tests.charts.rendering import EVERYTHING, LEAST, NOTHING, PROCESSES, environment, one, pods, render

VARIANTS = [LEAST, EVERYTHING, NOTHING]
PODS = [
    pytest.param(pod, id=f"{name}-{number}")
    for number, values in enumerate(VARIANTS)
    for name, pod in pods(render(values)).items()
]


def parts(pod):
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_runs_as_root_or_can_become_it(pod):
    assert pod["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,  # as in the Dockerfile
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in parts(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_shares_anything_with_its_node(pod):
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod["spec"])
    assert not any("hostPort" in port for container in parts(pod) for port in container.get("ports", ()))
    assert {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"} == {"emptyDir", "projected"}


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_writes_to_one_bounded_folder(pod):
    [container] = parts(pod)
    writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"tmp"}
    [tmp] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"]["sizeLimit"]
    assert {"name": "HOME", "value": "/tmp"} in container["env"]


@pytest.mark.parametrize("pod", PODS)
def test_a_pods_memory_is_bounded_and_its_share_is_asked_for(pod):
    [container] = parts(pod)
    assert container["resources"]["limits"]["memory"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "cpu" not in container["resources"]["limits"], "a throttled watcher is a late one"


@pytest.mark.parametrize("pod", PODS)
def test_no_secret_stands_in_a_manifest_and_none_in_the_environment(pod):
    [container] = parts(pod)
    for each in container["env"]:
        assert "valueFrom" not in each
        if each["name"].endswith("_FILE"):
            assert each["value"].startswith("/run/secrets/byteport/")
    assert {"DATABASE_URL", "DATABASE_URL_FILE"} & {each["name"] for each in container["env"]} == {"DATABASE_URL_FILE"}


@pytest.mark.parametrize("pod", PODS)
def test_every_file_that_a_setting_names_is_mounted(pod):
    [container] = parts(pod)
    [secrets] = [volume["projected"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets"]
    paths = {f"/run/secrets/byteport/{item['path']}" for each in secrets["sources"] for item in each["secret"]["items"]}
    named = {each["value"] for each in container["env"] if each["name"].endswith("_FILE")}
    assert named == paths
    assert secrets["defaultMode"] == 0o440


@pytest.mark.parametrize("pod", PODS)
def test_the_image_is_one_and_never_whatever_is_the_latest(pod):
    [container] = parts(pod)
    assert container["image"] in (
        "registry.example.com/byteport:0.1.0",
        f"{EVERYTHING['image']['repository']}@{EVERYTHING['image']['digest']}",
    )


@pytest.mark.parametrize("process", ["worker", "watch", "setup"])
def test_a_process_is_started_as_the_dockerfile_says(process):
    [container] = parts(pods(render())[f"byteport-{process}"])
    assert container["args"] == ["python", "manage.py", process]
    assert "command" not in container
    assert f"python manage.py {process}" in (settings.BASE_DIR / "Dockerfile").read_text(encoding="utf-8")


def test_the_web_process_is_the_images_own_command():
    [container] = parts(pods(render())["byteport-web"])
    assert not {"command", "args"} & set(container)
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} == {"/healthz", "/readyz"}
    assert probes["livenessProbe"]["path"] == "/healthz", "a database that is away is no reason for a restart"
    assert probes["readinessProbe"]["path"] == "/readyz"


@pytest.mark.parametrize("process", ["worker", "watch"])
def test_worker_and_watcher_are_probed_by_their_signs_of_life(process):
    [container] = parts(pods(render())[f"byteport-{process}"])
    assert {"name": "BYTEPORT_PULSE_DIR", "value": "/tmp"} in container["env"]
    for name, sign in (("startupProbe", "alive"), ("livenessProbe", "alive"), ("readinessProbe", "ready")):
        command = container[name]["exec"]["command"]
        assert command == shlex.split(f"python -I -S byteport/pulse.py {process} {sign}")
        assert sign in pulse.SIGNS
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60, "a slow node is no reason for a restart"


def test_a_worker_may_finish_the_stage_that_it_has_begun():
    spec = pods(render())["byteport-worker"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > settings.TASK_TIMEOUT_S


@pytest.mark.parametrize("process", PROCESSES)
def test_the_parts_of_a_process_find_each_other(process):
    objects = render()
    labels = pods(objects)[f"byteport-{process}"]["metadata"]["labels"].items()
    selectors = [
        one(objects, "Deployment", process)["spec"]["selector"]["matchLabels"],
        one(objects, "PodDisruptionBudget", process)["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy", process)["spec"]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"] for each in objects if each["kind"] == "Service" and process == "web"),
    ]
    for selector in selectors:
        assert selector.items() <= labels
        assert selector["app.kubernetes.io/component"] == process


@pytest.mark.parametrize("process", PROCESSES)
def test_replicas_keep_apart_and_a_node_can_always_be_drained(process):
    objects = render()
    spec = pods(objects)[f"byteport-{process}"]["spec"]
    assert {each["topologyKey"] for each in spec["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    budget = one(objects, "PodDisruptionBudget", process)["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_a_change_of_settings_restarts_what_reads_them():
    before, after = pods(render()), pods(render({"dryRun": False}))
    for process in PROCESSES:
        assert before[f"byteport-{process}"]["metadata"] != after[f"byteport-{process}"]["metadata"]


def test_the_setup_comes_before_everything_else_and_needs_nothing_of_it():
    objects = render()
    job = one(objects, "Job", "setup")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]
    made = {each["metadata"]["name"] for each in objects if each["kind"] in ("ConfigMap", "Secret", "ServiceAccount")}
    used = [each["secret"]["name"] for each in pod["spec"]["volumes"][1]["projected"]["sources"]]
    assert made.isdisjoint(used)
    assert "envFrom" not in pod["spec"]["containers"][0]
    policy = one(objects, "NetworkPolicy", "setup")["metadata"]["annotations"]
    assert policy["helm.sh/hook"] == job["metadata"]["annotations"]["helm.sh/hook"]
    assert int(policy["helm.sh/hook-weight"]) < int(job["metadata"]["annotations"]["helm.sh/hook-weight"])


def test_the_setup_has_the_settings_of_the_processes_and_not_their_key():
    objects = render(EVERYTHING)
    setup, worker = (environment(pods(objects)[f"agent-{name}"], objects) for name in ("setup", "worker"))
    assert set(worker) - set(setup) == {"BYTEPORT_SECRET_KEY_FILE", "BYTEPORT_PULSE_DIR", "BYTEPORT_ROLE"}
    assert set(setup) - set(worker) == {"BYTEPORT_SECRET_KEY"}
    assert all(setup[name] == value for name, value in worker.items() if name in setup)


@pytest.mark.parametrize(
    ("process", "ingress", "ports"),
    [
        ("web", [{"ports": [{"protocol": "TCP", "port": "http"}]}], {53, 5432}),
        ("worker", [], {53, 5432, 443, 6443}),
        ("watch", [], {53, 5432, 443, 6443}),
        ("setup", [], {53, 5432}),
    ],
)
def test_the_network_is_closed_but_for_what_a_process_needs(process, ingress, ports):
    spec = one(render(), "NetworkPolicy", process)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == ingress
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == ports


def test_what_runs_on_a_node_has_no_network():
    spec = one(render({"nodeAccess": {"enabled": True}}), "NetworkPolicy", "nodes")["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= node_job.LABELS.items()
    assert (spec["policyTypes"], spec["ingress"], spec["egress"]) == (["Ingress", "Egress"], [], [])


def test_the_network_can_be_opened_further():
    objects = render(EVERYTHING)
    assert (
        one(objects, "NetworkPolicy", "web")["spec"]["ingress"][0]["from"] == EVERYTHING["networkPolicy"]["ingressFrom"]
    )
    egress = one(objects, "NetworkPolicy", "worker")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 6432, 443, 8443, 22}
