"""Records as they could be: one file a runbook, whose `EXAMPLE` is rendered to `docs/examples/<runbook>.md`.

Tests start from them too. After a change that is meant: `python -m tests.incidents.render_examples`.
"""

from importlib import import_module

from incidents.record import Record
from tests.incidents.examples.base import START, at, course, deed
from tests.incidents.examples.cleanup_logs import ADVICE, CLEANUP_LOGS

__all__ = ["ADVICE", "CLEANUP_LOGS", "START", "at", "course", "deed", "example_of"]


def example_of(runbook: str) -> Record:
    """Raises ModuleNotFoundError where a runbook has none."""
    example: Record = import_module(f"{__name__}.{runbook}").EXAMPLE
    return example
