"""Who else has changed an object, by the record that the API server keeps of every writer. Pure."""

from datetime import datetime

from runbooks.kubernetes.objects import ManagedFields, Meta

FIELD_MANAGER = "byteport"
# What keeps objects going by itself: its writes are no sign that a person is at work.
CONTROLLERS = ("kube-controller-manager", "kubelet", "k3s", "cert-manager", FIELD_MANAGER)


def changed_by_others(meta: Meta, since: datetime) -> str:
    """Which other writer has changed it after `since`; empty when none has. The record's times are whole seconds."""
    if meta.deletion_timestamp is not None:
        return f"it is being deleted since {meta.deletion_timestamp:%H:%M:%S} UTC"
    for entry in meta.managed_fields:
        if entry.time is not None and entry.time > since and not _of_a_controller(entry):
            return f"{entry.manager or 'an unnamed client'} changed it at {entry.time:%H:%M:%S} UTC"
    return ""


def _of_a_controller(entry: ManagedFields) -> bool:
    """A status tells what is, not what somebody wants; cert-manager's controllers all begin with its name."""
    return entry.subresource == "status" or entry.manager in CONTROLLERS or entry.manager.startswith("cert-manager-")
