"""hostctl: the one program of BytePort that runs on hosts. Standard library only, Python >= 3.8, one file.

    python3 -I -S hostctl.py < request.json     or     python3 -I -S - BASE64_OF_REQUEST < hostctl.py

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

Reading verbs (they change nothing)
  facts        hostname, boot_id, boot_time, uptime_s, kernel, python, uid, tools {name: bool}
  usage        mounts [{mount, device, fstype, total_bytes, used_bytes, free_bytes, avail_bytes, percent,
               inode_percent | null, drill | null}, or with `error` instead of figures where there are none],
               read_only [mount], excluded {reason: count}
  memory       total_bytes, available_bytes, percent, swap_total_bytes, swap_free_bytes, swap_in_pages,
               swap_out_pages, pressure {some_avg10, some_avg60, full_avg10, full_avg60} | null
  gauges       usage and memory in one go: {"usage": {status, reason, result}, "memory": the same}
  annotations  present, annotations {key: value}, words [of byteport.io/auto-remediate]
  survey       what a clean-up would find: journal {bytes | null, reason}; rotated_logs and tmp, as the change
               verbs' results or {reason}; runtime "docker" | "crictl" | null;
               biggest_files and biggest_folders [{path, bytes}];
               deleted_open {files, bytes, top [{pid, comm, path, bytes}], unseen_processes}; cut [reason]
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

At most once. A change is written to the journal of actions before it begins. The same action_id never runs
again: it gets the recorded answer ("replayed": true), or "refused" and the reason "running" or "interrupted".

How a file is deleted. Folders are held by descriptor and entered one name at a time, never through a symbolic
link nor onto another mount; a file is looked at again right before it goes, and goes by its one name in that
held folder. What is left of the race: in the microseconds between that look and the unlink, the name may be
given to another file. Only someone who may write in that folder can do so. They reach no other folder by it,
and nothing that they could not delete themselves, except, in a sticky folder such as /tmp, a file that its
owner creates under that very name just then.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import heapq
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

VERSION = "1"
KB, MB, DAY_S = 1024, 1024 * 1024, 86_400.0

REQUEST_LIMIT_BYTES = 64 * KB
ANSWER_LIMIT_BYTES = MB
SMALL_FILE_LIMIT_BYTES = 64 * KB
TEXT_LIMIT = 4_000

MAX_DEPTH = 64
SWEEP_ENTRIES, SWEEP_S = 1_000_000, 120.0
SURVEY_ENTRIES, SURVEY_PART_S = 200_000, 5.0
OPEN_FILES_LIMIT, OPEN_FILES_S = 500_000, 5.0
EXAMPLES = 20

# All limits that one verb can run into, added up, stay below 60 s for a reading verb and 180 s for a change:
# a caller that waits as long is never left without an answer.
ASK_S, JOURNAL_ASK_S, PRUNE_S, STATVFS_S = 60.0, 20.0, 110.0, 5.0
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


def bounded(answer: Dict[str, Any]) -> Dict[str, Any]:
    """The answer within its limit; lists are cut, evenly, as often as it takes."""
    for longest_list in (10_000, 1_000, 100, 10, 0):
        small: Dict[str, Any] = printable(answer, longest_list)
        if len(json.dumps(small)) < ANSWER_LIMIT_BYTES:
            break
    if small != printable(answer, sys.maxsize):
        small["truncated"] = True
    return small


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
        yield Volume(drill, path, fd, mount_id(fd), budget)


def checked_budget(marker: object, drill: str, is_mounted: bool) -> Optional[int]:
    """A marker without a budget counts only on a mount: else the real disk would be taken for the drill's."""
    if not isinstance(marker, dict) or marker.get("id") != drill:
        raise Refused("no drill volume %s: its marker names another" % drill)
    budget = marker.get("budget_bytes")
    if budget is None and is_mounted:
        return None
    if type(budget) is int and budget > 0:
        return budget
    raise Refused("no drill volume %s: it is neither mounted nor has it a budget" % drill)


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


def read_proc(path: str) -> str:
    try:
        with open("/proc/" + path, encoding="utf-8", errors="replace") as file:
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
            "hostname": socket.gethostname(),
            "boot_id": read_proc("sys/kernel/random/boot_id").strip(),
            "boot_time": boot_time(),
            "uptime_s": float(uptime[0]) if uptime else None,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "uid": os.geteuid(),
            "tools": {name: has(ctx, name) for name in ("journalctl", "docker", "crictl", "systemctl")},
        }
    )


def memory(ctx: Context) -> Outcome:
    lines = re.findall(r"^(\w+):\s+(\d+)", read_proc("meminfo"), re.MULTILINE)
    kb = {key: int(value) for key, value in lines}
    pages = dict(re.findall(r"^(pswpin|pswpout) (\d+)", read_proc("vmstat"), re.MULTILINE))
    if "MemAvailable" not in kb or not kb.get("MemTotal"):
        raise Failed("/proc/meminfo does not say how much memory is available")
    return done(
        {
            "total_bytes": kb["MemTotal"] * KB,
            "available_bytes": kb["MemAvailable"] * KB,
            "percent": (1 - kb["MemAvailable"] / kb["MemTotal"]) * 100,
            "swap_total_bytes": kb.get("SwapTotal", 0) * KB,
            "swap_free_bytes": kb.get("SwapFree", 0) * KB,
            "swap_in_pages": int(pages.get("pswpin", 0)),
            "swap_out_pages": int(pages.get("pswpout", 0)),
            "pressure": parse_pressure(read_proc("pressure/memory")),
        }
    )


