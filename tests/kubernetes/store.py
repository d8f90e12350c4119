"""The objects of a small cluster: versions, a log of changes to watch, and patches, as an API server keeps them.

Not real: there is no controller and no kubelet. A test plays their part (`put`, `modify`, `react`).
"""

import copy
import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import jsonpatch

from byteport.clients.kubernetes.paths import KINDS

Object = dict
Key = tuple[str, str, str]  # kind as in `paths.KINDS`, namespace, name


class PatchRefusedError(Exception):
    """A patch that the API server answers with 422; the body of its answer."""

    def __init__(self, status: dict) -> None:
        super().__init__(status["message"])
        self.status = status


class Store:
    """Thread-safe. `listeners` are called after every change, in the thread that made it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 100
        self.objects: dict[Key, Object] = {}
        self.log: list[tuple[int, str, str, bytes, str]] = []  # version, kind, event's type, object, namespace
        self.forgotten = 0  # a watch from this version or an older one is answered with 410
        self.listeners: list[Callable[[], None]] = []
        self.reactions: list[Callable[[str, Object], None]] = []
        self.logs: dict[tuple[str, str, str, bool], str] = {}  # namespace, pod, container, previous → text

    # --- for tests: the parts of the kubelet, the controllers and people

    def put(self, kind: str, obj: Object) -> Object:
        """Creates or replaces an object as it is given; versions and what is missing of its metadata are filled in."""
        with self.lock:
            obj = copy.deepcopy(obj)
            known = KINDS[kind]
            obj.setdefault("kind", _kind_name(kind))
            obj.setdefault("apiVersion", f"{known.group}/{known.version}".removeprefix("/"))
            meta = obj["metadata"]
            meta.setdefault("uid", str(uuid.uuid4()))
            meta.setdefault("creationTimestamp", stamp())
            key = (kind, meta.get("namespace", ""), meta["name"])
            self._write(key, obj, "MODIFIED" if key in self.objects else "ADDED")
            return copy.deepcopy(obj)

    def put_list(self, kind: str, answer: dict) -> None:
        """Puts each object of a recorded list."""
        for item in answer["items"]:
            self.put(kind, item)

    def modify(self, kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Changes an object in place, as a controller does."""
        with self.lock:
            obj = copy.deepcopy(self.objects[kind, namespace, name])
            change(obj)
            self._write((kind, namespace, name), obj, "MODIFIED")
            return obj

    def delete(self, kind: str, namespace: str, name: str) -> None:
        with self.lock:
            obj = self.objects.pop((kind, namespace, name))
            self._log((kind, namespace, name), obj, "DELETED")
        self._tell()

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        with self.lock:
            return copy.deepcopy(self.objects.get((kind, namespace, name)))

    def forget(self) -> None:
        """Compacts: what was watched so far can only be listed anew."""
        with self.lock:
            self.forgotten = self.version
            self.log.clear()

    def react(self, reaction: Callable[[str, Object], None]) -> None:
        """Has `reaction(kind, object)` called after each creation and patch: for what a controller would do."""
        self.reactions.append(reaction)

    # --- for the server

    def listed(self, kind: str, namespace: str) -> list[Object]:
        with self.lock:
            keys = sorted(key for key in self.objects if key[0] == kind and namespace in ("", key[1]))
            return [self.objects[key] for key in keys]

    def changes(self, kind: str, namespace: str, after: int, until: int) -> list[tuple[int, str, bytes]]:
        with self.lock:
            return [
                (version, event, body)
                for version, logged, event, body, where in self.log
                if after < version <= until and logged == kind and namespace in ("", where)
            ]

    def create(self, kind: str, obj: Object) -> Object:
        created = self.put(kind, obj)
        for reaction in self.reactions:
            reaction(kind, copy.deepcopy(created))
        return created

    def patch(self, key: Key, content_type: str, body: bytes, subresource: str, manager: str, dry_run: bool) -> Object:
        """The object as it is, or in a dry run would be, after the patch. Raises PatchRefusedError, KeyError."""
        with self.lock:
            before = self.objects[key]
            after = _patched(before, content_type, json.loads(body), subresource)
            _validate(after)
            if after == before or dry_run:
                return after if dry_run else before
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
            _note_manager(after, manager, subresource)
            self._write(key, after, "MODIFIED")
        for reaction in self.reactions:
            reaction(key[0], copy.deepcopy(after))
        return after

    def _write(self, key: Key, obj: Object, event: str) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = obj
        self._append(key, obj, event)
        self._tell()

    def _log(self, key: Key, obj: Object, event: str) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._append(key, obj, event)

    def _append(self, key: Key, obj: Object, event: str) -> None:
        body = json.dumps({"type": event, "object": obj}).encode()
        self.log.append((self.version, key[0], event, body, key[1]))

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()


