"""hostctl: the one program of BytePort that runs on hosts. Standard library only, Python >= 3.8, one file.

    python3 -I -S hostctl.py < request.json
    python3 -I -S - BASE64_OF_REQUEST [packed] [host-root] < hostctl.py

`packed`: the answer is compressed, in base64, and cut to what AWS Systems Manager keeps of it (PACKED_CHARS).
`host-root`: it runs in a container on the host, whose own / is mounted at HOST_ROOT: that is made / first.

One JSON request comes in, one JSON answer goes to stdout, at most 1 MB (lists are cut, `"truncated": true`).
Exit code 0 whenever there is an answer, also "refused" and "failed"; 2 when the request could not be read.

Request  {"verb": str, "scope": {"kind": "host"} | {"kind": "drill", "id": "8 of a-z0-9"},
          "action_id": str | null, "args": {}, "dry_run": bool}     (`verb` and `scope` are required)
Answer   {"status": "done" | "failed" | "skipped" | "refused", "reason": str, "result": {...},
          "action_id": str | null, "hostctl": version}     (and "replayed": true, "truncated": true)

A request names a verb and a scope, never a path. Scope `host` is the real /var/log, /tmp and
/etc/byteport/annotations. Scope `drill` is a volume of BytePort's own, with these three at var/log, tmp and
etc/byteport/annotations: a folder of ours with a marker file `.byteport-drill`, which holds
{"id": ..., "budget_bytes": int | null}, that is a mount point (budget null) or a plain folder with a budget.
A drill of memory has instead of these files "supervisor": [pid, started] in its marker: the processes that this
one has started are its units, each by its own name (`leaky` is leaky.service, its unit file lies in the folder),
and what they hold is measured against the budget.

Reading verbs (they change nothing)
  facts        hostname, boot_id, boot_time, uptime_s, kernel, python, uid, tools {name: bool}
  usage        mounts [{mount, device, fstype, total_bytes, used_bytes, free_bytes, avail_bytes, percent,
               inode_percent | null, drill | null}, or with `error` instead of figures where there are none],
               read_only [mount], excluded {reason: count}
  memory       total_bytes, available_bytes, percent, anon_bytes, cached_bytes, shmem_bytes,
               unreclaimable_bytes (the kernel's own), huge_pages_bytes, swap_total_bytes, swap_free_bytes,
               swap_in_pages, swap_out_pages (since boot), page_bytes,
               pressure {some_avg10, some_avg60, full_avg10, full_avg60} | null; in scope host also
               drills [{drill, total_bytes, available_bytes, percent, consumers}]
  gauges       usage and memory in one go, and from 80 % of memory on consumers too: {verb: {status, reason, result}}
  consumers    the 10 that hold the most memory: consumers [{kind "unit" | "container" | "process", name, runtime,
               kubernetes, rss_bytes (anonymous and shared: what the kernel cannot just drop), counted_by "cgroup1"
               | "cgroup2" | "processes", swap_bytes, limit_bytes | null, oom_kills | null, processes,
               main and biggest {pid, started (ticks after boot), comm, rss_bytes}, since (unix time at which
               main began), oom_score_adj (of biggest), critical (why it is never touched, or "")}],
               others {consumers, rss_bytes}
  restartable  args {"consumers": at most 5 {"kind", "name", "runtime"}}: the same list, each with pid and started
               (of its main process), title, refusal (why it is not restarted, or ""), unlabelled (only for that)
  annotations  present, annotations {key: value}, words [of byteport.io/auto-remediate]
  survey       what a clean-up would find: journal {bytes | null, reason}; rotated_logs and tmp, as the change
               verbs' results or {reason}; runtime "docker" | "crictl" | null, runtime_folder (of its images) | null;
               biggest_files and biggest_folders [{path, bytes}];
               deleted_open {files, bytes, by_mount {mount: bytes}, top [{pid, comm, path, bytes, mount | null}],
               unseen_processes}; lies_on {journal, rotated_logs, containers, tmp: the mount that `usage` has for
               the file system it is on | null}; cut [reason]
  probe        args {"action_id"}: state "absent" | "running" | "interrupted" | "finished", answer | null,
               verb | null, begun_at | null, boot_time

Change verbs (they need an action_id; not so with dry_run, when they only count and leave no journal entry)
  journal_vacuum       journalctl --vacuum-size=50M: usage_bytes (before), freed_bytes
  container_prune      docker system prune -af, else crictl rmi --prune: runtime, reclaimed_bytes | null,
                       images | null
  delete_rotated_logs  *.gz below the log folder, 7 days old or more by mtime
  clear_tmp            files below the tmp folder, unused for 48 h or more by the newest of atime and mtime
                       both: folder, mount, found and deleted {files, bytes}, left {reason: count},
                       errors {errno: count}, examples [relative path], looked_at,
                       open_files_seen "all" | "some", cut str | null; when dry also
                       would_delete {files, bytes}: what is found less what we may not delete
  adjust_oom_score     args {"processes": at most 5 [pid, started]}: lowers the oom_score_adj of each by at most 300,
                       never below -500; adjusted [{pid, started, comm, before, after}], left {reason: count},
                       leftovers (what an earlier run had not put back, and is by now)
  restore_oom_score    puts back what adjust_oom_score has changed: restored [the same], left {reason: count}
  restart_unit         args {"unit", "pid", "started"}: systemctl try-restart, if this is its main process
  restart_container    args {"runtime" "docker" | "podman" | "crictl", "container", "pid", "started"}: likewise
                       both: title, percent_before, available_before_bytes, rss_before_bytes, all three as _after
                       too, and its new main_process

At most once. A change is written to the journal of actions before it begins. The same action_id never runs
again: it gets the recorded answer ("replayed": true), or "refused" and the reason "running" or "interrupted".

How a file is deleted. Folders are held by descriptor and entered one name at a time, never through a symbolic
link nor onto another mount; a file is looked at again right before it goes, and goes by its one name in that
held folder. What is left of the race: in the microseconds between that look and the unlink, the name may be
given to another file. Only someone who may write in that folder can do so. They reach no other folder by it,
and nothing that they could not delete themselves, except, in a sticky folder such as /tmp, a file that its
owner creates under that very name just then.

What is restarted. Only a unit or container that carries the label `byteport.restart=safe` (a unit: the line
X-Byteport-Restart=safe in its file or a drop-in), read right before, and whose main process is still the one
that was named, by pid and start. Never one of NEVER_NAMES and NEVER_WORDS, by any of its names or by any program
that runs in it. What is left of the race: the unit may restart by itself in the instant between that look and
systemd's, and then it restarts twice. Another unit or process is never hit: systemd goes by the unit's name.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import errno
import fcntl
import heapq
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import zlib
from collections import Counter
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

VERSION = "1"
KB, MB, DAY_S = 1024, 1024 * 1024, 86_400.0

REQUEST_LIMIT_BYTES = 64 * KB
ANSWER_LIMIT_BYTES = MB
SMALL_FILE_LIMIT_BYTES = 64 * KB
TEXT_LIMIT = 4_000
PACKED_CHARS = 20_000

MAX_DEPTH = 64
SWEEP_ENTRIES, SWEEP_S = 1_000_000, 120.0
SURVEY_ENTRIES, SURVEY_PART_S = 200_000, 5.0
OPEN_FILES_LIMIT, OPEN_FILES_S = 500_000, 5.0
PROCESSES_LIMIT, PROCESSES_S = 100_000, 10.0
EXAMPLES, TOP_CONSUMERS = 20, 10
CONSUMERS_FROM = 80.0  # percent of memory in use from which on it is noted who holds it

# All limits that one verb can run into, added up, stay below 60 s for a reading verb and 180 s for a change:
# a caller that waits as long is never left without an answer.
ASK_S, JOURNAL_ASK_S, PRUNE_S, STATVFS_S = 60.0, 20.0, 110.0, 5.0
INSPECT_S, RESTART_S, COME_BACK_S, LOOK_S = 4.5, 60.0, 60.0, 0.2
JOURNAL_KEEP_BYTES = 50 * MB
RECORD_KEPT_S = 30 * DAY_S

SAFE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

DRILL_MARKER = ".byteport-drill"
DRILL_ID = re.compile(r"[a-z0-9]{8}")
DRILL_LAYOUT = {"log": "var/log", "tmp": "tmp", "annotations": "etc/byteport/annotations"}
SOMEONES_DRILL = re.compile(r"/byteport(-agent)?/drill/[a-z0-9]{8}$")
ACTION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
OPT_IN = "byteport.io/auto-remediate"

# How far the oom_score_adj of a bystander may be lowered, that is, how much it is protected.
OOM_STEP, OOM_LOWEST, OOM_PROCESSES = 300, -500, 5
RESTARTABLE = 5
UNIT = re.compile(r"[A-Za-z0-9_:.\\][A-Za-z0-9_:.\\@-]{0,246}\.service")
CONTAINER = re.compile(r"[0-9a-f]{64}")

# Local file systems answer statvfs from memory. Any other kind might hang, and is asked in a child.
LOCAL_KINDS = frozenset(
    "ext2 ext3 ext4 xfs btrfs f2fs jfs nilfs2 reiserfs zfs bcachefs vfat exfat ntfs3 overlay".split()
)
NEVER_FILLS = frozenset(
    "tmpfs devtmpfs ramfs rootfs proc sysfs devpts mqueue hugetlbfs debugfs tracefs securityfs pstore bpf "
    "configfs fusectl binfmt_misc autofs rpc_pipefs nfsd nsfs efivarfs selinuxfs resctrl functionfs aufs "
    "squashfs iso9660 udf erofs cramfs romfs fuse.lxcfs fuse.portal fuse.gvfsd-fuse fuse.snapfuse".split()
)


# ------------------------------------------------------------------------------------- answers and requests


class Outcome(NamedTuple):
    status: str
    reason: str
    result: Dict[str, Any]


class Ended(Exception):  # noqa: N818 - these are ways to end, like the project's own Refused
    """The verb is over, and not done."""

    status = "failed"

    def __init__(self, reason: str, result: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(reason)
        self.outcome = Outcome(self.status, reason, result or {})


class Failed(Ended):
    status = "failed"


class Skipped(Ended):
    status = "skipped"


class Refused(Ended):
    status = "refused"


class Unlabelled(Refused):
    """Only the owner's word is missing."""


def done(result: Dict[str, Any], reason: str = "") -> Outcome:
    return Outcome("done", reason, result)


class Request(NamedTuple):
    verb: str
    drill: Optional[str]
    action_id: Optional[str]
    args: Dict[str, Any]
    dry_run: bool

    def fingerprint(self) -> List[Any]:
        """What an action id stands for. It cannot be used again for something else."""
        return [self.verb, self.drill, self.args]


class Roots(NamedTuple):
    """Where things are. No request can change it; tests call `run` with one of their own."""

    log: str
    tmp: str
    annotations: str
    drills: str
    journals: Tuple[str, ...]  # the first survives a reboot, the others a full or read-only disk
    programs: str
    proc: str = "/proc"
    cgroups: str = "/sys/fs/cgroup"

    @classmethod
    def of_this_host(cls) -> Roots:
        uid = os.geteuid()
        state = os.path.expanduser("~/.local/state/byteport")
        memory: Tuple[str, ...] = ("/run/user/%d/byteport-actions" % uid, "/dev/shm/byteport-%d" % uid)  # noqa: S108
        if uid == 0:
            state, memory = "/var/lib/byteport-agent", ("/run/byteport-agent/actions",)
        return cls(
            log="/var/log",
            tmp="/tmp",  # noqa: S108 - it is the folder to clear
            annotations="/etc/byteport/annotations",
            drills=state + "/drill",
            journals=(state + "/actions", *memory),
            # Whoever sets our environment already has our rights, so this opens nothing to anyone.
            programs=os.environ.get("BYTEPORT_HOSTCTL_PATH") or SAFE_PATH,
        )


class Context(NamedTuple):
    """What a verb works with."""

    roots: Roots
    request: Request
    volume: Optional[Volume]
    held: Tuple[int, ...] = ()  # the journal's descriptors, which programs inherit: see ActionLog


def checked(request: object) -> Request:
    """The request, or Refused with what is wrong with it."""
    if not isinstance(request, dict):
        raise Refused("the request is not an object")
    unknown = set(request) - {"verb", "scope", "action_id", "args", "dry_run"}
    if unknown:
        raise Refused("unknown field: %s" % ", ".join(sorted(map(repr, unknown))))
    verb, args, dry_run = request.get("verb"), request.get("args", {}), request.get("dry_run", False)
    if not isinstance(verb, str) or verb not in VERBS:
        raise Refused("unknown verb: %.80r" % (verb,))
    if not isinstance(args, dict) or set(args) != set(VERBS[verb].args):
        raise Refused("%s takes these args: %s" % (verb, ", ".join(VERBS[verb].args) or "none"))
    if not isinstance(dry_run, bool):
        raise Refused("dry_run is not true or false")
    action_id = request.get("action_id")
    if action_id is not None or (VERBS[verb].changes and not dry_run):
        action_id = checked_action_id(action_id)
    return Request(verb, checked_scope(request.get("scope")), action_id, args, dry_run)


def checked_scope(scope: object) -> Optional[str]:
    """The drill's id, or None for the host."""
    if isinstance(scope, dict) and scope.get("kind") == "host" and set(scope) <= {"kind", "id"}:
        if scope.get("id") is None:
            return None
    if isinstance(scope, dict) and scope.get("kind") == "drill" and set(scope) == {"kind", "id"}:
        drill = scope["id"]
        if isinstance(drill, str) and DRILL_ID.fullmatch(drill):
            return drill
    raise Refused('the scope is neither {"kind": "host"} nor {"kind": "drill", "id": 8 of a-z0-9}')


