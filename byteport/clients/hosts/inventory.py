"""Which hosts there are and how each is reached, by the rows of `hosts`."""

from collections.abc import Sequence

from django.conf import settings
from django.utils.crypto import salted_hmac

from byteport.clients.hosts.protocol import Transport
from byteport.core.errors import Permanent
from byteport.core.ways import WAYS, Address
from byteport.models import Host

ANNOTATIONS_TIMEOUT_S = 20.0


def drill_prefix() -> str:
    """What the names of this installation's drills on hosts begin with: four hexadecimal digits.

    Another BytePort may watch the same host. Its drills are its own to treat, and ours are ours.
    """
    return salted_hmac("byteport.drills", "owner").hexdigest()[:4]


def local_name() -> str:
    """This host's name, as its readings bear it (BYTEPORT_HOST_NAME, or else the system's).

    Empty where the process sees no whole host, but a container (BYTEPORT_LOCAL_HOST): then no host is local.
    """
    return str(settings.HOST_NAME) if settings.LOCAL_HOST else ""


def address_of(place: str) -> Address:
    """How a host is reached. Raises Permanent when BytePort knows no way, or it is switched off."""
    row = Host.objects.filter(name=place).first()
    if row is None:
        if place == local_name():
            return _local()
        raise Permanent(f"BytePort knows no way to reach the host {place}.")
    if not row.enabled:
        raise Permanent(f"The host {place} is switched off in the inventory.")
    if row.way not in WAYS:
        raise Permanent(f"BytePort knows no way to reach the host {place}: choose one for it in the inventory.")
    return as_address(row)


def as_address(row: Host) -> Address:
    return Address(**{field: getattr(row, field) for field in Address.__struct_fields__})


def _local() -> Address:
    """A missing row of the host that BytePort runs on means that it is reached locally."""
    return Address(name=local_name(), way="local")


def is_reachable(place: str) -> bool:
    """Whether BytePort knows a way; not whether the host answers."""
    try:
        address = address_of(place)
    except Permanent:
        return False
    return address.way != "local" or place == local_name()


def reachable() -> Sequence[Address]:
    """Every host that BytePort knows a way to, and that is not switched off."""
    rows = list(Host.objects.filter(enabled=True, way__in=list(WAYS)).order_by("name"))
    known = [as_address(row) for row in rows if row.way != "local" or row.name == local_name()]
    if local_name() and not Host.objects.filter(name=local_name()).exists():
        known.append(_local())
    return known


def transport_to(address: Address) -> Transport:
    """The way to a host whose address is known. Touches neither network nor database."""
    transport: Transport = WAYS[address.way].transport(address)
    return transport


def transport_for(place: str) -> Transport:
    """The way to a host. Raises Permanent when BytePort knows none."""
    return transport_to(address_of(place))
