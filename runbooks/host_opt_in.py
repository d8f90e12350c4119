"""What a host is opted in to, for the gates: read from the host, or from its platform, at the moment of acting."""

from byteport.clients.hosts.inventory import ANNOTATIONS_TIMEOUT_S, transport_for
from byteport.clients.hosts.protocol import Annotations
from byteport.clients.hosts.reader import scope_of
from byteport.core.resource import ResourceRef
from runbooks.runbook import OptIn


def host_opt_in(resource: ResourceRef, word: str) -> OptIn:
    """Whether the host of a resource is opted in to `word`. Raises Temporary or Permanent when it cannot be read."""
    transport = transport_for(resource.place)
    found = transport.annotations(scope_of(resource), timeout_s=ANNOTATIONS_TIMEOUT_S)
    return opt_in_of(found, word, transport.remedy(",".join(dict.fromkeys([*found.words, word]))))


def opt_in_of(found: Annotations, word: str, remedy: str) -> OptIn:
    """Pure."""
    nothing = "no word" if found.present else "no such annotation"
    return OptIn(given=word in found.words, where=found.where, found=", ".join(found.words) or nothing, remedy=remedy)
