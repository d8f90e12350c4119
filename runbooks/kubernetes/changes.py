"""Who else has changed an object, by the record that the API server keeps of every writer. Pure."""

from datetime import datetime, timedelta

from runbooks.kubernetes.objects import ManagedFields, Meta

FIELD_MANAGER = "byteport"
# What keeps objects going by itself: its writes are no sign that a person is at work.
CONTROLLERS = ("kube-controller-manager", "kubelet", "k3s", "cert-manager", FIELD_MANAGER)


def changed_by_others(meta: Meta, since: datetime, generation: int | None = None) -> str:
    """Which other writer has changed it after `since`; empty when none has.

    The record's times are whole seconds. Where the specification is not that of `generation` any more, a writer within
    the very second of `since` counts as well; and somebody has been there if nobody is on record.
    """
    if meta.deletion_timestamp is not None:
        return f"it is being deleted since {meta.deletion_timestamp:%H:%M:%S} UTC"
    has_moved = generation is not None and meta.generation != generation
    from_then = since.replace(microsecond=0) - timedelta(seconds=1) if has_moved else since
    lately = [entry for entry in meta.managed_fields if entry.time is not None and entry.time > from_then]
    other = next((entry for entry in lately if not _of_a_controller(entry)), None)
    if other is not None:
        return f"{other.manager or 'an unnamed client'} changed it at {other.time:%H:%M:%S} UTC"
    if has_moved and not any(entry.subresource != "status" for entry in lately):
        return f"somebody has changed it: its generation was {generation} and is {meta.generation}"
    return ""


def _of_a_controller(entry: ManagedFields) -> bool:
    """A status tells what is, not what somebody wants; cert-manager's controllers all begin with its name."""
    return entry.subresource == "status" or entry.manager in CONTROLLERS or entry.manager.startswith("cert-manager-")
