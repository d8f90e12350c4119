"""Reading JSON Patches and what they would do, for the fence. Pure; it shares nothing with the code that makes them.

Only `test`, `add` and `replace` are known (RFC 6902): nothing that BytePort does removes, moves or copies.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import msgspec

from runbooks.kubernetes.objects import Raw

Pointer = tuple[str, ...]
MAX_BYTES = 1024 * 1024
MAX_OPERATIONS = 16
_INDEX = re.compile(r"0|[1-9][0-9]{0,4}")


class ReadOperation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: Literal["test", "add", "replace"]
    path: str
    value: Any


class Change(msgspec.Struct, frozen=True):
    """One place in which two objects differ. `ABSENT` where there is nothing."""

    at: Pointer
    before: Any
    after: Any


class PatchError(Exception):
    """The patch cannot be read, or does not apply."""


class TestFailedError(PatchError):
    """A `test` of the patch does not hold. `at`: its place."""

    __test__ = False  # pytest looks for names like this

    def __init__(self, at: Pointer) -> None:
        super().__init__(f"its test of {text_of(at)} does not hold")
        self.at = at


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()
_DECODER = msgspec.json.Decoder(list[ReadOperation])


def parse(body: bytes) -> list[ReadOperation]:
    """Raises PatchError for what is no such patch, or could be read in another way by somebody else."""
    if len(body) > MAX_BYTES:
        raise PatchError(f"its body has more than {MAX_BYTES} bytes")
    try:
        patch = _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PatchError(f"its body is no JSON Patch that BytePort makes ({error})") from error
    if len(patch) > MAX_OPERATIONS:
        raise PatchError(f"it has more than {MAX_OPERATIONS} operations")
    if msgspec.json.encode(patch) != body:  # a key twice, say: two readers, two meanings
        raise PatchError("its body is not written in the one plain way")
    return patch


def applied(patch: list[ReadOperation], to: Raw) -> Raw:
    """The object after the patch. Raises TestFailedError, PatchError."""
    after = deepcopy(to)
    for operation in patch:
        at = pointer(operation.path)
        if operation.op == "test":
            if not same(_look(after, at), operation.value):
                raise TestFailedError(at)
        else:
            _put(after, at, operation)
    return after


def pointer(text: str) -> Pointer:
    """A JSON Pointer's tokens (RFC 6901). The whole document has none, and is not for BytePort to set."""
    if not text.startswith("/"):
        raise PatchError(f"{text[:100]!r} is no place within the object")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))


def text_of(at: Pointer) -> str:
    """For people: `spec.template.spec.containers.0.image`."""
    return ".".join(at)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: to Python `1 == True`."""
    if one is ABSENT or other is ABSENT:
        return one is other
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")


def _look(obj: Any, at: Pointer) -> Any:
    for token in at:
        if isinstance(obj, dict):
            obj = obj.get(token, ABSENT)
        elif isinstance(obj, list) and _INDEX.fullmatch(token) and int(token) < len(obj):
            obj = obj[int(token)]
        else:
            return ABSENT
    return obj


def _put(obj: Any, at: Pointer, operation: ReadOperation) -> None:
    parent, token = _look(obj, at[:-1]), at[-1]
    value = deepcopy(operation.value)
    if operation.op == "replace" and _look(parent, (token,)) is ABSENT:
        raise PatchError(f"there is no {text_of(at)} to replace")
    if isinstance(parent, dict):
        parent[token] = value
    elif isinstance(parent, list) and operation.op == "add" and at[-1:] == ("-",):
        parent.append(value)
    elif isinstance(parent, list) and operation.op == "replace":
        parent[int(token)] = value
    else:
        raise PatchError(f"nothing can be put at {text_of(at)}")


def changes(before: Any, after: Any, at: Pointer = ()) -> Iterator[Change]:
    """Each place in which they differ, as deep as they can be compared."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from changes(before.get(key, ABSENT), after.get(key, ABSENT), (*at, key))
    elif before is ABSENT and isinstance(after, dict) and after:
        for key, value in after.items():
            yield from changes(ABSENT, value, (*at, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from changes(old, new, (*at, str(index)))
    elif not same(before, after):
        yield Change(at, before, after)
