"""The reading client of hosts: it refuses every verb that could change something."""

from typing import Any

from byteport.clients.hosts.inventory import transport_for
from byteport.clients.hosts.protocol import READ_VERBS, HostRequest, Scope
from byteport.core.errors import Permanent, Refused
from byteport.core.resource import ResourceRef

TIMEOUT_S = 60.0
HOST = Scope("host")


def read(place: str, verb: str, scope: Scope = HOST, **args: Any) -> dict[str, Any]:
    """One reading verb's result. Raises Refused for any other verb, Temporary or Permanent as the transport does."""
    if verb not in READ_VERBS:
        raise Refused(f"{verb} is not a reading verb; the reading client does not send it.")
    answer = transport_for(place).run(HostRequest(verb=verb, scope=scope, args=args), timeout_s=TIMEOUT_S)
    if answer.status != "done":
        raise Permanent(f"{verb} on {place}: {answer.reason}")
    return answer.result


def scope_of(resource: ResourceRef) -> Scope:
    """A drill's volume is its own scope; everything else is the host's."""
    return Scope("drill", resource.name) if resource.is_drill else Scope("host")
