"""Which revision a Deployment can go back to. Pure.

A ReplicaSet's annotation has its present number; one that was gone back to keeps its earlier ones in the history.
"""

from collections.abc import Collection, Sequence

import msgspec

from runbooks.kubernetes.names import REVISION, REVISION_HISTORY, TEMPLATE_HASH
from runbooks.kubernetes.objects import Meta, Raw, ReplicaSet, Workload


class Stable(msgspec.Struct, frozen=True):
    """The revision to go back to. `remembered`: BytePort has seen it fully available; else it only looks so."""

    replica_set: str
    revision: int
    why: str
    remembered: bool


def number(meta: Meta) -> int:
    """0 for none."""
    return _number(meta.annotations.get(REVISION, ""))


def numbers(meta: Meta) -> frozenset[int]:
    """All that it has had."""
    earlier = meta.annotations.get(REVISION_HISTORY, "").split(",")
    return frozenset(filter(None, [number(meta), *map(_number, earlier)]))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def current_of(workload: Workload, replica_sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The one that the Deployment rolls out now."""
    wanted = number(workload.metadata)
    return next((one for one in replica_sets if wanted and number(one.metadata) == wanted), None)


def last_stable(workload: Workload, replica_sets: Sequence[ReplicaSet], remembered: Collection[int]) -> Stable | None:
    """The latest revision before the present one that has worked; None where none is known to have."""
    earlier = [one for one in replica_sets if _is_earlier(one, workload)]
    for one in sorted(earlier, key=lambda one: number(one.metadata), reverse=True):
        why = _why_stable(one, workload, remembered)
        if why:
            seen = bool(numbers(one.metadata) & frozenset(remembered))
            return Stable(one.metadata.name, number(one.metadata), why, seen)
    return None


def _is_earlier(one: ReplicaSet, workload: Workload) -> bool:
    """Of an earlier revision, and made by the controller as it stands: with its hash in name and labels."""
    meta = one.metadata
    named = meta.labels.get(TEMPLATE_HASH, "")
    is_whole = bool(named) and meta.name == f"{workload.metadata.name}-{named}"
    return is_whole and 0 < number(meta) < number(workload.metadata)


def _why_stable(one: ReplicaSet, workload: Workload, remembered: Collection[int]) -> str:
    """Empty where nothing says that it has worked."""
    if numbers(one.metadata) & frozenset(remembered):
        return "BytePort has seen it fully available"
    wanted, available = one.spec.replicas, one.status.available_replicas
    if 0 < wanted == available and 2 * available >= workload.spec.replicas:
        return f"all {available} of its replicas still serve"
    return ""


def images_of(template: Raw) -> dict[str, str]:
    """Container → image."""
    containers = (template.get("spec") or {}).get("containers") or []
    return {str(one.get("name", "")): str(one.get("image", "")) for one in containers}
