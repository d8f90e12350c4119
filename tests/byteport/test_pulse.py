"""Signs of life for probes. Real: the files, the probe as a process of its own, the watcher's loop, PostgreSQL.

The worker's signs are looked at where its pool runs, in test_queue.py. A database that is away is a socket folder in
which nothing listens.
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connections

from byteport import pulse
from signals.polling import Watch

PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTEPORT_PULSE_DIR", str(tmp_path))
    return tmp_path


def probe(*arguments):
    """As an orchestrator runs it: nothing but the interpreter and the one file, from whatever folder."""
    program = str(settings.BASE_DIR / "byteport" / "pulse.py")
    command = [sys.executable, "-I", "-S", program, *arguments]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stderr


def test_a_fresh_sign_of_life_is_found(folder):
    pulse.beat("worker", "alive")
    assert probe("worker", "alive") == (0, "")


def test_each_role_and_sign_has_its_own(folder):
    pulse.beat("worker", "alive")
    assert probe("worker", "ready")[0] == 1
    assert probe("watch", "alive")[0] == 1


def test_an_old_one_does_not_count_and_its_age_is_said(folder):
    pulse.beat("watch", "alive")
    long_ago = time.time() - pulse.FRESH_S - 30
    os.utime(folder / "watch.alive", (long_ago, long_ago))
    code, said = probe("watch", "alive")
    assert code == 1
    assert "90 s old, more than 60 s" in said
    pulse.beat("watch", "alive")
    assert probe("watch", "alive")[0] == 0


@pytest.mark.parametrize("arguments", [(), ("worker",), ("worker", "well"), ("worker", "alive", "60")])
def test_an_unclear_question_is_answered_with_how_to_ask(folder, arguments):
    code, said = probe(*arguments)
    assert code == 2
    assert said.startswith("usage:")


def test_without_a_folder_none_is_kept_and_none_is_found(monkeypatch):
    monkeypatch.delenv("BYTEPORT_PULSE_DIR", raising=False)
    pulse.beat("worker", "alive")
    assert probe("worker", "alive")[0] == 2


@contextmanager
def watching():
    stop = threading.Event()
    thread = threading.Thread(target=Watch().run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def wait_for(file):
    until = time.monotonic() + PATIENCE_S
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)


@pytest.mark.django_db(transaction=True)
def test_a_watcher_is_alive_and_ready(folder):
    with watching():
        wait_for(folder / "watch.alive")
        wait_for(folder / "watch.ready")


def test_a_watcher_without_its_database_is_alive_and_not_ready(folder, tmp_path, django_db_blocker):
    given = connections.settings["default"]
    connections.settings["default"] = {**given, "HOST": str(tmp_path), "PORT": ""}  # for the thread's own connection
    try:
        with django_db_blocker.unblock(), watching():
            wait_for(folder / "watch.alive")
    finally:
        connections.settings["default"] = given
    assert not (folder / "watch.ready").exists()
