"""When something counts as failing. Pure."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from byteport.core.health import is_failing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("error", "error_at", "success_at", "failing"),
    [
        ("", None, None, False),
        ("no route", NOON, None, True),
        ("no route", LATER, NOON, True),
        ("no route", NOON, LATER, False),
        ("no route", NOON, NOON, False),
        ("", LATER, NOON, False),
    ],
)
def test_what_failed_after_it_last_went_well_is_failing(error, error_at, success_at, failing):
    row = SimpleNamespace(last_error=error, last_error_at=error_at, last_success_at=success_at)
    assert is_failing(row) is failing
