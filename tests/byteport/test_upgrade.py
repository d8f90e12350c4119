"""`manage.py setup`. Real: the command as processes of its own, on a database that is empty at first."""

import json
import os
import subprocess
import sys

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from tests.byteport.test_queue import database_url

PATIENCE_S = 240.0
COUNTS = "SELECT (SELECT count(*) FROM agent_settings), (SELECT count(*) FROM django_q_schedule)"


@pytest.fixture
def empty_database(db):
    """The URL of a new database beside the tests' own."""
    name = f"{connection.settings_dict['NAME']}_setup"
    with psycopg.connect(database_url(), autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}"')
        server.execute(f'CREATE DATABASE "{name}"')
        yield database_url().rpartition("/")[0] + f"/{name}"
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def begun(url):
    env = {**os.environ, "DATABASE_URL": url, "BYTEPORT_SECRET_KEY": "x" * 50}
    argv = [sys.executable, str(settings.BASE_DIR / "manage.py"), "setup", "--json"]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)


def applied(process):
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return json.loads(out)["applied"]


@pytest.mark.proof
def test_two_at_once_set_a_database_up_once_and_a_third_finds_nothing_to_do(empty_database):
    first, second = [applied(process) for process in (begun(empty_database), begun(empty_database))]
    assert "runbooks.0001_initial" in first + second
    assert [] in (first, second)
    assert applied(begun(empty_database)) == []
    with psycopg.connect(empty_database) as database:
        assert database.execute(COUNTS).fetchone() == (1, 1)
