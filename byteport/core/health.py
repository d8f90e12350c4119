"""How what BytePort calls, or is called by, is doing. Pure."""

from typing import Any


def is_failing(row: Any) -> bool:
    """Whether its latest error came after its latest success. A row with `last_error`, `last_error_at` and
    `last_success_at`, as those of sources and outgoing webhooks."""
    return bool(
        row.last_error
        and row.last_error_at
        and (row.last_success_at is None or row.last_error_at > row.last_success_at)
    )
