"""A drill of memory, as hostctl sees it, and that its verbs reach nothing else there. Real: the drill's service, its
processes and their memory, its end and restart. The folders are temporary ones."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from byteport.drills import leaky
from runbooks import hostctl
from tests.runbooks.residents import CLEAN, Balloon
from tests.runbooks.test_hostctl import House

BUDGET = 32_000_000
SCOPE = {"kind": "drill", "id": "abcd1234"}


class Drill:
    """The drill's service in a folder of a house."""

    def __init__(self, house: House) -> None:
        self.house, self.folder = house, house.drills / "abcd1234"
        plan = leaky.Plan(budget_bytes=BUDGET, grows_to=0.95, growth_s=0.02, after=0.5)
        argv = [sys.executable, "-I", "-S", leaky.__file__, json.dumps(plan._asdict())]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, env=CLEAN)
        self.folder.mkdir(mode=0o700)
        (self.folder / "leaky.service").write_text("[Service]\nX-Byteport-Restart=safe\n")
        (self.folder / "steady.service").write_text("[Service]\n")
        self.mark(supervisor=[self.process.pid, self.started])
        wait_for(lambda: self.memory().get("percent", 0) > 90)

    @property
    def started(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()[19])

    def mark(self, **marker: Any) -> None:
        about = {"id": "abcd1234", "budget_bytes": BUDGET, **marker}
        (self.folder / ".byteport-drill").write_text(json.dumps(about))

    def run(self, verb: str, **request: Any) -> dict[str, Any]:
        return self.house.run(verb, scope=SCOPE, **request)

    def memory(self) -> dict[str, Any]:
        return self.run("memory")["result"]

    def consumer(self, name: str) -> dict[str, Any]:
        return next(one for one in self.run("consumers")["result"]["consumers"] if one["name"] == name)

    def restart(self, unit: str = "leaky.service", action_id: str = "r", **main: int) -> dict[str, Any]:
        found = {key: self.consumer("leaky.service")["main"][key] for key in ("pid", "started")}
        return self.run("restart_unit", action_id=action_id, args={"unit": unit, **found, **main})

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to it"
        time.sleep(0.02)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def drill(house: House) -> Iterator[Drill]:
    made = Drill(house)
    yield made
    made.end()


def test_its_memory_is_measured_against_its_budget(drill: Drill) -> None:
    memory = drill.memory()
    assert memory["total_bytes"] == BUDGET
    held = sum(one["rss_bytes"] for one in drill.run("consumers")["result"]["consumers"])
    assert memory["percent"] == pytest.approx(100 * held / BUDGET, abs=5)
    assert memory["swap_total_bytes"] == 0


def test_the_host_tells_of_it_with_who_holds_it_and_takes_it_for_no_disk(drill: Drill) -> None:
    [told] = drill.house.run("memory")["result"]["drills"]
    assert (told["drill"], told["total_bytes"]) == ("abcd1234", BUDGET)
    assert {one["name"] for one in told["consumers"]} == {"leaky.service", "steady.service"}
    assert not [one for one in drill.house.run("usage")["result"]["mounts"] if one["drill"]]
    assert drill.run("usage")["result"]["mounts"] == []


def test_its_leaking_unit_is_restarted_and_nothing_else(drill: Drill) -> None:
    noted = drill.house.program("systemctl", "")
    steady, before = drill.consumer("steady.service")["main"], drill.consumer("leaky.service")
    assert drill.restart()["status"] == "done"
    after = drill.consumer("leaky.service")
    assert after["main"]["pid"] != before["main"]["pid"]
    wait_for(lambda: drill.memory()["percent"] < 85)
    assert drill.consumer("steady.service")["main"]["pid"] == steady["pid"]
    assert not noted.exists(), "systemd has no part in it"


def test_its_bystander_is_protected_and_put_back(drill: Drill) -> None:
    steady = drill.consumer("steady.service")
    pair = [steady["main"]["pid"], steady["main"]["started"]]
    answer = drill.run("adjust_oom_score", action_id="a", args={"processes": [pair]})
    assert (answer["status"], drill.consumer("steady.service")["oom_score_adj"]) == ("done", 200)
    assert drill.house.run("restore_oom_score", action_id="b")["status"] == "skipped", "the host's scope is another"
    drill.run("restore_oom_score", action_id="c")
    assert drill.consumer("steady.service")["oom_score_adj"] == 500


