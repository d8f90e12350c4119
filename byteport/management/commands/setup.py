"""`manage.py setup`: what has to be done once for each new version, before its processes start."""

from typing import Any

import msgspec

from byteport import upgrade
from byteport.cli import Report, ReportCommand


class Done(msgspec.Struct, frozen=True):
    applied: list[str]


class Command(ReportCommand):
    help = (
        "Brings the database up to date: migrations, default policies, the schedule. Safe to repeat, and for several"
        " to run at once."
    )

    def report(self, **options: Any) -> Report:
        applied = upgrade.bring_up_to_date()
        return Report(Done(applied), [*(f"applied {name}" for name in applied), "the database is up to date"])
