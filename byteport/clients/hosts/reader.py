"""The reading client of hosts: it refuses every verb that could change something."""

from collections.abc import Mapping
from typing import Any

from byteport.clients.hosts.inventory import transport_for
from byteport.clients.hosts.protocol import READ_VERBS, HostRequest, Scope, Transport
from byteport.core.errors import Permanent, Refused
from byteport.core.resource import ResourceRef

TIMEOUT_S = 60.0
# Those that read no more than a file or two. `hostctl` bounds every verb itself, too.
TIMEOUTS_S: Mapping[str, float] = {"facts": 20.0, "memory": 20.0, "gauges": 30.0, "annotations": 20.0, "probe": 20.0}
HOST = Scope("host")


def read(place: str, verb: str, scope: Scope = HOST, **args: Any) -> dict[str, Any]:
    """One reading verb's result. Raises Refused for any other verb, Temporary or Permanent as the transport does."""
    return read_by(transport_for(place), place, verb, scope, **args)


def read_by(transport: Transport, place: str, verb: str, scope: Scope = HOST, **args: Any) -> dict[str, Any]:
    """The same, where the way to the host is known already."""
    if verb not in READ_VERBS:
        raise Refused(f"{verb} is not a reading verb; the reading client does not send it.")
    request = HostRequest(verb=verb, scope=scope, args=args)
    answer = transport.run(request, timeout_s=TIMEOUTS_S.get(verb, TIMEOUT_S))
    if answer.status != "done":
        raise Permanent(f"{verb} on {place}: {answer.reason}")
    return answer.result


def scope_of(resource: ResourceRef) -> Scope:
    """A drill's volume is its own scope; everything else is the host's."""
    return Scope("drill", resource.name) if resource.is_drill else Scope("host")
