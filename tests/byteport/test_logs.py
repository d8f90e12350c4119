"""What a log line looks like: the processors alone, and what a process writes to its terminal."""

import subprocess
import sys

import pytest

from byteport.logs import escape_controls, mask_secrets

LOGGING = """
import structlog
from byteport.logs import logging_config

logging_config(level="INFO", form="console")
try:
    raise ValueError("told: \x1b[2J")
except ValueError:
    structlog.get_logger().exception("webhook refused", source="x\x1b[2J")
"""


def test_what_a_stranger_sends_cannot_work_a_terminals_controls():
    line = {"event": "webhook refused", "source": "x\x1b[2J\x00\x9b31m", "reason": "zwei\nZeilen, grün", "status": 404}
    shown = escape_controls(None, "warning", line)
    assert shown["source"] == r"x\x1b[2J\x00\x9b31m"
    assert shown["reason"] == "zwei\nZeilen, grün"
    assert shown["status"] == 404


def test_a_secret_in_an_error_reaches_no_log():
    line = {"event": "source failed", "error": "postgres://byteport:hunter2@db/x: refused", "password": "hunter2"}
    assert "hunter2" not in str(mask_secrets(None, "warning", line))
    assert "postgres://***@db/x: refused" in line["error"]


@pytest.mark.parametrize("form", ["console", "json"])
def test_nor_one_in_a_traceback(form):
    program = LOGGING.replace("told: \x1b[2J", "Authorization: Bearer hunter2hunter2").replace('"console"', repr(form))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "ValueError: Authorization: ***" in done.stderr
    assert "ValueError: Authorization: Bearer" not in done.stderr


def test_nor_can_it_where_an_error_quotes_it():
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, timeout=60, check=True)
    assert "\x1b" not in done.stderr
    assert r"source=x\x1b[2J" in done.stderr.replace("'", "")
    assert r"ValueError: told: \x1b[2J" in done.stderr
    assert "\nTraceback" in done.stderr
