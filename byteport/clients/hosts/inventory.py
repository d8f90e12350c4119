"""Which hosts there are and how each is reached. So far: the one that BytePort runs on."""

from django.conf import settings

from byteport.clients.hosts.local import LocalTransport
from byteport.clients.hosts.protocol import Transport
from byteport.core.errors import Permanent


def local_name() -> str:
    """This host's name, as its readings bear it (BYTEPORT_HOST_NAME, or else the system's)."""
    return str(settings.HOST_NAME)


def is_reachable(place: str) -> bool:
    return place == local_name()


def transport_for(place: str) -> Transport:
    """The way to a host. Raises Permanent when BytePort knows none."""
    if not is_reachable(place):
        raise Permanent(f"BytePort knows no way to reach the host {place}.")
    return LocalTransport()
