"""Why a container ended, by its exit code, the kubelet's reason and its last words. Pure.

Exit codes: 126 and 127 are the shell's (POSIX), 128 + n means that signal n ended it.
"""

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from runbooks.kubernetes.objects import Terminated


class Kind(StrEnum):
    """What can be done about it."""

    TRANSIENT = "transient"  # what it needed was away for a while: new pods may find it
    OUT_OF_MEMORY = "out of memory"  # the kernel ended it at its limit
    LASTING = "lasting"  # it will end in the same way until somebody changes something
    UNKNOWN = "unknown"


class Crash(msgspec.Struct, frozen=True):
    """How it ended, and what BytePort makes of it. `confident`: it was said outright, not gathered from log lines."""

    kind: Kind
    meaning: str  # a sentence for people
    suggestion: str  # what a person could do about it
    confident: bool = True


class Sign(msgspec.Struct, frozen=True):
    """A form of words in a log, and what it stands for."""

    form: re.Pattern[str]
    kind: Kind
    meaning: str
    suggestion: str


def _sign(kind: Kind, meaning: str, suggestion: str, *forms: str) -> Sign:
    return Sign(re.compile("|".join(forms), re.IGNORECASE), kind, meaning, suggestion)


# Each form is plain words without repetition, so that no log can make them slow.
SIGNS: Sequence[Sign] = (
    _sign(
        Kind.LASTING,
        "it ran out of memory within its own bounds",
        "look at its heap settings beside the container's memory limit",
        r"java\.lang\.OutOfMemoryError",
        r"heap out of memory",
        r"std::bad_alloc",
        r"\bMemoryError\b",
        r"cannot allocate memory",
    ),
    _sign(
        Kind.LASTING,
        "credentials were refused",
        "check the Secret that holds them, and the account on the other side",
        r"(?:password )?authentication failed",
        r"access denied",
        r"invalid credentials",
        r"401 unauthorized",
        r"403 forbidden",
    ),
    _sign(
        Kind.LASTING,
        "a file, module or command that it needs is missing",
        "compare the image with the one that worked last",
        r"no such file or directory",
        r"module ?not ?found",
        r"cannot find module",
        r"no module named",
        r"ClassNotFoundException",
        r"error while loading shared libraries",
        r"exec format error",
    ),
    _sign(
        Kind.LASTING,
        "its configuration is not accepted",
        "compare its ConfigMap, Secret and environment with those that worked last",
        r"(?:missing|required|undefined) (?:environment|env|config)",
        r"environment variable .{0,80} (?:not set|is not set|is required|missing)",
        r"invalid (?:configuration|config|argument|option|value|flag)",
        r"(?:unknown|unrecognized) (?:flag|option|argument)",
        r"(?:yaml|json|toml)\S{0,40}(?:error|exception)",
        r"\bSyntaxError\b",
    ),
    _sign(
        Kind.LASTING,
        "it may not do what it tries to do",
        "check its security context and the rights on its volumes",
        r"permission denied",
        r"operation not permitted",
        r"read-only file ?system",
    ),
    _sign(
        Kind.LASTING,
        "its disk is full",
        "look at its volumes and at the node's ephemeral storage",
        r"no space left on device",
        r"disk quota exceeded",
    ),
    _sign(
        Kind.TRANSIENT,
        "a name could not be resolved",
        "look at the cluster's DNS",
        r"temporary failure in name resolution",
        r"(?:getaddrinfo|lookup) .{0,120}(?:EAI_AGAIN|ENOTFOUND|no such host|i/o timeout|server misbehaving)",
        r"\bEAI_AGAIN\b",
        r"could not resolve host",
        r"UnknownHostException",
        r"name or service not known",
    ),
    _sign(
        Kind.TRANSIENT,
        "what it depends on could not be reached",
        "look whether what it connects to is up",
        r"connection refused",
        r"\bECONNREFUSED\b",
        r"connection reset",
        r"\bECONNRESET\b",
        r"connection (?:was )?(?:closed|aborted|lost|timed out)",
        r"broken pipe",
        r"no route to host",
        r"network is unreachable",
        r"host is unreachable",
        r"server closed the connection unexpectedly",
    ),
    _sign(
        Kind.TRANSIENT,
        "what it depends on did not answer in time",
        "look how busy what it connects to is",
        r"i/o timeout",
        r"\bETIMEDOUT\b",
        r"(?:connect|connection|read|handshake|request|operation|dial)\S{0,20} timed? ?out",
        r"timeout (?:exceeded|expired|waiting|while|awaiting)",
        r"context deadline exceeded",
        r"deadline exceeded",
    ),
    _sign(
        Kind.TRANSIENT,
        "what it depends on was overloaded, or starting or stopping",
        "look whether what it connects to is up and has room",
        r"too many (?:connections|clients|requests)",
        r"remaining connection slots are reserved",
        r"the database system is (?:starting up|shutting down|in recovery mode)",
        r"50[234] (?:bad gateway|service unavailable|gateway time-?out)",
        r"service (?:is )?(?:temporarily )?unavailable",
        r"resource temporarily unavailable",
        r"\btry again later\b",
    ),
    _sign(
        Kind.TRANSIENT,
        "it lost a lock or its leadership",
        "look whether its other replicas are at peace",
        r"leader ?election lost",
        r"lost (?:the )?(?:lease|leadership|leader election)",
        r"failed to renew (?:the )?lease",
        r"deadlock detected",
        r"could not (?:obtain|acquire) lock",
    ),
)