def checked_action_id(action_id: object) -> str:
    if not isinstance(action_id, str) or not ACTION_ID.fullmatch(action_id):
        raise Refused("the action_id is missing or not 1 to 80 of A-Za-z0-9_.:-")
    return action_id


def printable(value: Any, longest_list: int) -> Any:
    """The value as JSON that any reader takes: file names are bytes, and may be no UTF-8 at all."""
    if isinstance(value, str):
        return value[:TEXT_LIMIT].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {printable(key, longest_list): printable(item, longest_list) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(item, longest_list) for item in value[:longest_list]]
    return value


def bounded(answer: Dict[str, Any], written: Callable[[Any], str] = json.dumps, limit: int = 0) -> Dict[str, Any]:
    """The answer within its limit; lists are cut, evenly, as often as it takes."""
    for longest_list in (10_000, 1_000, 100, 10, 0):
        small: Dict[str, Any] = printable(answer, longest_list)
        if len(written(small)) < (limit or ANSWER_LIMIT_BYTES):
            break
    if small != printable(answer, sys.maxsize):
        small["truncated"] = True
    return small


def packed(answer: Dict[str, Any]) -> str:
    """For a way that carries few characters. What does not even fit then keeps no more than how it ended."""
    text = compressed(bounded(answer, compressed, PACKED_CHARS - 100))
    if len(text) <= PACKED_CHARS:
        return text
    return compressed({**answer, "reason": str(answer["reason"])[:500], "result": {}, "truncated": True})


def compressed(answer: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(answer).encode(), 9)).decode()


# --------------------------------------------------------------------------------------- folders and mounts


class Mount(NamedTuple):
    """One line of /proc/<pid>/mountinfo (proc(5))."""

    id: int
    device: str  # "8:1"; binds of one file system share it
    point: str
    kind: str
    source: str
    read_only: bool


def parse_mounts(text: str) -> List[Mount]:
    mounts = []
    for line in text.split("\n"):  # splitlines would also split at what Unicode calls a line's end
        left, _, right = line.partition(" - ")
        fields, about = left.split(" "), right.split(" ")
        if len(fields) >= 6 and len(about) >= 3:
            read_only = "ro" in fields[5].split(",") or "ro" in about[2].split(",")
            point, source = unescaped(fields[4]), unescaped(about[1])
            mounts.append(Mount(int(fields[0]), fields[2], point, about[0], source, read_only))
    return mounts


def unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), text)


def mounts_of(pid: object = "self") -> List[Mount]:
    with open("/proc/%s/mountinfo" % pid, "rb") as file:
        return parse_mounts(os.fsdecode(file.read()))


def mount_id(fd: object, pid: object = "self") -> int:
    """The mount that a descriptor is on. It tells bind mounts of one file system apart, as st_dev cannot."""
    with open("/proc/%s/fdinfo/%s" % (pid, fd), encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise Refused("this kernel does not say which mount a file is on")


def mount_of(fd: int) -> Optional[Mount]:
    wanted = mount_id(fd)
    return next((mount for mount in mounts_of() if mount.id == wanted), None)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def said(error: OSError) -> str:
    return error.strerror or error.__class__.__name__


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")


def open_folder(path: str, start: Optional[int] = None) -> int:
    """A descriptor of the folder, reached one name at a time from `start` or /, through no symbolic link."""
    fd = os.dup(start) if start is not None else os.open("/", FOLDER_PATH)
    for name in path.strip("/").split("/"):
        with closing(fd):
            if name in ("", ".", ".."):
                raise Refused("%s is not a plain path" % path)
            fd = open_below(fd, name, path)
    with closing(fd):
        return os.open(".", FOLDER, dir_fd=fd)


def open_below(fd: int, name: str, path: str) -> int:
    try:
        return os.open(name, FOLDER_PATH, dir_fd=fd)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise Refused("%s: %s is a symbolic link, which is not followed" % (path, name)) from None
        raise


@contextlib.contextmanager
def folder(ctx: Context, which: str) -> Iterator[int]:
    """The scope's log or tmp folder, by descriptor."""
    path = shown_path(ctx, which)
    try:
        fd = open_folder(path) if ctx.volume is None else open_folder(DRILL_LAYOUT[which], ctx.volume.fd)
    except FileNotFoundError:
        raise Skipped("there is no %s here" % path) from None
    except OSError as error:
        raise Failed("%s: %s" % (path, said(error))) from error
    with closing(fd):
        if ctx.volume is not None and mount_id(fd) != ctx.volume.mount_id:
            raise Refused("something else is mounted at %s" % path)
        yield fd


def shown_path(ctx: Context, which: str) -> str:
    if ctx.volume is None:
        return str(getattr(ctx.roots, which))
    return "%s/%s" % (ctx.volume.path, DRILL_LAYOUT[which])


class Volume(NamedTuple):
    """A drill's volume, held open."""

    id: str
    path: str
    fd: int
    mount_id: int
    budget_bytes: Optional[int]
    supervisor: Optional[Tuple[int, int]] = None  # pid and start, of a drill of memory


@contextlib.contextmanager
def drill_volume(roots: Roots, drill: str) -> Iterator[Volume]:
    """The volume, when it is beyond doubt ours; else Refused."""
    path = "%s/%s" % (roots.drills, drill)
    with contextlib.ExitStack() as stack:
        try:
            base = stack.enter_context(closing(os.open(roots.drills, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            fd = stack.enter_context(closing(os.open(drill, FOLDER, dir_fd=base)))
            require_ours(os.fstat(base), roots.drills)
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) not in (0o700, 0o755):
                raise Refused("no drill volume %s: its folder is not ours alone" % drill)
            marker = json.loads(read_small(fd, DRILL_MARKER, path))
        except (OSError, ValueError, RecursionError) as error:
            why = said(error) if isinstance(error, OSError) else "its marker is not JSON"
            raise Refused("no drill volume %s: %s" % (drill, why)) from error
        budget = checked_budget(marker, drill, is_mounted=mount_id(fd) != mount_id(base))
        yield Volume(drill, path, fd, mount_id(fd), budget, checked_supervisor(marker, drill))


def checked_budget(marker: Any, drill: str, is_mounted: bool) -> Optional[int]:
    """A marker without a budget counts only on a mount: else the real disk would be taken for the drill's."""
    if not isinstance(marker, dict) or marker.get("id") != drill:
        raise Refused("no drill volume %s: its marker names another" % drill)
    budget = marker.get("budget_bytes")
    if budget is None and is_mounted:
        return None
    if type(budget) is int and budget > 0:
        return budget
    raise Refused("no drill volume %s: it is neither mounted nor has it a budget" % drill)


def checked_supervisor(marker: Dict[str, Any], drill: str) -> Optional[Tuple[int, int]]:
    given = marker.get("supervisor")
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 2 and all(type(one) is int and one > 1 for one in given):
        return given[0], given[1]
    raise Refused("no drill %s: its supervisor is not given by pid and start" % drill)


def require_ours(found: os.stat_result, path: str) -> None:
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise Refused("%s is not ours alone: others could have written it" % path)


def read_small(fd: int, name: str, where: str) -> str:
    """A small text file in a folder, that only root or ourselves can have written."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    with open(file, "rb") as stream:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("%s/%s is not a regular file" % (where, name))
        require_ours(found, "%s/%s" % (where, name))
        content = stream.read(SMALL_FILE_LIMIT_BYTES + 1)
    if len(content) > SMALL_FILE_LIMIT_BYTES:
        raise Refused("%s/%s is larger than 64 KB" % (where, name))
    return content.decode("utf-8")


# ------------------------------------------------------------------------------------- walks and open files


class Tally:
    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def add(self, found: os.stat_result) -> None:
        self.files += 1
        self.bytes += found.st_blocks * 512

    def shown(self) -> Dict[str, int]:
        return {"files": self.files, "bytes": self.bytes}


class Entry(NamedTuple):
    fd: int  # of its folder
    name: str
    trail: Tuple[str, ...]  # the folders from the top down
    found: os.stat_result

    @property
    def path(self) -> str:
        return "/".join((*self.trail, self.name))


class Walk:
    """A walk over all that is below one folder and on its very mount; bounded in depth, entries and time."""

    def __init__(self, top: int, entries: int, seconds: float) -> None:
        self.top = top
        self.device = os.fstat(top).st_dev
        self.mount_id = mount_id(top)
        self.points = mount_points_below(top)
        self.limit = entries
        self.deadline = time.monotonic() + seconds
        self.looked_at = 0
        self.cut: Optional[str] = None
        self.left: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        self._list(self.top, ())

    def visit(self, entry: Entry) -> None:
        """For each thing that is no folder."""

    def spares(self, trail: Tuple[str, ...], name: str) -> bool:
        """Whether a folder is left alone."""
        return False

    def _list(self, fd: int, trail: Tuple[str, ...]) -> None:
        try:
            with os.scandir(fd) as names:
                for entry in names:
                    if self._is_over():
                        return
                    self._take(fd, entry.name, trail)
        except OSError as error:
            self.errors[errno_name(error)] += 1

    def _is_over(self) -> bool:
        self.looked_at += 1
        if self.looked_at > self.limit:
            self.cut = self.cut or "more than %d entries" % self.limit
        elif time.monotonic() > self.deadline:
            self.cut = self.cut or "took too long"
        return self.cut is not None

    def _take(self, fd: int, name: str, trail: Tuple[str, ...]) -> None:
        if "/".join((*trail, name)) in self.points:
            self.left["another mount"] += 1  # known from the table: a dead one is not even looked at
            return
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self.enter(fd, name, trail)
            else:
                self.visit(Entry(fd, name, trail, found))
        except FileNotFoundError:
            self.left["gone already"] += 1
        except OSError as error:
            self.errors[errno_name(error)] += 1

    def enter(self, fd: int, name: str, trail: Tuple[str, ...]) -> None:
        if len(trail) >= MAX_DEPTH:
            self.left["too deep"] += 1
            return
        if self.spares(trail, name):
            self.left["of a running service"] += 1
            return
        try:
            below = os.open(name, FOLDER, dir_fd=fd)
        except NotADirectoryError:  # it was a folder a moment ago
            self.left["changed meanwhile"] += 1
            return
        with closing(below):
            if os.fstat(below).st_dev != self.device or mount_id(below) != self.mount_id:
                self.left["another mount"] += 1
            else:
                self._list(below, (*trail, name))


def mount_points_below(top: int) -> Set[str]:
    prefix = os.readlink("/proc/self/fd/%d" % top).rstrip("/") + "/"
    return {mount.point[len(prefix) :] for mount in mounts_of() if mount.point.startswith(prefix)}


class Rule(NamedTuple):
    """Which files a sweep is after."""

    suffix: str
    unused_s: float
    last_use: Callable[[os.stat_result], float]
    spared: Optional[re.Pattern[str]] = None  # names at the top


ROTATED_LOGS = Rule(".gz", 7 * DAY_S, lambda found: found.st_mtime)
# Spared are running services' private folders, and the folders and locks of sockets. hsperfdata is what Java
# maps into memory without keeping it open.
UNUSED_TMP = Rule(
    "",
    2 * DAY_S,
    lambda found: max(found.st_atime, found.st_mtime),
    re.compile(r"systemd-private-|snap[.-]|hsperfdata_|\.(X11|ICE|XIM|font|Test)-unix$|\.X\d+-lock$|.*\.sock\.lock$"),
)
KINDS = (
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)


class Sweep(Walk):
    """Deletes the files that a rule is after, or only counts them."""

    def __init__(self, top: int, rule: Rule, dry_run: bool, entries: int, seconds: float) -> None:
        super().__init__(top, entries, seconds)
        self.rule = rule
        self.dry_run = dry_run
        self.now = time.time()
        self.found, self.gone = Tally(), Tally()  # when dry, `gone` is what would be
        self.examples: List[str] = []
        self.open_files, self.saw_all_open_files = open_files_on(mount_of(top))

    def spares(self, trail: Tuple[str, ...], name: str) -> bool:
        return not trail and self.rule.spared is not None and self.rule.spared.match(name) is not None

    def visit(self, entry: Entry) -> None:
        if not entry.name.endswith(self.rule.suffix):
            return
        why_not = self.why_not(entry)
        if why_not:
            self.left[why_not] += 1
            return
        self.found.add(entry.found)
        if self.could_remove(entry) if self.dry_run else self.remove(entry):
            self.gone.add(entry.found)
            if len(self.examples) < EXAMPLES:
                self.examples.append(entry.path)

    def why_not(self, entry: Entry) -> str:
        found = entry.found
        for is_kind, name in KINDS:
            if is_kind(found.st_mode):
                return name
        if self.now - self.rule.last_use(found) < self.rule.unused_s:
            return "too young"
        if self.spares(entry.trail, entry.name):
            return "of a running service"
        if found.st_nlink != 1:
            return "hard link"
        if (found.st_dev, found.st_ino) in self.open_files:
            return "open"
        return ""

    def could_remove(self, entry: Entry) -> bool:
        """Whether `remove` would be allowed to: a dry run must not promise more than the real one can do."""
        us, above = os.geteuid(), os.fstat(entry.fd)
        is_kept = above.st_mode & stat.S_ISVTX and us not in (0, above.st_uid, entry.found.st_uid)
        if is_kept or not os.access(".", os.W_OK | os.X_OK, dir_fd=entry.fd, effective_ids=True):
            self.errors["EPERM" if is_kept else "EACCES"] += 1
            return False
        return True

    def remove(self, entry: Entry) -> bool:
        """Unlinks the very file that was listed. See the module's text for what is left of the race."""
        try:
            if not self.is_unchanged(entry):
                self.left["changed meanwhile"] += 1
                return False
            os.unlink(entry.name, dir_fd=entry.fd)
        except FileNotFoundError:
            self.left["gone already"] += 1  # someone else was faster, which is as good
            return False
        except OSError as error:
            self.errors[errno_name(error)] += 1
            if error.errno == errno.EROFS:
                self.cut = "read-only file system"
            return False
        return True

    def is_unchanged(self, entry: Entry) -> bool:
        file = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.fd)
        with closing(file):
            return identity(os.fstat(file)) == identity(entry.found) and mount_id(file) == self.mount_id

    def shown(self, path: str) -> Dict[str, Any]:
        mount = mount_of(self.top)
        gone, nothing = self.gone.shown(), Tally().shown()
        return {
            "folder": path,
            "mount": mount.point if mount else None,
            "found": self.found.shown(),
            **({"deleted": nothing, "would_delete": gone} if self.dry_run else {"deleted": gone}),
            "left": dict(self.left),
            "errors": dict(self.errors),
            "examples": self.examples,
            "looked_at": self.looked_at,
            "open_files_seen": "all" if self.saw_all_open_files else "some",
            "cut": self.cut,
        }


def identity(found: os.stat_result) -> Tuple[int, ...]:
    """Equal for two looks at one file that nobody used, wrote or linked in between."""
    times = (found.st_mtime_ns, found.st_atime_ns)
    return (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_size, *times)


class Sizes(Walk):
    """The biggest files, and the biggest of the folders right below the top."""

    def __init__(self, top: int, entries: int, seconds: float) -> None:
        super().__init__(top, entries, seconds)
        self.total = Tally()
        self.apparent = 0
        self.files: List[Tuple[int, str]] = []
        self.folders: Counter[str] = Counter()
        self.linked: Set[Tuple[int, int]] = set()

    def visit(self, entry: Entry) -> None:
        found = entry.found
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) in self.linked:
            return
        if found.st_nlink > 1:
            self.linked.add((found.st_dev, found.st_ino))
        self.total.add(found)
        self.apparent += found.st_size
        if entry.trail:
            self.folders[entry.trail[0]] += found.st_blocks * 512
        keep = heapq.heappush if len(self.files) < 10 else heapq.heappushpop
        keep(self.files, (found.st_blocks * 512, entry.path))


class OpenFile(NamedTuple):
    pid: str
    link: str  # /proc/<pid>/fd/<n>
    path: str
    mount: Mount


class OpenFiles:
    """What processes hold open, as far as we may look. The mount is found without touching the file, so that
    a caller can pass over those of a dead network file system before it calls stat."""

    def __init__(self) -> None:
        self.is_cut = False
        self.unseen_processes = 0

    def __iter__(self) -> Iterator[OpenFile]:
        deadline, count = time.monotonic() + OPEN_FILES_S, 0
        tables = {os.readlink("/proc/self/ns/mnt"): {mount.id: mount for mount in mounts_of()}}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                namespace, fds = os.readlink("/proc/%s/ns/mnt" % pid), os.listdir("/proc/%s/fd" % pid)
                if namespace not in tables:
                    tables[namespace] = {mount.id: mount for mount in mounts_of(pid)}
            except OSError as error:  # it ended, or is someone else's
                self.unseen_processes += isinstance(error, PermissionError)
                continue
            for fd in fds:
                count += 1
                if count > OPEN_FILES_LIMIT or time.monotonic() > deadline:
                    self.is_cut = True
                    return
                with contextlib.suppress(OSError):
                    link = "/proc/%s/fd/%s" % (pid, fd)
                    path = os.readlink(link)
                    # The kernel's own (memfd, sockets, shared memory) are on no mount of the table.
                    mount = tables[namespace].get(mount_id(fd, pid)) if path.startswith("/") else None
                    if mount is not None:
                        yield OpenFile(pid, link, path, mount)


def open_files_on(mount: Optional[Mount]) -> Tuple[Set[Tuple[int, int]], bool]:
    """(device, inode) of what is open on a mount's file system, and whether we saw all processes."""
    everything, found = OpenFiles(), set()
    for file in everything:
        if mount is None or file.mount.device == mount.device:
            with contextlib.suppress(OSError):
                status = os.stat(file.link)
                found.add((status.st_dev, status.st_ino))
    return found, not everything.is_cut and not everything.unseen_processes


# ------------------------------------------------------------------------------------------------- programs


def has(ctx: Context, program: str) -> bool:
    return shutil.which(program, path=ctx.roots.programs) is not None


def call(ctx: Context, argv: List[str], seconds: float) -> Tuple[str, str]:
    """What a program printed to stdout and stderr. Raises Skipped when it is absent, Failed when it fails."""
    program = shutil.which(argv[0], path=ctx.roots.programs)
    if program is None:
        raise Skipped("%s is not installed here" % argv[0])
    shown = " ".join(argv)
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": ctx.roots.programs,
                "LC_ALL": "C",
                "HOME": "/",
                # Never the daemon of another machine, which a docker context may name.
                "DOCKER_HOST": "unix:///var/run/docker.sock",
                "SYSTEMD_IGNORE_CHROOT": "1",  # see enter_host
            },
            cwd="/",
            start_new_session=True,
            pass_fds=ctx.held,
        )
    except OSError as error:
        raise Failed("`%s` could not be started: %s" % (shown, said(error))) from error
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise Failed("`%s` did not end within %g s" % (shown, seconds)) from None
    stdout, stderr = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    if process.returncode != 0:
        last = (stderr.strip() or stdout.strip() or "it said nothing").splitlines()[-1]
        raise Failed("`%s` ended with %d: %s" % (shown, process.returncode, last[:400]))
    return stdout, stderr


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills the program with its children, and does not wait for one that hangs in the kernel."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=2)


