"""`manage.py rbac`: which rights BytePort needs in a cluster, and whether its Helm chart says the same."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import msgspec
import yaml
from django.conf import settings

from byteport.cli import Report, ReportCommand
from byteport.core.errors import Refused
from runbooks import chart, rbac
from runbooks.runbook import RUNBOOKS

REMEDY = "Chart and code differ. To write the chart anew from the code: manage.py rbac --write"


class Rules(msgspec.Struct, frozen=True):
    rules: list[dict[str, Any]]


class Written(msgspec.Struct, frozen=True):
    changed: list[str]


class Command(ReportCommand):
    help = (
        "Prints the rules of a ClusterRole for what the sources and runbooks need, no verb more, none less."
        " --check ends with 1 when the Helm chart says otherwise, --write brings it up to date."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--runbooks", metavar="A,B", help="Only for these runbooks, or `none` (default: for all).")
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--check", action="store_true", help="Compare the chart with the code; change nothing.")
        group.add_argument("--write", action="store_true", help="Write the chart's files that follow the code.")

    def report(self, **options: Any) -> Report:
        root = Path(settings.BASE_DIR)
        if options["write"]:
            changed = chart.write(root)
            return Report(Written(changed), [f"wrote {path}" for path in changed] or ["the chart is as the code"])
        if options["check"]:
            return self._check(chart.stale(root))
        rules = rbac.rules(rbac.union([*rbac.of_sources(), *rbac.of_runbooks(chosen(options["runbooks"]))]))
        return Report(Rules(rules), [yaml.safe_dump({"rules": rules}, sort_keys=False).rstrip()])

    def _check(self, stale: list[chart.Stale]) -> Report:
        if stale:
            raise Refused("\n".join([*(line for each in stale for line in each.diff), REMEDY]))
        return Report(Written([]), ["the chart is as the code"])


def chosen(given: str | None) -> list[str] | None:
    """The runbooks of the command line; None for all. Raises Refused for what is none."""
    if given is None:
        return None
    names = [name.strip() for name in given.split(",") if name.strip() not in ("", "none")]
    unknown = [name for name in names if name not in RUNBOOKS]
    if unknown:
        raise Refused(f"There is no runbook {unknown[0]}. There are: {', '.join(RUNBOOKS)}.")
    return names