# What the exit code says by itself, whatever the log says.
LASTING_CODES: dict[int | None, tuple[str, str]] = {
    0: ("it ended by itself and without an error (exit code 0)", "keep it running, or run it as a Job"),
    126: (
        "its command cannot be executed (exit code 126)",
        "check the command, its file mode and the image's architecture",
    ),
    127: ("its command was not found (exit code 127)", "check the command and the image's PATH"),
    128: ("the container could not be started (exit code 128)", "look at the pod's events"),
}
LASTING_REASONS = {
    "ContainerCannotRun": ("the container could not be started", "look at the pod's events"),
    "StartError": ("the container could not be started", "look at the pod's events"),
    "ErrImagePull": ("its image cannot be pulled", "check the image's name, tag and pull secret"),
    "ImagePullBackOff": ("its image cannot be pulled", "check the image's name, tag and pull secret"),
    "InvalidImageName": ("its image's name is invalid", "correct the image's name"),
    "CreateContainerConfigError": ("a ConfigMap or Secret that it needs is missing", "look at the pod's events"),
    "CreateContainerError": ("the container could not be created", "look at the pod's events"),
}
SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM",
}  # fmt: skip
FROM_OUTSIDE = (1, 2, 3, 9, 15)  # signals that somebody else sends: the kubelet after a failed probe, as a rule


def classify(ended: Terminated | None, waiting: str, log: Sequence[str]) -> Crash:
    """`waiting`: the kubelet's reason for not running it now. `log`: its last lines, the latest last."""
    reason, code = (ended.reason, ended.exit_code) if ended else ("", None)
    lasting = LASTING_REASONS.get(waiting) or LASTING_REASONS.get(reason) or LASTING_CODES.get(code)
    if reason == "OOMKilled" and waiting not in LASTING_REASONS:
        return Crash(
            Kind.OUT_OF_MEMORY, f"the kernel ended it at its memory limit (OOMKilled, exit code {code})", RAISE
        )
    if lasting:
        return Crash(Kind.LASTING, *lasting)
    if ended is None:
        return Crash(Kind.UNKNOWN, "how it ended is not on record", "look at the pod's events")
    return _by_log(ended.exit_code, log) or _by_code(ended)


RAISE = "raise its memory limit, or find out what takes the memory"


def _by_log(code: int, log: Sequence[str]) -> Crash | None:
    """By the latest line that says something: what came last is what ended it."""
    for line in reversed(log):
        sign = next((sign for sign in SIGNS if sign.form.search(line)), None)
        if sign is not None:
            return Crash(sign.kind, f"{sign.meaning} (exit code {code})", sign.suggestion, confident=False)
    return None


def _by_code(ended: Terminated) -> Crash:
    number = ended.signal or (ended.exit_code - 128 if 128 < ended.exit_code < 160 else 0)
    name = SIGNALS.get(number, f"signal {number}")
    if number in FROM_OUTSIDE:
        meaning = f"it was ended from outside by {name} (exit code {ended.exit_code}), not by the memory limit"
        return Crash(Kind.TRANSIENT, meaning, "look for failed liveness probes in the pod's events", confident=False)
    if number:
        return Crash(
            Kind.UNKNOWN, f"it crashed with {name} (exit code {ended.exit_code})", "look for a core dump or stack trace"
        )
    return Crash(
        Kind.UNKNOWN,
        f"it ended with an error of its own (exit code {ended.exit_code}), and its log names no cause that is known",
        "read its log",
    )
