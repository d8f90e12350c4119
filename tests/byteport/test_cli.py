"""What the commands share. Real: the base class, and for exit codes and a database that is away, a process of its own.

Not real: two small commands that are made here.
"""

import json
import os
import pwd
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, ProgrammingError

from byteport.cli import Report, ReportCommand, actor, figure, pairs, positive, section, stamp, table
from byteport.core.errors import Permanent, Refused


class Reporting(ReportCommand):
    def report(self, **options):
        return Report({"name": "x", "nothing": None}, ["name  x", "more"])


class Failing(ReportCommand):
    error: Exception = Refused("It is not to be.")

    def report(self, **options):
        raise self.error


def run(command, *args):
    """Exit code, stdout and stderr."""
    out, err = StringIO(), StringIO()
    try:
        call_command(command, *args, stdout=out, stderr=err)
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def manage(*args, **env):
    argv = [sys.executable, str(settings.BASE_DIR / "manage.py"), *args]
    return subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False)


def test_people_get_lines():
    assert run(Reporting()) == (0, "name  x\nmore\n", "")


def test_programs_get_one_line_of_json():
    code, out, err = run(Reporting(), "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert json.loads(out) == {"name": "x", "nothing": None}


@pytest.mark.parametrize("error", [Refused("It is not to be."), Permanent("It is not to be.")], ids=repr)
def test_a_refusal_ends_with_1_and_its_reason_on_stderr(error):
    command = Failing()
    command.error = error
    assert run(command) == (1, "", "It is not to be.\n")


def test_a_refusal_is_json_where_json_was_asked_for():
    code, out, err = run(Failing(), "--json")
    assert (code, out) == (1, "")
    assert json.loads(err) == {"error": "It is not to be."}


def test_a_fault_of_byteports_own_is_not_hidden():
    command = Failing()
    command.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run(command)


@pytest.mark.parametrize(
    ("error", "advice"),
    [(OperationalError("gone\nhint"), "manage.py doctor"), (ProgrammingError("no table"), "migrate")],
)
def test_a_database_that_is_away_or_not_set_up_is_told_with_what_to_do(error, advice):
    command = Failing()
    command.error = error
    code, out, err = run(command)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert advice in err


def test_a_command_without_its_database_ends_with_1_and_json():
    nowhere = {"DATABASE_URL": "postgres://x@%2Fnonexistent/x", "BYTEPORT_SECRET_KEY": "x" * 50}
    ended = manage("agent", "status", "--json", **nowhere)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "PostgreSQL cannot be reached" in json.loads(ended.stderr)["error"]


@pytest.mark.parametrize(
    "args", [["incident", "none"], ["agent"], ["policy", "set", "disk_pressure", "clear"]], ids=" ".join
)
def test_what_is_not_understood_ends_with_2(args):
    nowhere = {"DATABASE_URL": "postgres://x@%2Fnonexistent/x", "BYTEPORT_SECRET_KEY": "x" * 50}
    ended = manage(*args, **nowhere)
    assert ended.returncode == 2
    assert "usage:" in ended.stderr


def test_the_actor_is_the_user_of_the_process_whatever_its_environment_says(monkeypatch):
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert actor() == f"command:{pwd.getpwuid(os.getuid()).pw_name}"


def test_a_user_id_without_a_name_is_an_actor_too(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 3_000_000_017)
    assert actor() == "command:uid 3000000017"


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5", "²", "9" * 30])
def test_a_number_is_from_1_on(text):
    with pytest.raises(ArgumentTypeError):
        positive(text)


def test_columns_are_aligned_without_blanks_at_the_end():
    assert table(("a", "long"), [("wide one", "x"), ("b", "")]) == ["a         long", "wide one  x", "b"]


def test_pairs_leave_out_what_has_no_value():
    assert pairs([("a", "1"), ("longer", ""), ("bc", "2")]) == ["a   1", "bc  2"]


def test_a_section_without_lines_has_no_heading():
    assert section("Title", []) == []
    assert section("Title", ["x"]) == ["", "Title", "  x"]


def test_nothing_is_shown_as_nothing():
    assert (stamp(None), figure(None, "%"), figure(85.25, "%"), figure(0)) == ("", "", "85.25 %", "0")


class Hostile(ReportCommand):
    def report(self, **options):
        return Report({"log": "\x1b[2J"}, ["log: \x1b]0;owned\x07 \x9b31m \u202e", "two\tcolumns, grün, \u200d"])


class HostileRefusal(ReportCommand):
    def report(self, **options):
        raise Refused("the host says \x1b[2J")


def test_what_strangers_have_written_cannot_work_the_terminal():
    assert run(Hostile())[1] == "log: \\x1b]0;owned\\x07 \\x9b31m \\u202e\ntwo\tcolumns, grün, \u200d\n"
    assert run(HostileRefusal())[2].strip() == r"the host says \x1b[2J"


def test_no_colours_leave_for_a_file():
    assert not re.search("\x1b", run(Failing())[2])
