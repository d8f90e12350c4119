"""What BytePort's own commands share: one report, as text for people or as one line of JSON, and honest exit codes.

0   done
1   refused or failed; the reason is on stderr, with --json as {"error": …}
2   not understood
"""

import argparse
import os
import pwd
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, ProgrammingError

from byteport.core.errors import BytePortError
from byteport.core.terminal import harmless

GAP = "  "


class Report(msgspec.Struct, frozen=True):
    """What a command has to say: `data` for programs, `lines` for people."""

    data: Any
    lines: Sequence[str]


class ReportCommand(BaseCommand):
    """A command that reports. It refuses by raising a BytePortError."""

    # The commands are what an operator reaches for in trouble; a fault in the configuration must not keep them from it.
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one line of JSON, and nothing else.")

    def add_deed(self, deeds: Any, name: str, help_text: str) -> argparse.ArgumentParser:
        """A subcommand; `--json` may stand before or after its name."""
        parser: argparse.ArgumentParser = deeds.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return parser

    def report(self, **options: Any) -> Report:
        """Does the deed and says what came of it. Raises BytePortError."""
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        self.is_json: bool = options["json"]
        try:
            report = self.report(**options)
        except BytePortError as error:
            self.fail(str(error))
        except (OperationalError, InterfaceError) as error:
            self.fail(f"PostgreSQL cannot be reached: {_first_line(error)}. Look with: manage.py doctor")
        except ProgrammingError as error:
            self.fail(f"The database is not set up for this version: {_first_line(error)}. Run: manage.py migrate")
        text = msgspec.json.encode(report.data).decode() if self.is_json else harmless("\n".join(report.lines))
        self.stdout.write(text)

    def fail(self, reason: str) -> NoReturn:
        """Ends with 1 and the reason on stderr."""
        if self.is_json:
            self.stderr.write(msgspec.json.encode({"error": reason}).decode(), str)
        else:
            self.stderr.write(harmless(reason))
        raise SystemExit(1)

    def is_sure(self, question: str) -> bool:
        """Asks whoever sits at the terminal; on stderr, since stdout is for the report. Without a terminal: yes."""
        if not sys.stdin.isatty():
            return True
        self.stderr.write(f"{question} [y/N] ", str, ending="")
        self.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def actor() -> str:
    """Who is at the terminal, for the audit trail: by the process's own user id, which an environment cannot forge."""
    uid = os.getuid()
    try:
        return f"command:{pwd.getpwuid(uid).pw_name}"
    except KeyError:  # a container may run under a number that has no name
        return f"command:uid {uid}"


def positive(text: str) -> int:
    """A number from 1 on, as an argument's type."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns; the last one may be of any length."""
    body = [header, *rows]
    widths = [max(len(row[column]) for row in body) for column in range(len(header))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in body]


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names and values in two columns; those without a value are left out."""
    shown = [row for row in rows if row[1]]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name.ljust(width)}{GAP}{value}" for name, value in shown]


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A heading and its lines, indented; nothing when there are none."""
    return ["", title, *(f"{GAP}{line}" for line in lines)] if lines else []


def stamp(at: datetime | None) -> str:
    """`2026-11-24 04:06:31` in UTC; empty for no time."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def figure(value: float | None, unit: str = "") -> str:
    """`85.3 %`; empty for no value."""
    return f"{value:.6g} {unit}".strip() if value is not None else ""


def switch(on: bool) -> str:
    return "on" if on else "off"
