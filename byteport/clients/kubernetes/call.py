"""One request to an API server, and which right it needs. Pure."""

from typing import Self

import msgspec

from byteport.clients.kubernetes.paths import target_of
from byteport.core.permissions import Permission

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"

VERB_OF_METHOD = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
YES = frozenset({"1", "true"})


class Call(msgspec.Struct, frozen=True):
    """One request. `path` as `paths.path_of` makes it; `params` are the query, not yet encoded."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""

    @classmethod
    def get(cls, path: str, **params: str | int | bool) -> Self:
        """A reading call. `True` becomes `true`, as the API server wants it."""
        return cls("GET", path, tuple((key, _text(value)) for key, value in params.items()))

    def param(self, name: str) -> str:
        """The first value of a query parameter; empty when there is none."""
        return next((value for key, value in self.params if key == name), "")


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def verb_of(call: Call) -> str:
    """The verb that RBAC has for a call: get, list or watch for GET, and one each for the rest."""
    if call.method != "GET":
        return VERB_OF_METHOD.get(call.method, call.method.lower())
    target = target_of(call.path)
    if call.param("watch") in YES:
        return "watch"
    return "get" if target is None or target.name else "list"


def permission_of(call: Call) -> Permission | None:
    """The one right that a call needs; None where it is about no object (`/version`)."""
    target = target_of(call.path)
    return Permission(target.kind.group, target.resource, (verb_of(call),)) if target else None
