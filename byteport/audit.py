"""Every change an operator makes: who, when, from, to. Called by admin, console and commands alike."""

from collections.abc import Mapping
from typing import Any

from byteport.models import AuditEntry


def record(*, actor: str, action: str, target: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Writes one entry with the fields that differ, none when nothing does. Call it in the change's transaction."""
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if not changed:
        return
    AuditEntry.objects.create(
        actor=actor,
        action=action,
        target=target,
        before={key: before.get(key) for key in changed},
        after={key: after.get(key) for key in changed},
    )
