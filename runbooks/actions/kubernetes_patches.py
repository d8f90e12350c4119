"""The JSON Patches of the actions, made from the object as it was just read. Pure.

Each tests that the object is the very one that was read, and carries the action's id. (RFC 6902)
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from runbooks.kubernetes.names import ISSUING, LAST_ACTION, ORIGINAL_LIMITS, RESTARTED_AT
from runbooks.kubernetes.objects import Raw


class Operation(msgspec.Struct, frozen=True):
    op: Literal["test", "add", "replace"]
    path: str
    value: Any


Patch = tuple[Operation, ...]


def restart(live: Raw, action_id: str, at: datetime) -> Patch:
    """What `kubectl rollout restart` does."""
    template = live["spec"]["template"]
    metadata = template.get("metadata") or {}
    return (
        *unchanged(live),
        *annotate("/metadata", live["metadata"], {LAST_ACTION: action_id}),
        *annotate("/spec/template/metadata", metadata, {RESTARTED_AT: stamp(at)}, exists="metadata" in template),
    )


def raise_memory(live: Raw, action_id: str, index: int, limit: str, originals: Mapping[str, str]) -> Patch:
    """Sets the memory limit of the container at `index`; its request stays. `originals`: limits before the first."""
    container = live["spec"]["template"]["spec"]["containers"][index]
    at = f"/spec/template/spec/containers/{index}"
    noted = msgspec.json.encode(dict(originals), order="sorted").decode()
    return (
        *unchanged(live),
        Operation("test", f"{at}/name", container["name"]),
        Operation("test", f"{at}/resources/limits/memory", container["resources"]["limits"]["memory"]),
        *annotate("/metadata", live["metadata"], {LAST_ACTION: action_id, ORIGINAL_LIMITS: noted}),
        Operation("replace", f"{at}/resources/limits/memory", limit),
    )


def scale(live: Raw, action_id: str, replicas: int) -> Patch:
    return (
        *unchanged(live),
        Operation("test", "/spec/replicas", live["spec"]["replicas"]),
        *annotate("/metadata", live["metadata"], {LAST_ACTION: action_id}),
        Operation("replace", "/spec/replicas", replicas),
    )


def rollback(live: Raw, action_id: str, template: Raw) -> Patch:
    """What `kubectl rollout undo` does. `template`: an earlier ReplicaSet's, less its hash."""
    return (
        *unchanged(live),
        Operation("test", "/metadata/generation", live["metadata"]["generation"]),
        *annotate("/metadata", live["metadata"], {LAST_ACTION: action_id}),
        Operation("replace", "/spec/template", template),
    )


def renew(live: Raw, action_id: str, at: datetime) -> Patch:
    """What `cmctl renew` does. A status has no annotations: the id is in the condition's message."""
    condition = {
        "type": ISSUING,
        "status": "True",
        "observedGeneration": live["metadata"]["generation"],
        "lastTransitionTime": stamp(at),
        "reason": "ManuallyTriggered",
        "message": renewal_message(action_id),
    }
    return (*unchanged(live), _with_condition(live, condition))


def renewal_message(action_id: str) -> str:
    return f"Certificate re-issuance triggered by BytePort (action {action_id})"


def _with_condition(live: Raw, condition: Raw) -> Operation:
    status = live.get("status") or {}
    conditions = status.get("conditions") or []
    index = next((i for i, one in enumerate(conditions) if one.get("type") == condition["type"]), None)
    if index is not None:
        return Operation("replace", f"/status/conditions/{index}", condition)
    if conditions:
        return Operation("add", "/status/conditions/-", condition)
    if "status" in live:
        return Operation("add", "/status/conditions", [condition])
    return Operation("add", "/status", {"conditions": [condition]})


def unchanged(live: Raw) -> Patch:
    """The same object, and nothing in it has changed since it was read."""
    metadata = live["metadata"]
    return (
        Operation("test", "/metadata/uid", metadata["uid"]),
        Operation("test", "/metadata/resourceVersion", metadata["resourceVersion"]),
    )


def annotate(path: str, metadata: Raw, wanted: Mapping[str, str], *, exists: bool = True) -> Patch:
    """Adds annotations, and what they lie in where there is none yet."""
    if not exists:
        return (Operation("add", path, {"annotations": dict(wanted)}),)
    if not metadata.get("annotations"):
        return (Operation("add", f"{path}/annotations", dict(wanted)),)
    return tuple(Operation("add", f"{path}/annotations/{escape(key)}", value) for key, value in wanted.items())


def escape(key: str) -> str:
    """One token of a JSON Pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def stamp(at: datetime) -> str:
    """A time as Kubernetes writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
