"""`manage.py drill` and `manage.py up` as a person runs them. Real: every process, PostgreSQL with a state folder of
own, the file system that fills up, HTTP. It takes as long as the story takes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from byteport import embedded

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 300  # longer than a drill has, which then says itself what it was waiting for


@pytest.fixture
def environment(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "BYTEPORT_"))}
    state = tmp_path / "state"
    yield {**env, "BYTEPORT_STATE_DIR": str(state)}
    shutil.rmtree(embedded.status(state).data.parent, ignore_errors=True)  # as root it lies outside


def manage(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "manage.py"), *arguments]


def drilled(environment, name: str) -> tuple[dict[str, Any], str]:
    """The summary of a drill that BytePort resolved, and what was said on the way."""
    subprocess.run(manage("migrate", "-v0"), env=environment, check=True, timeout=PATIENCE_S, cwd="/")
    done = subprocess.run(
        manage("drill", name, "--json"),
        env=environment, check=False, capture_output=True, text=True, timeout=PATIENCE_S, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    summary = json.loads(line)
    assert (summary["status"], summary["resolved_by"]) == ("resolved", "byteport")
    return summary, done.stderr


def volumes_of(drill_said: str) -> set[Path]:
    """Those that a drill says it has made; other tests have theirs on this host at the same time."""
    return {Path(found) for found in re.findall(r"(?m) at (/\S+)$", drill_said)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_drill_with_nothing_running_ends_resolved_and_leaves_nothing_behind(environment):
    summary, told = drilled(environment, "disk_pressure")
    assert summary["before_percent"] > 85
    assert summary["after_percent"] < 80
    assert {action["action"]: action["status"] for action in summary["actions"]} == {
        "host.journal_vacuum": "skipped",
        "host.delete_rotated_logs": "done",
        "host.container_prune": "skipped",
        "host.clear_tmp": "done",
    }
    [volume] = volumes_of(told)
    assert not volume.exists()
    assert left_running(environment) == []


def test_the_drill_of_memory_ends_resolved_and_leaves_no_process_behind(environment):
    summary, _ = drilled(environment, "memory_pressure")
    assert summary["before_percent"] > 90
    assert summary["after_percent"] < 85
    assert {action["action"]: action["status"] for action in summary["actions"]} == {
        "host.adjust_oom_score": "done",
        "host.restart_unit": "done",
        "host.restore_oom_score": "done",
    }
    assert left_running(environment) == []
    assert not [process for process in psutil.process_iter() if is_orphan_of_a_drill(process)]


def is_orphan_of_a_drill(process: psutil.Process) -> bool:
    """Whether it is the drill's service, of a parent that has ended."""
    try:
        return "leaky.py" in " ".join(process.cmdline()) and process.ppid() == 1
    except psutil.Error:
        return False


def test_the_drill_of_a_database_ends_resolved_and_keeps_the_work_of_one_session(environment):
    summary, _ = drilled(environment, "idle_in_transaction")
    assert summary["before"] == {"idle_sessions": 4, "committed_sales": 0}
    assert summary["after"] == {"idle_sessions": 0, "committed_sales": 1}
    assert [action["status"] for action in summary["actions"]] == ["done"]
    assert left_running(environment) == []


def test_up_answers_runs_its_first_drill_and_stops_with_nothing_left(environment):
    port = free_port()
    log = Path(environment["BYTEPORT_STATE_DIR"]).parent / "up.log"
    with log.open("w") as out:
        up = subprocess.Popen(manage("up", "--port", str(port)), env=environment, stdout=out, stderr=out, cwd="/")
        try:
            wait_for(lambda: answers(port))
            wait_for(lambda: "resolved by byteport" in log.read_text())
        finally:
            up.send_signal(signal.SIGINT)
            assert up.wait(PATIENCE_S) == 0, log.read_text()
    assert "first operator: operator" in log.read_text()
    assert left_running(environment) == []


def test_up_says_what_to_do_when_its_port_is_taken(environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            manage("up", "--port", str(port)), env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert 'another port: make run ARGS="--port 8001"' in done.stderr


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def wait_for(condition) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came to it"
        time.sleep(0.2)


def left_running(environment) -> list[str]:
    """Processes that still have our state folder in their environment."""
    mark = environment["BYTEPORT_STATE_DIR"]
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("BYTEPORT_STATE_DIR") == mark:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found
