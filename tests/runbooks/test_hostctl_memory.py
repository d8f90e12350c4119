"""Who holds a host's memory, as hostctl sees it, and what it does about oom_score_adj.

Real: the processes that grow, their /proc, oom_score_adj, and (where this host allows cgroups of our own) the cgroups
and their statistics. Where a test needs what no test host has (containers, units, databases), a `/proc` in a folder
says so: see residents.py.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runbooks import hostctl
from tests.runbooks.residents import MB, Balloon, Residents, residents_of
from tests.runbooks.test_hostctl import HOST, House

HEX = "0123456789abcdef" * 4
SHOP = "/system.slice/shop.service"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def residents(house: House) -> Iterator[Residents]:
    with residents_of(house) as made:
        yield made


@pytest.fixture
def balloon() -> Iterator[Balloon]:
    made = Balloon(MB)
    yield made
    made.end()


def consumers(house: House) -> list[dict[str, Any]]:
    answer = house.run("consumers")
    assert answer["status"] == "done", answer
    return answer["result"]["consumers"]


def only(house: House) -> dict[str, Any]:
    [one] = consumers(house)
    return one


# ------------------------------------------------------------------------------------------------ real memory


def test_a_process_that_grows_is_found_by_its_growth_in_the_real_proc(house: House, balloon: Balloon) -> None:
    balloon.grow(500 * MB)
    before = next(one for one in consumers(house) if one["main"]["pid"] == balloon.pid)
    balloon.grow(100 * MB)
    after = next(one for one in consumers(house) if one["main"]["pid"] == balloon.pid)
    assert 500 * MB < before["rss_bytes"] < 530 * MB
    assert 95 * MB < after["rss_bytes"] - before["rss_bytes"] < 105 * MB
    assert after["main"]["started"] == balloon.started
    assert abs(after["since"] - time.time()) < 60
    assert after["oom_score_adj"] == balloon.oom_score_adj


@contextmanager
def own_cgroup(unit: str) -> Iterator[list[Path]]:
    """A new cgroup for a unit, in each hierarchy that hostctl reads here. Skips the test where none may be made."""
    top = Path("/sys/fs/cgroup")
    version_2 = (top / "cgroup.controllers").exists()
    slices = [
        above / f"byteport-test-{os.getpid()}" for above in ([top] if version_2 else [top / "systemd", top / "memory"])
    ]
    folders = [one / unit for one in slices]
    try:
        for one, folder in zip(slices, folders, strict=True):
            one.mkdir()
            if version_2:
                (one / "cgroup.subtree_control").write_text("+memory")
            folder.mkdir()
    except OSError as error:
        remove(*folders, *slices)
        pytest.skip(f"no cgroup of our own is allowed here: {error.strerror}")
    yield folders
    remove(*folders, *slices)


def remove(*cgroups: Path) -> None:
    """The kernel takes a moment to see that a cgroup is empty."""
    for cgroup in filter(Path.exists, cgroups):
        deadline = time.monotonic() + 5
        while True:
            try:
                cgroup.rmdir()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_a_unit_is_counted_by_its_real_cgroup(house: House, balloon: Balloon) -> None:
    with own_cgroup("shop.service") as folders:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(balloon.pid))
        balloon.grow(500 * MB)
        one = next(one for one in consumers(house) if one["main"]["pid"] == balloon.pid)
        balloon.end()
    assert (one["kind"], one["name"]) == ("unit", "shop.service")
    assert one["counted_by"] == ("cgroup2" if len(folders) == 1 else "cgroup1")
    assert 495 * MB < one["rss_bytes"] < 530 * MB
    assert one["limit_bytes"] is None


def test_the_memory_verb_tells_the_page_cache_from_what_is_in_use(house: House) -> None:
    result = house.run("memory")["result"]
    assert result["cached_bytes"] >= result["shmem_bytes"] >= 0
    assert 0 < result["anon_bytes"] < result["total_bytes"]
    assert result["page_bytes"] == os.sysconf("SC_PAGE_SIZE")
    assert result["drills"] == []


def test_the_consumers_come_along_with_the_gauges_only_when_memory_is_scarce(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(house.run("gauges")["result"]) == {"usage", "memory"}
    monkeypatch.setattr(hostctl, "CONSUMERS_FROM", 0.1)
    gauges = house.run("gauges")["result"]
    assert gauges["consumers"]["status"] == "done"
    assert gauges["consumers"]["result"]["consumers"]


# ----------------------------------------------------------------------------------------- units and containers


@pytest.mark.parametrize(
    ("path", "kind", "name", "runtime"),
    [
        (f"/system.slice/docker-{HEX}.scope", "container", HEX, "docker"),
        (f"/docker/{HEX}", "container", HEX, "docker"),
        (f"/ecs/9f1c/{HEX}", "container", HEX, "docker"),
        (f"/machine.slice/libpod-{HEX}.scope/container", "container", HEX, "podman"),
        (f"/libpod_parent/libpod-{HEX}", "container", HEX, "podman"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{HEX}.scope", "container", HEX, "crictl"),
        (f"/kubepods.slice/kubepods-pod1.slice/crio-{HEX}.scope", "container", HEX, "crictl"),
        (f"/kubepods/burstable/pod1/{HEX}", "container", HEX, "crictl"),
        (f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{HEX}", "container", HEX, "crictl"),
        (f"/default/{HEX}", "container", HEX, ""),
        (f"/system.slice/nerdctl-{HEX}.scope", "container", HEX, ""),
        (f"/docker/{HEX}/docker/{HEX[::-1]}", "container", HEX, "docker"),
        ("/system.slice/shop.service", "unit", "shop.service", ""),
        ("/system.slice/system-shop.slice/shop@a.service/worker", "unit", "shop@a.service", ""),
        ("/system.slice/__shop.service", "unit", "_shop.service", ""),
        ("/system.slice/containerd.service", "unit", "containerd.service", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "unit", "session-3.scope", ""),
        ("/", "process", "app", ""),
        ("/../..", "process", "app", ""),
        ("", "process", "app", ""),
    ],
)
def test_a_process_belongs_to_the_unit_or_container_of_its_cgroup(
    path: str, kind: str, name: str, runtime: str
) -> None:
    place = hostctl.place_of(hostctl.parse_cgroups(f"0::{path}\n"), "app")
    assert place[:3] == (kind, name, runtime)


@pytest.mark.parametrize(
    "inside",
    [f"docker-{HEX}.scope", "shop.service", f"libpod-{HEX}.scope", f"app.slice/docker/{HEX}", f"docker/{HEX}"],
)
def test_what_a_user_names_like_a_unit_or_container_is_the_users(inside: str) -> None:
    """A user may make cgroups below their own service, and give them any name."""
    place = hostctl.place_in(f"/user.slice/user-1000.slice/user@1000.service/{inside}")
    assert place is not None
    assert place.name == "user@1000.service"


def test_both_versions_of_cgroups_are_read_side_by_side() -> None:
    text = "12:cpu,memory:/a\n3:name=systemd:/b\n0::/c\n1:pids:/d\nnonsense\n"
    assert hostctl.parse_cgroups(text) == {"memory": "/a", "systemd": "/b", "unified": "/c"}


def test_processes_of_one_unit_are_one_consumer_whose_shared_memory_counts_once(residents: Residents) -> None:
    residents.made_up(10, cgroup=SHOP, anon=4 * 1024, shared=40 * 1024)
    residents.made_up(11, cgroup=SHOP + "/worker", anon=8 * 1024, shared=40 * 1024, parent=10)
    residents.made_up(12, kernel=True)
    one = only(residents.house)
    assert (one["name"], one["processes"], one["rss_bytes"]) == ("shop.service", 2, 52 * 1024)
    assert one["counted_by"] == "processes"
    assert (one["main"]["pid"], one["biggest"]["pid"]) == (10, 11)


def test_processes_of_no_unit_stand_for_themselves(residents: Residents) -> None:
    residents.made_up(10)
    residents.made_up(11)
    assert [(one["kind"], one["processes"]) for one in consumers(residents.house)] == [("process", 1)] * 2


def test_the_statistics_of_cgroup_version_2_are_believed(residents: Residents) -> None:
    residents.made_up(10, cgroup=SHOP)
    folder = residents.cgroups / SHOP[1:]
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text("anon 7000\nfile 900000\nshmem 500\n")
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n")
    (folder / "memory.swap.current").write_text("4096\n")
    one = only(residents.house)
    assert (one["counted_by"], one["rss_bytes"], one["swap_bytes"]) == ("cgroup2", 7500, 4096)
    assert (one["limit_bytes"], one["oom_kills"]) == (None, 1)
    (folder / "memory.max").write_text("1000000\n")
    assert only(residents.house)["limit_bytes"] == 1_000_000


def test_the_statistics_of_cgroup_version_1_are_believed(residents: Residents) -> None:
    residents.made_up(10, cgroups=f"4:memory:/docker/{HEX}\n1:name=systemd:/docker/{HEX}\n")
    folder = residents.cgroups / "memory/docker" / HEX
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text("rss 1\ntotal_rss 7000\ntotal_shmem 500\ntotal_swap 8\n")
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    one = only(residents.house)
    assert (one["kind"], one["runtime"], one["counted_by"]) == ("container", "docker", "cgroup1")
    assert (one["rss_bytes"], one["swap_bytes"], one["limit_bytes"], one["oom_kills"]) == (7500, 8, None, 4)


def test_statistics_of_another_cgroup_than_the_places_own_are_not_taken(residents: Residents) -> None:
    """Version 1 without memory accounting: the unit shares the memory cgroup of its slice."""
    residents.made_up(10, cgroups="4:memory:/system.slice\n1:name=systemd:/system.slice/shop.service\n")
    folder = residents.cgroups / "memory/system.slice"
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text("total_rss 999999999\n")
    (folder / "memory.limit_in_bytes").write_text("1\n")
    assert only(residents.house)["counted_by"] == "processes"


def test_the_ten_greatest_are_shown_and_the_others_added_up(residents: Residents) -> None:
    for number in range(15):
        residents.made_up(100 + number, anon=(number + 1) * MB)
    result = residents.house.run("consumers")["result"]
    assert [one["main"]["pid"] for one in result["consumers"]] == list(range(114, 104, -1))
    assert result["others"]["consumers"] == 5
    assert result["others"]["rss_bytes"] == pytest.approx(15 * MB, rel=0.01)


@pytest.mark.parametrize("comm", ["a) S 1 2 (b", "x\x1b[31m", "two\nlines", ") ) )", "\u202egnp", "$(id)"])
def test_hostile_names_of_processes_are_just_text(residents: Residents, comm: str) -> None:
    residents.made_up(10, comm)
    one = only(residents.house)
    assert (one["main"]["pid"], one["main"]["started"]) == (10, 1010)
    assert one["name"].isprintable()
    assert len(one["name"]) == len(comm)


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(residents: Residents) -> None:
    residents.made_up(10)
    (residents.proc / "11").mkdir()
    residents.made_up(12)
    (residents.proc / "12" / "stat").write_text("12 (torn")
    assert only(residents.house)["main"]["pid"] == 10


def test_too_many_processes_are_no_answer_rather_than_half_a_one(
    residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostctl, "PROCESSES_LIMIT", 1)
    residents.made_up(10)
    residents.made_up(11)
    answer = residents.house.run("consumers")
    assert answer["status"] == "failed"
    assert "too many" in answer["reason"]


# ------------------------------------------------------------------------------------------- what is never touched

NEVER = [
    ({"exe": "/usr/lib/systemd/systemd"}, "systemd's own"),
    ({"exe": "/usr/lib/systemd/systemd-journald"}, "systemd's own"),
    ({"exe": "/usr/lib/systemd/systemd-logind"}, "systemd's own"),
    ({"exe": "/usr/sbin/sshd"}, "the way in"),
    ({"exe": "/usr/lib/openssh/sshd-session"}, "the way in"),
    ({"exe": "/usr/bin/dbus-daemon"}, "D-Bus"),
    ({"exe": "/usr/bin/dbus-broker-launch"}, "D-Bus"),
    ({"exe": "/usr/bin/kubelet"}, "Kubernetes"),
    ({"exe": "/usr/local/bin/k3s"}, "Kubernetes"),
    ({"exe": "/usr/bin/dockerd"}, "container runtime"),
    ({"exe": "/usr/bin/containerd"}, "container runtime"),
    ({"exe": "/usr/bin/containerd-shim-runc-v2"}, "container runtime"),
    ({"exe": "/usr/bin/conmon"}, "container runtime"),
    ({"exe": "/usr/bin/crio"}, "container runtime"),
    ({"exe": "/usr/sbin/rsyslogd"}, "log"),
    ({"exe": "/usr/lib/postgresql/16/bin/postgres"}, "database"),
    ({"exe": "/usr/lib/postgresql/16/bin/postgres (deleted)"}, "database"),
    ({"exe": "/usr/sbin/mysqld"}, "database"),
    ({"exe": "/usr/sbin/mariadbd"}, "database"),
    ({"exe": "/usr/bin/mongod"}, "database"),
    ({"exe": "/usr/bin/redis-server"}, "database"),
    ({"exe": "/usr/bin/valkey-server"}, "database"),
    ({"exe": "/usr/bin/etcd"}, "database"),
    ({"exe": "/usr/bin/java", "cmdline": ["java", "-Xmx4g", "-cp", "/a:/b", "org.apache.cassandra.Main"]}, "data"),
    ({"exe": "/usr/bin/java", "cmdline": ["java", "-jar", "/opt/elasticsearch/lib/x.jar"]}, "database"),
    ({"exe": "/usr/lib/erlang/bin/beam.smp", "cmdline": ["beam.smp", "-W", "w", "--", "rabbitmq"]}, "database"),
    ({"comm": "mysqld"}, "database"),
    ({"cmdline": ["postgres: checkpointer"]}, "database"),
    ({"cmdline": ["/opt/REDIS-SERVER *:6379"]}, "database"),
    ({"environ": b"HOME=/\0BYTEPORT_STATE_DIR=/x\0"}, "BytePort itself"),
    ({"environ": b"DJANGO_SETTINGS_MODULE=byteport.settings\0"}, "BytePort itself"),
    ({"exe": "/opt/byteport/bin/byteport-agent"}, "BytePort itself"),
]  # fmt: skip


@pytest.mark.parametrize(("about", "why"), NEVER)
def test_by_any_of_its_names_a_program_is_known_as_one_that_is_never_touched(
    residents: Residents, about: dict[str, Any], why: str
) -> None:
    residents.made_up(10, about.pop("comm", "app"), cgroup=SHOP, **about)
    assert why in only(residents.house)["critical"]


def test_one_database_within_a_unit_is_enough(residents: Residents) -> None:
    residents.made_up(10, cgroup=SHOP)
    residents.made_up(11, cgroup=SHOP, parent=10, exe="/usr/bin/redis-server")
    assert only(residents.house)["critical"] == "app (11) is a database"


def test_the_first_process_is_never_touched_whatever_it_is(residents: Residents) -> None:
    residents.made_up(1)
    assert "first process" in only(residents.house)["critical"]


def test_what_started_hostctl_is_byteport_itself(residents: Residents) -> None:
    residents.made_up(os.getpid(), parent=41, cgroup="/system.slice/ops.service")
    residents.made_up(41, parent=1, cgroup="/system.slice/ops.service")
    residents.made_up(42, parent=1, cgroup="/system.slice/shop.service")
    found = {one["name"]: one["critical"] for one in consumers(residents.house)}
    assert "BytePort itself" in found["ops.service"]
    assert found["shop.service"] == ""


def test_a_program_that_cannot_be_looked_at_is_not_touched(residents: Residents) -> None:
    residents.made_up(10, cgroup=SHOP)
    (residents.proc / "10" / "exe").unlink()
    assert "may not be looked at" in only(residents.house)["critical"]


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ("systemd-resolved.service", "systemd"), ("user@1000.service", "systemd"), ("dbus.service", "D-Bus"),
        ("ssh.service", "way in"), ("sshd@1.service", "way in"), ("getty@tty1.service", "system itself"),
        ("docker.service", "runtime"), ("containerd.service", "runtime"), ("kubelet.service", "Kubernetes"),
        ("postgresql@16-main.service", "database"), ("pg@postgres.service", "database"), ("mysql.service", "database"),
        ("shop-redis.service", "database"), ("MongoDB.service", "database"), ("etcd.service", "database"),
        ("byteport.service", "BytePort"), ("byteport-worker@1.service", "BytePort"), ("init.scope", "no service"),
        ("session-3.scope", "no service"), ("amazon-ssm-agent.service", "system itself"),
        ("rsyslog.service", "log"), ("auditd.service", "log"), ("NetworkManager.service", "system itself"),
    ],
)  # fmt: skip
def test_units_are_known_by_their_names_too(unit: str, why: str) -> None:
    assert why in hostctl.why_never_unit(unit)


@pytest.mark.parametrize(
    ("unit", "about"),
    [
        ("shop.service", {}),
        ("nginx.service", {"exe": "/usr/sbin/nginx", "cmdline": ["nginx: worker process"]}),
        ("users-api.service", {"exe": "/usr/bin/python3.11", "cmdline": ["python3", "-m", "users"]}),
        ("api.service", {"exe": "/usr/bin/java", "cmdline": ["java", "-Ddb=jdbc:postgresql://db/x", "-jar", "/a.jar"]}),
        ("worker@2.service", {"cmdline": ["worker", "--queue=redis://q"]}),
    ],
)
def test_ordinary_services_are_not_taken_for_what_they_talk_to(
    residents: Residents, unit: str, about: dict[str, Any]
) -> None:
    residents.made_up(10, cgroup=f"/system.slice/{unit}", **about)
    assert only(residents.house)["critical"] == ""


# --------------------------------------------------------------------------------------------------- oom_score_adj


def lower(house: House, *which: Balloon, action_id: str = "a", **more: Any) -> dict[str, Any]:
    pairs = [[one.pid, one.started] for one in which]
    return house.run("adjust_oom_score", action_id=action_id, args={"processes": pairs}, **more)


def restore(house: House, action_id: str = "z", **more: Any) -> dict[str, Any]:
    return house.run("restore_oom_score", action_id=action_id, **more)


@pytest.fixture
def bystander(residents: Residents) -> Balloon:
    """A real one. Whoever may not lower it below what it began with begins higher."""
    made = residents.balloon(SHOP)
    made.set_oom_score_adj(500)
    return made


def test_a_bystander_is_protected_by_at_most_300_and_then_as_before(residents: Residents, bystander: Balloon) -> None:
    answer = lower(residents.house, bystander)
    assert answer["status"] == "done", answer
    [one] = answer["result"]["adjusted"]
    assert (one["pid"], one["before"], one["after"]) == (bystander.pid, 500, 200)
    assert bystander.oom_score_adj == 200
    answer = restore(residents.house)
    assert answer["status"] == "done"
    assert answer["result"]["restored"][0]["after"] == 500
    assert bystander.oom_score_adj == 500


@pytest.mark.parametrize(("before", "after"), [(0, -300), (-100, -400), (-300, -500), (-500, -500), (-900, -900)])
def test_nobody_is_protected_below_minus_500(residents: Residents, before: int, after: int) -> None:
    pid = residents.made_up(10, oom_score_adj=before)
    file = residents.proc / "10" / "oom_score_adj"
    answer = residents.house.run("adjust_oom_score", action_id="a", args={"processes": [[pid, 1010]]})
    assert int(file.read_text()) == after
    assert answer["status"] == ("done" if after != before else "skipped")
    restore(residents.house)
    assert int(file.read_text()) == before


def test_a_real_process_is_protected_below_zero_by_who_may(residents: Residents) -> None:
    one = residents.balloon(SHOP)
    answer = lower(residents.house, one)
    if answer["status"] == "skipped":
        assert answer["result"]["left"] == {"EACCES": 1}  # not root, or root without CAP_SYS_RESOURCE
        assert one.oom_score_adj == 0
        pytest.skip("to lower it below what it was takes CAP_SYS_RESOURCE")
    assert one.oom_score_adj == -300
    restore(residents.house)
    assert one.oom_score_adj == 0


@pytest.mark.parametrize(
    "processes",
    [
        None, "all", {}, [1], [[1]], [[1, 2, 3]], [["1", 2]], [[True, 2]], [[1, 2.0]], [[1, 2]] * 6, [[1, [2]]],
    ],
)  # fmt: skip
def test_at_most_five_processes_are_taken_each_by_pid_and_start(residents: Residents, processes: object) -> None:
    answer = residents.house.run("adjust_oom_score", action_id="a", args={"processes": processes})
    assert answer["status"] == "refused"


def test_a_pid_that_another_process_has_by_now_is_left(residents: Residents, bystander: Balloon) -> None:
    pairs = [[bystander.pid, bystander.started - 1], [999_999, 5]]
    answer = residents.house.run("adjust_oom_score", action_id="a", args={"processes": pairs})
    assert answer["status"] == "skipped"
    assert answer["result"]["left"] == {"it has ended": 2}
    assert bystander.oom_score_adj == 500


@pytest.mark.parametrize(
    "about", [{"exe": "/usr/sbin/sshd"}, {"exe": "/usr/sbin/mysqld"}, {"environ": b"BYTEPORT_X=1\0"}, {"parent": 0}]
)
def test_what_is_critical_keeps_its_score(residents: Residents, about: dict[str, Any]) -> None:
    pid = residents.made_up(1 if "parent" in about else 10, **about)
    answer = residents.house.run("adjust_oom_score", action_id="a", args={"processes": [[pid, 1000 + pid]]})
    assert answer["status"] == "skipped"
    assert answer["result"]["left"] == {"never touched": 1}
    assert (residents.proc / str(pid) / "oom_score_adj").read_text() == "0\n"


def test_pods_keep_the_score_that_the_kubelet_gave_them(residents: Residents) -> None:
    pid = residents.made_up(10, cgroup=f"/kubepods/burstable/pod1/{HEX}")
    answer = residents.house.run("adjust_oom_score", action_id="a", args={"processes": [[pid, 1010]]})
    assert "kubelet" in json.dumps(answer["result"]["left"])
    assert (residents.proc / "10" / "oom_score_adj").read_text() == "0\n"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(residents: Residents, bystander: Balloon) -> None:
    answer = lower(residents.house, bystander, dry_run=True)
    assert "500 → 200" in answer["reason"]
    assert bystander.oom_score_adj == 500
    assert restore(residents.house, dry_run=True)["status"] == "skipped"
    assert not residents.house.journal.exists()


def test_a_score_that_somebody_changed_meanwhile_is_theirs(residents: Residents, bystander: Balloon) -> None:
    lower(residents.house, bystander)
    bystander.set_oom_score_adj(321)
    answer = restore(residents.house)
    assert (answer["status"], answer["result"]["left"]) == ("skipped", {"changed by somebody else": 1})
    assert bystander.oom_score_adj == 321


def test_a_process_that_ended_meanwhile_is_no_trouble(residents: Residents, bystander: Balloon) -> None:
    lower(residents.house, bystander)
    bystander.end()
    assert restore(residents.house)["result"]["left"] == {"it has ended": 1}
    assert not list(residents.house.journal.glob("*.oom"))


def test_with_nothing_to_put_back_the_step_is_skipped(residents: Residents) -> None:
    assert restore(residents.house)["status"] == "skipped"


def test_what_a_run_that_was_cut_off_left_behind_is_put_back_by_the_next(
    residents: Residents, bystander: Balloon
) -> None:
    """Else the lowered value would be taken for the old one."""
    lower(residents.house, bystander, action_id="a")
    other = residents.balloon("/system.slice/other.service")
    answer = lower(residents.house, other, action_id="b")
    assert bystander.oom_score_adj == 500
    assert answer["result"]["leftovers"][0]["pid"] == bystander.pid
    restore(residents.house)


def test_a_second_lowering_of_the_same_process_does_not_lose_its_old_value(
    residents: Residents, bystander: Balloon
) -> None:
    for action_id in "abc":
        lower(residents.house, bystander, action_id=action_id)
    assert bystander.oom_score_adj == 200
    restore(residents.house)
    assert bystander.oom_score_adj == 500


def test_the_old_value_is_noted_before_it_is_changed(
    residents: Residents, bystander: Balloon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it were killed in the instant before the change, and right after it."""

    class Killed(BaseException):
        pass

    def killed(folder: str, value: int) -> None:
        raise Killed

    monkeypatch.setattr(hostctl, "write_oom_score_adj", killed)
    with pytest.raises(Killed):
        lower(residents.house, bystander)
    monkeypatch.undo()
    assert restore(residents.house)["result"]["left"] == {"as before already": 1}
    lower(residents.house, bystander, action_id="b")
    residents.house.run("probe", args={"action_id": "b"})
    assert restore(residents.house, action_id="y")["status"] == "done"
    assert bystander.oom_score_adj == 500


