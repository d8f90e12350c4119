"""Why a container ended: exit code, reason and last words in, a cause out. Pure, on pods as they were recorded."""

import time

import pytest

from runbooks.kubernetes.crash import Kind, classify
from runbooks.kubernetes.objects import Pod, Terminated, read_as
from tests.kubernetes.standin import recorded


def ended(code: int, reason: str = "Error") -> Terminated:
    return Terminated(exit_code=code, reason=reason)


def kind(code: int, *log: str, reason: str = "Error", waiting: str = "CrashLoopBackOff") -> Kind:
    return classify(ended(code, reason), waiting, log).kind


def test_the_recorded_crashes_are_told_apart():
    causes = [
        classify(read_as(Pod, pod).status.container_statuses[0].ended, "CrashLoopBackOff", ())
        for name in ("pods_oomkilled", "pods_crashloop_exit_1")
        for pod in recorded(name)["items"]
    ]
    assert [cause.kind for cause in causes] == [Kind.OUT_OF_MEMORY, Kind.OUT_OF_MEMORY, Kind.UNKNOWN]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (137, "OOMKilled", Kind.OUT_OF_MEMORY),
        (1, "OOMKilled", Kind.OUT_OF_MEMORY),
        (137, "Error", Kind.TRANSIENT),
        (143, "Error", Kind.TRANSIENT),
        (130, "Error", Kind.TRANSIENT),
        (126, "Error", Kind.LASTING),
        (127, "Error", Kind.LASTING),
        (128, "StartError", Kind.LASTING),
        (0, "Completed", Kind.LASTING),
        (1, "Error", Kind.UNKNOWN),
        (2, "Error", Kind.UNKNOWN),
        (134, "Error", Kind.UNKNOWN),
        (139, "Error", Kind.UNKNOWN),
        (255, "Error", Kind.UNKNOWN),
    ],
)
def test_what_an_exit_code_says_by_itself(code, reason, expected):
    assert kind(code, reason=reason) is expected


@pytest.mark.parametrize(
    "line",
    [
        "dial tcp 10.0.0.7:5432: connect: connection refused",
        "Error: connect ECONNREFUSED 10.96.0.10:6379",
        "requests.exceptions.ConnectionError: ('Connection aborted.', RemoteDisconnected())",
        "java.net.UnknownHostException: db.shop.svc",
        "getaddrinfo EAI_AGAIN db",
        "dial tcp: lookup db on 10.96.0.10:53: no such host",
        'psycopg.OperationalError: could not translate host name "db": Temporary failure in name resolution',
        "read tcp 10.0.0.1: i/o timeout",
        "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        "FATAL: sorry, too many clients already",
        "FATAL: the database system is starting up",
        "panic: leaderelection lost",
        "unexpected response: 503 Service Unavailable",
        "ERROR: deadlock detected",
    ],
)
def test_what_passes_by_itself_is_transient_and_called_a_guess(line):
    cause = classify(ended(1), "", ("starting", line, "bye"))
    assert (cause.kind, cause.confident) == (Kind.TRANSIENT, False)


@pytest.mark.parametrize(
    "line",
    [
        "ModuleNotFoundError: No module named 'flask'",
        "Error: Cannot find module '/app/index.js'",
        "open /etc/app/config.yaml: no such file or directory",
        'FATAL: password authentication failed for user "shop"',
        "KeyError: environment variable DATABASE_URL is not set",
        "yaml.scanner.ScannerError: while scanning",
        "unknown flag: --colour",
        "mkdir /data: permission denied",
        "write /data/x: no space left on device",
        "java.lang.OutOfMemoryError: Java heap space",
        "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
    ],
)
def test_what_stays_until_somebody_changes_it_is_lasting(line):
    assert kind(1, "starting", line) is Kind.LASTING


def test_the_latest_word_counts():
    assert kind(1, "connection refused, trying again", "password authentication failed") is Kind.LASTING
    assert kind(1, "no such file or directory: .env, going on without", "connection refused") is Kind.TRANSIENT


def test_a_log_does_not_talk_down_what_the_kubelet_says():
    assert kind(137, "connection refused", reason="OOMKilled") is Kind.OUT_OF_MEMORY
    assert kind(127, "connection refused") is Kind.LASTING


@pytest.mark.parametrize(
    "waiting", ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "InvalidImageName"]
)
def test_a_container_that_cannot_be_made_is_no_matter_of_restarting(waiting):
    assert kind(1, "connection refused", waiting=waiting) is Kind.LASTING
    assert classify(None, waiting, ()).kind is Kind.LASTING


def test_without_a_word_of_how_it_ended_nothing_is_concluded():
    assert classify(None, "CrashLoopBackOff", ("connection refused",)).kind is Kind.UNKNOWN


def test_no_log_makes_the_forms_slow():
    log = [("environment variable " + "x" * 480)[:500], "getaddrinfo " + "a " * 240, "yaml" * 120, "50" * 250] * 25
    began = time.process_time()
    classify(ended(1), "", log)
    assert time.process_time() - began < 2, "a hundred of the worst lines"