def test_its_verbs_reach_no_process_outside(drill: Drill) -> None:
    outside = Balloon(1_000_000)
    outside.set_oom_score_adj(500)
    try:
        answer = drill.run("adjust_oom_score", action_id="a", args={"processes": [[outside.pid, outside.started]]})
        assert answer["result"]["left"] == {"it has ended": 1}
        answer = drill.restart(pid=outside.pid, started=outside.started)
        assert answer["status"] == "refused"
        assert (outside.process.poll(), outside.oom_score_adj) == (None, 500)
    finally:
        outside.end()


@pytest.mark.parametrize(
    "unit", ["sshd.service", "cron.service", "other.service", "steady.service", "../leaky.service"]
)
def test_no_other_unit_is_restarted(drill: Drill, unit: str) -> None:
    before = drill.consumer("leaky.service")["main"]["pid"]
    assert drill.restart(unit)["status"] == "refused"
    assert drill.consumer("leaky.service")["main"]["pid"] == before


def test_its_label_counts_at_the_moment_of_acting(drill: Drill) -> None:
    (drill.folder / "leaky.service").write_text("[Service]\n")
    assert "does not carry the label" in drill.restart()["reason"]


def test_it_has_neither_containers_nor_files(drill: Drill) -> None:
    args = {"runtime": "docker", "container": "a" * 64, "pid": 2, "started": 3}
    assert drill.run("restart_container", action_id="a", args=args)["status"] == "skipped"
    for verb in ("clear_tmp", "delete_rotated_logs", "journal_vacuum", "container_prune"):
        assert drill.run(verb, action_id=verb)["status"] == "skipped"


@pytest.mark.parametrize(
    "supervisor",
    [[1, 1], [0, 5], [-1, 5], ["2", 5], [True, 5], [2], [2, 5, 6], "2 5", {"pid": 2}, 7, [999_999_999, 5]],
)
def test_a_marker_without_a_living_supervisor_is_no_drill(drill: Drill, supervisor: object) -> None:
    drill.mark(supervisor=supervisor)
    for verb in ("memory", "consumers"):
        assert drill.run(verb)["status"] == "refused"
    assert drill.house.run("memory")["result"]["drills"] == []


def test_a_supervisor_whose_pid_another_has_by_now_is_none(drill: Drill) -> None:
    drill.mark(supervisor=[drill.process.pid, drill.started - 1])
    assert "has ended" in drill.run("memory")["reason"]


def test_a_drill_of_files_has_no_processes(house: House) -> None:
    house.drill()
    assert "has no processes" in house.run("consumers", scope=SCOPE)["reason"]
    assert house.run("memory", scope=SCOPE)["status"] == "refused"


def test_a_drill_that_has_ended_is_told_of_no_more(house: House) -> None:
    made = Drill(house)
    made.end()
    assert made.run("memory")["status"] == "refused"
    assert house.run("memory")["result"]["drills"] == []


def test_what_the_supervisor_started_ends_with_it(house: House) -> None:
    made = Drill(house)
    pids = [one["main"]["pid"] for one in made.run("consumers")["result"]["consumers"]]
    made.process.kill()
    made.process.wait()
    wait_for(lambda: not any(living(pid) for pid in pids))


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_the_scopes_kinds_are_still_two(house: House) -> None:
    assert house.run("memory", scope={"kind": "memory", "id": "abcd1234"})["status"] == "refused"
    assert hostctl.VERBS["restart_unit"].changes


def test_a_drill_that_goes_at_this_moment_is_left_out_of_the_hosts_memory(drill, monkeypatch):
    def gone(*_: Any) -> None:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(hostctl, "all_processes", gone)
    found = drill.house.run("memory")
    assert found["status"] == "done", found["reason"]
    assert found["result"]["drills"] == []