def test_without_a_place_for_the_old_value_nothing_is_changed(residents: Residents, bystander: Balloon) -> None:
    house = residents.house
    for folder in (house.journal, house.memory):
        folder.mkdir(mode=0o700)
        (folder / "host.oom").symlink_to("/dev/null")
    assert lower(house, bystander)["status"] == "failed"
    assert bystander.oom_score_adj == 500


def test_one_of_the_two_ledgers_is_enough(residents: Residents, bystander: Balloon) -> None:
    lower(residents.house, bystander)
    [ledger] = residents.house.journal.glob("*.oom")
    ledger.unlink()
    assert restore(residents.house)["status"] == "done"
    assert bystander.oom_score_adj == 500


def test_a_ledger_from_before_the_last_boot_says_nothing_of_todays_processes(
    residents: Residents, bystander: Balloon
) -> None:
    lower(residents.house, bystander)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for ledger in residents.house.base.glob("*/*.oom"):
        ledger.write_text(ledger.read_text().replace(boot, "another"))
    assert restore(residents.house)["status"] == "skipped"
    assert bystander.oom_score_adj == 200


def test_a_torn_line_of_the_ledger_does_not_take_the_next_with_it(residents: Residents, bystander: Balloon) -> None:
    for folder in (residents.house.journal, residents.house.memory):
        folder.mkdir(mode=0o700)
        (folder / "host.oom").write_text('{"boot": "x", "proc')
    lower(residents.house, bystander)
    assert restore(residents.house)["status"] == "done"
    assert bystander.oom_score_adj == 500


def test_the_scope_is_part_of_the_request(house: House) -> None:
    assert house.run("adjust_oom_score", scope=HOST, action_id="a")["status"] == "refused"
