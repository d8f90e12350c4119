"""The runbooks that are installed: what they treat, what they may do, and their pages of documentation."""

import re
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from incidents import queries
from incidents.markup import to_html
from incidents.views.page import show, signed_in
from runbooks.action import ACTIONS, Action
from runbooks.runbook import Runbook

TITLE = re.compile(r"\A# .*\n")  # the page has it already


@require_safe
@signed_in
def runbooks(request: HttpRequest) -> HttpResponse:
    rows = [(row, actions_of(row.runbook)) for row in queries.runbook_rows()]
    return show(request, "runbooks", {"rows": rows})


@require_safe
@signed_in
def runbook(request: HttpRequest, name: str) -> HttpResponse:
    row = next((row for row in queries.runbook_rows() if row.runbook.name == name), None)
    if row is None:
        raise Http404(f"There is no runbook {name}.")
    return show(request, "runbook", {"row": row, "actions": actions_of(row.runbook), "doc": documentation(name)})


def actions_of(runbook: Runbook) -> list[Action]:
    return [ACTIONS[name] for name in runbook.actions if name in ACTIONS]


def documentation(name: str) -> SafeString | None:
    """`docs/runbooks/<name>.md` below its title, as sanitised HTML; None where there is none."""
    file = Path(settings.BASE_DIR) / "docs" / "runbooks" / f"{name}.md"
    if not file.is_file():
        return None
    return to_html(TITLE.sub("", file.read_text(encoding="utf-8")))
