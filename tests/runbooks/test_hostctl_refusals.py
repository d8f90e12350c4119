"""What hostctl leaves alone when it deletes: every refusal of a path, and the races an attacker could try.

All real: files, links, sockets, processes, and mounts (in a mount namespace of their own). The races are run
twice: once with the swap at the exact instant, which a subclass of the sweep makes, and once with a thread
that swaps as fast as it can.
"""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbooks import hostctl
from tests.runbooks.test_hostctl import DAY, IS_ROOT, House, in_own_mounts, snapshot


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def swept(house: House, kind: type[hostctl.Sweep] = hostctl.Sweep, dry_run: bool = False) -> hostctl.Sweep:
    fd = hostctl.open_folder(str(house.tmp))
    try:
        sweep = kind(fd, hostctl.UNUSED_TMP, dry_run, 10_000, 20.0)
        sweep.run()
    finally:
        os.close(fd)
    return sweep


def cleared(house: House) -> dict[str, Any]:
    answer = house.run("clear_tmp", action_id=os.urandom(8).hex())
    assert answer["status"] == "done", answer
    return answer["result"]


# --------------------------------------------------------------------------------------------- symbolic links


def test_links_are_neither_followed_nor_removed(house: House) -> None:
    victim = house.file("victim/old", days=9)
    (house.tmp / "to_folder").symlink_to(victim.parent)
    (house.tmp / "to_file").symlink_to(victim)
    (house.tmp / "to_nothing").symlink_to("nowhere")
    for link in house.tmp.iterdir():
        os.utime(link, (0, 0), follow_symlinks=False)
    assert cleared(house)["left"] == {"symbolic link": 3}
    assert victim.exists()
    assert len(list(house.tmp.iterdir())) == 3


@pytest.mark.parametrize(
    ("path", "verb"),
    [("tmp", "clear_tmp"), ("var/log", "delete_rotated_logs"), ("var", "delete_rotated_logs")],
)
def test_a_folder_that_is_reached_through_a_link_is_refused(house: House, path: str, verb: str) -> None:
    (house.base / path).rename(house.base / "elsewhere")
    (house.base / path).symlink_to(house.base / "elsewhere")
    victim = [house.file(f"elsewhere/{name}", days=9) for name in ("old.gz", "log/old.gz")]
    answer = house.run(verb, action_id="a")
    assert answer["status"] == "refused"
    assert "symbolic link" in answer["reason"]
    assert all(file.exists() for file in victim)


def test_a_drills_folders_are_not_reached_through_a_link(house: House) -> None:
    volume = house.drill()
    victim = house.file("victim/old", days=9)
    (volume / "tmp").rmdir()
    (volume / "tmp").symlink_to(victim.parent)
    answer = house.run("clear_tmp", scope={"kind": "drill", "id": "abcd1234"}, action_id="a")
    assert answer["status"] == "refused"
    assert victim.exists()


@pytest.mark.parametrize("path", ["/tmp/../etc", "/tmp/.", "/", "", "/tmp//x", ".."])
def test_dots_and_empty_names_are_no_plain_path(path: str) -> None:
    with pytest.raises(hostctl.Refused, match="not a plain path"):
        hostctl.open_folder(path)


def test_names_that_look_like_paths_are_just_names(house: House) -> None:
    names = ["..gz", "...", "..hidden", "-rf", "*", "a b", "$(id)", "new\nline", "~", "\\..\\x"]
    for name in names:
        house.file(f"tmp/{name}", days=9)
    victim = house.file("victim", days=9)
    assert cleared(house)["deleted"]["files"] == len(names)
    assert victim.exists()


# ------------------------------------------------------------------------------------------------------ races


def test_a_folder_swapped_for_a_link_after_it_was_listed_is_not_entered(house: House) -> None:
    victim = house.file("victim/old", days=9)
    house.file("tmp/folder/old", days=9)

    class Swapped(hostctl.Sweep):
        def enter(self, fd: int, name: str, trail: tuple[str, ...]) -> None:
            (house.tmp / "folder").rename(house.base / "moved")
            (house.tmp / "folder").symlink_to(victim.parent)
            super().enter(fd, name, trail)

    sweep = swept(house, Swapped)
    assert sweep.left == {"changed meanwhile": 1}
    assert victim.exists()