def gauges(ctx: Context) -> Outcome:
    """What is looked at all the time, for the price of one call. One of the two may fail without the other."""
    parts = {name: outcome_of(ctx._replace(request=ctx.request._replace(verb=name))) for name in ("usage", "memory")}
    return done({name: part._asdict() for name, part in parts.items()})


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
    result["runtime"] = next((name for name in ("docker", "crictl") if has(ctx, name)), None)
    result.update(biggest(ctx, result))
    result["deleted_open"] = deleted_open(result)
    return done(result)


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


def deleted_open(result: Dict[str, Any]) -> Dict[str, Any]:
    """Files that are deleted but held open: their space comes back when their holder closes them."""
    holders: Dict[Tuple[int, int], Tuple[int, str, str]] = {}
    everything = OpenFiles()
    for file in everything:
        if not file.path.endswith(" (deleted)") or file.mount.kind not in LOCAL_KINDS:
            continue
        with contextlib.suppress(OSError):
            found = os.stat(file.link)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                holder = (found.st_blocks * 512, file.pid, file.path[: -len(" (deleted)")])
                holders[found.st_dev, found.st_ino] = holder
    note_cut(result, "deleted_open", "too many open files" if everything.is_cut else None)
    return {
        "files": len(holders),
        "bytes": sum(size for size, _, _ in holders.values()),
        "top": [
            {"pid": int(pid), "comm": read_proc(pid + "/comm").strip(), "path": path, "bytes": size}
            for size, pid, path in heapq.nlargest(10, holders.values())
        ],
        "unseen_processes": everything.unseen_processes,
    }


# ---------------------------------------------------------------------------------------------------- usage

# In a child, as a network file system whose server is gone never answers, and cannot always be interrupted.
STATVFS_CHILD = """
import os, sys
try:
    v = os.statvfs(sys.argv[1])
    print(v.f_frsize, v.f_blocks, v.f_bfree, v.f_bavail, v.f_files, v.f_ffree, os.path.isdir(sys.argv[1]) + 0)
except OSError as error:
    print(error.strerror)
"""


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
        volumes = [ctx.volume] if ctx.volume else list(all_volumes(ctx.roots, stack))
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


def all_volumes(roots: Roots, stack: contextlib.ExitStack) -> Iterator[Volume]:
    names: List[str] = []
    with contextlib.suppress(OSError):
        names = sorted(filter(DRILL_ID.fullmatch, os.listdir(roots.drills)))[:100]
    for name in names:
        with contextlib.suppress(Refused):
            yield stack.enter_context(drill_volume(roots, name))


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
    """Space, a reason, or None for a mounted file. All are asked at once, and have STATVFS_S together."""
    argv, nowhere = [sys.executable, "-I", "-S", "-c", STATVFS_CHILD], subprocess.DEVNULL
    asked = [
        (point, subprocess.Popen([*argv, point], stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere))
        for point in points
    ]
    deadline = time.monotonic() + STATVFS_S
    for point, child in asked:
        try:
            out, _ = child.communicate(timeout=max(0.05, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()  # not waited for: it may hang in the kernel for as long as the server is away
            yield point, "did not answer within %g s" % STATVFS_S
            continue
        text = out.decode("utf-8", "replace")
        if not re.fullmatch(r"(\d+ ){6}[01]\n", text):
            yield point, text.strip() or "could not be asked"
            continue
        block, total, free, avail, inodes, inodes_free, is_folder = map(int, text.split())
        space = Space(total * block, free * block, avail * block, inodes, inodes_free)
        yield point, space if is_folder else None


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
    out, _ = call(ctx, ["crictl", "rmi", "--prune"], PRUNE_S)
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
    draft, flags = ".%s.draft" % secrets.token_hex(8), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
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
    "annotations": Verb(opt_in),
    "survey": Verb(survey),
    "probe": Verb(probe, args=("action_id",)),
    "journal_vacuum": Verb(journal_vacuum, changes=True),
    "delete_rotated_logs": Verb(delete_rotated_logs, changes=True),
    "container_prune": Verb(container_prune, changes=True),
    "clear_tmp": Verb(clear_tmp, changes=True),
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


def main() -> int:
    # A caller that goes away, or Ctrl-C in its terminal, is no reason to stop half-way: all has a time limit.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    try:
        request, code = read_request(), 0
    except (ValueError, RecursionError) as error:
        answer, code = answer_of(Outcome("refused", "the request cannot be read: %s" % error, {}), None), 2
    else:
        answer = run(request, Roots.of_this_host())
    with contextlib.suppress(BrokenPipeError):  # nobody reads it; the journal has it
        print(json.dumps(answer), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
