"""`manage.py policy …`: the policies of signals and runbooks, to read and to set."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from byteport.cli import Report, ReportCommand, actor, pairs, switch, table
from byteport.core.errors import Refused
from incidents import policies
from incidents.policies import PolicyChange, PolicyView, Setting


def assignment(text: str) -> tuple[str, str]:
    """`key=value`, as an argument's type."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ArgumentTypeError(f"{text!r} is not of the form key=value")
    return key.strip(), value.strip()


class Command(ReportCommand):
    help = "Lists, shows and sets policies. A name is that of a signal or of a runbook."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        deeds = parser.add_subparsers(dest="deed", required=True, metavar="list|show|set")
        self.add_deed(deeds, "list", "Every policy, and what differs from the defaults.")
        self.add_deed(deeds, "show", "One policy with each field's value, default, unit and meaning.").add_argument(
            "name"
        )
        setting = self.add_deed(deeds, "set", "Sets fields of one policy: all of them, or none when one is wrong.")
        setting.add_argument("name")
        setting.add_argument("assignments", nargs="+", type=assignment, metavar="key=value")

    def report(self, **options: Any) -> Report:
        if options["deed"] == "list":
            views = policies.all_policies()
            return Report(views, _listed(views))
        if options["deed"] == "show":
            view = policies.policy(options["name"])
            return Report(view, _shown(view))
        change = policies.change(options["name"], _once(options["assignments"]), actor=actor())
        return Report(change, _changed(change))


def _once(assignments: list[tuple[str, str]]) -> dict[str, str]:
    wanted = dict(assignments)
    if len(wanted) < len(assignments):
        raise Refused("A key is given more than once; nothing was changed.")
    return wanted


def _listed(views: list[PolicyView]) -> list[str]:
    return table(("name", "kind", "title", "differs from the defaults"), [_row(view) for view in views])


def _row(view: PolicyView) -> tuple[str, str, str, str]:
    differs = ", ".join(f"{s.key}={_text(s.value, s.unit)}" for s in view.settings if s.value != s.default)
    return view.name, view.kind, view.title, differs


def _shown(view: PolicyView) -> list[str]:
    rows = [(s.key, _text(s.value), _text(s.default), s.unit, s.help) for s in view.settings]
    return [
        f"{view.name} ({view.kind}): {view.title}",
        "",
        *table(("key", "value", "default", "unit", "meaning"), rows),
    ]


def _changed(change: PolicyChange) -> list[str]:
    if not change.after:
        return [f"{change.name} was like that already; nothing was changed."]
    return pairs((key, f"{_text(change.before[key])} → {_text(value)}") for key, value in change.after.items())


def _text(value: Setting | bool | float, unit: str = "") -> str:
    return switch(value) if isinstance(value, bool) else f"{value} {unit}".strip()