def stamp(at: datetime | None = None) -> str:
    """A time as Kubernetes writes it."""
    return (at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kind_name(kind: str) -> str:
    special = {"replicaset": "ReplicaSet", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
    return special.get(kind, kind.capitalize())


def _patched(before: Object, content_type: str, patch: object, subresource: str) -> Object:
    if content_type.startswith("application/json-patch+json"):
        after = _json_patched(before, patch)
    else:
        after = _merged(copy.deepcopy(before), patch)
    if subresource == "status":
        return {**copy.deepcopy(before), "status": after.get("status")}
    return {**after, "status": copy.deepcopy(before["status"])} if "status" in before else after


def _json_patched(before: Object, patch: list[dict]) -> Object:
    """All operations or none; the API server tells a failed `test` from a missing path as little as this does."""
    try:
        return jsonpatch.apply_patch(copy.deepcopy(before), patch)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise PatchRefusedError(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": "the server rejected our request due to an error in our request",
                "reason": "Invalid",
                "details": {},
                "code": 422,
            }
        ) from error


def _merged(target: Object, patch: Object) -> Object:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            target[key] = _merged(target[key] if isinstance(target.get(key), dict) else {}, value)
        else:
            target[key] = value
    return target


def _validate(obj: Object) -> None:
    """A memory limit below its request, as `error_422_memory_limit_below_request.json` has it."""
    containers = obj.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    for index, container in enumerate(containers):
        resources = container.get("resources", {})
        request, limit = (resources.get(part, {}).get("memory") for part in ("requests", "limits"))
        if request and limit and quantity(limit) < quantity(request):
            said = f'Invalid value: "{request}": must be less than or equal to memory limit of {limit}'
            field = f"spec.template.spec.containers[{index}].resources.requests"
            name = obj["metadata"]["name"]
            raise PatchRefusedError(
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Failure",
                    "message": f'{obj["kind"]}.apps "{name}" is invalid: {field}: {said}',
                    "reason": "Invalid",
                    "details": {
                        "name": name,
                        "group": "apps",
                        "kind": obj["kind"],
                        "causes": [{"reason": "FieldValueInvalid", "message": said, "field": field}],
                    },
                    "code": 422,
                }
            )


def quantity(text: str) -> float:
    """A quantity in its base unit: `64Mi`, `1G`, `250m`."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * units[unit]
    return float(text)


def _note_manager(obj: Object, manager: str, subresource: str) -> None:
    """Who changed it last, as in `metadata.managedFields`; which fields is left out."""
    entry = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": obj["apiVersion"],
        "time": stamp(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {},
        **({"subresource": subresource} if subresource else {}),
    }
    entries = obj["metadata"].setdefault("managedFields", [])
    same = [e for e in entries if (e["manager"], e.get("subresource", "")) == (manager, subresource)]
    for old in same:
        entry["fieldsV1"] = old.get("fieldsV1", {})
        entries.remove(old)
    entries.append(entry)