def size_in(text: str, base: int) -> int:
    """Bytes in the first size of a text: "1.5G" of systemd is base 1024, "1.5GB" of docker base 1000."""
    found = re.search(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)", text, re.IGNORECASE)
    if found is None:
        return 0
    power = " KMGTPE".index(found.group(2).upper() or " ")
    return int(float(found.group(1)) * base**power)


# -------------------------------------------------------------------------------------------- reading verbs


def read_proc(path: str, proc: str = "/proc") -> str:
    try:
        with open("%s/%s" % (proc, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def boot_time() -> Optional[int]:
    found = re.search(r"^btime (\d+)", read_proc("stat"), re.MULTILINE)
    return int(found.group(1)) if found else None


def facts(ctx: Context) -> Outcome:
    uptime = read_proc("uptime").split()
    return done(
        {
            "hostname": os.uname().nodename,
            "boot_id": read_proc("sys/kernel/random/boot_id").strip(),
            "boot_time": boot_time(),
            "uptime_s": float(uptime[0]) if uptime else None,
            "kernel": os.uname().release,
            "python": "%d.%d.%d" % sys.version_info[:3],
            "uid": os.geteuid(),
            "tools": {name: has(ctx, name) for name in ("journalctl", "systemctl", "docker", "podman", "crictl")},
        }
    )


def memory(ctx: Context) -> Outcome:
    if ctx.volume is not None:
        return done(drill_memory(ctx, ctx.volume))
    lines = re.findall(r"^(\w+):\s+(\d+)", read_proc("meminfo", ctx.roots.proc), re.MULTILINE)
    kb = {key: int(value) for key, value in lines}
    pages = dict(re.findall(r"^(pswpin|pswpout) (\d+)", read_proc("vmstat", ctx.roots.proc), re.MULTILINE))
    if "MemAvailable" not in kb or not kb.get("MemTotal"):
        raise Failed("/proc/meminfo does not say how much memory is available")
    return done(
        {
            "total_bytes": kb["MemTotal"] * KB,
            "available_bytes": kb["MemAvailable"] * KB,
            "percent": (1 - kb["MemAvailable"] / kb["MemTotal"]) * 100,
            "anon_bytes": kb.get("AnonPages", 0) * KB,
            "cached_bytes": kb.get("Cached", 0) * KB,
            "shmem_bytes": kb.get("Shmem", 0) * KB,
            "unreclaimable_bytes": (kb.get("SUnreclaim", 0) + kb.get("KernelStack", 0)) * KB,
            "huge_pages_bytes": kb.get("Hugetlb", 0) * KB,
            "swap_total_bytes": kb.get("SwapTotal", 0) * KB,
            "swap_free_bytes": kb.get("SwapFree", 0) * KB,
            "swap_in_pages": int(pages.get("pswpin", 0)),
            "swap_out_pages": int(pages.get("pswpout", 0)),
            "page_bytes": os.sysconf("SC_PAGE_SIZE"),
            "pressure": parse_pressure(read_proc("pressure/memory", ctx.roots.proc)),
            "drills": memory_drills(ctx),
        }
    )


def gauges(ctx: Context) -> Outcome:
    """What is looked at all the time, for the price of one call. One of them may fail without the others."""
    parts = {name: part_of(ctx, name) for name in ("usage", "memory")}
    if parts["memory"].result.get("percent", 0) >= CONSUMERS_FROM:
        parts["consumers"] = part_of(ctx, "consumers")
    return done({name: part._asdict() for name, part in parts.items()})


def part_of(ctx: Context, verb: str) -> Outcome:
    return outcome_of(ctx._replace(request=ctx.request._replace(verb=verb)))


def parse_pressure(text: str) -> Optional[Dict[str, float]]:
    lines = re.findall(r"^(some|full) avg10=([\d.]+) avg60=([\d.]+)", text, re.MULTILINE)
    figures = {}
    for name, avg10, avg60 in lines:
        figures[name + "_avg10"], figures[name + "_avg60"] = float(avg10), float(avg60)
    return figures or None


def opt_in(ctx: Context) -> Outcome:
    """The opt-in file, read live. Any doubt about who wrote it or what it says, and it opts in to nothing."""
    nothing: Dict[str, Any] = {"present": False, "annotations": {}, "words": []}
    path = shown_path(ctx, "annotations")
    where, name = os.path.split(path if ctx.volume is None else DRILL_LAYOUT["annotations"])
    try:
        with closing(open_folder(where, ctx.volume.fd if ctx.volume else None)) as fd:
            require_ours(os.fstat(fd), os.path.dirname(path))
            values = parse_annotations(read_small(fd, name, os.path.dirname(path)))
    except FileNotFoundError:
        return done(nothing, "there is no %s" % path)
    except UnicodeDecodeError:
        raise Refused("%s is not UTF-8" % path, {**nothing, "present": True}) from None
    except OSError as error:
        kind = Refused if error.errno == errno.ELOOP else Failed  # a symbolic link, or unreadable
        raise kind("%s: %s" % (path, said(error)), {**nothing, "present": True}) from error
    except Refused as no:
        raise Refused(no.outcome.reason, {**nothing, "present": True}) from None
    return done({"present": True, "annotations": values, "words": opt_in_words(values.get(OPT_IN, ""))})


def parse_annotations(text: str) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()  # noqa: PLW2901
        if not line:
            continue
        pair = re.fullmatch(r"([A-Za-z0-9._/-]+)\s*[:=]\s*(.*)", line)
        if pair is None:
            raise Refused("line %d of the annotations is neither `key: value` nor `key=value`" % number)
        key, value = pair.groups()
        if key in values:
            raise Refused("line %d of the annotations gives %s a second time" % (number, key))
        values[key] = value[1:-1] if re.fullmatch(r"\"[^\"]*\"|'[^']*'", value) else value
    return values


def opt_in_words(value: str) -> List[str]:
    words = [word.strip().lower() for word in value.split(",") if word.strip()]
    return [] if "off" in words else words


def survey(ctx: Context) -> Outcome:
    """What a clean-up would find, and what else may fill the disk. A part that cannot be had says why."""
    result: Dict[str, Any] = {"journal": journal_size(ctx), "cut": []}
    for part, which, rule in (("rotated_logs", "log", ROTATED_LOGS), ("tmp", "tmp", UNUSED_TMP)):
        try:
            with folder(ctx, which) as fd:
                sweep = Sweep(fd, rule, dry_run=True, entries=SURVEY_ENTRIES, seconds=SURVEY_PART_S)
                sweep.run()
                result[part] = sweep.shown(shown_path(ctx, which))
                note_cut(result, part, sweep.cut)
        except Ended as no:
            result[part] = {"reason": no.outcome.reason}
    result.update(runtime_of(ctx))
    result.update(biggest(ctx, result))
    result["deleted_open"] = deleted_open(result)
    result["lies_on"] = {} if ctx.volume else lies_on(ctx, result["runtime_folder"])
    return done(result)


def lies_on(ctx: Context, images: Optional[str]) -> Dict[str, Optional[str]]:
    log = ctx.roots.log
    folders = {"journal": log + "/journal", "rotated_logs": log, "containers": images, "tmp": ctx.roots.tmp}
    return {part: folder and file_system_of(folder) for part, folder in folders.items()}


def file_system_of(path: str) -> Optional[str]:
    """The first mount point of the file system that a folder is on, or would be on if it were made."""
    try:
        with closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as fd:
            mount = mount_of(fd)
    except OSError:
        above = os.path.dirname(path)
        return file_system_of(above) if above != path else None
    return first_points().get(mount.device) if mount else None


def first_points() -> Dict[str, str]:
    """Of each file system, by its device, the mount point that `usage` has it under."""
    nearest_last = sorted(mounts_of(), key=lambda mount: (len(mount.point), mount.point), reverse=True)
    return {mount.device: mount.point for mount in nearest_last}


# Whose images a prune would remove: its name, the usual folder, who knows the real one, and how that is found.
RUNTIMES = (
    ("docker", "/var/lib/docker", ["docker", "info", "--format", "{{.DockerRootDir}}"], r"^(/.*)$"),
    (
        "crictl",
        "/var/lib/containerd",
        ["crictl", "--timeout=3s", "imagefsinfo", "-o", "json"],
        r'"mountpoint":\s*"(/[^"]*)"',
    ),
)


def runtime_of(ctx: Context) -> Dict[str, Optional[str]]:
    """The first that answers: docker's client may be left on a host whose runtime is containerd."""
    for name, usual, argv, form in RUNTIMES:
        with contextlib.suppress(Ended):
            out, _ = call(ctx, argv, INSPECT_S)
            found = re.search(form, out, re.MULTILINE)
            return {"runtime": name, "runtime_folder": found.group(1) if found else usual}
    return {"runtime": None, "runtime_folder": None}


def note_cut(result: Dict[str, Any], part: str, why: Optional[str]) -> None:
    if why:
        result["cut"].append("%s: %s" % (part, why))


def journal_size(ctx: Context) -> Dict[str, Any]:
    try:
        if ctx.volume is not None:
            raise Skipped("the system journal is not on the drill's volume")
        return {"bytes": journal_bytes(ctx), "reason": ""}
    except Ended as no:
        return {"bytes": None, "reason": no.outcome.reason}


def journal_bytes(ctx: Context) -> int:
    out, err = call(ctx, ["journalctl", "--disk-usage"], JOURNAL_ASK_S)
    found = re.search(r"take up (\S+)", out + err)
    return size_in(found.group(1), 1024) if found else 0


def biggest(ctx: Context, result: Dict[str, Any]) -> Dict[str, Any]:
    files: List[Tuple[int, str]] = []
    folders: List[Tuple[int, str]] = []
    with contextlib.suppress(Ended), folder(ctx, "log") as fd:
        sizes = Sizes(fd, SURVEY_ENTRIES, SURVEY_PART_S)
        sizes.run()
        note_cut(result, "biggest", sizes.cut)
        files, folders = sizes.files, [(size, name) for name, size in sizes.folders.items()]
    return {
        "biggest_files": [{"path": path, "bytes": size} for size, path in heapq.nlargest(10, files)],
        "biggest_folders": [{"path": path, "bytes": size} for size, path in heapq.nlargest(10, folders)],
    }


class Held(NamedTuple):
    """One file that is deleted but held open."""

    size: int
    pid: str
    path: str
    mount: Optional[str]  # where this host has its file system; a container may have it elsewhere

    def shown(self) -> Dict[str, Any]:
        comm = read_proc(self.pid + "/comm").strip()
        return {"pid": int(self.pid), "comm": comm, "path": self.path, "bytes": self.size, "mount": self.mount}


def deleted_open(result: Dict[str, Any]) -> Dict[str, Any]:
    """Files that are deleted but held open: their space comes back when their holder closes them."""
    holders: Dict[Tuple[int, int], Held] = {}
    points = first_points()
    everything, by_mount = OpenFiles(), Counter()  # type: OpenFiles, Counter[str]
    for file in everything:
        if not file.path.endswith(" (deleted)") or file.mount.kind not in LOCAL_KINDS:
            continue
        with contextlib.suppress(OSError):
            found = os.stat(file.link)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                path, point = file.path[: -len(" (deleted)")], points.get(file.mount.device)
                holders[found.st_dev, found.st_ino] = Held(found.st_blocks * 512, file.pid, path, point)
    for held in holders.values():
        by_mount[held.mount or ""] += held.size
    note_cut(result, "deleted_open", "too many open files" if everything.is_cut else None)
    return {
        "files": len(holders),
        "bytes": sum(by_mount.values()),
        "by_mount": dict(by_mount.most_common(50)),
        "top": [held.shown() for held in heapq.nlargest(10, holders.values())],
        "unseen_processes": everything.unseen_processes,
    }


# ---------------------------------------------------------------------------------------------------- usage


class Space(NamedTuple):
    total: int
    free: int
    avail: int
    inodes: int
    inodes_free: int

    def shown(self) -> Dict[str, Any]:
        """Percent is as df has it: of what users can use, so that 100 means that they are out of space."""
        used = self.total - self.free
        usable = used + self.avail
        return {
            "total_bytes": self.total,
            "used_bytes": used,
            "free_bytes": self.free,
            "avail_bytes": self.avail,
            "percent": used / usable * 100 if usable else 100.0,
            "inode_percent": (self.inodes - self.inodes_free) / self.inodes * 100 if self.inodes else None,
        }


def usage(ctx: Context) -> Outcome:
    excluded: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        volumes = [ctx.volume] if ctx.volume else all_volumes(ctx.roots, stack)
        volumes = [volume for volume in volumes if volume.supervisor is None]
        ours = {volume.mount_id: volume.id for volume in volumes if volume.budget_bytes is None}
        mounts, read_only = real_mounts(mounts_of(), set(ours), excluded)
        if ctx.volume:
            mounts = [mount for mount in mounts if mount.id in ours]
        entries = []
        for mount, space in spaces_of(mounts):
            figures = space.shown() if isinstance(space, Space) else {"error": space}
            if figures.get("total_bytes") == 0:
                excluded["zero size"] += 1
                continue
            about = {"mount": mount.point, "device": mount.source, "fstype": mount.kind}
            entries.append({**about, **figures, "drill": ours.get(mount.id)})
        entries.extend(budget_usage(volume) for volume in volumes if volume.budget_bytes is not None)
    return done({"mounts": entries, "read_only": read_only, "excluded": dict(excluded)})


def all_volumes(roots: Roots, stack: contextlib.ExitStack) -> List[Volume]:
    names, found = [], []  # type: List[str], List[Volume]
    with contextlib.suppress(OSError):
        names = sorted(filter(DRILL_ID.fullmatch, os.listdir(roots.drills)))[:100]
    for name in names:
        with contextlib.suppress(Refused):
            found.append(stack.enter_context(drill_volume(roots, name)))
    return found


def budget_usage(volume: Volume) -> Dict[str, Any]:
    """A folder stands in for a file system: its files' lengths against its budget."""
    sizes = Sizes(volume.fd, SURVEY_ENTRIES, SURVEY_PART_S)
    sizes.run()
    about = {"mount": volume.path, "device": "", "fstype": "budget", "drill": volume.id}
    unmeasured = [*filter(None, [sizes.cut]), *sizes.errors, *sizes.left]
    if unmeasured:  # half a measure would look like a good one
        return {**about, "error": "not all could be measured: %s" % ", ".join(unmeasured)}
    total = volume.budget_bytes or 0
    free = max(0, total - sizes.apparent)
    shown = Space(total, free, free, 0, 0).shown()
    shown.update({"used_bytes": sizes.apparent, "percent": sizes.apparent / total * 100})
    return {**about, **shown}


def real_mounts(table: List[Mount], ours: Set[int], excluded: Counter[str]) -> Tuple[List[Mount], List[str]]:
    """The mounts that can fill up, one for each file system; and those that are read-only."""
    topmost = {mount.point: mount for mount in table}  # a later mount hides an earlier one at its place
    kept: Dict[str, Mount] = {}
    read_only: Dict[str, str] = {}
    for mount in sorted(topmost.values(), key=lambda mount: (len(mount.point), mount.point)):
        why = why_no_disk(mount, ours) or ("hidden, or a file" if not is_seen(mount, table) else "")
        if why:
            excluded[why] += 1
        elif mount.read_only:
            read_only.setdefault(mount.device, mount.point)
        elif mount.device in kept:
            excluded["the same file system"] += 1
        else:
            kept[mount.device] = mount
    return list(kept.values()), sorted(point for device, point in read_only.items() if device not in kept)


def why_no_disk(mount: Mount, ours: Set[int]) -> str:
    if mount.kind in NEVER_FILLS or mount.kind.startswith("cgroup"):
        return "not a disk"
    if mount.kind == "overlay" and mount.point != "/":
        return "a container's overlay"
    if SOMEONES_DRILL.search(mount.point) and mount.id not in ours:
        return "another BytePort's drill"
    return ""


def is_slow(mount: Mount, table: Iterable[Mount]) -> bool:
    """Whether a look at it could hang: it is, or lies below, no local file system."""
    return any(
        other.kind not in LOCAL_KINDS | NEVER_FILLS
        and (mount.point == other.point or mount.point.startswith(other.point.rstrip("/") + "/"))
        for other in table
    )


def is_seen(mount: Mount, table: Iterable[Mount]) -> bool:
    """Whether its path leads to it, and to a folder: mounts may be hidden by others, or of one file."""
    if is_slow(mount, table):
        return True
    try:
        fd = os.open(mount.point, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # its usage will say why it cannot be had
    with closing(fd):
        return mount_id(fd) == mount.id and stat.S_ISDIR(os.fstat(fd).st_mode)


def spaces_of(mounts: List[Mount]) -> Iterator[Tuple[Mount, object]]:
    """Each mount with its Space, or with the reason why there is none."""
    table = mounts_of()
    slow = [mount for mount in mounts if is_slow(mount, table)]
    answers = dict(ask_children([mount.point for mount in slow[:32]]))
    for mount in mounts:
        if mount not in slow:
            yield mount, space_of(mount.point)
        else:
            answer = answers.get(mount.point, "not asked: too many network file systems")
            if answer is not None:
                yield mount, answer


def space_of(point: str) -> object:
    try:
        found = os.statvfs(point)
    except OSError as error:
        return said(error)
    block = found.f_frsize
    blocks = (found.f_blocks * block, found.f_bfree * block, found.f_bavail * block)
    return Space(*blocks, found.f_files, found.f_ffree)


def ask_children(points: List[str]) -> Iterator[Tuple[str, object]]:
    """Space, a reason, or None for a mounted file. All are asked at once, and have STATVFS_S together.

    In children, as a network file system whose server is gone never answers, and cannot always be interrupted.
    """
    asked = [(point, *asked_child(point)) for point in points]
    deadline = time.monotonic() + STATVFS_S
    for point, pid, fd in asked:
        with closing(fd):
            answers = select.select([fd], [], [], max(0.05, deadline - time.monotonic()))[0]
            text = os.read(fd, TEXT_LIMIT).decode("utf-8", "replace") if answers else ""
        if not answers:
            os.kill(pid, signal.SIGKILL)  # not waited for: it may hang in the kernel for as long as the server is away
            yield point, "did not answer within %g s" % STATVFS_S
            continue
        os.waitpid(pid, 0)
        if not re.fullmatch(r"(\d+ ){6}[01]", text):
            yield point, text.strip() or "could not be asked"
            continue
        block, total, free, avail, inodes, inodes_free, is_folder = map(int, text.split())
        space = Space(total * block, free * block, avail * block, inodes, inodes_free)
        yield point, space if is_folder else None


def asked_child(point: str) -> Tuple[int, int]:
    """Its pid, and where its answer can be read. A fork: there may be no Python where we have made / another's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        found = os.statvfs(point)
        blocks = (found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        os.write(writing, " ".join(map(str, (*blocks, int(os.path.isdir(point))))).encode())
    except OSError as error:
        os.write(writing, said(error).encode())
    finally:
        os._exit(0)


# --------------------------------------------------------------------------------- processes and their memory


class Place(NamedTuple):
    """What a process belongs to, by its cgroup. The path tells two of one name apart."""

    kind: str  # "container", "unit" or "process"
    name: str  # the container's full id, the unit's name, or the program's
    runtime: str = ""  # of a container: "docker", "podman", "crictl"; "" where it is none of them
    path: str = ""  # of its cgroup


class Process(NamedTuple):
    """One process. Its pid and start name it for good; the pid alone may be given to another."""

    pid: int
    parent: int
    started: int  # clock ticks after boot
    comm: str
    anon: int  # bytes
    shared: int
    swap: int
    place: Place
    paths: Dict[str, str]  # its cgroups, see parse_cgroups

    @property
    def rss(self) -> int:
        """Without pages of files: those the kernel can drop, and read again."""
        return self.anon + self.shared

    def shown(self) -> Dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "comm": self.comm, "rss_bytes": self.rss}


ID = "([0-9a-f]{64})"
CONTAINER_NAMES = tuple(
    (re.compile(form % ID), runtime)
    for form, runtime in (
        (r"docker-%s\.scope", "docker"),
        (r"libpod-%s(?:\.scope)?", "podman"),
        (r"cri-containerd-%s\.scope", "crictl"),
        (r"crio-%s(?:\.scope)?", "crictl"),
        (r".*:cri-containerd:%s", "crictl"),
        (r"(?:\w+-)?%s(?:\.scope)?", ""),
    )
)
# Where the runtime's cgroup driver is not systemd, its containers may lie below its own service.
RUNTIME_UNITS = re.compile(r"(docker|containerd|crio|kubelet|k3s|rke2).*\.service")


def parse_cgroups(text: str) -> Dict[str, str]:
    """/proc/<pid>/cgroup (cgroups(7)): its paths as "systemd" and "memory" (version 1), and "unified" (2)."""
    paths = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["unified"] = path
        elif controllers == "name=systemd":
            paths["systemd"] = path
        elif "memory" in controllers.split(","):
            paths["memory"] = path
    return paths


def place_in(path: str) -> Optional[Place]:
    """The outermost unit or container on a cgroup's path: what is inside of it, its owner may name at will."""
    runtime_unit, names = None, path.split("/")
    for depth, name in enumerate(names):
        inside = "/".join(names[: depth + 1])
        for form, runtime in CONTAINER_NAMES:
            found = form.fullmatch(name)
            if found:
                return Place("container", found.group(1), runtime or runtime_above(names[:depth]), inside)
        if name.endswith((".service", ".scope")):
            unit = Place("unit", name[1:] if name.startswith("_") else name, "", inside)  # "_" is systemd's escape
            if runtime_unit or not RUNTIME_UNITS.fullmatch(name):
                return runtime_unit or unit
            runtime_unit = unit
    return runtime_unit


def runtime_above(names: List[str]) -> str:
    """Of a container whose cgroup bears its id alone."""
    if any(name.startswith("kubepods") for name in names):
        return "crictl"
    return "docker" if names[-1] == "docker" or "ecs" in names else ""


def is_in_kubernetes(place: Place) -> bool:
    return any("kubepods" in name for name in place.path.split("/"))


def place_of(paths: Dict[str, str], comm: str) -> Place:
    found = (place_in(paths.get(which, "")) for which in ("systemd", "unified", "memory"))
    return next(filter(None, found), Place("process", comm))


def read_text(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read(SMALL_FILE_LIMIT_BYTES))


def plain(text: str) -> str:
    """A name that somebody else chose, fit for one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def read_process(folder: str, parent: Optional[int] = None) -> Optional[Process]:
    """None for what has no memory of its own (a kernel thread, or what has ended), or is no child of `parent`."""
    try:
        pid, _, rest = read_text(folder + "/stat").partition(" (")
        comm, _, after = rest.rpartition(") ")  # it may hold any character itself
        fields = after.split()
        if len(fields) < 20 or parent not in (None, int(fields[1])):
            return None
        status, paths = read_text(folder + "/status"), parse_cgroups(read_text(folder + "/cgroup"))
    except OSError:
        return None
    kb = dict(re.findall(r"^(RssAnon|RssShmem|VmSwap):\s+(\d+)", status, re.MULTILINE))
    if "RssAnon" not in kb:
        return None
    anon, shared, swap = (int(kb.get(key, 0)) * KB for key in ("RssAnon", "RssShmem", "VmSwap"))
    place = place_of(paths, plain(comm))
    return Process(int(pid), int(fields[1]), int(fields[19]), plain(comm), anon, shared, swap, place, paths)


def all_processes(ctx: Context) -> Dict[int, Process]:
    """Those of the scope, by pid."""
    return every_process(ctx) if ctx.volume is None else of_drill(ctx, ctx.volume)


def every_process(ctx: Context, parent: Optional[int] = None) -> Dict[int, Process]:
    """Raises Failed when they are too many to see all: half of them would look like less memory."""
    deadline, found = time.monotonic() + PROCESSES_S, {}
    pids = [name for name in os.listdir(ctx.roots.proc) if name.isdigit()]
    for pid in pids:
        if len(pids) > PROCESSES_LIMIT or time.monotonic() > deadline:
            raise Failed("%d processes are too many to look at" % len(pids))
        process = read_process("%s/%s" % (ctx.roots.proc, pid), parent)
        if process:
            found[process.pid] = process
    return found


def of_drill(ctx: Context, volume: Volume) -> Dict[int, Process]:
    """What the drill's supervisor has started, each as a unit of its own. Raises Refused when there is none."""
    if volume.supervisor is None:
        raise Refused("the drill %s has no processes" % volume.id)
    pid, started = volume.supervisor
    supervisor = read_process("%s/%d" % (ctx.roots.proc, pid))
    if supervisor is None or supervisor.started != started:
        raise Refused("the supervisor of the drill %s has ended" % volume.id)
    found = {}
    for process in every_process(ctx, parent=pid).values():
        unit = process.comm + ".service"
        place = Place("unit", unit, "", "drill/%s/%s" % (volume.id, unit))
        found[process.pid] = process._replace(place=place, paths={})
    return found


def drill_memory(ctx: Context, volume: Volume) -> Dict[str, Any]:
    """As `memory` has it, against the budget."""
    used = sum(process.rss for process in of_drill(ctx, volume).values())
    total = volume.budget_bytes or 1
    swap = dict.fromkeys(("swap_total_bytes", "swap_free_bytes", "swap_in_pages", "swap_out_pages"), 0)
    figures = {"total_bytes": total, "available_bytes": max(0, total - used), "percent": used / total * 100}
    others = ("cached_bytes", "shmem_bytes", "unreclaimable_bytes", "huge_pages_bytes")
    about = {"drill": volume.id, "page_bytes": os.sysconf("SC_PAGE_SIZE"), "pressure": None}
    return {**about, **figures, "anon_bytes": used, **dict.fromkeys(others, 0), **swap}


def memory_drills(ctx: Context) -> List[Dict[str, Any]]:
    """One that comes or goes at this very moment is left out: the host's own figures do not hang on it."""
    found = []
    with contextlib.ExitStack() as stack:
        for volume in all_volumes(ctx.roots, stack):
            if volume.supervisor is not None:
                with contextlib.suppress(Ended, OSError):
                    within = ctx._replace(volume=volume)
                    shown = [one.shown(ctx) for one in grouped(within, all_processes(within))]
                    found.append({**drill_memory(ctx, volume), "consumers": shown})
    return found


class Counted(NamedTuple):
    """What a cgroup's own statistics say, in bytes."""

    by: str
    rss: int
    swap: int
    limit: Optional[int]
    oom_kills: Optional[int]


def counted(ctx: Context, process: Process) -> Optional[Counted]:
    """The statistics of its place's cgroup, where the memory controller has one for it."""
    for which, above in (("memory", "/memory"), ("unified", ""), ("unified", "/unified")):
        place = place_in(process.paths.get(which, ""))
        if place and place[:3] == process.place[:3] and ".." not in place.path.split("/"):
            folder = ctx.roots.cgroups + above + place.path
            with contextlib.suppress(OSError, ValueError, KeyError):
                return cgroup1(folder) if which == "memory" else cgroup2(folder)
    return None


def figures_in(path: str) -> Dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)$", read_text(path), re.MULTILINE)}


def cgroup1(folder: str) -> Counted:
    """What begins with `total_` is with the cgroups below. A limit near 2^63 is none."""
    found, limit = figures_in(folder + "/memory.stat"), int(read_text(folder + "/memory.limit_in_bytes"))
    kills = figures_in(folder + "/memory.oom_control").get("oom_kill")
    rss, swap = found["total_rss"] + found.get("total_shmem", 0), found.get("total_swap", 0)
    return Counted("cgroup1", rss, swap, limit if limit < 1 << 60 else None, kills)


def cgroup2(folder: str) -> Counted:
    found, limit, swap = figures_in(folder + "/memory.stat"), read_text(folder + "/memory.max").strip(), 0
    with contextlib.suppress(OSError):  # absent where the kernel does not count swap
        swap = int(read_text(folder + "/memory.swap.current"))
    kills = figures_in(folder + "/memory.events").get("oom_kill")
    rss = found["anon"] + found.get("shmem", 0)
    return Counted("cgroup2", rss, swap, None if limit == "max" else int(limit), kills)


class Consumer:
    """All processes of one place, the oldest first."""

    def __init__(self, ctx: Context, processes: List[Process], main: Optional[Process] = None) -> None:
        self.processes = sorted(processes, key=lambda process: (process.started, process.pid))
        self.place = self.processes[0].place
        self.counted = counted(ctx, self.processes[0])
        self.main = main or self._oldest()

    @property
    def rss(self) -> int:
        """Without a count by the kernel, shared memory counts once: as the largest share of one process."""
        if self.counted:
            return self.counted.rss
        return sum(process.anon for process in self.processes) + max(process.shared for process in self.processes)

    def _oldest(self) -> Process:
        """The first that descends from none of the others."""
        pids = {process.pid for process in self.processes}
        return next((process for process in self.processes if process.parent not in pids), self.processes[0])

    @property
    def biggest(self) -> Process:
        return max(self.processes, key=lambda process: process.rss)

    def shown(self, ctx: Context) -> Dict[str, Any]:
        counted = self.counted
        return {
            "kind": self.place.kind,
            "name": self.place.name,
            "runtime": self.place.runtime,
            "kubernetes": is_in_kubernetes(self.place),
            "rss_bytes": self.rss,
            "counted_by": counted.by if counted else "processes",
            "swap_bytes": counted.swap if counted else sum(process.swap for process in self.processes),
            "limit_bytes": counted.limit if counted else None,
            "oom_kills": counted.oom_kills if counted else None,
            "processes": len(self.processes),
            "main": self.main.shown(),
            "biggest": self.biggest.shown(),
            "since": began_at(self.main),
            "oom_score_adj": oom_score_adj("%s/%d" % (ctx.roots.proc, self.biggest.pid)),
        }


def began_at(process: Process) -> Optional[float]:
    booted = boot_time()
    return booted + process.started / os.sysconf("SC_CLK_TCK") if booted else None


def oom_score_adj(folder: str) -> Optional[int]:
    try:
        return int(read_text(folder + "/oom_score_adj"))
    except (OSError, ValueError):
        return None


def grouped(ctx: Context, processes: Dict[int, Process]) -> List[Consumer]:
    """Who holds memory, the greatest first. A process of no unit or container is a consumer by itself."""
    members: Dict[object, List[Process]] = {}
    for process in processes.values():
        key = process.pid if process.place.kind == "process" else process.place
        members.setdefault(key, []).append(process)
    return sorted((Consumer(ctx, some) for some in members.values()), key=lambda one: one.rss, reverse=True)


def consumers(ctx: Context) -> Outcome:
    processes = all_processes(ctx)
    everyone = grouped(ctx, processes)
    top, rest = everyone[:TOP_CONSUMERS], everyone[TOP_CONSUMERS:]
    shown = [{**one.shown(ctx), "critical": why_never(ctx, one, processes)} for one in top]
    return done({"consumers": shown, "others": {"consumers": len(rest), "rss_bytes": sum(one.rss for one in rest)}})


# ------------------------------------------------------------------------------------- what is never touched

# By the whole name of a program, or of a unit without its instance and ending.
NEVER_NAMES = tuple(
    (re.compile(form), what)
    for form, what in (
        (r"systemd(-.+)?|init|\(sd-pam\)|e?udevd|elogind|user|user-runtime-dir", "systemd's own"),
        (r"sshd?(-.+)?|dropbear", "the way in to this host"),
        (r"dbus(-.+)?", "D-Bus"),
        (r"kube.+|k3s.*|rke2.*|hyperkube", "Kubernetes' own"),
        (
            r"docker(d|-.+)?|containerd(-.+)?|cri-?o(-.+)?|conmon.*|podman.*|buildkitd?|runc|crun|lx[cd](-.+)?",
            "a container runtime",
        ),
        (r"r?syslog(d|-ng)?|audit(d|-.+)?|.*journald?(-.+)?", "the system's log"),
        (
            r"(serial-|console-|container-)?a?getty|login|polkit(d)?|network-?manager(-.+)?|networking|dhclient|"
            r"dhcpcd|wpa_supplicant|iwd|firewalld|nftables|chronyd?|ntpd?|crond?|anacron|atd|multipathd?|iscsid|"
            r"lvm2-.+|cloud-.+|.*ssm-agent.*|google[_-].+|wa(linux)?agent|qemu-(ga|guest-agent)|keepalived",
            "a service of the system itself",
        ),
    )
)
# By how a word of it begins: of the name of a program, unit, container or image.
NEVER_WORDS = (
    (re.compile("byteport"), "BytePort itself"),
    (
        re.compile(
            "postgres|postmaster|pgsql|pgbouncer|pgpool|patroni|timescale|mysql|maria|percona|galera|mongo|redis|"
            "valkey|keydb|dragonfly|memcache|etcd|dqlite|rqlite|cockroach|yugabyte|cassandra|scylla|clickhouse|"
            "influx|elastic|opensearch|solr|kafka|zookeeper|rabbitmq|nats|couch|neo4j|oracle|mssql|sqlservr|db2|"
            "firebird|tarantool|aerospike|arango|rethink|tikv|tidb|foundationdb|fdb|questdb|victoria|prometheus|"
            "minio|ceph|gluster|consul|vault|slapd|openldap|qdrant|milvus|weaviate|surreal"
        ),
        "a database",
    ),
)
# These run programs of any kind; which one, their first arguments say that are no options.
VIRTUAL_MACHINES = re.compile(r"java|beam(\.smp)?|erl\w*")


def why_never(ctx: Context, consumer: Consumer, processes: Dict[int, Process]) -> str:
    """Why neither it is ever restarted nor its oom_score_adj changed; empty when nothing speaks against it."""
    ours = own_tree(processes)
    for process in consumer.processes:
        why = "the system's first process" if process.pid == 1 else ""
        why = why or ("BytePort itself" if process.pid in ours else why_never_program(ctx, process))
        if why:
            return "%s (%d) is %s" % (process.comm, process.pid, why)
    why = why_never_unit(consumer.place.name) if consumer.place.kind == "unit" else ""
    return "%s is %s" % (plain(consumer.place.name), why) if why else ""


def own_tree(processes: Dict[int, Process]) -> Set[int]:
    """This program and all that have started it, but for the first process."""
    pid, ours = os.getpid(), {os.getpid()}
    while pid in processes and processes[pid].parent > 1 and processes[pid].parent not in ours:
        pid = processes[pid].parent
        ours.add(pid)
    return ours


def why_never_name(name: str) -> str:
    found = (what for form, what in NEVER_NAMES if form.fullmatch(name.lower()))
    return next(found, "") or why_never_words(name)


def why_never_words(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((what for form, what in NEVER_WORDS if any(map(form.match, words))), "")


def why_never_unit(unit: str) -> str:
    name, _, kind = unit.rpartition(".")
    if kind != "service":
        return "no service: systemd could not start it again"  # a scope: a session's, or a runtime's
    stem, _, instance = name.partition("@")
    return why_never_name(stem) or why_never_words(instance)


def why_never_program(ctx: Context, process: Process) -> str:
    """By every name it has. Some of them are its own choice, so its executable has to be seen too."""
    folder = "%s/%d" % (ctx.roots.proc, process.pid)
    try:
        program = os.path.basename(os.readlink(folder + "/exe").replace(" (deleted)", ""))
        arguments = read_text(folder + "/cmdline").split("\0")
        environment = read_text(folder + "/environ").split("\0")
    except OSError as error:
        return "a program that may not be looked at: %s" % said(error)
    names = [program, process.comm, os.path.basename(arguments[0].split(" ")[0].rstrip(":"))]
    if VIRTUAL_MACHINES.fullmatch(program):
        names += [word for word in arguments[1:] if word[:1] not in "-+" and not set(word) & set("=:;")]
    if any(setting.startswith(("BYTEPORT_", "DJANGO_SETTINGS_MODULE=byteport.")) for setting in environment):
        return "BytePort itself"
    return next(filter(None, map(why_never_name, names)), "")


# ---------------------------------------------------------------------------- units and containers: may they?


class Restartable(NamedTuple):
    """A unit or container that may be restarted, as it was found just now."""

    consumer: Consumer
    title: str  # for people: the unit's name, or the container's
    about: Dict[str, str]  # what its manager says of it

    @property
    def main(self) -> Process:
        return self.consumer.main


SHOWN = (
    *("Id", "Names", "LoadState", "ActiveState", "Job", "MainPID", "ControlGroup", "FragmentPath", "DropInPaths"),
    *("NeedDaemonReload", "Transient", "DefaultDependencies", "RefuseManualStart", "RefuseManualStop"),
    # To whom systemd hands on a stop, and so a restart.
    *("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"),
)
DEPENDENTS = SHOWN[-5:]
UNIT_FLAGS = (
    ("LoadState", "loaded", "systemd does not have it loaded"),
    ("ActiveState", "active", "it is not running"),
    ("NeedDaemonReload", "no", "its files were changed and systemd has not read them yet: somebody is at it"),
    ("Transient", "no", "it is transient: once stopped, it is gone"),
    ("DefaultDependencies", "yes", "it is one of the system's own units (DefaultDependencies=no)"),
    ("RefuseManualStart", "no", "it refuses to be started by hand"),
    ("RefuseManualStop", "no", "it refuses to be stopped by hand"),
)


def show_unit(ctx: Context, unit: str) -> Dict[str, str]:
    if ctx.volume is not None:
        return show_drill_unit(ctx, ctx.volume, unit)
    argv = ["systemctl", "show", "--no-pager", "--property=" + ",".join(SHOWN), "--", unit]
    lines = call(ctx, argv, INSPECT_S)[0].split("\n")
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def show_drill_unit(ctx: Context, volume: Volume, unit: str) -> Dict[str, str]:
    """What systemd would say of it."""
    running = [process for process in all_processes(ctx).values() if process.place.name == unit]
    about = {"Id": unit, "Names": unit, "LoadState": "loaded", "FragmentPath": "%s/%s" % (volume.path, unit)}
    if len(running) != 1:
        return {**about, "ActiveState": "activating"}
    [one] = running
    return {**about, "ActiveState": "active", "MainPID": str(one.pid), "ControlGroup": one.place.path}


def checked_unit(ctx: Context, unit: object, processes: Dict[int, Process]) -> Restartable:
    """The unit, when all speaks for it; else Refused with what speaks against it."""
    if not isinstance(unit, str) or not UNIT.fullmatch(unit):
        raise Refused("%.80r is not the name of a service" % (unit,))
    refuse_if(why_never_unit(unit), unit)
    about = show_unit(ctx, unit)
    if about.get("Id") != unit:
        raise Refused("%s is another name of %s" % (unit, plain(about.get("Id", "")) or "nothing that systemd knows"))
    for name in about.get("Names", "").split():
        refuse_if(why_never_unit(name), name)
    for key, wanted, why in UNIT_FLAGS:
        if about.get(key, wanted) != wanted:
            raise Refused("%s: %s" % (unit, why))
    require_no_dependents(unit, about)
    found = consumer_of(ctx, about.get("MainPID", ""), processes)
    if found.place.kind != "unit" or found.place.name != unit or found.place.path != about.get("ControlGroup"):
        raise Refused("%s: its main process (%s) is not in its cgroup" % (unit, about.get("MainPID")))
    refuse_if(why_never(ctx, found, processes), "")
    require_label(unit, unit_label(about))
    return Restartable(found, unit, about)


def refuse_if(why: str, name: str) -> None:
    if why:
        raise Refused("%s is %s, which is never restarted" % (name, why) if name else "%s: never restarted" % why)


def require_no_dependents(unit: str, about: Dict[str, str]) -> None:
    if about.get("Job", "0") not in ("", "0"):
        raise Refused("%s: systemd is at it already (job %s)" % (unit, about["Job"]))
    others = sorted({name for key in DEPENDENTS for name in about.get(key, "").split()})
    if others:
        raise Refused("%s: its restart would also restart or stop %s" % (unit, plain(", ".join(others[:5]))))


def consumer_of(ctx: Context, pid: str, processes: Dict[int, Process]) -> Consumer:
    """Of the main process that its manager names."""
    main = processes.get(int(pid)) if re.fullmatch(r"[1-9]\d{0,9}", pid) else None
    if main is None:
        raise Refused("its main process (%s) cannot be seen" % plain(pid or "none"))
    members = [process for process in processes.values() if process.place == main.place]
    return Consumer(ctx, members if main.place.kind != "process" else [main], main)


def require_label(name: str, label: Optional[str]) -> None:
    if label != "safe":
        found = "it has none" if label is None else "it is %.40r" % label
        raise Unlabelled("%s does not carry the label byteport.restart=safe: %s" % (name, found))


def unit_label(about: Dict[str, str]) -> Optional[str]:
    """The last X-Byteport-Restart of its files, in systemd's order; systemd itself ignores what begins with X-."""
    label = None
    for path in (about.get("FragmentPath", ""), *about.get("DropInPaths", "").split()):
        folder, name = os.path.split(os.path.realpath(path))
        try:
            with closing(os.open(folder, FOLDER)) as fd:
                require_ours(os.fstat(fd), folder)
                label = parse_label(read_small(fd, name, folder), label)
        except (OSError, ValueError) as error:
            why = said(error) if isinstance(error, OSError) else "it is not UTF-8"
            raise Refused("its label cannot be read from %s: %s" % (plain(path) or "no file", why)) from error
    return label


def parse_label(text: str, label: Optional[str]) -> Optional[str]:
    """Of one unit file (systemd.syntax(7)): in its section [Unit] or [Service], with lines that are continued."""
    lines = (line for line in text.split("\n") if not re.match(r"\s*[#;]", line))
    section = ""
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).split("\n"):
        key, _, value = line.partition("=")
        if re.fullmatch(r"\s*\[.*\]\s*", line):
            section = line.strip()
        elif key.strip() == "X-Byteport-Restart" and section in ("[Unit]", "[Service]"):
            label = value.strip()
    return label


def inspected(ctx: Context, runtime: str, argv: List[str]) -> Dict[str, Any]:
    """The one object that the runtime's inspect prints."""
    out, _ = call(ctx, [runtime, *argv], INSPECT_S)
    try:
        found = json.loads(out)
        one = found[0] if isinstance(found, list) and len(found) == 1 else found
    except (ValueError, RecursionError):
        one = None
    if not isinstance(one, dict):
        raise Refused("`%s %s` answered what is no description of one container" % (runtime, argv[0]))
    return one


def text_at(found: Any, *keys: str) -> str:
    """What stands at a place of nested objects, as text; empty when there is nothing."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return "" if found is None or isinstance(found, (dict, list)) else str(found)


def checked_container(ctx: Context, runtime: object, container: object, processes: Dict[int, Process]) -> Restartable:
    """The container, when all speaks for it; else Refused with what speaks against it."""
    if not isinstance(container, str) or not CONTAINER.fullmatch(container):
        raise Refused("%.80r is not a container's full id" % (container,))
    if runtime not in ("docker", "podman", "crictl"):
        raise Refused("the container %.12s is of no runtime that we know" % container)
    described = described_pod_container if runtime == "crictl" else described_container
    about = described(ctx, str(runtime), container)
    title = plain(about["title"]) or container[:12]
    if about["id"] != container or about["state"] not in ("running", "CONTAINER_RUNNING"):
        raise Refused("%s: it is not running" % title)
    for name in (about["title"], about["image"]):
        refuse_if(why_never_words(name), plain(name))
    refuse_if(about["never"], title)
    found = consumer_of(ctx, about["pid"], processes)
    if found.place[:3] != ("container", container, runtime):
        raise Refused("%s: its main process (%s) is not in its cgroup" % (title, about["pid"]))
    refuse_if(why_never(ctx, found, processes), "")
    require_label(title, about["label"] or None)
    return Restartable(found, title, about)


def described_container(ctx: Context, runtime: str, container: str) -> Dict[str, str]:
    """By docker or podman."""
    found = inspected(ctx, runtime, ["inspect", "--type", "container", container])
    kept = text_at(found, "HostConfig", "AutoRemove") in ("False", "")
    return {
        "id": text_at(found, "Id"),
        "title": text_at(found, "Name").lstrip("/"),
        "image": text_at(found, "ImageName") or text_at(found, "Config", "Image"),
        "state": text_at(found, "State", "Status"),
        "pid": text_at(found, "State", "Pid"),
        "label": text_at(found, "Config", "Labels", "byteport.restart"),
        "never": "" if kept else "removed when it stops (--rm)",
    }


def described_pod_container(ctx: Context, runtime: str, container: str) -> Dict[str, str]:
    """By crictl. The label is the pod's; the kubelet starts a container again unless the pod is a Job's or nobody's."""
    found = inspected(ctx, runtime, ["inspect", "-o", "json", container])
    sandbox = text_at(found, "info", "sandboxID")
    if not CONTAINER.fullmatch(sandbox):
        raise Refused("`crictl inspect` does not say which pod %.12s belongs to" % container)
    pod = inspected(ctx, runtime, ["inspectp", "-o", "json", sandbox])
    labels = pod.get("status", {}).get("labels") if isinstance(pod.get("status"), dict) else None
    labels = labels if isinstance(labels, dict) else {}
    namespace = text_at(pod, "status", "metadata", "namespace")
    never = "Kubernetes' own" if namespace.startswith("kube-") or not namespace else ""
    if not never and not {"pod-template-hash", "controller-revision-hash"} & set(labels):
        never = "of a pod that no Deployment, StatefulSet or DaemonSet keeps running"
    names = (namespace, text_at(pod, "status", "metadata", "name"), text_at(found, "status", "metadata", "name"))
    return {
        "id": text_at(found, "status", "id"),
        "title": "/".join(names),
        "image": text_at(found, "status", "image", "image"),
        "state": text_at(found, "status", "state"),
        "pid": text_at(found, "info", "pid"),
        "label": text_at(labels, "byteport.restart"),
        "never": never,
        "sandbox": sandbox,
        "name": names[2],
    }


def checked_consumer(ctx: Context, wanted: object, processes: Dict[int, Process]) -> Restartable:
    if not isinstance(wanted, dict) or set(wanted) != {"kind", "name", "runtime"}:
        raise Refused("a consumer is given by kind, name and runtime")
    if wanted["kind"] == "unit":
        return checked_unit(ctx, wanted["name"], processes)
    if wanted["kind"] == "container":
        return checked_container(ctx, wanted["runtime"], wanted["name"], processes)
    raise Refused("it belongs to no unit and no container, so nothing would start it again")


def restartable(ctx: Context) -> Outcome:
    wanted = ctx.request.args["consumers"]
    if not isinstance(wanted, list) or len(wanted) > RESTARTABLE:
        raise Refused("consumers is not a list of at most %d" % RESTARTABLE)
    processes, answers = all_processes(ctx), []
    for one in wanted:
        answer: Dict[str, Any] = {"pid": None, "started": None, "title": "", "refusal": "", "unlabelled": False}
        try:
            found = checked_consumer(ctx, one, processes)
            answer.update(pid=found.main.pid, started=found.main.started, title=found.title)
        except Ended as no:
            answer.update(refusal=no.outcome.reason, unlabelled=isinstance(no, Unlabelled))
        answers.append({**(one if isinstance(one, dict) else {}), **answer})
    return done({"consumers": answers})


# --------------------------------------------------------------------------------------------- change verbs


def journal_vacuum(ctx: Context) -> Outcome:
    """Archived journals above 50 MB go. (journalctl takes "50M"; "50MB" it refuses to parse.)"""
    if ctx.volume is not None:
        raise Skipped("the system journal is not on the drill's volume")
    before = journal_bytes(ctx)
    if ctx.request.dry_run:
        freed = max(0, before - JOURNAL_KEEP_BYTES)
        return done({"usage_bytes": before, "freed_bytes": freed}, "would free at most %s" % in_mb(freed))
    out, err = call(ctx, ["journalctl", "--vacuum-size=50M"], PRUNE_S)
    freed = sum(size_in(size, 1024) for size in re.findall(r"freed (\S+) of archived", out + err))
    return done({"usage_bytes": before, "freed_bytes": freed}, "freed %s" % in_mb(freed))


def container_prune(ctx: Context) -> Outcome:
    """Never with --volumes: those hold people's data."""
    if ctx.volume is not None:
        raise Skipped("containers are not on the drill's volume")
    if not has(ctx, "docker") and not has(ctx, "crictl"):
        raise Skipped("neither docker nor crictl is installed here")
    if not has(ctx, "docker"):
        return crictl_prune(ctx)
    try:
        call(ctx, ["docker", "version", "--format", "{{.Server.Version}}"], ASK_S)
    except Failed:  # docker's client may be left on a host whose runtime is containerd
        if not has(ctx, "crictl"):
            raise
        return crictl_prune(ctx)
    return docker_prune(ctx)


def docker_prune(ctx: Context) -> Outcome:
    result: Dict[str, Any] = {"runtime": "docker", "reclaimed_bytes": None, "images": None}
    if ctx.request.dry_run:
        out, _ = call(ctx, ["docker", "system", "df", "--format", "{{json .}}"], ASK_S)
        result["reclaimed_bytes"] = reclaimable(out)
        return done(result, "would reclaim %s" % in_mb(result["reclaimed_bytes"]))
    out, _ = call(ctx, ["docker", "system", "prune", "-af"], PRUNE_S)
    found = re.search(r"Total reclaimed space:\s*(\S+)", out)
    result["reclaimed_bytes"] = size_in(found.group(1), 1000) if found else 0
    return done(result, "reclaimed %s" % in_mb(result["reclaimed_bytes"]))


def reclaimable(lines: str) -> int:
    """Of all that `docker system df` lists, but the volumes."""
    total = 0
    for line in lines.splitlines():
        try:
            row = json.loads(line)
            if row["Type"] != "Local Volumes":
                total += size_in(row["Reclaimable"], 1000)
        except (ValueError, KeyError, TypeError):
            raise Failed("`docker system df` answered what is no table: %.200s" % line) from None
    return total


def crictl_prune(ctx: Context) -> Outcome:
    result: Dict[str, Any] = {"runtime": "crictl", "reclaimed_bytes": None, "images": None}
    if ctx.request.dry_run:
        out, _ = call(ctx, ["crictl", "images", "-o", "json"], ASK_S)
        try:
            images = json.loads(out)["images"]
            total = sum(int(image.get("size", 0)) for image in images)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Failed("`crictl images` answered what is no list of images") from None
        result.update(reclaimed_bytes=total, images=len(images))
        return done(result, "would reclaim at most %s, of %d images" % (in_mb(total), len(images)))
    # Without a time limit of its own, crictl gives each removal 2 s and says nothing of those that took longer.
    out, _ = call(ctx, ["crictl", "--timeout=60s", "rmi", "--prune"], PRUNE_S)
    result["images"] = len(re.findall(r"^Deleted:", out, re.MULTILINE))
    return done(result, "deleted %d images; crictl does not say how much that was" % result["images"])


def delete_rotated_logs(ctx: Context) -> Outcome:
    return swept(ctx, "log", ROTATED_LOGS)


def clear_tmp(ctx: Context) -> Outcome:
    return swept(ctx, "tmp", UNUSED_TMP)


def swept(ctx: Context, which: str, rule: Rule) -> Outcome:
    with folder(ctx, which) as fd:
        if os.statvfs(fd).f_flag & os.ST_RDONLY:
            raise Failed("%s is on a read-only file system" % shown_path(ctx, which))
        sweep = Sweep(fd, rule, ctx.request.dry_run, SWEEP_ENTRIES, SWEEP_S)
        sweep.run()
        return how_it_went(sweep, sweep.shown(shown_path(ctx, which)))


def how_it_went(sweep: Sweep, result: Dict[str, Any]) -> Outcome:
    errors = ", ".join("%s (%d)" % pair for pair in sorted(sweep.errors.items()))
    if "EROFS" in sweep.errors:
        raise Failed("read-only file system", result)
    if sweep.found.files and not sweep.gone.files and errors:
        raise Failed("nothing can be deleted: %s" % errors, result)
    did = "would delete" if sweep.dry_run else "deleted"
    reason = "%s %d of %d files, %s" % (did, sweep.gone.files, sweep.found.files, in_mb(sweep.gone.bytes))
    reason += "; errors: %s" % errors if errors else ""
    reason += "; not everything was looked at: %s" % sweep.cut if sweep.cut else ""
    return done(result, reason)


def in_mb(size: int) -> str:
    return "%.1f MB" % (size / 1_000_000)


# ------------------------------------------------------------------------------- change verbs: oom_score_adj


class Protected(NamedTuple):
    """One process whose oom_score_adj we have lowered."""

    pid: int
    started: int
    comm: str
    before: int
    after: int


class OomLedger:
    """What adjust_oom_score has changed and restore_oom_score has not put back yet, one file for each scope.

    Written before the change, to every folder of `Roots.journals` that takes it, as ActionLog does. After a reboot
    it says nothing of the processes there are now.
    """

    def __init__(self, ctx: Context) -> None:
        self.folders = ctx.roots.journals
        self.name = "%s.oom" % (ctx.request.drill or "host")
        self.boot = read_proc("sys/kernel/random/boot_id").strip()

    def outstanding(self) -> List[Protected]:
        found: Dict[Tuple[int, int], Protected] = {}
        for path in self.folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                with own_folder(path, create=False) as folder_fd:
                    for one in self._read(folder_fd):
                        found[one.pid, one.started] = one
        return list(found.values())

    def _read(self, folder_fd: int) -> Iterator[Protected]:
        fd = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        with open(fd, "rb") as file:
            for line in file.read(ANSWER_LIMIT_BYTES).splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line that the disk had no room to end
                    entry = json.loads(line)
                    if entry["boot"] == self.boot:
                        yield Protected(*entry["process"])

    def add(self, one: Protected) -> None:
        """Raises Refused when no folder has room."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        written, refusals = 0, []
        for path in self.folders:
            try:
                with own_folder(path, create=True) as folder_fd:
                    with closing(os.open(self.name, flags, 0o600, dir_fd=folder_fd)) as fd:
                        os.write(fd, b"\n")  # ends what the disk had no room for earlier
                        append(fd, {"boot": self.boot, "process": list(one)})
                        written += 1
            except OSError as error:
                refusals.append("%s: %s" % (path, said(error)))
        if not written:
            raise Refused("no place to note the old oom_score_adj: %s" % "; ".join(refusals))

    def clear(self) -> None:
        for path in self.folders:
            with contextlib.suppress(OSError), own_folder(path, create=False) as folder_fd:
                os.unlink(self.name, dir_fd=folder_fd)


@contextlib.contextmanager
def held_process(ctx: Context, pid: int, started: int) -> Iterator[Optional[str]]:
    """A path to the very process, which leads nowhere once it has ended; None when it has ended already."""
    try:
        fd = os.open("%s/%d" % (ctx.roots.proc, pid), FOLDER)
    except OSError:
        yield None
        return
    with closing(fd):
        folder = "/proc/self/fd/%d" % fd
        process = read_process(folder)
        yield folder if process and process.started == started else None


def adjust_oom_score(ctx: Context) -> Outcome:
    """Protects bystanders, so that the kernel, should it have to kill, takes the one that leaks."""
    wanted = checked_processes(ctx.request.args["processes"])
    ledger, processes = OomLedger(ctx), all_processes(ctx)
    places = {process.pid: one for one in grouped(ctx, processes) for process in one.processes}
    adjusted: List[Protected] = []
    left: Counter[str] = Counter()
    leftovers = [] if ctx.request.dry_run else put_back(ctx, ledger, Counter())
    for pid, started in wanted:
        process = processes.get(pid)
        if process is None or process.started != started:
            left["it has ended"] += 1
            continue
        why = why_not_protected(ctx, places[pid], processes)
        if why:
            left[why] += 1
        else:
            protect(ctx, ledger, process, adjusted, left)
    result = {"adjusted": [one._asdict() for one in adjusted], "left": dict(left)}
    result["leftovers"] = [one._asdict() for one in leftovers]
    return told(result, adjusted, "would be lowered" if ctx.request.dry_run else "lowered", left)


def checked_processes(given: object) -> List[Tuple[int, int]]:
    if isinstance(given, list) and len(given) <= OOM_PROCESSES:
        if all(isinstance(one, list) and len(one) == 2 and all(type(part) is int for part in one) for one in given):
            return [(pid, started) for pid, started in given]
    raise Refused("processes is not a list of at most %d pairs of pid and start" % OOM_PROCESSES)


def why_not_protected(ctx: Context, consumer: Consumer, processes: Dict[int, Process]) -> str:
    if is_in_kubernetes(consumer.place):
        return "the kubelet sets it by the pod's class"
    return "never touched" if why_never(ctx, consumer, processes) else ""


def protect(ctx: Context, ledger: OomLedger, process: Process, adjusted: List[Protected], left: Counter[str]) -> None:
    with held_process(ctx, process.pid, process.started) as folder:
        before = oom_score_adj(folder) if folder else None
        if folder is None or before is None:
            left["it has ended"] += 1
            return
        after = max(before - OOM_STEP, OOM_LOWEST)
        if after >= before:
            left["protected enough already"] += 1
            return
        one = Protected(process.pid, process.started, process.comm, before, after)
        try:
            if not ctx.request.dry_run:
                ledger.add(one)
                write_oom_score_adj(folder, after)
            adjusted.append(one)
        except Refused as no:
            left[no.outcome.reason] += 1
        except OSError as error:
            left[errno_name(error)] += 1


def write_oom_score_adj(folder: str, value: int) -> None:
    with open(folder + "/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))


def told(result: Dict[str, Any], changed: List[Protected], did: str, left: Counter[str]) -> Outcome:
    shown = ", ".join("%s (%d): %d → %d" % (one.comm, one.pid, one.before, one.after) for one in changed)
    reasons = "; ".join("%s (%d)" % pair for pair in sorted(left.items()))
    if not changed:
        raise Skipped("no oom_score_adj %s: %s" % (did, reasons or "there was none to change"), result)
    return done(result, "oom_score_adj %s: %s%s" % (did, shown, "; left: " + reasons if reasons else ""))


def restore_oom_score(ctx: Context) -> Outcome:
    ledger, left = OomLedger(ctx), Counter()  # type: OomLedger, Counter[str]
    restored = put_back(ctx, ledger, left)
    result = {"restored": [one._asdict() for one in restored], "left": dict(left)}
    return told(result, restored, "would be put back" if ctx.request.dry_run else "put back", left)


def put_back(ctx: Context, ledger: OomLedger, left: Counter[str]) -> List[Protected]:
    """What was put back, each with its value before and after that. The ledger stays while something failed."""
    restored, failed = [], False
    for one in ledger.outstanding():
        with held_process(ctx, one.pid, one.started) as folder:
            now = oom_score_adj(folder) if folder else None
            if folder is None or now is None:
                left["it has ended"] += 1
            elif now != one.after:
                left["as before already" if now == one.before else "changed by somebody else"] += 1
            else:
                try:
                    if not ctx.request.dry_run:
                        write_oom_score_adj(folder, one.before)
                    restored.append(one._replace(before=now, after=one.before))
                except OSError as error:
                    left[errno_name(error)], failed = left[errno_name(error)] + 1, True
    if not failed and not ctx.request.dry_run:
        ledger.clear()
    return restored


# ------------------------------------------------------------------------------------- change verbs: restarts


def restart_unit(ctx: Context) -> Outcome:
    """try-restart never starts what somebody has stopped; job mode `fail` never replaces what systemd is at."""
    unit = ctx.request.args["unit"]
    found = require_same(ctx, checked_unit(ctx, unit, all_processes(ctx)))
    if ctx.request.dry_run:
        return would_restart(ctx, found)
    before = baseline(ctx, found.consumer, "before")
    if ctx.volume is not None:
        os.kill(found.main.pid, signal.SIGTERM)  # a child of the drill's supervisor, which starts it again
    else:
        how = ("--no-ask-password", "--no-block", "--job-mode=fail")
        call(ctx, ["systemctl", "try-restart", *how, "--", unit], RESTART_S)
    return came_back(ctx, found, before, lambda: unit_again(ctx, unit))


def unit_again(ctx: Context, unit: str) -> str:
    """The pid of its main process once it runs; "" while it does not yet. Raises Failed when it never will."""
    about = show_unit(ctx, unit)
    if about.get("Job", "0") in ("", "0") and about.get("ActiveState") in ("failed", "inactive"):
        raise Failed("%s did not start again: systemd calls it %s" % (unit, about["ActiveState"]))
    return about.get("MainPID", "") if about.get("ActiveState") == "active" else ""


def restart_container(ctx: Context) -> Outcome:
    """By docker or podman; in a pod it is stopped, and the kubelet starts it again."""
    if ctx.volume is not None:
        raise Skipped("there are no containers in a drill")
    args = ctx.request.args
    found = require_same(ctx, checked_container(ctx, args["runtime"], args["container"], all_processes(ctx)))
    if ctx.request.dry_run:
        return would_restart(ctx, found)
    before, runtime, container = baseline(ctx, found.consumer, "before"), str(args["runtime"]), str(args["container"])
    if runtime == "crictl":
        call(ctx, ["crictl", "stop", "--timeout", "30", container], RESTART_S)
        return came_back(ctx, found, before, lambda: pod_container_again(ctx, found.about, container))
    call(ctx, [runtime, "restart", "-t", "30", container], RESTART_S)
    return came_back(ctx, found, before, lambda: described_container(ctx, runtime, container)["pid"])


def pod_container_again(ctx: Context, about: Dict[str, str], container: str) -> str:
    """The pid of the container that the kubelet has put in the place of the one that was stopped."""
    out, _ = call(ctx, ["crictl", "ps", "-o", "json", "--pod", about["sandbox"]], INSPECT_S)
    try:
        running = json.loads(out).get("containers") or []
        ids = [one["id"] for one in running if one["metadata"]["name"] == about["name"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed("`crictl ps` answered what is no list of containers") from None
    ids = [one for one in ids if one != container and CONTAINER.fullmatch(str(one))]
    return text_at(inspected(ctx, "crictl", ["inspect", "-o", "json", ids[0]]), "info", "pid") if ids else ""


def would_restart(ctx: Context, found: Restartable) -> Outcome:
    return done({"title": found.title, **baseline(ctx, found.consumer, "before")}, "would restart %s" % found.title)


def require_same(ctx: Context, found: Restartable) -> Restartable:
    """Refused when another process is the main one by now than was found to leak."""
    wanted = (ctx.request.args["pid"], ctx.request.args["started"])
    if wanted != (found.main.pid, found.main.started):
        now = "%d, started at %d" % (found.main.pid, found.main.started)
        raise Refused("%s runs another main process by now (%s): it was restarted meanwhile" % (found.title, now))
    return found


def baseline(ctx: Context, consumer: Consumer, when: str) -> Dict[str, Any]:
    """The host's memory, and the consumer's, before or after."""
    figures = memory(ctx).result
    return {
        "percent_" + when: round(figures["percent"], 1),
        "available_%s_bytes" % when: figures["available_bytes"],
        "rss_%s_bytes" % when: consumer.rss,
    }


def came_back(ctx: Context, found: Restartable, before: Dict[str, Any], again: Callable[[], str]) -> Outcome:
    """Waits until it runs with another main process than before."""
    deadline, result = time.monotonic() + COME_BACK_S, {"title": found.title, **before}
    while time.monotonic() < deadline:
        try:
            pid, processes = again(), all_processes(ctx)
        except Failed as no:
            raise Failed(no.outcome.reason, result) from None
        main = processes.get(int(pid)) if re.fullmatch(r"[1-9]\d{0,9}", pid) else None
        if main and (main.pid, main.started) != (found.main.pid, found.main.started):
            result.update(baseline(ctx, consumer_of(ctx, pid, processes), "after"))
            result["main_process"] = "%d, started at tick %d" % (main.pid, main.started)
            sizes = (in_mb(result["rss_before_bytes"]), in_mb(result["rss_after_bytes"]))
            return done(result, "restarted %s: %s → %s" % (found.title, *sizes))
        time.sleep(LOOK_S)
    raise Failed("%s did not come back within %g s" % (found.title, COME_BACK_S), result)


# --------------------------------------------------------------------------------------- journal of actions


class Record(NamedTuple):
    """What the journal has on one action id."""

    state: str = "absent"
    begun: Dict[str, Any] = {}
    answer: Optional[Dict[str, Any]] = None


class ActionLog:
    """One file for each action id, locked while its action runs: what makes a change happen at most once.

    The disk may be full or read-only, the very condition we are called for. So a record is written to every
    folder of `Roots.journals` that takes it, on disk and in memory, and one is enough. As all runs go through
    the folders in the same order and give up at the first that has the id, two at once cannot both begin,
    also when the disk has room for only one of them. A record appears under its name complete and locked, so
    nobody sees one that is begun but not yet locked. Programs inherit the lock: while one works on after
    hostctl was killed, its action is "running".
    """

    def __init__(self, folders: Tuple[str, ...]) -> None:
        self.folders = folders

    def look(self, action_id: str) -> Record:
        """The most advanced of the records there are. Raises OSError when a folder cannot be read."""
        order = ("absent", "interrupted", "running", "finished")
        records = [Record()]
        for path in self.folders:
            try:
                with own_folder(path, create=False) as folder_fd:
                    records.append(read_record(folder_fd, action_id))
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # then none of ours can be in it
        return max(records, key=lambda record: order.index(record.state))

    def claim(self, action_id: str, begun: Dict[str, Any]) -> Dict[str, int]:
        """Locked descriptors of the new record, by folder.

        Raises FileExistsError when another run was faster, Refused when no folder has room.
        """
        held: Dict[str, int] = {}
        refusals = []
        for path in self.folders:
            try:
                with own_folder(path, create=True) as folder_fd:
                    prune_records(folder_fd)
                    held[path] = begin_record(folder_fd, action_id, begun)
            except FileExistsError:
                self.withdraw(action_id, held)
                raise
            except OSError as error:
                refusals.append("%s: %s" % (path, said(error)))
        if not held:
            raise Refused("no place for the journal of actions: %s" % "; ".join(refusals))
        return held

    def withdraw(self, action_id: str, held: Dict[str, int]) -> None:
        """Takes back the records of a claim that another was faster with; nothing was done yet."""
        for path, fd in held.items():
            with closing(fd), contextlib.suppress(OSError), own_folder(path, create=False) as folder_fd:
                os.unlink(record_name(action_id), dir_fd=folder_fd)

    def finish(self, held: Dict[str, int], answer: Dict[str, Any]) -> None:
        for fd in held.values():
            # Where there is no room for the end, the begin stays, and another folder has the end.
            with closing(fd), contextlib.suppress(OSError):
                append(fd, {"ended_at": time.time(), "answer": answer})


def record_name(action_id: str) -> str:
    return action_id + ".action"


@contextlib.contextmanager
def own_folder(path: str, create: bool) -> Iterator[int]:
    if create:
        os.makedirs(path, 0o700, exist_ok=True)
    with closing(os.open(path, FOLDER)) as fd:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EACCES, "it is not ours alone")
        yield fd


def append(fd: int, line: Dict[str, Any]) -> None:
    data = memoryview(json.dumps(line).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def begin_record(folder_fd: int, action_id: str, begun: Dict[str, Any]) -> int:
    draft, flags = ".%s.draft" % os.urandom(8).hex(), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
    fd = os.open(draft, flags | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    here = {"src_dir_fd": folder_fd, "dst_dir_fd": folder_fd}
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        append(fd, begun)
        os.link(draft, record_name(action_id), **here, follow_symlinks=False)
        os.fsync(folder_fd)
    except OSError:
        os.close(fd)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder_fd)
    return fd


def read_record(folder_fd: int, action_id: str) -> Record:
    fd = os.open(record_name(action_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    with open(fd, "rb") as file:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            state = "interrupted"
        except BlockingIOError:
            state = "running"
        lines = []
        for line in file.read(2 * ANSWER_LIMIT_BYTES).splitlines():
            with contextlib.suppress(ValueError):  # a line that the disk had no room to end
                lines.append(json.loads(line))
    begun, ended = (lines[0] if lines else {}), (lines[1] if len(lines) > 1 else None)
    return Record("finished", begun, ended["answer"]) if ended else Record(state, begun)


def prune_records(folder_fd: int) -> None:
    """Records older than 30 days go, at most 1,000 at a time."""
    old = time.time() - RECORD_KEPT_S
    with os.scandir(folder_fd) as entries:
        names = [entry.name for entry in entries if entry.name.endswith((".action", ".draft"))]
    for name in names[:1_000]:
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime < old:
                os.unlink(name, dir_fd=folder_fd)


def probe(ctx: Context) -> Outcome:
    record = ActionLog(ctx.roots.journals).look(checked_action_id(ctx.request.args["action_id"]))
    about = {"verb": (record.begun.get("request") or [None])[0], "begun_at": record.begun.get("begun_at")}
    return done({"state": record.state, "answer": record.answer, **about, "boot_time": boot_time()})


# ---------------------------------------------------------------------------------------------- the program


class Verb(NamedTuple):
    do: Callable[[Context], Outcome]
    changes: bool = False
    args: Tuple[str, ...] = ()


VERBS: Dict[str, Verb] = {
    "facts": Verb(facts),
    "usage": Verb(usage),
    "memory": Verb(memory),
    "gauges": Verb(gauges),
    "consumers": Verb(consumers),
    "restartable": Verb(restartable, args=("consumers",)),
    "annotations": Verb(opt_in),
    "survey": Verb(survey),
    "probe": Verb(probe, args=("action_id",)),
    "journal_vacuum": Verb(journal_vacuum, changes=True),
    "delete_rotated_logs": Verb(delete_rotated_logs, changes=True),
    "container_prune": Verb(container_prune, changes=True),
    "clear_tmp": Verb(clear_tmp, changes=True),
    "adjust_oom_score": Verb(adjust_oom_score, changes=True, args=("processes",)),
    "restore_oom_score": Verb(restore_oom_score, changes=True),
    "restart_unit": Verb(restart_unit, changes=True, args=("unit", "pid", "started")),
    "restart_container": Verb(restart_container, changes=True, args=("runtime", "container", "pid", "started")),
}


def run(request: object, roots: Roots) -> Dict[str, Any]:
    """The answer to one request. Every way to end has one; only a defect of this program is a traceback."""
    try:
        good = checked(request)
        with contextlib.ExitStack() as stack:
            volume = stack.enter_context(drill_volume(roots, good.drill)) if good.drill else None
            ctx = Context(roots, good, volume)
            if VERBS[good.verb].changes and not good.dry_run:
                return once(ctx)
            return answer_of(outcome_of(ctx), good.action_id)
    except Ended as no:
        return answer_of(no.outcome, request.get("action_id") if isinstance(request, dict) else None)


def outcome_of(ctx: Context) -> Outcome:
    try:
        return VERBS[ctx.request.verb].do(ctx)
    except Ended as no:
        return no.outcome
    except OSError as error:
        return Outcome("failed", "%s: %s" % (ctx.request.verb, said(error)), {})


def answer_of(outcome: Outcome, action_id: object) -> Dict[str, Any]:
    known = action_id if isinstance(action_id, str) and ACTION_ID.fullmatch(action_id) else None
    return bounded({**outcome._asdict(), "action_id": known, "hostctl": VERSION})


def once(ctx: Context) -> Dict[str, Any]:
    """Runs a change that was never begun before; else says what became of it."""
    log, action_id = ActionLog(ctx.roots.journals), str(ctx.request.action_id)
    request = ctx.request.fingerprint()
    try:
        record = log.look(action_id)
        if record.state == "absent":
            held = log.claim(action_id, {"request": request, "begun_at": time.time(), "pid": os.getpid()})
            answer = answer_of(outcome_of(ctx._replace(held=tuple(held.values()))), action_id)
            log.finish(held, answer)
            return answer
    except FileExistsError:  # another was faster
        record = log.look(action_id)
    except OSError as error:
        raise Refused("the journal of actions cannot be read: %s" % said(error)) from error
    return replayed(record, request)


def replayed(record: Record, request: List[Any]) -> Dict[str, Any]:
    if record.begun and record.begun.get("request") != request:
        raise Refused("this action id stands for another action")
    if record.answer is None:
        raise Refused("interrupted" if record.state == "interrupted" else "running")
    return {**record.answer, "replayed": True}


def read_request() -> object:
    """Raises ValueError when it is no JSON. From argv when stdin is this program itself."""
    if len(sys.argv) > 1:
        raw = base64.b64decode(sys.argv[1][: 2 * REQUEST_LIMIT_BYTES], validate=True)
    else:
        raw = sys.stdin.buffer.read(REQUEST_LIMIT_BYTES + 1)
    if len(raw) > REQUEST_LIMIT_BYTES:
        raise ValueError("it is larger than 64 KB")
    return json.loads(raw)


HOST_ROOT = "/host"


def enter_host() -> None:
    """Makes the host's / our own. All that is needed of Python has been loaded before: the host may have none."""
    for name in ("ascii", "utf-8"):
        codecs.lookup(name)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its pod may be removed while it is at work
    os.chroot(HOST_ROOT)
    os.chdir("/")


def main() -> int:
    # A caller that goes away, or Ctrl-C in its terminal, is no reason to stop half-way: all has a time limit.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    if "host-root" in sys.argv[2:]:
        enter_host()
    try:
        request, code = read_request(), 0
    except (ValueError, RecursionError) as error:
        answer, code = answer_of(Outcome("refused", "the request cannot be read: %s" % error, {}), None), 2
    else:
        answer = run(request, Roots.of_this_host())
    with contextlib.suppress(BrokenPipeError):  # nobody reads it; the journal has it
        print(packed(answer) if "packed" in sys.argv[2:] else json.dumps(answer), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
