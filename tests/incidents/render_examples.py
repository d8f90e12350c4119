"""`python -m tests.incidents.render_examples`: writes `docs/examples/` anew."""

import os
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")
django.setup()

from incidents.postmortem import render_record  # noqa: E402 (only once Django is set up)
from runbooks.runbook import RUNBOOKS  # noqa: E402
from tests.incidents.examples import example_of  # noqa: E402

for name in RUNBOOKS:
    page = Path("docs/examples") / f"{name}.md"
    page.write_text(render_record(example_of(name)), encoding="utf-8")
