"""What an API server's refusals become. No exception of urllib3 or of the `kubernetes` package travels past the wire.

    Temporary                       Permanent
    ├── Conflict          409       ├── NotFound      404
    ├── Gone              410       ├── Forbidden     403, with the rule to add
    ├── TooManyRequests   429       ├── Unauthorized  401, with credentials that were read anew
    └── Unavailable       5xx, …    ├── Invalid       400, 422
                                    └── Unreadable    an answer that is none of Kubernetes', or is too large

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from collections.abc import Mapping

import msgspec

from byteport.clients.kubernetes.call import Call, permission_of
from byteport.clients.kubernetes.paths import target_of
from byteport.core.errors import Permanent, Temporary
from byteport.core.permissions import Permission

MESSAGE_CHARS = 500
RETRY_AFTER_S = (1.0, 10.0, 300.0)  # the least, what is taken where the server says nothing, the most


class NotFound(Permanent):
    """There is no such object, or no such kind in this cluster."""


class Forbidden(Permanent):
    """The credentials lack a right. `permission` is what is missing."""

    def __init__(self, message: str, permission: Permission | None = None) -> None:
        super().__init__(message)
        self.permission = permission


class Unauthorized(Permanent):
    """The API server does not know the credentials, not even after they were read anew."""


class Invalid(Permanent):
    """The request was understood and refused: a precondition (`test`) failed, or a value is not allowed."""


class Unreadable(Permanent):
    """The answer is not what an API server gives, or larger than BytePort takes."""


class Conflict(Temporary):
    """Somebody else changed the object meanwhile."""


class Gone(Temporary):
    """The resource version is too old to go on from: what is watched has to be listed again."""


class TooManyRequests(Temporary):
    """The API server asks for patience; `delay_s` is what it said in Retry-After."""


class Unavailable(Temporary):
    """No connection, no answer in time, no trust in its certificate, or an error of the server's own."""


class Status(msgspec.Struct, frozen=True):
    """The part of a `Status` object that is used."""

    message: str = ""
    reason: str = ""
    code: int = 0


_DECODER = msgspec.json.Decoder(Status)


def refusal(place: str, call: Call, http_status: int, headers: Mapping[str, str], body: bytes) -> Permanent | Temporary:
    """The error that an answer other than 2xx stands for."""
    status = status_of(body)
    said = status.message[:MESSAGE_CHARS] or f"HTTP {http_status}"
    what = f"{call.method} {call.path} on {place}: {said}"
    if http_status == 403:
        return _forbidden(place, call, said)
    if http_status == 429:
        return TooManyRequests(what, delay_s=retry_after_s(headers))
    if http_status >= 500:
        delay_s = retry_after_s(headers) if "Retry-After" in headers else RETRY_AFTER_S[1]
        return Unavailable(what, delay_s=delay_s)
    return _BY_STATUS.get(http_status, Unreadable)(what)


_BY_STATUS: dict[int, type[Permanent | Temporary]] = {
    400: Invalid,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def _forbidden(place: str, call: Call, said: str) -> Forbidden:
    """Names the verb, the resource and the namespace, and the rule that would allow it."""
    permission, target = permission_of(call), target_of(call.path)
    if permission is None or target is None:
        return Forbidden(f"{place} forbids {call.method} {call.path}: {said}")
    where = f"in the namespace {target.namespace}" if target.namespace else "in all namespaces"
    if not target.kind.namespaced:
        where = "in the cluster"
    message = (
        f"{place} forbids BytePort to {permission.verbs[0]} {permission.resource} {where}: {said}"
        f" To allow it, add this rule to the ClusterRole of BytePort's account: {rule_text(permission)}"
    )
    return Forbidden(message, permission)


def rule_text(permission: Permission) -> str:
    """One rule of a ClusterRole, as a line of YAML."""
    verbs = ", ".join(permission.verbs)
    return f'{{apiGroups: ["{permission.group}"], resources: ["{permission.resource}"], verbs: [{verbs}]}}'


def status_of(body: bytes) -> Status:
    """The answer as a Status object; an empty one for what is none, as proxies give."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Status()


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait. Kubernetes sends whole seconds, and what is out of bounds is brought within them."""
    least, usual, most = RETRY_AFTER_S
    said = headers.get("Retry-After", "")
    return min(max(float(said), least), most) if said.isascii() and said.isdigit() else usual
