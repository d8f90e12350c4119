"""hostctl: its requests, answers, verbs and journal of actions. (What it refuses: test_hostctl_refusals.py.)

Real: the files, /proc, the mounts (in a mount namespace of their own), the processes that are killed, and in
one test journalctl. Not real: docker, crictl and otherwise journalctl, which are stand-ins on PATH that note
how they were called.
"""

import ast
import base64
import contextlib
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runbooks import hostctl

SOURCE = Path(hostctl.__file__)
IS_ROOT = os.geteuid() == 0
DAY = 86_400
HOST = {"kind": "host"}


class House:
    """A host's folders in a temporary one, and `run` on them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log, self.tmp, self.etc = base / "var/log", base / "tmp", base / "etc/byteport"
        self.drills, self.journal, self.memory = base / "drill", base / "actions", base / "memory"
        self.bin = base / "bin"
        for folder in (self.log, self.tmp, self.etc, self.drills, self.bin):
            folder.mkdir(parents=True)
        self.roots = hostctl.Roots(
            log=str(self.log),
            tmp=str(self.tmp),
            annotations=str(self.etc / "annotations"),
            drills=str(self.drills),
            journals=(str(self.journal), str(self.memory)),
            programs=f"{self.bin}:/usr/bin:/bin",
        )

    def run(self, verb: str, **request: Any) -> dict[str, Any]:
        return hostctl.run({"verb": verb, "scope": HOST, **request}, self.roots)

    def file(self, path: str, days: float = 0, size: int = 5000) -> Path:
        made = self.base / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"x" * size)
        os.utime(made, (time.time() - days * DAY,) * 2)
        return made

    def program(self, name: str, script: str) -> Path:
        """A stand-in that notes its arguments and environment, then does as the script says."""
        path, noted = self.bin / name, self.base / f"{name}.calls"
        path.write_text(f'#!/bin/sh\necho "$*|$DOCKER_HOST|$LC_ALL" >> {noted}\n{script}\n')
        path.chmod(0o755)
        return noted

    def without_programs(self) -> None:
        self.roots = self.roots._replace(programs=str(self.bin))

    def drill(self, name: str = "abcd1234", budget: int | None = 100_000) -> Path:
        volume = self.drills / name
        for folder in ("var/log", "tmp", "etc/byteport"):
            (volume / folder).mkdir(parents=True)
        (volume / ".byteport-drill").write_text(json.dumps({"id": name, "budget_bytes": budget}))
        return volume


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def snapshot(base: Path) -> dict[str, tuple[Any, ...]]:
    return {
        str(path): (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_nlink)
        for path in sorted(base.rglob("*"))
        for found in [path.lstat()]
    }


def in_own_mounts(script: str, base: Path) -> dict[str, Any]:
    """What a script says; it has `house`, `hostctl` and `mount(*argv)`, and mounts that are nobody else's."""
    prelude = (
        "import json, os, subprocess, sys, pathlib\n"
        f"sys.path[:0] = [{str(SOURCE.parent.parent)!r}, {str(Path(__file__).parent)!r}]\n"
        "from runbooks import hostctl\n"
        "from test_hostctl import House\n"
        f"base = pathlib.Path({str(base)!r})\n"
        "house = House(base)\n"
        "def mount(*argv): subprocess.run(['mount', *map(str, argv)], check=True)\n"
        "def say(answer): print(json.dumps(answer)); sys.exit()\n"
    )
    unshare = ["unshare", "-m" if IS_ROOT else "-rm", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace of our own is allowed here")
    argv = [*unshare, sys.executable, "-c", prelude + script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def program(request: object, *argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The real program, as a transport starts it."""
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    command = [sys.executable, "-I", "-S", str(SOURCE), *argv]
    return subprocess.run(command, input=data, capture_output=True, check=False, **options)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------- the source


def test_it_is_python_3_8() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 8))


def test_it_runs_on_python_3_8() -> None:
    home = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for python in ("python3.8", *sorted(glob.glob(f"{home}/versions/3.8.*/bin/python"))):
        argv = [python, "-I", "-S", str(SOURCE)]
        request = json.dumps({"verb": "survey", "scope": HOST}).encode()
        with contextlib.suppress(OSError):
            done = subprocess.run(argv, input=request, capture_output=True, check=False)
            if b"pyenv" not in done.stderr:  # its shim is there also when the version is not
                assert json.loads(done.stdout)["status"] == "done", done.stderr
                return
    pytest.skip("there is no Python 3.8 here")


def test_it_imports_the_standard_library_only() -> None:
    imports = [
        node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names


def test_it_has_no_shell_and_removes_nothing_but_single_files() -> None:
    tree = ast.parse(SOURCE.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {
        "system",
        "popen",
        "rmtree",
        "rmdir",
        "removedirs",
        "remove_tree",
        "rename",
        "replace_file",
    }
    keywords = {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
    assert "shell" not in keywords


# --------------------------------------------------------------------------------------- requests and answers


@pytest.mark.parametrize(
    "request_",
    [
        [],
        "facts",
        {},
        {"verb": "rm", "scope": HOST},
        {"verb": ["facts"], "scope": HOST},
        {"verb": "facts"},
        {"verb": "facts", "scope": "host"},
        {"verb": "facts", "scope": {"kind": "host", "path": "/"}},
        {"verb": "facts", "scope": {"kind": "drill"}},
        {"verb": "facts", "scope": {"kind": "drill", "id": "../../.."}},
        {"verb": "facts", "scope": {"kind": "drill", "id": "abcd123\n"}},
        {"verb": "facts", "scope": {"kind": "drill", "id": ["abcd1234"]}},
        {"verb": "facts", "scope": HOST, "path": "/etc"},
        {"verb": "facts", "scope": HOST, "args": {"path": "/etc"}},
        {"verb": "facts", "scope": HOST, "args": None},
        {"verb": "probe", "scope": HOST},
        {"verb": "probe", "scope": HOST, "args": {"action_id": "a/b"}},
        {"verb": "clear_tmp", "scope": HOST},
        {"verb": "clear_tmp", "scope": HOST, "action_id": ""},
        {"verb": "clear_tmp", "scope": HOST, "action_id": "../x"},
        {"verb": "clear_tmp", "scope": HOST, "action_id": "x" * 81},
        {"verb": "clear_tmp", "scope": HOST, "action_id": "a", "dry_run": 1},
        {"verb": "clear_tmp", "scope": HOST, "action_id": "a", "args": {"hours": 0}},
    ],
)
def test_it_refuses_what_it_does_not_know(house: House, request_: object) -> None:
    house.file("tmp/old", days=9)
    before = snapshot(house.base)
    answer = hostctl.run(request_, house.roots)
    assert answer["status"] == "refused"
    assert answer["reason"]
    assert snapshot(house.base) == before


def test_action_ids_that_look_like_folders_are_just_names(house: House) -> None:
    for name in (".", "..", "...", "-rf"):
        assert house.run("clear_tmp", action_id=name)["status"] == "done"
        assert house.run("probe", args={"action_id": name})["result"]["state"] == "finished"
    assert len(list(house.journal.iterdir())) == 4


def test_the_program_answers_on_stdout_with_exit_code_0() -> None:
    done = program({"verb": "facts", "scope": HOST})
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["status"] == "done"
    assert answer["hostctl"] == hostctl.VERSION
    refused = program({"verb": "nonsense", "scope": HOST})
    assert refused.returncode == 0
    assert json.loads(refused.stdout)["status"] == "refused"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 60_000, b'{"verb":"' + b"x" * 70_000 + b'"}'])
def test_an_unreadable_request_ends_with_2_and_an_answer(raw: bytes) -> None:
    done = program(raw)
    assert done.returncode == 2
    assert json.loads(done.stdout)["status"] == "refused"


def test_it_can_be_piped_to_python_with_the_request_in_argv() -> None:
    request = base64.b64encode(json.dumps({"verb": "facts", "scope": HOST}).encode()).decode()
    argv = [sys.executable, "-I", "-S", "-", request]
    done = subprocess.run(argv, input=SOURCE.read_bytes(), capture_output=True, check=False)
    assert json.loads(done.stdout)["status"] == "done"
    done = subprocess.run([*argv[:-1], "no base64!"], input=SOURCE.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 2


def test_an_answer_stays_below_a_megabyte() -> None:
    answer = hostctl.bounded({"result": {"list": ["é" * 3000] * 5000, "short": [1]}})
    assert len(json.dumps(answer)) < 1_048_576
    assert answer["truncated"] is True
    assert answer["result"]["list"]
    assert "truncated" not in hostctl.bounded({"result": {"list": [1]}})


def test_names_that_are_no_utf8_survive_the_answer(house: House) -> None:
    for name in (b"bad\xff.gz", b"line\nbreak.gz", "é\u2028.gz".encode()):
        path = os.path.join(os.fsencode(house.log), name)
        with open(path, "wb"):
            pass
        os.utime(path, (0, 0))
    answer = json.dumps(house.run("delete_rotated_logs", action_id="a")).encode()
    assert sorted(json.loads(answer)["result"]["examples"]) == ["bad\\xff.gz", "line\nbreak.gz", "é\u2028.gz"]
    assert not list(house.log.iterdir())


# ------------------------------------------------------------------------------------------- facts and memory


def test_facts_are_those_of_this_host(house: House) -> None:
    house.program("docker", "")
    result = house.run("facts")["result"]
    assert result["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(time.time() - result["uptime_s"] - result["boot_time"]) < 5
    assert result["uid"] == os.geteuid()
    assert result["tools"]["docker"] is True
    assert result["tools"]["crictl"] is False


def test_memory_is_judged_by_what_is_available(house: House) -> None:
    result = house.run("memory")["result"]
    assert 0 < result["percent"] < 100
    assert result["percent"] == pytest.approx(100 * (1 - result["available_bytes"] / result["total_bytes"]))
    assert result["swap_total_bytes"] >= result["swap_free_bytes"]


def test_pressure_is_read_where_there_is_some() -> None:
    text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=2\n"
    expected = {"some_avg10": 1.5, "some_avg60": 0.25, "full_avg10": 0.0, "full_avg60": 0.1}
    assert hostctl.parse_pressure(text) == expected
    assert hostctl.parse_pressure("") is None


# ------------------------------------------------------------------------------------------------------ usage


def test_usage_is_what_df_says(house: House) -> None:
    result = house.run("usage")["result"]
    shown = {entry["mount"]: entry for entry in result["mounts"]}
    assert "/proc" not in shown
    df = subprocess.run(
        ["df", "-B1", "--output=target,size,used,avail", "/"], capture_output=True, text=True, check=True
    )
    target, size, used, avail = df.stdout.splitlines()[1].split()
    entry = shown[target]
    assert entry["total_bytes"] == int(size)
    assert entry["used_bytes"] == pytest.approx(int(used), rel=0.01)
    assert entry["percent"] == pytest.approx(100 * int(used) / (int(used) + int(avail)), abs=1)
    assert entry["drill"] is None


def test_mount_points_are_unescaped_and_split_at_line_ends_only() -> None:
    line = "36 35 98:0 /x /mnt/a\\040b\\011c\\134\u2028d rw,noatime shared:2 master:1 - ext3 /dev/a\\040b rw,x=y"
    [mount] = hostctl.parse_mounts(line + "\n\nnonsense\n")
    assert mount == hostctl.Mount(36, "98:0", "/mnt/a b\tc\\\u2028d", "ext3", "/dev/a b", False)
    assert hostctl.parse_mounts("1 0 8:1 / / ro - ext4 x rw")[0].read_only
    assert hostctl.parse_mounts("1 0 8:1 / / rw - ext4 x ro,data=y")[0].read_only


@pytest.mark.parametrize(
    ("kind", "point", "why"),
    [
        ("ext4", "/", ""),
        ("overlay", "/", ""),
        ("nfs4", "/mnt", ""),
        ("overlay", "/var/lib/docker/overlay2/x/merged", "a container's overlay"),
        ("tmpfs", "/run", "not a disk"),
        ("cgroup2", "/sys/fs/cgroup", "not a disk"),
        ("squashfs", "/snap/x/1", "not a disk"),
        ("fuse.lxcfs", "/var/lib/lxcfs", "not a disk"),
        ("autofs", "/net", "not a disk"),
        ("ext4", "/home/eve/.local/state/byteport/drill/abcd1234", "another BytePort's drill"),
        ("ext4", "/var/lib/byteport-agent/drill/abcd1234", "another BytePort's drill"),
    ],
)
def test_only_what_can_fill_up_is_a_disk(kind: str, point: str, why: str) -> None:
    assert hostctl.why_no_disk(hostctl.Mount(1, "8:1", point, kind, "x", False), set()) == why


def test_binds_files_hidden_mounts_and_memory_are_no_disks_of_their_own(tmp_path: Path) -> None:
    script = """
for name in ("bind", "hidden/below", "memory", "lower", "upper", "work", "overlay"):
    (base / name).mkdir(parents=True)
(base / "one").write_text("x")
(base / "two").write_text("y")
mount("--bind", base / "lower", base / "bind")
mount("--bind", base / "one", base / "two")
mount("-t", "tmpfs", "none", base / "memory")
mount("--bind", base / "lower", base / "hidden/below")
mount("-t", "tmpfs", "none", base / "hidden")
(base / "hidden/below").mkdir()
try:
    layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    mount("-t", "overlay", "overlay", "-o", layers, base / "overlay")
except subprocess.CalledProcessError:
    pass
say(house.run("usage"))
"""
    result = in_own_mounts(script, tmp_path)["result"]
    assert not [entry for entry in result["mounts"] if str(tmp_path) in entry["mount"]]
    assert result["excluded"]["hidden, or a file"] == 2
    assert result["excluded"]["the same file system"] >= 1


@pytest.mark.skipif(not IS_ROOT or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse")
def test_a_file_system_that_never_answers_is_reported_and_holds_up_nothing(tmp_path: Path) -> None:
    """A real FUSE mount whose server does not answer, as a network file system with its server gone."""
    script = """
hang = base / "hang"
hang.mkdir()
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
argv = ["mount", "-i", "-t", "fuse", "-o", options, "hang", str(hang)]
subprocess.run(argv, check=True, pass_fds=[fuse])
hostctl.STATVFS_S = 0.5
answer = house.run("usage")
os.close(fuse)
say(answer)
"""
    began = time.monotonic()
    entries = {entry["mount"]: entry for entry in in_own_mounts(script, tmp_path)["result"]["mounts"]}
    assert entries[str(tmp_path / "hang")]["error"] == "did not answer within 0.5 s"
    assert entries["/"]["percent"] > 0
    assert time.monotonic() - began < 10


# ----------------------------------------------------------------------------------------------------- drills


def test_a_drill_volume_with_a_budget_is_measured_against_it(house: House) -> None:
    volume = house.drill(budget=100_000)
    house.file("drill/abcd1234/var/log/big.1.gz", days=9, size=90_000 - 46)
    for request in ({"scope": HOST}, {"scope": {"kind": "drill", "id": "abcd1234"}}):
        [entry] = [entry for entry in house.run("usage", **request)["result"]["mounts"] if entry["drill"]]
        assert entry["drill"] == "abcd1234"
        assert entry["mount"] == str(volume)
        assert entry["percent"] == pytest.approx(90, abs=0.1)
    only = house.run("usage", scope={"kind": "drill", "id": "abcd1234"})["result"]["mounts"]
    assert len(only) == 1


def test_a_drill_cleans_its_own_volume_and_nothing_else(house: House) -> None:
    house.drill()
    inside = [house.file(f"drill/abcd1234/{name}", days=9) for name in ("var/log/a.gz", "tmp/b")]
    outside = [house.file(name, days=9) for name in ("var/log/a.gz", "tmp/b")]
    scope = {"kind": "drill", "id": "abcd1234"}
    assert house.run("delete_rotated_logs", scope=scope, action_id="a")["result"]["deleted"]["files"] == 1
    assert house.run("clear_tmp", scope=scope, action_id="b")["result"]["deleted"]["files"] == 1
    assert house.run("journal_vacuum", scope=scope, action_id="c")["status"] == "skipped"
    assert house.run("container_prune", scope=scope, action_id="d")["status"] == "skipped"
    assert not any(path.exists() for path in inside)
    assert all(path.exists() for path in outside)


def test_a_drill_has_annotations_of_its_own(house: House) -> None:
    volume = house.drill()
    (volume / "etc/byteport/annotations").write_text("byteport.io/auto-remediate: disk\n")
    assert house.run("annotations", scope={"kind": "drill", "id": "abcd1234"})["result"]["words"] == ["disk"]
    assert house.run("annotations")["result"]["words"] == []


def not_there(house: House) -> None:
    shutil.rmtree(house.drills / "abcd1234")


def is_a_link(house: House) -> None:
    (house.drills / "abcd1234").rename(house.base / "elsewhere")
    (house.drills / "abcd1234").symlink_to(house.base / "elsewhere")


def others_may_write_it(house: House) -> None:
    (house.drills / "abcd1234").chmod(0o777)


def others_may_write_the_base(house: House) -> None:
    house.drills.chmod(0o777)


def others_may_write_the_marker(house: House) -> None:
    (house.drills / "abcd1234/.byteport-drill").chmod(0o666)


def the_marker_is_a_link(house: House) -> None:
    marker = house.drills / "abcd1234/.byteport-drill"
    marker.rename(house.base / "marker")
    marker.symlink_to(house.base / "marker")


def the_marker_is_a_fifo(house: House) -> None:
    marker = house.drills / "abcd1234/.byteport-drill"
    marker.unlink()
    os.mkfifo(marker)


def the_marker_is(text: str) -> Callable[[House], None]:
    def write(house: House) -> None:
        (house.drills / "abcd1234/.byteport-drill").write_text(text)

    return write


@pytest.mark.parametrize(
    "spoil",
    [
        not_there,
        is_a_link,
        others_may_write_it,
        others_may_write_the_base,
        others_may_write_the_marker,
        the_marker_is_a_link,
        the_marker_is_a_fifo,
        the_marker_is(""),
        the_marker_is("[]"),
        the_marker_is('{"id": "other000", "budget_bytes": 5}'),
        the_marker_is('{"id": "abcd1234"}'),
        the_marker_is('{"id": "abcd1234", "budget_bytes": null}'),
        the_marker_is('{"id": "abcd1234", "budget_bytes": true}'),
        the_marker_is('{"id": "abcd1234", "budget_bytes": 0}'),
        the_marker_is(" " * 70_000),
    ],
)
def test_a_volume_that_is_not_beyond_doubt_ours_is_no_drill(house: House, spoil: Callable[[House], None]) -> None:
    house.drill()
    house.file("drill/abcd1234/tmp/old", days=9)
    spoil(house)
    before = snapshot(house.base)
    scope = {"kind": "drill", "id": "abcd1234"}
    assert house.run("clear_tmp", scope=scope, action_id="a")["status"] == "refused"
    assert not [entry for entry in house.run("usage")["result"]["mounts"] if entry["drill"]]
    assert snapshot(house.base) == before


def test_a_budget_that_cannot_be_measured_in_full_is_unknown_and_not_low(house: House) -> None:
    volume = house.drill()
    volume.joinpath(*"d" * 70).mkdir(parents=True)
    entry = house.run("usage", scope={"kind": "drill", "id": "abcd1234"})["result"]["mounts"][0]
    assert entry["error"] == "not all could be measured: too deep"
    assert "percent" not in entry


@pytest.mark.skipif(not IS_ROOT or not shutil.which("mkfs.ext4"), reason="needs root and mkfs.ext4")
def test_a_mounted_drill_is_one_entry_and_is_cleaned_for_real(tmp_path: Path) -> None:
    script = """
(base / "image").touch()
os.truncate(base / "image", 16 << 20)
subprocess.run(["mkfs.ext4", "-qF", str(base / "image")], check=True)
volume = house.drills / "abcd1234"
volume.mkdir()
mount("-o", "loop", base / "image", volume)
house.drills.joinpath("abcd1234/.byteport-drill").write_text('{"id": "abcd1234", "budget_bytes": null}')
old = house.file("drill/abcd1234/var/log/old.gz", days=9, size=8 << 20)
scope = {"kind": "drill", "id": "abcd1234"}
def percents(**request):
    return [entry["percent"] for entry in house.run("usage", **request)["result"]["mounts"] if entry["drill"]]
before = percents()
done = house.run("delete_rotated_logs", scope=scope, action_id="a")
after = percents(scope=scope)
(volume / "tmp").mkdir()
mount("--bind", base / "etc", volume / "tmp")
refused = house.run("clear_tmp", scope=scope, action_id="b")
subprocess.run(["umount", str(volume / "tmp")])
subprocess.run(["umount", str(volume)])
gone = house.run("clear_tmp", scope=scope, action_id="c")
say({"before": before, "done": done, "after": after, "refused": refused, "gone": gone})
"""
    result = in_own_mounts(script, tmp_path)
    assert len(result["before"]) == len(result["after"]) == 1
    assert result["before"][0] > 50 > result["after"][0]
    assert result["done"]["result"]["deleted"]["files"] == 1
    assert result["refused"]["status"] == "refused"
    assert "mounted" in result["refused"]["reason"]
    assert result["gone"]["status"] == "refused"


# ------------------------------------------------------------------------------------------------ annotations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("byteport.io/auto-remediate: disk, Memory\n", ["disk", "memory"]),
        ("byteport.io/auto-remediate=disk", ["disk"]),
        ('# a comment\r\n\r\nteam: web # them\r\nbyteport.io/auto-remediate = "disk" # yes\r\n', ["disk"]),
        ("byteport.io/auto-remediate: off", []),
        ("byteport.io/auto-remediate: disk, OFF", []),
        ("byteport.io/auto-remediate:", []),
        ("other: disk", []),
        ("", []),
    ],
)
def test_annotations_are_read_live(house: House, text: str, words: list[str]) -> None:
    (house.etc / "annotations").write_text(text, newline="")
    answer = house.run("annotations")
    assert answer["status"] == "done"
    assert answer["result"]["present"] is True
    assert answer["result"]["words"] == words


def test_no_annotations_opt_in_to_nothing(house: House) -> None:
    expected = {"present": False, "annotations": {}, "words": []}
    assert house.run("annotations")["result"] == expected
    house.etc.rmdir()
    assert house.run("annotations")["result"] == expected


def test_annotations_that_another_could_have_written_are_refused(house: House) -> None:
    file = house.etc / "annotations"
    file.write_text("byteport.io/auto-remediate: disk")
    for path, mode in ((file, 0o664), (file, 0o602), (house.etc, 0o777)):
        usual = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        answer = house.run("annotations")
        assert answer["status"] == "refused"
        assert answer["result"] == {"present": True, "annotations": {}, "words": []}
        path.chmod(usual)
    assert house.run("annotations")["result"]["words"] == ["disk"]
    if IS_ROOT:
        os.chown(file, 65534, 65534)
        assert house.run("annotations")["status"] == "refused"


@pytest.mark.parametrize(
    "text",
    [
        b"byteport.io/auto-remediate: disk\nbyteport.io/auto-remediate: off\n",
        b"a: 1\na: 1\n",
        b"just words\n",
        b"\xff: x\n",
        b"# " + b"x" * 70_000,
    ],
)
def test_ambiguous_annotations_are_refused(house: House, text: bytes) -> None:
    (house.etc / "annotations").write_bytes(text)
    answer = house.run("annotations")
    assert answer["status"] == "refused"
    assert answer["result"]["words"] == []


def test_annotations_behind_a_link_or_no_regular_file_are_refused(house: House) -> None:
    real = house.file("elsewhere")
    file = house.etc / "annotations"
    file.symlink_to(real)
    assert house.run("annotations")["status"] == "refused"
    file.unlink()
    os.mkfifo(file)
    assert house.run("annotations")["status"] == "refused"
    file.unlink()
    file.mkdir()
    assert house.run("annotations")["status"] in ("refused", "failed")
    shutil.rmtree(house.etc)
    house.etc.symlink_to(house.base)
    assert house.run("annotations")["status"] == "refused"


# ----------------------------------------------------------------------------------------------------- survey


def test_the_survey_says_what_a_clean_up_would_find_and_changes_nothing(house: House) -> None:
    house.program("journalctl", 'echo "Archived and active journals take up 1.5G in the file system."')
    house.file("var/log/old.1.gz", days=9)
    house.file("var/log/app/huge.log", size=300_000)
    house.file("tmp/old", days=3)
    before = snapshot(house.base)
    result = house.run("survey")["result"]
    assert result["journal"] == {"bytes": int(1.5 * 1024**3), "reason": ""}
    assert result["rotated_logs"]["found"]["files"] == 1
    assert result["tmp"]["found"] == {"files": 1, "bytes": result["tmp"]["found"]["bytes"]}
    assert result["biggest_files"][0]["path"] == "app/huge.log"
    assert result["biggest_folders"] == [{"path": "app", "bytes": result["biggest_files"][0]["bytes"]}]
    assert result["cut"] == []
    after = snapshot(house.base)
    del after[str(house.base / "journalctl.calls")]
    assert after == before


def test_the_survey_finds_files_that_are_deleted_but_held_open(house: House) -> None:
    path = house.file("var/log/held.log", size=3_000_000)
    with path.open():
        path.unlink()
        found = house.run("survey")["result"]["deleted_open"]
        [holder] = [entry for entry in found["top"] if entry["path"] == str(path)]
        assert holder["pid"] == os.getpid()
        assert holder["comm"]
        assert found["bytes"] >= holder["bytes"] >= 3_000_000


def test_the_survey_goes_on_where_a_part_cannot_be_had(house: House) -> None:
    house.without_programs()
    shutil.rmtree(house.log)
    result = house.run("survey")["result"]
    assert result["journal"]["bytes"] is None
    assert "not installed" in result["journal"]["reason"]
    assert "there is no" in result["rotated_logs"]["reason"]
    assert result["tmp"]["found"]["files"] == 0
    assert result["runtime"] is None


# --------------------------------------------------------------------------------------------- journal_vacuum


def test_the_journal_is_vacuumed_to_50_mb(house: House) -> None:
    noted = house.program(
        "journalctl",
        'case "$*" in\n'
        '--disk-usage) echo "Archived and active journals take up 250.0M in the file system.";;\n'
        '*) echo "Vacuuming done, freed 104.0M of archived journals from /var/log/journal/x." >&2\n'
        '   echo "Vacuuming done, freed 1.5K of archived journals from /run/log/journal." >&2;; esac',
    )
    dry = house.run("journal_vacuum", dry_run=True, action_id="a")
    assert dry["result"] == {"usage_bytes": 250 << 20, "freed_bytes": 200 << 20}
    assert noted.read_text() == "--disk-usage||C\n".replace("||", "|unix:///var/run/docker.sock|")
    answer = house.run("journal_vacuum", action_id="a")
    assert answer["status"] == "done"
    assert answer["result"]["freed_bytes"] == (104 << 20) + 1536
    assert noted.read_text().splitlines()[-1].startswith("--vacuum-size=50M|")


def test_the_real_journalctl_takes_the_size_that_we_give_it(tmp_path: Path) -> None:
    """It refuses "50MB", as the mission's page writes it: its units are K, M, G, T."""
    journalctl = shutil.which("journalctl")
    if journalctl is None:
        pytest.skip("there is no journalctl here")
    for size, code in (("50M", 0), ("50MB", 1)):
        argv = [journalctl, "-D", str(tmp_path), f"--vacuum-size={size}"]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == code


def test_without_journalctl_the_step_is_skipped(house: House) -> None:
    house.without_programs()
    answer = house.run("journal_vacuum", action_id="a")
    assert (answer["status"], answer["reason"]) == ("skipped", "journalctl is not installed here")


def test_a_failing_journalctl_is_a_failed_step_with_its_last_words(house: House) -> None:
    house.program("journalctl", "echo first >&2; echo 'No space left on device' >&2; exit 3")
    answer = house.run("journal_vacuum", action_id="a")
    assert answer["status"] == "failed"
    assert answer["reason"].endswith("ended with 3: No space left on device")


# -------------------------------------------------------------------------------------------- container_prune

DF = '{"Type":"Images","Reclaimable":"1.5GB (50%)"}\n{"Type":"Local Volumes","Reclaimable":"9GB (100%)"}\n'
DF += '{"Type":"Build Cache","Reclaimable":"2.5kB"}'


def test_docker_is_pruned_without_volumes_and_on_this_host_only(house: House) -> None:
    noted = house.program("docker", "echo 'Total reclaimed space: 1.25GB'")
    answer = house.run("container_prune", action_id="a")
    assert answer["result"] == {"runtime": "docker", "reclaimed_bytes": 1_250_000_000, "images": None}
    calls = noted.read_text().splitlines()
    assert calls[-1] == "system prune -af|unix:///var/run/docker.sock|C"
    assert "volume" not in noted.read_text()


def test_a_dry_prune_only_asks(house: House) -> None:
    noted = house.program("docker", f"cat <<'END'\n{DF}\nEND")
    answer = house.run("container_prune", action_id="a", dry_run=True)
    assert answer["result"]["reclaimed_bytes"] == 1_500_002_500
    assert "prune" not in noted.read_text()


@pytest.mark.parametrize("text", ["no table", "[]", '{"Type": 1}', '{"Type":"Images","Reclaimable":null}'])
def test_a_dry_prune_that_cannot_be_read_fails(house: House, text: str) -> None:
    house.program("docker", f"cat <<'END'\n{text}\nEND")
    assert house.run("container_prune", dry_run=True, action_id="a")["status"] == "failed"


def test_a_docker_without_its_daemon_is_a_failed_step(house: House) -> None:
    house.program("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    answer = house.run("container_prune", action_id="a")
    assert answer["status"] == "failed"
    assert "Cannot connect" in answer["reason"]


def test_where_containerd_is_the_runtime_its_images_are_pruned(house: House) -> None:
    house.program("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    noted = house.program("crictl", "echo 'Deleted: a/b:1'; echo 'Deleted: c/d:2'")
    answer = house.run("container_prune", action_id="a")
    assert answer["result"] == {"runtime": "crictl", "reclaimed_bytes": None, "images": 2}
    assert noted.read_text().startswith("--timeout=60s rmi --prune|")
    house.program("crictl", 'echo \'{"images":[{"size":"100"},{"size":"20"}]}\'')
    dry = house.run("container_prune", action_id="b", dry_run=True)
    assert dry["result"] == {"runtime": "crictl", "reclaimed_bytes": 120, "images": 2}


IMAGE_FS = '{"status":{"imageFilesystems":[{"fsId":{"mountpoint":"%s"},"usedBytes":{"value":"9"}}]}}'


def test_the_survey_says_whose_images_there_are_and_where(house: House) -> None:
    house.without_programs()
    assert house.run("survey")["result"]["runtime_folder"] is None
    house.program("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    house.program("crictl", f"echo '{IMAGE_FS % '/data/containerd/snapshots'}'")
    found = house.run("survey")["result"]
    assert (found["runtime"], found["runtime_folder"]) == ("crictl", "/data/containerd/snapshots")
    house.program("crictl", "echo '{}'")
    assert house.run("survey")["result"]["runtime_folder"] == "/var/lib/containerd"
    house.program("docker", "echo /srv/docker")
    found = house.run("survey")["result"]
    assert (found["runtime"], found["runtime_folder"]) == ("docker", "/srv/docker")


def test_the_survey_says_on_which_mount_each_step_frees_space(tmp_path: Path) -> None:
    script = """
logs = base / 'logs'
logs.mkdir()
mount('-t', 'tmpfs', 'none', house.tmp)
mount('--bind', house.log, logs)
before = house.run('survey')['result']['lies_on']
house.program('docker', f'echo {house.tmp}/images/not/made/yet')
say([before, house.run('survey')['result']['lies_on'], str(house.tmp)])
"""
    before, after, tmp = in_own_mounts(script, tmp_path)
    assert before["tmp"] == tmp
    assert before["containers"] is None
    assert before["rotated_logs"] == before["journal"] != tmp, "a bind mount is the same file system"
    assert after["containers"] == tmp


def test_without_a_runtime_the_step_is_skipped(house: House) -> None:
    house.without_programs()
    answer = house.run("container_prune", action_id="a")
    assert answer["status"] == "skipped"
    assert "neither docker nor crictl" in answer["reason"]


def test_a_program_that_does_not_end_is_killed_with_its_children(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostctl, "ASK_S", 0.3)
    house.program("docker", f"sleep 60 & echo $! > {house.base}/child\nwait")
    began = time.monotonic()
    answer = house.run("container_prune", action_id="a")
    assert time.monotonic() - began < 5
    assert answer["status"] == "failed"
    assert "did not end within" in answer["reason"]
    child = Path("/proc") / (house.base / "child").read_text().strip() / "stat"
    wait_for(lambda: not child.exists() or child.read_text().split()[2] == "Z")


# --------------------------------------------------------------------------------------------------- deletion


def test_rotated_logs_of_seven_days_go_and_the_rest_stays(house: House) -> None:
    old = [house.file(f"var/log/{name}", days=8) for name in ("a.1.gz", "nginx/deep/b.gz")]
    kept = [
        house.file("var/log/young.gz", days=6.9),
        house.file("var/log/old.log", days=99),
        house.file("x.gz", days=9),
    ]
    answer = house.run("delete_rotated_logs", action_id="a")
    result = answer["result"]
    assert result["found"] == result["deleted"] == {"files": 2, "bytes": 2 * 8192}
    assert sorted(result["examples"]) == ["a.1.gz", "nginx/deep/b.gz"]
    assert result["left"] == {"too young": 1}
    assert result["folder"] == str(house.log)
    assert answer["reason"] == "deleted 2 of 2 files, 0.0 MB"
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)


def test_tmp_files_unused_for_48_hours_go_and_folders_stay(house: House) -> None:
    old = [house.file("tmp/a", days=2.1), house.file("tmp/folder/b", days=30)]
    read_lately = house.file("tmp/read")
    os.utime(read_lately, (time.time() - DAY, time.time() - 90 * DAY))
    written_lately = house.file("tmp/written")
    os.utime(written_lately, (time.time() - 90 * DAY, time.time() - DAY))
    result = house.run("clear_tmp", action_id="a")["result"]
    assert result["deleted"]["files"] == 2
    assert result["left"] == {"too young": 2}
    assert not any(path.exists() for path in old)
    assert (house.tmp / "folder").is_dir()
    assert read_lately.exists()
    assert written_lately.exists()


def test_nothing_to_do_is_done(house: House) -> None:
    answer = house.run("clear_tmp", action_id="a")
    assert answer["status"] == "done"
    assert answer["result"]["found"] == answer["result"]["deleted"] == {"files": 0, "bytes": 0}


def test_a_missing_folder_is_a_skipped_step(house: House) -> None:
    house.tmp.rmdir()
    assert house.run("clear_tmp", action_id="a")["status"] == "skipped"


@pytest.mark.parametrize("verb", [name for name, verb in hostctl.VERBS.items() if verb.changes])
def test_a_dry_run_needs_no_action_id_and_leaves_no_record(house: House, verb: str) -> None:
    house.without_programs()
    args = dict.fromkeys(hostctl.VERBS[verb].args)
    answer = house.run(verb, action_id=None, dry_run=True, args=args)
    assert answer["status"] == "refused" if args else answer["status"] in ("done", "skipped")
    assert not house.journal.exists()
    assert not house.memory.exists()


def test_a_dry_run_changes_nothing_and_counts_what_the_real_one_then_does(house: House) -> None:
    for number in range(5):
        house.file(f"tmp/{number}/old", days=3)
    before = snapshot(house.base)
    dry = house.run("clear_tmp", action_id="a", dry_run=True)
    assert snapshot(house.base) == before
    assert dry["result"]["deleted"]["files"] == 0
    assert dry["reason"].startswith("would delete 5 of 5 files")
    assert house.run("probe", args={"action_id": "a"})["result"]["state"] == "absent"
    assert house.run("clear_tmp", action_id="a")["result"]["deleted"] == dry["result"]["would_delete"]


# ----------------------------------------------------------------------------------------- journal of actions


def test_the_same_action_id_is_never_run_again(house: House) -> None:
    house.file("tmp/a", days=3)
    first = house.run("clear_tmp", action_id="id:1.x-y_Z")
    assert first["result"]["deleted"]["files"] == 1
    again = house.file("tmp/b", days=3)
    assert house.run("clear_tmp", action_id="id:1.x-y_Z") == {**first, "replayed": True}
    assert again.exists()
    probe = house.run("probe", args={"action_id": "id:1.x-y_Z"})["result"]
    assert probe["state"] == "finished"
    assert probe["answer"] == first
    assert probe["verb"] == "clear_tmp"
    assert abs(probe["begun_at"] - time.time()) < 60
    assert probe["boot_time"] == hostctl.boot_time()


def test_an_action_id_stands_for_one_action(house: House) -> None:
    house.run("clear_tmp", action_id="a")
    answer = house.run("delete_rotated_logs", action_id="a")
    assert (answer["status"], answer["reason"]) == ("refused", "this action id stands for another action")


def test_skipped_and_failed_steps_are_recorded_too(house: House) -> None:
    house.without_programs()
    house.run("journal_vacuum", action_id="a")
    assert house.run("probe", args={"action_id": "a"})["result"]["answer"]["status"] == "skipped"
    assert house.run("journal_vacuum", action_id="a")["replayed"] is True


def test_an_unknown_action_is_absent(house: House) -> None:
    result = house.run("probe", args={"action_id": "never"})["result"]
    assert result["state"] == "absent"
    assert result["answer"] is None
    assert not house.journal.exists()


def start(house: House, verb: str, action_id: str) -> subprocess.Popen[str]:
    """`run` on the house's folders, in a process of its own."""
    code = (
        f"import json, sys; sys.path.insert(0, {str(SOURCE.parent.parent)!r})\n"
        "from runbooks import hostctl\n"
        f"roots = hostctl.Roots(*{tuple(house.roots)!r})\n"
        f"request = {{'verb': {verb!r}, 'scope': {{'kind': 'host'}}, 'action_id': {action_id!r}}}\n"
        "sys.stdin.readline()\n"
        "print(json.dumps(hostctl.run(request, roots)))\n"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)


def test_of_many_at_once_one_runs(house: House) -> None:
    noted = house.program("docker", "sleep 0.3; echo 'Total reclaimed space: 1GB'")
    running = [start(house, "container_prune", "a") for _ in range(6)]
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in running]
    assert noted.read_text().count("prune") == 1
    assert [answer["status"] for answer in answers].count("done") >= 1
    assert {answer["reason"] for answer in answers if answer["status"] != "done"} <= {"running"}
    assert [answer for answer in answers if answer["status"] == "done" and "replayed" not in answer]


def test_a_killed_run_is_running_while_its_program_works_on_and_then_interrupted(house: House) -> None:
    noted = house.program("docker", f"echo $$ > {house.base}/pid; sleep 30")
    process = start(house, "container_prune", "a")
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(lambda: noted.exists() and (house.base / "pid").exists())

    def state() -> str:
        return house.run("probe", args={"action_id": "a"})["result"]["state"]

    assert state() == "running"
    process.kill()
    process.communicate()
    assert state() == "running"
    assert house.run("container_prune", action_id="a")["reason"] == "running"
    os.killpg(int((house.base / "pid").read_text()), signal.SIGKILL)
    wait_for(lambda: state() == "interrupted")
    answer = house.run("container_prune", action_id="a")
    assert (answer["status"], answer["reason"]) == ("refused", "interrupted")
    assert len(noted.read_text().splitlines()) == 1


def test_a_torn_end_is_no_end(house: House) -> None:
    house.run("clear_tmp", action_id="a")
    for folder in (house.journal, house.memory):
        record = folder / "a.action"
        record.write_bytes(record.read_bytes()[:-10])
    assert house.run("probe", args={"action_id": "a"})["result"]["state"] == "interrupted"


def test_one_of_the_two_records_is_enough(house: House) -> None:
    house.run("clear_tmp", action_id="a")
    for folder in (house.journal, house.memory):
        record = folder / "a.action"
        kept = record.read_bytes()
        record.unlink()
        assert house.run("clear_tmp", action_id="a")["replayed"] is True
        record.write_bytes(kept)


def test_a_run_that_finds_the_other_folder_taken_takes_its_own_record_back(house: House) -> None:
    """The disk was full for the first run and is not for the second: only the folder in memory decides."""
    first = hostctl.ActionLog((str(house.memory),))
    held = first.claim("a", {"request": ["clear_tmp", None, {}]})
    both = hostctl.ActionLog(house.roots.journals)
    with pytest.raises(FileExistsError):
        both.claim("a", {"request": ["clear_tmp", None, {}]})
    assert not list(house.journal.iterdir())
    assert house.run("clear_tmp", action_id="a")["reason"] == "running"
    first.finish(held, {"status": "done"})
    assert house.run("clear_tmp", action_id="a") == {"status": "done", "replayed": True}


def test_a_journal_folder_that_others_could_write_is_not_used(house: House) -> None:
    house.memory.mkdir()
    house.memory.chmod(0o777)
    house.journal.symlink_to(house.tmp)
    answer = house.run("clear_tmp", action_id="a")
    assert answer["status"] == "refused"
    assert answer["reason"].startswith("no place for the journal of actions")
    assert not list(house.memory.iterdir())
    assert not list(house.tmp.iterdir())


def test_old_records_are_pruned(house: House) -> None:
    house.run("clear_tmp", action_id="old")
    house.run("clear_tmp", action_id="young")
    for name, days in (("old", 31), ("young", 29)):
        os.utime(house.journal / f"{name}.action", (time.time() - days * DAY,) * 2)
    house.run("clear_tmp", action_id="new")
    assert sorted(path.name for path in house.journal.iterdir()) == ["new.action", "young.action"]


def test_a_full_disk_has_the_record_in_memory_and_still_runs_once(tmp_path: Path) -> None:
    script = """
house.journal.mkdir(mode=0o700)
mount("-t", "tmpfs", "-o", "size=4k,mode=700", "full", house.journal)
try:
    (house.journal / "ballast").write_bytes(b"x" * 100_000)
except OSError:
    pass
house.file("tmp/a", days=3)
first = house.run("clear_tmp", action_id="a")
left = house.file("tmp/b", days=3)
records = sorted(path.name for path in house.memory.iterdir())
(house.journal / "ballast").unlink()
say([first, house.run("clear_tmp", action_id="a"), left.exists(), records])
"""
    first, second, is_left, records = in_own_mounts(script, tmp_path)
    assert first["result"]["deleted"]["files"] == 1
    assert second == {**first, "replayed": True}
    assert is_left
    assert records == ["a.action"]


def test_a_read_only_disk_has_the_record_in_memory_and_is_still_read(tmp_path: Path) -> None:
    script = """
house.journal.mkdir(mode=0o700)
mount("-t", "tmpfs", "-o", "mode=700", "disk", house.journal)
before = house.run("clear_tmp", action_id="before")
(house.memory / "before.action").unlink()  # as a reboot does
mount("-o", "remount,ro", house.journal)
left = house.file("tmp/a", days=3)
again = house.run("clear_tmp", action_id="before")
is_left = left.exists()
first = house.run("clear_tmp", action_id="a")
house.memory.chmod(0o755)
say([before, again, is_left, first, house.run("clear_tmp", action_id="b")])
"""
    before, again, is_left, first, second = in_own_mounts(script, tmp_path)
    assert again == {**before, "replayed": True}
    assert is_left
    assert first["status"] == "done"
    assert second["status"] == "refused"
    assert "Read-only file system" in second["reason"]


# -------------------------------------------------------------------------------------- the program as a user


@pytest.fixture
def users_home() -> Iterator[Path]:
    """A home that an unprivileged user can reach, which a folder of pytest's is not when root runs it."""
    with tempfile.TemporaryDirectory(prefix="byteport-home-") as name:
        yield Path(name)
    uid = 65534 if IS_ROOT else os.geteuid()
    for folder in (Path(f"/run/user/{uid}/byteport-actions"), Path(f"/dev/shm/byteport-{uid}")):
        for record in folder.glob("test-hostctl-*.action"):
            record.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def as_user(home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The program as the user nobody when we are root, else as ourselves; piped, as over SSH."""
    python, options = sys.executable, {}
    if IS_ROOT:
        python, options = "/usr/bin/python3", {"user": 65534, "group": 65534, "extra_groups": []}
        if not Path(python).exists():
            pytest.skip("there is no Python that the user nobody could run")
    argv = [python, "-I", "-S", "-", base64.b64encode(json.dumps(request).encode()).decode()]
    env = {"HOME": str(home), "BYTEPORT_HOSTCTL_PATH": "/nonexistent"}
    done = subprocess.run(argv, input=SOURCE.read_bytes(), capture_output=True, check=True, env=env, cwd="/", **options)
    return json.loads(done.stdout)


def users_own(home: Path) -> None:
    if IS_ROOT:
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)


def test_a_user_drills_in_their_own_home(users_home: Path) -> None:
    volume = users_home / ".local/state/byteport/drill/abcd1234"
    (volume / "tmp/locked").mkdir(parents=True)
    (volume / ".byteport-drill").write_text('{"id": "abcd1234", "budget_bytes": 9999}')
    for name in ("old", "locked/old"):
        (volume / "tmp" / name).write_text("x")
        os.utime(volume / "tmp" / name, (0, 0))
    users_own(users_home)
    (volume / "tmp/locked").chmod(0)
    scope = {"kind": "drill", "id": "abcd1234"}
    request = {"verb": "clear_tmp", "scope": scope, "action_id": f"test-hostctl-{os.urandom(8).hex()}"}
    answer = as_user(users_home, request)
    assert answer["status"] == "done"
    assert answer["result"]["deleted"]["files"] == 1
    assert answer["result"]["errors"] == {"EACCES": 1}
    assert as_user(users_home, request)["replayed"] is True
    entry = as_user(users_home, {"verb": "usage", "scope": scope})["result"]["mounts"][0]
    assert "error" in entry  # what cannot be read cannot be measured
    (volume / "tmp/locked").chmod(0o700)
    entry = as_user(users_home, {"verb": "usage", "scope": scope})["result"]["mounts"][0]
    assert entry["used_bytes"] == 1 + len('{"id": "abcd1234", "budget_bytes": 9999}')


def test_a_user_is_told_what_they_may_not_delete_dry_or_not(users_home: Path) -> None:
    volume = users_home / ".local/state/byteport/drill/abcd1234"
    (volume / "tmp").mkdir(parents=True)
    (volume / ".byteport-drill").write_text('{"id": "abcd1234", "budget_bytes": 9999}')
    (volume / "tmp/old").write_text("x")
    os.utime(volume / "tmp/old", (0, 0))
    users_own(users_home)
    (volume / "tmp").chmod(0o500)
    request = {
        "verb": "clear_tmp",
        "scope": {"kind": "drill", "id": "abcd1234"},
        "action_id": f"test-hostctl-{os.urandom(8).hex()}",
    }
    for dry_run in (True, False):
        answer = as_user(users_home, {**request, "dry_run": dry_run})
        assert answer["status"] == "failed"
        assert answer["reason"] == "nothing can be deleted: EACCES (1)"
    assert (volume / "tmp/old").exists()


def test_a_caller_that_went_away_does_not_stop_it(house: House) -> None:
    """SIGHUP and SIGINT, as a closed terminal or Ctrl-C send them, are not heard."""
    process = subprocess.Popen([sys.executable, "-I", "-S", str(SOURCE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: "SigIgn" in Path(f"/proc/{process.pid}/status").read_text())

    def ignores_both() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = int(status.split("SigIgn:")[1].split()[0], 16)
        return all(ignored >> (number - 1) & 1 for number in (signal.SIGHUP, signal.SIGINT))

    wait_for(ignores_both)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(json.dumps({"verb": "facts", "scope": HOST}).encode(), timeout=10)
    assert json.loads(out)["status"] == "done"


# --------------------------------------------------------------------------------------------- packed answers


def unpacked(text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return answer


def test_a_packed_answer_is_the_same_answer(house: House) -> None:
    answer = house.run("usage")
    assert unpacked(hostctl.packed(answer)) == answer


def test_a_packed_answer_is_cut_until_it_fits() -> None:
    items = [os.urandom(100).hex() for _ in range(2_000)]
    text = hostctl.packed({"status": "done", "reason": "", "result": {"items": items, "count": 2_000}})
    answer = unpacked(text)
    assert len(text) <= hostctl.PACKED_CHARS
    assert answer["truncated"]
    assert answer["result"] == {"items": items[:100], "count": 2_000}


def test_a_packed_answer_that_no_cutting_helps_keeps_how_it_ended() -> None:
    keys = {os.urandom(100).hex(): 1 for _ in range(2_000)}
    text = hostctl.packed({"status": "failed", "reason": "r" * 900, "result": keys})
    assert len(text) <= hostctl.PACKED_CHARS
    assert unpacked(text) == {"status": "failed", "reason": "r" * 500, "result": {}, "truncated": True}


def test_the_program_packs_when_told_to() -> None:
    request = base64.b64encode(json.dumps({"verb": "facts", "scope": HOST}).encode()).decode()
    done = program(b"", request, "packed")
    assert unpacked(done.stdout.decode())["status"] == "done"
