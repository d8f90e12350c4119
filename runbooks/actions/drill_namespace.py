"""What a drill may change in a cluster: one namespace that it makes for itself, one Deployment in it, and its removal.

Like every change, each call passes the fence. The namespace is made new, so that a drill cannot take over one that is
there, and it is deleted by the uid that it got, so that no other of the same name can be meant.
"""

import secrets

import msgspec

from byteport.clients.kubernetes.call import JSON, Call
from byteport.clients.kubernetes.errors import Conflict, NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.clients.kubernetes.wire import Wire
from byteport.core.errors import Permanent
from byteport.core.resource import DRILL_NAMESPACE
from runbooks.actions.fence import admit, opened
from runbooks.actions.kubernetes_fence import ClusterCall
from runbooks.kubernetes.objects import Raw
from runbooks.kubernetes.optin import KEY

PREFIX = "byteport-drill-"


class DrillNamespace(msgspec.Struct, frozen=True):
    """A namespace that a drill has made: where, its name, and the uid that the API server gave it."""

    place: str
    name: str
    uid: str

    def create_deployment(self, body: Raw) -> None:
        """Raises Refused for a Deployment of any other namespace, and what the reading client raises."""
        self._send(_creation("deployment", self.name, {**body, "apiVersion": "apps/v1", "kind": "Deployment"}))

    def remove(self) -> None:
        """Asks for its deletion with all that is in it. One that is gone, or is another by now, is left as it is."""
        try:
            self._send(_deletion(self))
        except (NotFound, Conflict):
            return

    def _send(self, call: Call) -> bytes:
        return _through_the_fence(self.place, self.name, call)


def make(place: str, word: str) -> DrillNamespace:
    """A new namespace, opted in to `word`. Raises what the reading client raises."""
    name = PREFIX + secrets.token_hex(4)
    metadata = {"name": name, "annotations": {KEY: word}}
    answer = _through_the_fence(
        place, name, _creation("namespace", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    )
    return DrillNamespace(place, name, _uid_of(answer))


def _through_the_fence(place: str, name: str, call: Call) -> bytes:
    """The one place from which a drill's change leaves; the fence sees the very request that does."""
    with opened(DrillPermit(place, name)):
        return Wire(place, lambda leaving: admit(ClusterCall(place, leaving))).send(call)


def _creation(kind: str, namespace: str, body: Raw) -> Call:
    return Call("POST", path_of(kind, namespace), (), msgspec.json.encode(body), JSON)


def _deletion(drill: DrillNamespace) -> Call:
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": drill.uid}}
    return Call("DELETE", path_of("namespace", "", drill.name), (), msgspec.json.encode(body), JSON)


class DrillPermit(msgspec.Struct, frozen=True):
    """Admits the three calls that a drill makes, in the namespace that is its own."""

    place: str
    name: str

    def refusal(self, call: object) -> str:
        is_ours = isinstance(call, ClusterCall) and call.place == self.place and _is_within(self.name, call.request)
        return "" if is_ours else f"a drill may change nothing but its own namespace {self.name} on {self.place}"


def _is_within(name: str, call: Call) -> bool:
    """Whether a call is one of the three that a drill makes, and about this namespace. Pure."""
    if not DRILL_NAMESPACE.fullmatch(name) or call.params:
        return False
    body = _body_of(call)
    if (call.method, call.path) == ("POST", path_of("namespace")):
        return set(body.metadata) == {"name", "annotations"} and body.metadata["name"] == name
    if (call.method, call.path) == ("POST", path_of("deployment", name)):
        return body.kind == "Deployment" and body.metadata.get("namespace") == name
    if (call.method, call.path) == ("DELETE", path_of("namespace", "", name)):
        return bool(body.preconditions.get("uid"))
    return False


class _Body(msgspec.Struct, frozen=True):
    """What the fence judges of a body."""

    kind: str = ""
    metadata: Raw = {}
    preconditions: dict[str, str] = {}


def _body_of(call: Call) -> _Body:
    """An empty one, which nothing is admitted with, for what cannot be read."""
    try:
        return msgspec.json.decode(call.body, type=_Body)
    except msgspec.DecodeError:
        return _Body()


def _uid_of(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["metadata"]["uid"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise Permanent("The API server made the drill's namespace, but did not say its uid.") from error
