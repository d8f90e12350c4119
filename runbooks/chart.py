"""What the Helm chart holds of the code: rights and switches. Helm runs no Python, so that they are written into it.

Each of the files is made anew from its present text and the code, and so compared (`manage.py rbac --check`) or
written (`--write`). What is not BytePort's own, out of an outside package, is not of the chart.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import msgspec
import yaml

from byteport.core.errors import Permanent
from runbooks import rbac
from runbooks.rbac import Need
from runbooks.runbook import RUNBOOKS

HEADER = "# Written by `manage.py rbac --write` from what the code declares; the templates read it. Not to be edited.\n"
BEGIN, END = "BEGIN: manage.py rbac --write", "END: manage.py rbac --write"


class Kept(msgspec.Struct, frozen=True):
    """A file of the repository that follows the code: from its text as it is to its text as it should be."""

    path: str
    renew: Callable[[str], str]


class Stale(msgspec.Struct, frozen=True):
    """A file that does not say what the code says, and how it differs."""

    path: str
    diff: list[str]


def built_in() -> list[str]:
    """The runbooks that ship with BytePort, and so with its chart."""
    return [name for name, runbook in RUNBOOKS.items() if type(runbook).__module__.startswith("runbooks.library.")]


def switch_of(runbook: str) -> str:
    """The runbook's name as the chart's values write it: `cleanup_logs` is `cleanupLogs`."""
    first, *others = runbook.split("_")
    return first + "".join(word.capitalize() for word in others)


def rights(_: str) -> str:
    """`files/rbac.yaml`: each source's and each runbook's own rights; what is switched on is united by the template."""
    runbooks = {
        need.name: {"switch": switch_of(need.name), "permissions": _permissions(need)}
        for need in rbac.of_runbooks(built_in())
    }
    sources = {need.name: _permissions(need) for need in rbac.of_sources()}
    return HEADER + yaml.safe_dump({"sources": sources, "runbooks": runbooks}, sort_keys=False, width=120)


def _permissions(need: Need) -> list[dict[str, Any]]:
    return [{"group": one.group, "resource": one.resource, "verbs": list(one.verbs)} for one in need.permissions]


def switches(values: str) -> str:
    """`values.yaml`: a switch for each runbook, all on: what holds it back is dry-run and the opt-in."""
    lines = ["runbooks:"]
    for need in rbac.of_runbooks(built_in()):
        lines += [f"  # {need.title}.", f"  {switch_of(need.name)}:", "    enabled: true"]
    return _between(values, "# ", "", lines)


def schema(text: str) -> str:
    """`values.schema.json`: just these switches, and no other."""
    document = json.loads(text)
    switch = {"$ref": "#/$defs/switch"}
    document["properties"]["runbooks"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {switch_of(name): switch for name in built_in()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def page(text: str) -> str:
    """`docs/install.md`: who needs which right, as a table."""
    lines = ["| needed by | of the process | resource | verbs |", "|---|---|---|---|"]
    lines += _rows(rbac.of_sources(), "watch")
    lines += _rows(rbac.of_runbooks(built_in()), "worker")
    return _between(text, "<!-- ", " -->", ["", *lines, ""])


def _rows(needs: Iterable[Need], process: str) -> Iterator[str]:
    for need in needs:
        if not need.permissions:
            yield f"| `{need.name}` | `{process}` | none | |"
        for one in need.permissions:
            resource = f"{one.group}/{one.resource}".removeprefix("/")
            yield f"| `{need.name}` | `{process}` | `{resource}` | {', '.join(one.verbs)} |"


def _between(text: str, opening: str, closing: str, lines: list[str]) -> str:
    """The text with these lines between its two marks. Raises Permanent when it has not just one pair of them."""
    marks = rf"({re.escape(opening + BEGIN + closing)}\n).*?([ ]*{re.escape(opening + END + closing)}\n)"
    body = "".join(f"{line}\n" for line in lines)
    renewed, found = re.subn(marks, lambda mark: mark[1] + body + mark[2], text, flags=re.DOTALL)
    if found != 1:
        raise Permanent(f"The marks {BEGIN!r} and {END!r} have to be there once, in this order; found {found} times.")
    return renewed


CHART = "charts/byteport-agent"
FILES = (
    Kept(f"{CHART}/files/rbac.yaml", rights),
    Kept(f"{CHART}/values.yaml", switches),
    Kept(f"{CHART}/values.schema.json", schema),
    Kept("docs/install.md", page),
)


def stale(root: Path) -> list[Stale]:
    """The files that differ from the code. Raises Permanent when the chart is not there, as in an image."""
    return [Stale(kept.path, _diff(kept.path, before, after)) for kept, before, after in _renewed(root)]


def write(root: Path) -> list[str]:
    """Brings them up to date; returns the paths of those that have changed. Raises Permanent as `stale` does."""
    renewed = list(_renewed(root))
    for kept, _, after in renewed:
        (root / kept.path).write_text(after, encoding="utf-8")
    return [kept.path for kept, _, _ in renewed]


def _renewed(root: Path) -> Iterator[tuple[Kept, str, str]]:
    for kept in FILES:
        before = _read(root / kept.path)
        after = kept.renew(before)
        if after != before:
            yield kept, before, after


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Permanent(f"{file} cannot be read ({error.strerror}): the chart lies beside the source only.") from error


def _diff(path: str, before: str, after: str) -> list[str]:
    lines = unified_diff(before.splitlines(), after.splitlines(), f"{path} (is)", f"{path} (should be)", lineterm="")
    return list(lines)
