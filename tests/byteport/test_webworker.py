"""How long the web process waits for a request. Real: gunicorn with BytePort's worker, sockets; its patience is shorter
and its application only says how much has come in."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from django.conf import settings

from byteport.management.commands.up import WORKER_CLASS, processes
from tests.test_dockerfile import instructions
from tests.webserver import PATIENCE_S, free_port, wait_until_it_listens

THREADS = 2
APPLICATION = """
import time
from byteport.webworker import PatientWorker

class Hasty(PatientWorker):
    patience_s = 1.0

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    time.sleep(float(environ.get("HTTP_WORK_S", 0)))
    start_response("200 OK", [("Content-Length", "1")])
    return [str(len(body)).encode()]
"""
HALF_A_HEADER = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le"
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"


@pytest.fixture
def port(tmp_path):
    (tmp_path / "hasty.py").write_text(APPLICATION)
    free = free_port()
    argv = (sys.executable, "-m", "gunicorn", "hasty:app", "--bind", f"127.0.0.1:{free}", "--no-control-socket")
    more = ("--worker-class", "hasty.Hasty", "--threads", str(THREADS), "--chdir", str(tmp_path))
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


def test_it_is_what_runs_on_one_machine_and_in_a_cluster():
    assert WORKER_CLASS in processes("127.0.0.1", 1)[0].argv
    assert WORKER_CLASS in json.loads(instructions("CMD")[0])
