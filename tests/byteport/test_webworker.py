"""How long the web process waits for a request, and for its answer to be taken. Real: gunicorn with BytePort's worker,
sockets; its patience is shorter and its application only says how much has come in, after the blanks one asks for."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from django.conf import settings

from byteport.management.commands.up import WORKER_CLASS, processes
from tests.test_dockerfile import instructions
from tests.webserver import PATIENCE_S, free_port, wait_until_it_listens

THREADS, MANY = 2, 20
APPLICATION = """
import tempfile
import time
from byteport.webworker import PatientWorker

class Hasty(PatientWorker):
    patience_s = sending_patience_s = 1.0
    linger_s = 0.1

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    time.sleep(float(environ.get("HTTP_WORK_S", 0)))
    answer = str(len(body)).encode().rjust(int(environ.get("HTTP_ANSWER_BYTES", 1)))
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return as_file(answer, environ["wsgi.file_wrapper"]) if "HTTP_AS_FILE" in environ else [answer]

def as_file(answer, wrapper):
    file = tempfile.TemporaryFile()
    file.write(answer)
    file.seek(0)
    return wrapper(file)
"""
HALF_A_HEADER = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le"
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"
LARGE_BYTES = 12_000_000  # more than the kernel takes off the thread's hands
ASK_FOR_MUCH = f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAnswer-Bytes: {LARGE_BYTES}\r\n".encode()
AS_FILE = b"As-File: yes\r\n"  # sent by the kernel, as static files are


@pytest.fixture
def port(tmp_path, request):
    threads = getattr(request, "param", THREADS)
    (tmp_path / "hasty.py").write_text(APPLICATION)
    free = free_port()
    argv = (sys.executable, "-m", "gunicorn", "hasty:app", "--bind", f"127.0.0.1:{free}", "--no-control-socket")
    more = ("--worker-class", "hasty.Hasty", "--threads", str(threads), "--chdir", str(tmp_path))
    env = {**os.environ, "PYTHONPATH": str(settings.BASE_DIR)}
    process = subprocess.Popen([*argv, *more], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_listens(process, free)
        yield free
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def answer(port: int, body: bytes, **headers: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/", body, headers)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("half", [HALF_A_HEADER, HALF_A_BODY])
def test_requests_that_do_not_go_on_hold_no_thread_for_ever(port, half):
    with ExitStack() as left:
        for _ in range(THREADS):
            stuck = left.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
            stuck.sendall(half)
        assert answer(port, b"abc") == b"3"


def test_a_request_that_has_come_in_may_take_longer_than_that(port):
    assert answer(port, b"abcd", **{"Work-S": "2.5"}) == b"4"


def narrow(port: int) -> socket.socket:
    """A connection to a client for whom the kernel keeps little."""
    client = socket.socket()
    client.settimeout(PATIENCE_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.connect(("127.0.0.1", port))
    return client


@pytest.mark.parametrize("how", [b"", AS_FILE])
def test_clients_that_do_not_take_their_answer_hold_no_thread_for_ever(port, how):
    with ExitStack() as left:
        for _ in range(THREADS):
            left.enter_context(narrow(port)).sendall(ASK_FOR_MUCH + how + b"\r\n")
        assert answer(port, b"abc") == b"3"


@pytest.mark.parametrize("port", [MANY], indirect=True, ids=["many-threads"])
def test_clients_that_have_their_answer_and_do_not_hang_up_hold_up_nobody(port):
    """Were each waited for in the main thread, 2 s as gunicorn has it, the next would wait for longer than we do."""
    with ExitStack() as left:
        idle = [left.enter_context(narrow(port)) for _ in range(MANY)]
        for client in idle:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nWork-S: 1\r\n\r\n")
        for client in idle:
            assert client.recv(1) == b"H"
        assert answer(port, b"abc") == b"3"


def test_the_answer_arrives_also_where_the_request_was_not_read_to_its_end(port):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nab" + b"c" * 50_000
        )
        received = b""
        while part := client.recv(65_536):
            received += part
    assert received.endswith(b"\r\n\r\n1")


@pytest.mark.parametrize("how", [b"", AS_FILE])
def test_who_takes_an_answer_slowly_but_steadily_gets_all_of_it(port, how):
    with narrow(port) as client:
        client.sendall(ASK_FOR_MUCH + how + b"\r\n")
        received = bytearray()
        for _ in range(LARGE_BYTES // 1_000_000):
            until = len(received) + 1_000_000
            while len(received) < until and (part := client.recv(65_536)):
                received += part
            time.sleep(0.3)
        while part := client.recv(65_536):
            received += part
    header, _, body = received.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 200")
    assert len(body) == LARGE_BYTES


def test_it_is_what_runs_on_one_machine_and_in_a_cluster():
    assert WORKER_CLASS in processes("127.0.0.1", 1)[0].argv
    assert WORKER_CLASS in json.loads(instructions("CMD")[0])