def test_a_folder_swapped_for_a_link_while_it_is_walked_is_still_the_one_held(house: House) -> None:
    """The name leads elsewhere now, but the walk is in the folder it opened."""
    victim = house.file("victim/old", days=9)
    house.file("tmp/folder/old", days=9)

    class Swapped(hostctl.Sweep):
        def remove(self, entry: hostctl.Entry) -> bool:
            (house.tmp / "folder").rename(house.base / "moved")
            (house.tmp / "folder").symlink_to(victim.parent)
            return super().remove(entry)

    sweep = swept(house, Swapped)
    assert sweep.gone.files == 1
    assert victim.exists()
    assert not (house.base / "moved/old").exists()


def to_a_link(house: House, path: Path) -> None:
    path.symlink_to(house.base / "victim/old")


def to_a_hard_link(house: House, path: Path) -> None:
    os.link(house.base / "victim/old", path)


def to_a_young_file(house: House, path: Path) -> None:
    path.write_text("just written")


def to_another_old_file(house: House, path: Path) -> None:
    house.file("tmp/other/old", days=9)
    (house.tmp / "other/old").rename(path)


def to_a_folder(house: House, path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("swap", [to_a_link, to_a_hard_link, to_a_young_file, to_another_old_file, to_a_folder])
def test_a_file_swapped_after_it_was_listed_is_left(house: House, swap: Callable[[House, Path], None]) -> None:
    victim = house.file("victim/old", days=9)
    target = house.file("tmp/target", days=9)

    class Swapped(hostctl.Sweep):
        def remove(self, entry: hostctl.Entry) -> bool:
            target.rename(house.base / "moved")
            swap(house, target)
            return super().remove(entry)

    sweep = swept(house, Swapped)
    assert sweep.left["changed meanwhile"] == 1
    assert sweep.gone.files == 0
    assert os.path.lexists(target)
    assert victim.exists()


def test_a_file_that_is_written_or_linked_after_it_was_listed_is_left(house: House) -> None:
    target = house.file("tmp/target", days=9)
    for use in (
        lambda: target.write_text("used"),
        lambda: os.link(target, house.base / "link"),
        target.touch,
    ):
        os.utime(target, (0, 0))

        class Used(hostctl.Sweep):
            def remove(self, entry: hostctl.Entry) -> bool:
                use()  # noqa: B023 - it is called in this very turn
                return super().remove(entry)

        assert swept(house, Used).left == {"changed meanwhile": 1}
        assert target.exists()
        (house.base / "link").unlink(missing_ok=True)


def test_a_file_that_someone_else_removed_first_is_no_error(house: House) -> None:
    target = house.file("tmp/target", days=9)

    class Faster(hostctl.Sweep):
        def remove(self, entry: hostctl.Entry) -> bool:
            target.unlink()
            return super().remove(entry)

    sweep = swept(house, Faster)
    assert sweep.left == {"gone already": 1}
    assert not sweep.errors


def test_an_attacker_who_swaps_folders_for_links_all_the_time_reaches_nothing(house: House) -> None:
    victims = [house.file(f"victim/old{number}", days=9) for number in range(20)]
    folder, link, parked = house.tmp / "folder", house.tmp / "link", house.tmp / "parked"
    house.file("tmp/folder/x", days=9)
    link.symlink_to(house.base / "victim")
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            folder.rename(parked)
            link.rename(folder)
            folder.rename(link)
            parked.rename(folder)

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for number in range(20):
                house.file(f"tmp/own{number}", days=9)
            swept(house)
    finally:
        stop.set()
        attacker.join()
    assert all(victim.exists() for victim in victims)


# -------------------------------------------------------------------------------------- what is no plain file


def test_hard_links_are_left(house: House) -> None:
    victim = house.file("victim", days=9)
    os.link(victim, house.tmp / "link")
    house.file("tmp/twin1", days=9)
    os.link(house.tmp / "twin1", house.tmp / "twin2")
    assert cleared(house)["left"] == {"hard link": 3}
    assert victim.stat().st_nlink == 2
    log = house.file("var/log/a.gz", days=9)
    os.link(log, house.log / "b.gz")
    answer = house.run("delete_rotated_logs", action_id="a")
    assert answer["result"]["left"] == {"hard link": 2}


def test_sockets_fifos_and_devices_are_left(house: House) -> None:
    expected = {"fifo": 1, "socket": 1}
    os.mkfifo(house.tmp / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(house.tmp, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        if IS_ROOT:
            os.mknod(house.tmp / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            os.mknod(house.tmp / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
            expected["device"] = 2
        for path in house.tmp.iterdir():
            os.utime(path, (0, 0))
        before = snapshot(house.tmp)
        assert cleared(house)["left"] == expected
        assert snapshot(house.tmp) == before


def test_a_file_that_a_process_holds_open_is_left(house: House) -> None:
    held = house.file("tmp/held", days=9)
    free = house.file("tmp/free", days=9)
    sleeper = [
        sys.executable,
        "-c",
        "import sys, time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(60)",
    ]
    process = subprocess.Popen([*sleeper, str(held)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        os.utime(held, (0, 0))
        assert cleared(house)["left"] == {"open": 1}
    finally:
        process.kill()
        process.communicate()
    assert held.exists()
    assert not free.exists()
    assert cleared(house)["deleted"]["files"] == 1


def test_a_file_that_is_open_in_a_container_is_left(tmp_path: Path) -> None:
    """Another mount namespace, in which the file has another path."""
    script = """
held = house.file("tmp/shared/held", days=9)
(base / "data").mkdir()
container = subprocess.Popen(["unshare", "-m", "sh", "-c",
    f"mount --bind {base}/tmp/shared {base}/data && exec 3< {base}/data/held && echo ready && exec sleep 60"],
    stdout=subprocess.PIPE)
container.stdout.readline()
os.utime(held, (0, 0))
answer = house.run("clear_tmp", action_id="a")
container.kill()
say([answer, held.exists()])
"""
    answer, exists = in_own_mounts(script, tmp_path)
    assert answer["result"]["left"] == {"open": 1}
    assert exists


@pytest.mark.parametrize(
    "path",
    [
        "systemd-private-0f-nginx.service-x/tmp/old",
        "snap-private-tmp/old",
        "snap.firefox/old",
        "hsperfdata_eve/4711",
        ".X11-unix/old",
        ".ICE-unix/old",
        ".X0-lock",
        "mysql.sock.lock",
    ],
)
def test_what_belongs_to_running_services_is_left(house: House, path: str) -> None:
    kept = house.file(f"tmp/{path}", days=90)
    assert cleared(house)["left"] == {"of a running service": 1}
    assert kept.exists()


def test_folders_are_never_removed_not_even_empty_ones(house: House) -> None:
    (house.tmp / "empty").mkdir()
    house.file("tmp/full/old", days=9)
    os.utime(house.tmp / "empty", (0, 0))
    (house.log / "folder.gz").mkdir()
    os.utime(house.log / "folder.gz", (0, 0))
    cleared(house)
    house.run("delete_rotated_logs", action_id="a")
    assert (house.tmp / "empty").is_dir()
    assert (house.tmp / "full").is_dir()
    assert (house.log / "folder.gz").is_dir()


def test_times_in_the_future_count_as_young(house: House) -> None:
    house.file("tmp/future", days=-400)
    assert cleared(house)["left"] == {"too young": 1}


def test_depth_entries_and_time_are_bounded(house: House) -> None:
    deep = house.tmp.joinpath(*"d" * (hostctl.MAX_DEPTH + 1), "old")
    deep.parent.mkdir(parents=True)
    deep.write_text("x")
    os.utime(deep, (0, 0))
    assert cleared(house)["left"] == {"too deep": 1}
    assert deep.exists()
    shutil.rmtree(house.tmp / "d")
    for number in range(10):
        house.file(f"tmp/{number}", days=9)
    fd = hostctl.open_folder(str(house.tmp))
    for entries, seconds, cut in ((4, 9.0, "more than 4 entries"), (99, -1.0, "took too long")):
        sweep = hostctl.Sweep(fd, hostctl.UNUSED_TMP, True, entries, seconds)
        sweep.run()
        assert sweep.cut == cut
        assert sweep.found.files <= 4
        assert "not everything was looked at" in hostctl.how_it_went(sweep, {}).reason
    os.close(fd)


# ----------------------------------------------------------------------------------------------------- mounts


def test_other_mounts_are_left_also_of_the_same_file_system(tmp_path: Path) -> None:
    script = """
victims = [house.file("victim/old", days=9), house.file("tmp/memory/hidden", days=9)]
for name in ("bind", "memory"):
    (base / "tmp" / name).mkdir(exist_ok=True)
mount("--bind", base / "victim", base / "tmp/bind")
mount("-t", "tmpfs", "none", base / "tmp/memory")
victims.append(house.file("tmp/memory/old", days=9))
known = house.run("clear_tmp", action_id="a")["result"]

class Unknown(hostctl.Sweep):
    def __init__(self, *args):
        super().__init__(*args)
        self.points = set()   # as if they were mounted after the table was read

fd = hostctl.open_folder(str(house.tmp))
sweep = Unknown(fd, hostctl.UNUSED_TMP, False, 1000, 9.0)
sweep.run()
same = os.stat(base / "tmp/bind").st_dev == os.stat(base / "tmp").st_dev
(base / "tmp/memory/old").unlink()
exist = [(base / "victim/old").exists(), same]
say([known, dict(sweep.left), sweep.gone.files, exist])
"""
    known, unknown, gone, exist = in_own_mounts(script, tmp_path)
    assert known["left"] == unknown == {"another mount": 2}
    assert known["deleted"]["files"] == gone == 0
    assert exist == [True, True]


@pytest.mark.skipif(not IS_ROOT or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse")
def test_a_dead_mount_below_the_folder_does_not_hold_up_the_walk(tmp_path: Path) -> None:
    """A real FUSE mount whose server does not answer."""
    script = """
(base / "tmp/dead").mkdir()
house.file("tmp/old", days=9)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
argv = ["mount", "-i", "-t", "fuse", "-o", options, "dead", base / "tmp/dead"]
subprocess.run(argv, check=True, pass_fds=[fuse])
watchdog = __import__("threading").Timer(5, os._exit, [9])
watchdog.start()
answer = house.run("clear_tmp", action_id="a")
watchdog.cancel()
os.close(fuse)
say(answer)
"""
    result = in_own_mounts(script, tmp_path)["result"]
    assert result["left"] == {"another mount": 1}
    assert result["deleted"]["files"] == 1


def test_a_mounted_file_is_left(tmp_path: Path) -> None:
    script = """
victim = house.file("victim", days=9)
target = house.file("tmp/target", days=9)
mount("--bind", victim, target)
class Unknown(hostctl.Sweep):
    def __init__(self, *args):
        super().__init__(*args)
        self.points = set()
fd = hostctl.open_folder(str(house.tmp))
sweep = Unknown(fd, hostctl.UNUSED_TMP, False, 1000, 9.0)
sweep.run()
say([dict(sweep.left), dict(sweep.errors), victim.exists(), target.exists()])
"""
    assert in_own_mounts(script, tmp_path) == [{"changed meanwhile": 1}, {}, True, True]


def test_a_folder_that_is_itself_a_mount_is_cleaned(tmp_path: Path) -> None:
    script = """
mount("-t", "tmpfs", "none", house.tmp)
house.file("tmp/old", days=9)
say(house.run("clear_tmp", action_id="a"))
"""
    result = in_own_mounts(script, tmp_path)["result"]
    assert result["deleted"]["files"] == 1
    assert result["mount"] == str(tmp_path / "tmp")


def test_a_read_only_file_system_is_a_failed_step(tmp_path: Path) -> None:
    script = """
house.file("tmp/old", days=9)
mount("--bind", house.tmp, house.tmp)
mount("-o", "remount,ro,bind", house.tmp)
up_front = [house.run("clear_tmp", action_id="a"), house.run("clear_tmp", action_id="b", dry_run=True)]
fd = hostctl.open_folder(str(house.tmp))
sweep = hostctl.Sweep(fd, hostctl.UNUSED_TMP, False, 1000, 9.0)
sweep.run()
try:
    hostctl.how_it_went(sweep, {})
except hostctl.Failed as failed:
    say([up_front, str(failed), sweep.looked_at, sweep.gone.files])
"""
    up_front, meanwhile, _, gone = in_own_mounts(script, tmp_path)
    assert [answer["status"] for answer in up_front] == ["failed", "failed"]
    assert all(answer["reason"].endswith("is on a read-only file system") for answer in up_front)
    assert meanwhile == "read-only file system"
    assert gone == 0


# --------------------------------------------------------------------------------------------------- property

AGES = st.sampled_from([0.0, 1.9, 2.1, 6.9, 7.1, 400.0])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
SUFFIXES = st.sampled_from(["", ".gz", ".log", ".GZ", ".gz.1"])
KINDS = st.sampled_from(["file", "file", "file", "link", "hard link", "fifo", "folder"])
THINGS = st.lists(
    st.tuples(st.lists(st.sampled_from(["a", "b.gz"]), max_size=2), NAMES, SUFFIXES, KINDS, AGES, AGES),
    max_size=12,
)


def plant(top: Path, victim: Path, things: list[tuple[Any, ...]]) -> dict[Path, tuple[float, float]]:
    """Makes the things; returns the plain files with their days since access and change."""
    plain = {}
    for folders, stem, suffix, kind, accessed, written in things:
        path = top.joinpath(*folders, stem + suffix)
        if os.path.lexists(path) or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text("x")
            plain[path] = (accessed, written)
        elif kind == "link":
            path.symlink_to(victim)
        elif kind == "hard link":
            os.link(victim, path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        if kind != "hard link":
            now = time.time()
            os.utime(path, (now - accessed * DAY, now - written * DAY), follow_symlinks=False)
    return plain


@pytest.mark.proof
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(things=THINGS, which=st.sampled_from(["log", "tmp"]))
def test_nothing_but_eligible_files_ever_disappears(things: list[tuple[Any, ...]], which: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name))
        victim = house.file("victim/old.gz", days=400)
        top = house.log if which == "log" else house.tmp
        plain = plant(top, victim.parent / "old.gz", things)
        if which == "log":
            eligible = {path for path, (_, written) in plain.items() if path.name.endswith(".gz") and written > 7}
        else:
            spared = hostctl.UNUSED_TMP.spared
            eligible = {
                path
                for path, days in plain.items()
                if min(days) > 2 and not spared.match(path.relative_to(top).parts[0])
            }
        verb = "delete_rotated_logs" if which == "log" else "clear_tmp"
        before = snapshot(house.base)
        dry = house.run(verb, dry_run=True, action_id="a")["result"]
        assert snapshot(house.base) == before
        wet = house.run(verb, action_id="a")["result"]
        after = snapshot(house.base)
        for folder in ("actions", "memory"):
            after = {path: found for path, found in after.items() if not path.startswith(str(house.base / folder))}
        assert set(before) - set(after) == {str(path) for path in eligible}
        # Folders change their times when something in them goes; nothing else changes at all.
        changed = {path for path in after if path in before and after[path] != before[path]}
        assert all(Path(path).is_dir() and not Path(path).is_symlink() for path in changed)
        assert wet["deleted"]["files"] == dry["would_delete"]["files"] == len(eligible)
