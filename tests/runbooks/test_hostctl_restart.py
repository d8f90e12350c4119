"""What hostctl restarts for want of memory, and above all what it never does.

Real: the processes that are ended and started, their memory, unit files and drop-ins. Not real: systemctl, docker,
podman and crictl, which are stand-ins on PATH, and the cgroups of the processes (see residents.py).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbooks import hostctl
from tests.runbooks.residents import MB, Residents, residents_of
from tests.runbooks.test_hostctl import House

HEX, SANDBOX, NEXT = "0123456789abcdef" * 4, "f" * 64, "a" * 64
UNIT = "shop.service"
SHOP = f"/system.slice/{UNIT}"


@pytest.fixture
def residents(tmp_path: Path) -> Iterator[Residents]:
    with residents_of(House(tmp_path)) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostctl, "LOOK_S", 0.02)
    monkeypatch.setattr(hostctl, "COME_BACK_S", 5.0)


def restart(residents: Residents, pid: int, started: int, unit: object = UNIT, **more: Any) -> dict[str, Any]:
    args = {"unit": unit, "pid": pid, "started": started}
    return residents.house.run("restart_unit", action_id="a", args=args, **more)


def refused(residents: Residents, answer: dict[str, Any]) -> str:
    """The reason, after making sure that nothing was restarted."""
    assert answer["status"] == "refused", answer
    assert residents.restarts == []
    return str(answer["reason"])


@pytest.fixture
def shop(residents: Residents) -> int:
    """A unit that may be restarted, for tests in which one thing speaks against it."""
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid)
    return pid


# ------------------------------------------------------------------------------------------------------- units


def test_a_leaking_unit_is_restarted_for_real_and_memory_is_told_before_and_after(residents: Residents) -> None:
    leaky = residents.balloon(SHOP, 60 * MB)
    residents.unit(UNIT, leaky.pid)
    answer = restart(residents, leaky.pid, leaky.started)
    assert answer["status"] == "done", answer
    result = answer["result"]
    assert result["rss_before_bytes"] > 60 * MB > 20 * MB > result["rss_after_bytes"]
    assert 0 < result["percent_before"] < 100
    assert 0 < result["percent_after"] < 100
    assert result["available_after_bytes"] > 0
    assert not result["main_process"].startswith(f"{leaky.pid},")
    assert leaky.process.wait(5) != 0, "it was ended"
    assert residents.restarts == [["try-restart", "--no-ask-password", "--no-block", "--job-mode=fail", "--", UNIT]]


def test_the_same_action_restarts_once(residents: Residents) -> None:
    leaky = residents.balloon(SHOP)
    residents.unit(UNIT, leaky.pid)
    first = restart(residents, leaky.pid, leaky.started)
    again = restart(residents, leaky.pid, leaky.started)
    assert (first["status"], again["replayed"]) == ("done", True)
    assert len(residents.restarts) == 1


def test_a_dry_run_asks_everything_and_restarts_nothing(residents: Residents, shop: int) -> None:
    answer = restart(residents, shop, 1010, dry_run=True)
    assert (answer["status"], answer["reason"]) == ("done", f"would restart {UNIT}")
    assert residents.restarts == []


HOSTILE = [
    "", "shop", "shop.socket", "shop.service\n", "shop.service; reboot", "-H root@elsewhere.service", "--all.service",
    "../shop.service", "/etc/shop.service", "$(reboot).service", "`id`.service", "*.service", "sho?.service",
    "[a-z].service", "shop service.service", "shop\0.service", "é.service", "@.service", "x" * 250 + ".service",
    None, 7, ["shop.service"], {"unit": "shop.service"}, "1.service 2.service", "shop.service --force",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_what_is_no_plain_name_of_a_service_does_not_reach_systemctl(residents: Residents, unit: object) -> None:
    assert "is not the name of a service" in refused(residents, restart(residents, 10, 1010, unit))
    assert residents.calls == []


@pytest.mark.parametrize(
    "unit",
    [
        "sshd.service", "ssh@7.service", "kubelet.service", "containerd.service", "docker.service", "crio.service",
        "systemd-journald.service", "systemd-logind.service", "dbus.service", "user@1000.service", "getty@tty1.service",
        "postgresql.service", "mysql@a.service", "mongod.service", "redis-server.service", "etcd.service",
        "byteport.service", "byteport-web.service", "SSHD.service", "Postgresql@15-main.service",
    ],
)  # fmt: skip
def test_what_is_never_restarted_is_not_even_with_the_label(residents: Residents, unit: str) -> None:
    pid = residents.made_up(10, cgroup=f"/system.slice/{unit}")
    residents.unit(unit, pid)
    assert "never restarted" in refused(residents, restart(residents, pid, 1010, unit))


@pytest.mark.parametrize("alias", ["dbus-org.freedesktop.login1.service", "sshd.service", "mysql.service"])
def test_a_unit_that_is_also_known_by_such_a_name_is_not_restarted(residents: Residents, alias: str) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid, Names=f"{UNIT} {alias}")
    assert "never restarted" in refused(residents, restart(residents, pid, 1010))


def test_an_alias_is_not_followed(residents: Residents) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid, Id="sshd.service")
    assert "is another name of sshd.service" in refused(residents, restart(residents, pid, 1010))


@pytest.mark.parametrize(
    "about",
    [
        {"exe": "/usr/lib/systemd/systemd-journald"},
        {"exe": "/usr/sbin/sshd"},
        {"exe": "/usr/bin/kubelet"},
        {"exe": "/usr/bin/containerd"},
        {"exe": "/usr/bin/dbus-daemon"},
        {"exe": "/usr/lib/postgresql/16/bin/postgres"},
        {"exe": "/usr/sbin/mysqld"},
        {"environ": b"BYTEPORT_STATE_DIR=/x\0"},
    ],
)
def test_a_harmless_name_does_not_hide_what_runs_in_a_unit(residents: Residents, about: dict[str, Any]) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.made_up(11, cgroup=SHOP + "/deeper", parent=10, **about)
    residents.unit(UNIT, pid)
    assert "never restarted" in refused(residents, restart(residents, pid, 1010))


def test_the_first_process_is_never_restarted(residents: Residents) -> None:
    residents.made_up(1, cgroup=SHOP)
    residents.unit(UNIT, 1)
    assert "first process" in refused(residents, restart(residents, 1, 1001))


def test_byteports_own_unit_is_not_restarted_under_any_name(residents: Residents) -> None:
    pid = residents.made_up(os.getpid(), cgroup=SHOP)
    residents.unit(UNIT, pid)
    assert "BytePort itself" in refused(residents, restart(residents, pid, 1000 + pid))


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"LoadState": "masked"}, "not have it loaded"),
        ({"ActiveState": "inactive"}, "not running"),
        ({"ActiveState": "deactivating"}, "not running"),
        ({"Job": "812"}, "at it already"),
        ({"NeedDaemonReload": "yes"}, "somebody is at it"),
        ({"Transient": "yes"}, "transient"),
        ({"DefaultDependencies": "no"}, "system's own"),
        ({"RefuseManualStop": "yes"}, "refuses"),
        ({"RefuseManualStart": "yes"}, "refuses"),
        ({"RequiredBy": "postgresql.service"}, "would also restart or stop postgresql.service"),
        ({"BoundBy": "a.service b.service"}, "a.service, b.service"),
        ({"ConsistsOf": "worker.service"}, "worker.service"),
        ({"RequisiteOf": "worker.service"}, "worker.service"),
        ({"PropagatesStopTo": "worker.service"}, "worker.service"),
        ({"MainPID": "0"}, "cannot be seen"),
        ({"MainPID": ""}, "cannot be seen"),
        ({"MainPID": "10; reboot"}, "cannot be seen"),
        ({"MainPID": "99"}, "cannot be seen"),
        ({"ControlGroup": "/system.slice/other.service"}, "not in its cgroup"),
        ({"FragmentPath": ""}, "label cannot be read"),
        ({"FragmentPath": "/nowhere/x.service"}, "label cannot be read"),
        ({"FragmentPath": "/proc/self/mem"}, "label cannot be read"),
    ],
)
def test_any_doubt_about_a_unit_and_it_is_left_alone(
    residents: Residents, properties: dict[str, str], why: str
) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid, **properties)
    assert why in refused(residents, restart(residents, pid, 1010))


def test_a_unit_that_systemd_does_not_know_is_left_alone(residents: Residents) -> None:
    assert "does not have it loaded" in refused(residents, restart(residents, 10, 1010))


def test_the_main_process_of_another_unit_is_not_believed(residents: Residents) -> None:
    pid = residents.made_up(10, cgroup="/system.slice/other.service")
    residents.unit(UNIT, pid)
    assert "not in its cgroup" in refused(residents, restart(residents, pid, 1010))


def test_a_users_cgroup_of_the_same_name_is_another_unit(residents: Residents) -> None:
    pid = residents.made_up(10, cgroup=f"/user.slice/user-1000.slice/user@1000.service/{UNIT}")
    residents.unit(UNIT, pid)
    assert "not in its cgroup" in refused(residents, restart(residents, pid, 1010))


@pytest.mark.parametrize(("pid", "started"), [(10, 1009), (11, 1010), (10, True), ("10", 1010), (10, None)])
def test_another_process_than_the_one_that_leaked_is_left_alone(
    residents: Residents, shop: int, pid: Any, started: Any
) -> None:
    assert "another main process" in refused(residents, restart(residents, pid, started))


def test_a_unit_that_does_not_start_again_is_a_failed_step(residents: Residents) -> None:
    leaky = residents.balloon(SHOP)
    residents.unit(UNIT, leaky.pid)
    program = residents.house.bin / "systemctl"
    program.write_text(
        program.read_text().replace('{**about, "MainPID": str(new.pid)}', '{**about, "ActiveState": "failed"}')
    )
    answer = restart(residents, leaky.pid, leaky.started)
    assert answer["status"] == "failed"
    assert "did not start again" in answer["reason"]


def test_a_unit_that_does_not_come_back_in_time_is_a_failed_step(
    residents: Residents, shop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostctl, "COME_BACK_S", 0.1)
    program = residents.house.bin / "systemctl"
    program.write_text(program.read_text().replace('elif verb == "try-restart":', 'elif verb == "no":'))
    answer = restart(residents, shop, 1010)
    assert answer["status"] == "failed"
    assert "did not come back" in answer["reason"]
    assert answer["result"]["rss_before_bytes"] > 0


def test_without_systemctl_the_step_is_skipped(residents: Residents, shop: int) -> None:
    (residents.house.bin / "systemctl").unlink()
    assert restart(residents, shop, 1010)["status"] == "skipped"


# ---------------------------------------------------------------------------------------------- the units' label


@pytest.mark.parametrize(
    "label",
    [
        None, "X-Byteport-Restart=", "X-Byteport-Restart=yes", "X-Byteport-Restart=SAFE", "X-Byteport-Restart=safe no",
        "X-Byteport-Restart=unsafe", "x-byteport-restart=safe", "#X-Byteport-Restart=safe", ";X-Byteport-Restart=safe",
        "X-Byteport-Restart=safe\nX-Byteport-Restart=no", "ExecStart=/bin/x \\\nX-Byteport-Restart=safe",
        "ExecStart=/bin/x \\\n# a comment between\nX-Byteport-Restart=safe", "[Install]\nX-Byteport-Restart=safe",
        "[X-Other]\nX-Byteport-Restart=safe", "Byteport-Restart=safe", "X-Byteport-Restart-Not=safe",
        'X-Byteport-Restart="safe"',
    ],
)  # fmt: skip
def test_without_the_very_label_nothing_is_restarted(residents: Residents, label: str | None) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid, label)
    assert "does not carry the label" in refused(residents, restart(residents, pid, 1010))


@pytest.mark.parametrize(
    "label",
    [
        "X-Byteport-Restart=safe", "  X-Byteport-Restart = safe  ", "[Unit]\nX-Byteport-Restart=safe",
        "X-Byteport-Restart=no\nX-Byteport-Restart=safe", "X-Byteport-Restart=\\\nsafe",
    ],
)  # fmt: skip
def test_the_label_is_read_as_systemd_reads_a_line(residents: Residents, label: str) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    residents.unit(UNIT, pid, label)
    assert restart(residents, pid, 1010, dry_run=True)["status"] == "done"


def test_the_label_is_read_at_the_moment_of_acting(residents: Residents, shop: int) -> None:
    assert restart(residents, shop, 1010, dry_run=True)["status"] == "done"
    (residents.house.base / f"etc/systemd/system/{UNIT}.d/byteport.conf").write_text("[Service]\n")
    assert "it has none" in refused(residents, restart(residents, shop, 1010))


def test_a_later_drop_in_takes_the_label_back(residents: Residents) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    first = residents.unit(UNIT, pid)
    last = first.with_name("zz.conf")
    last.write_text("[Service]\nX-Byteport-Restart=no\n")
    residents.unit(UNIT, pid, DropInPaths=f"{first} {last}")
    assert "'no'" in refused(residents, restart(residents, pid, 1010))


def others_may_write_it(drop_in: Path) -> None:
    drop_in.chmod(0o666)


def others_may_write_its_folder(drop_in: Path) -> None:
    drop_in.parent.chmod(0o777)


def it_is_no_text(drop_in: Path) -> None:
    drop_in.write_bytes(b"[Service]\nX-Byteport-Restart=safe\n\xff")


def it_is_a_folder(drop_in: Path) -> None:
    drop_in.unlink()
    drop_in.mkdir()


def it_is_gone(drop_in: Path) -> None:
    drop_in.unlink()


def it_is_huge(drop_in: Path) -> None:
    drop_in.write_text("[Service]\n" + "#" * 70_000 + "\nX-Byteport-Restart=safe\n")


@pytest.mark.parametrize(
    "spoil",
    [others_may_write_it, others_may_write_its_folder, it_is_no_text, it_is_a_folder, it_is_gone, it_is_huge],
)
def test_a_label_that_another_could_have_written_or_nobody_can_read_is_none(residents: Residents, spoil: Any) -> None:
    pid = residents.made_up(10, cgroup=SHOP)
    spoil(residents.unit(UNIT, pid))
    refused(residents, restart(residents, pid, 1010))


# --------------------------------------------------------------------------------------------------- containers


def described(pid: int, **more: Any) -> dict[str, Any]:
    return {
        "Id": HEX, "Name": "/shop-web", "State": {"Status": "running", "Pid": pid}, "HostConfig": {"AutoRemove": False},
        "Config": {"Image": "registry.example.com/shop:1", "Labels": {"byteport.restart": "safe"}}, **more,
    }  # fmt: skip


def runtime(residents: Residents, name: str, answer: object, then: object = None) -> Path:
    """A stand-in for docker or podman: it describes the container, and after a restart as `then` says."""
    house = residents.house
    (house.base / "now.json").write_text(json.dumps(answer) if not isinstance(answer, str) else answer)
    (house.base / "then.json").write_text(json.dumps(then))
    script = (
        f'case "$1" in inspect) /bin/cat {house.base}/now.json ;;'
        f" restart|stop) /bin/cp {house.base}/then.json {house.base}/now.json ;; *) exit 1 ;; esac"
    )
    return house.program(name, script)


def restart_container(residents: Residents, pid: int = 10, started: int = 1010, **args: Any) -> dict[str, Any]:
    wanted = {"runtime": "docker", "container": HEX, "pid": pid, "started": started, **args}
    return residents.house.run("restart_container", action_id="c", args=wanted)


def left_alone(noted: Path, answer: dict[str, Any]) -> str:
    assert answer["status"] == "refused", answer
    assert "restart" not in (noted.read_text() if noted.exists() else "")
    assert "stop" not in (noted.read_text() if noted.exists() else "")
    return str(answer["reason"])


@pytest.fixture
def web(residents: Residents) -> int:
    residents.made_up(20, cgroup=f"/system.slice/docker-{HEX}.scope", anon=2 * MB)
    return residents.made_up(10, cgroup=f"/system.slice/docker-{HEX}.scope", anon=90 * MB)


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_a_labelled_container_is_restarted_through_its_runtime(residents: Residents, name: str) -> None:
    scope = {"docker": f"docker-{HEX}.scope", "podman": f"libpod-{HEX}.scope"}[name]
    residents.made_up(10, cgroup=f"/machine.slice/{scope}", anon=90 * MB)
    residents.made_up(20, cgroup=f"/machine.slice/{scope}", anon=2 * MB)
    noted = runtime(residents, name, [described(10)], [described(20)])
    answer = restart_container(residents, runtime=name)
    assert answer["status"] == "done", answer
    assert answer["result"]["main_process"] == "20, started at tick 1020"
    assert [line.split("|")[0] for line in noted.read_text().splitlines()][:2] == [
        f"inspect --type container {HEX}", f"restart -t 30 {HEX}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "container", ["", "shop", HEX[:12], HEX.upper(), HEX + "\n", f"{HEX};id", "-f", "--all", "../x", None, 7, [HEX]]
)
def test_what_is_no_full_id_does_not_reach_a_runtime(residents: Residents, container: object) -> None:
    noted = runtime(residents, "docker", [described(10)])
    assert "full id" in left_alone(noted, restart_container(residents, container=container))
    assert not noted.exists()


@pytest.mark.parametrize("name", ["", "nerdctl", "sh", "docker; id", None, ["docker"]])
def test_no_other_program_is_run_as_a_runtime(residents: Residents, name: object) -> None:
    residents.house.program("nerdctl", "")
    assert "no runtime that we know" in restart_container(residents, runtime=name)["reason"]


@pytest.mark.parametrize(
    "labels",
    [
        None, {}, [], "byteport.restart=safe", {"byteport.restart": "true"}, {"byteport.restart": "SAFE"},
        {"byteport.restart": ""}, {"byteport.restart": ["safe"]}, {"byteport_restart": "safe"}, {"restart": "safe"},
    ],
)  # fmt: skip
def test_a_container_without_the_very_label_is_left_alone(residents: Residents, web: int, labels: object) -> None:
    noted = runtime(residents, "docker", [described(web, Config={"Image": "x", "Labels": labels})])
    assert "does not carry the label" in left_alone(noted, restart_container(residents))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"Name": "/my-postgres"}, "database"),
        ({"Name": "/byteport-web"}, "BytePort itself"),
        ({"Config": {"Image": "docker.io/library/redis:7", "Labels": {"byteport.restart": "safe"}}}, "database"),
        ({"Config": {"Image": "ghcr.io/x/BytePort@sha256:1", "Labels": {"byteport.restart": "safe"}}}, "BytePort"),
        ({"ImageName": "quay.io/mongo"}, "database"),
        ({"HostConfig": {"AutoRemove": True}}, "--rm"),
        ({"Id": NEXT}, "not running"),
        ({"State": {"Status": "exited", "Pid": 0}}, "not running"),
        ({"State": {"Status": "restarting", "Pid": 10}}, "not running"),
        ({"State": {"Status": "running", "Pid": 0}}, "cannot be seen"),
        ({"State": {"Status": "running", "Pid": 99}}, "cannot be seen"),
        ({"State": "running"}, "not running"),
    ],
)
def test_any_doubt_about_a_container_and_it_is_left_alone(
    residents: Residents, web: int, more: dict[str, Any], why: str
) -> None:
    noted = runtime(residents, "docker", [described(web, **more)])
    assert why in left_alone(noted, restart_container(residents))


@pytest.mark.parametrize("answer", ["", "[]", "{}", "null", "[1]", "[{}, {}]", "nonsense", "[" * 9_000])
def test_a_description_that_cannot_be_read_is_none(residents: Residents, web: int, answer: str) -> None:
    left_alone(runtime(residents, "docker", answer), restart_container(residents))


def test_a_database_within_a_labelled_container_keeps_it_running(residents: Residents, web: int) -> None:
    residents.made_up(11, cgroup=f"/system.slice/docker-{HEX}.scope/x", parent=web, exe="/usr/sbin/mysqld")
    noted = runtime(residents, "docker", [described(web)])
    assert "database" in left_alone(noted, restart_container(residents))


@pytest.mark.parametrize(
    "cgroup",
    [
        f"/system.slice/docker-{NEXT}.scope", SHOP, "/", f"/machine.slice/libpod-{HEX}.scope",
        f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{HEX}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/docker-{HEX}.scope",
    ],
)  # fmt: skip
def test_a_process_outside_of_the_containers_cgroup_is_not_believed(residents: Residents, cgroup: str) -> None:
    residents.made_up(10, cgroup=cgroup)
    left_alone(runtime(residents, "docker", [described(10)]), restart_container(residents))


@pytest.mark.parametrize(("pid", "started"), [(10, 1011), (20, 1020)])
def test_a_container_that_was_restarted_meanwhile_is_left_alone(
    residents: Residents, web: int, pid: int, started: int
) -> None:
    noted = runtime(residents, "docker", [described(web)])
    assert "another main process" in left_alone(noted, restart_container(residents, pid, started))


def test_a_hostile_name_of_a_container_is_just_text(residents: Residents, web: int) -> None:
    noted = runtime(residents, "docker", [described(web, Name="/$(reboot)\x1b[2J", Config={"Image": "x"})])
    reason = left_alone(noted, restart_container(residents))
    assert reason.isprintable()
    assert "$(reboot)?[2J does not carry" in reason


# ---------------------------------------------------------------------------------------- containers of a pod


def pod(pid: int = 10, namespace: str = "shop", **more: Any) -> dict[str, Any]:
    labels = {"app": "web", "pod-template-hash": "5d4f", "byteport.restart": "safe", **more.pop("labels", {})}
    status = {
        "id": HEX, "state": "CONTAINER_RUNNING", "metadata": {"name": "web"}, "image": {"image": "shop:1"}, **more
    }  # fmt: skip
    labels = {key: value for key, value in labels.items() if value is not None}
    sandbox = {"id": SANDBOX, "metadata": {"name": "web-5d4f-x", "namespace": namespace}, "labels": labels}
    return {
        "inspect": {"status": status, "info": {"pid": pid, "sandboxID": SANDBOX}},
        "inspectp": {"status": sandbox},
        "ps": {"containers": [{"id": HEX, "metadata": {"name": "web"}}]},
    }


def crictl(residents: Residents, about: dict[str, Any]) -> Path:
    """A stand-in: after `stop`, the kubelet has a new container with process 20."""
    base = residents.house.base
    for verb, answer in about.items():
        (base / f"{verb}.json").write_text(json.dumps(answer))
    again = {"status": {}, "info": {"pid": 20}}
    (base / "again.json").write_text(json.dumps(again))
    new = {"containers": [{"id": HEX, "metadata": {"name": "web"}}, {"id": NEXT, "metadata": {"name": "web"}}]}
    (base / "new.json").write_text(json.dumps(new))
    script = (
        f'case "$1 $4" in "inspect {NEXT}") /bin/cat {base}/again.json ;; esac\n'
        f'case "$1 $4" in "inspect {HEX}") /bin/cat {base}/inspect.json ;; esac\n'
        f'case "$1" in inspect) ;;'
        f" inspectp|ps) /bin/cat {base}/$1.json ;; stop) /bin/cp {base}/new.json {base}/ps.json ;; *) exit 1 ;; esac"
    )
    return residents.house.program("crictl", script)


@pytest.fixture
def in_pod(residents: Residents) -> int:
    residents.made_up(20, cgroup=f"/kubepods/burstable/pod1/{NEXT}", anon=2 * MB)
    return residents.made_up(10, cgroup=f"/kubepods/burstable/pod1/{HEX}", anon=90 * MB)


def test_a_container_of_a_labelled_pod_is_stopped_and_the_kubelet_starts_it_again(
    residents: Residents, in_pod: int
) -> None:
    noted = crictl(residents, pod())
    answer = restart_container(residents, runtime="crictl")
    assert answer["status"] == "done", answer
    assert answer["result"]["main_process"] == "20, started at tick 1020"
    assert answer["result"]["title"] == "shop/web-5d4f-x/web"
    assert f"stop --timeout 30 {HEX}" in noted.read_text()


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (pod(labels={"byteport.restart": None}), "does not carry the label"),
        (pod(labels={"byteport.restart": "yes"}), "does not carry the label"),
        (pod(labels={"pod-template-hash": None}), "no Deployment"),
        (pod(labels={"pod-template-hash": None, "job-name": "x"}), "no Deployment"),
        (pod(namespace="kube-system"), "Kubernetes' own"),
        (pod(namespace=""), "Kubernetes' own"),
        (pod(namespace="byteport"), "BytePort itself"),
        (pod(metadata={"name": "postgres"}), "database"),
        (pod(state="CONTAINER_EXITED"), "not running"),
        (pod(id=NEXT), "not running"),
        (pod(pid=20), "not in its cgroup"),
        ({**pod(), "inspectp": {}}, "Kubernetes' own"),
        ({**pod(), "inspectp": {"status": {"labels": ["x"]}}}, "Kubernetes' own"),
        ({**pod(), "inspect": {"status": {"id": HEX}}}, "which pod"),
        ({**pod(), "inspect": {"info": {"sandboxID": "--all"}}}, "which pod"),
    ],
)
def test_any_doubt_about_a_pods_container_and_it_is_left_alone(
    residents: Residents, in_pod: int, about: dict[str, Any], why: str
) -> None:
    noted = crictl(residents, about)
    assert why in left_alone(noted, restart_container(residents, runtime="crictl"))


# -------------------------------------------------------------------------------------------------- restartable


def test_what_may_be_restarted_is_told_beforehand_with_the_reasons_against_the_rest(
    residents: Residents, web: int
) -> None:
    runtime(residents, "docker", [described(web)])
    residents.unit(UNIT, residents.made_up(30, cgroup=SHOP))
    wanted = [
        {"kind": "unit", "name": UNIT, "runtime": ""},
        {"kind": "container", "name": HEX, "runtime": "docker"},
        {"kind": "unit", "name": "sshd.service", "runtime": ""},
        {"kind": "process", "name": "app", "runtime": ""},
        {"kind": "unit", "name": "; reboot", "runtime": ""},
    ]
    answer = residents.house.run("restartable", args={"consumers": wanted})
    found = answer["result"]["consumers"]
    assert not any(one["unlabelled"] for one in found)
    assert [(one["pid"], one["title"], bool(one["refusal"])) for one in found] == [
        (30, UNIT, False), (10, "shop-web", False), (None, "", True), (None, "", True), (None, "", True),
    ]  # fmt: skip
    assert residents.restarts == []


def test_what_lacks_only_the_label_is_told_apart(residents: Residents) -> None:
    residents.unit(UNIT, residents.made_up(30, cgroup=SHOP), label=None)
    wanted = [{"kind": "unit", "name": UNIT, "runtime": ""}]
    [found] = residents.house.run("restartable", args={"consumers": wanted})["result"]["consumers"]
    assert found["unlabelled"] is True
    assert "does not carry the label" in found["refusal"]


@pytest.mark.parametrize("wanted", [None, {}, "x", [{}] * 6, [1], [{"kind": "unit"}]])
def test_what_is_no_list_of_consumers_is_refused(residents: Residents, wanted: object) -> None:
    answer = residents.house.run("restartable", args={"consumers": wanted})
    assert answer["status"] == "refused" or answer["result"]["consumers"][0]["refusal"]
