"""The ways to reach a host, as types. Each is one file in `byteport/clients/hosts/` that defines `WAY`.

How one is used is in `byteport.clients.hosts`; here is what the inventory's table needs to know of it.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from byteport.core.registry import Registry

GCE_INSTANCE = r"^projects/([a-z0-9.-]{1,100}:)?[a-z0-9-]{1,63}/zones/[a-z0-9-]{1,63}/instances/[a-z0-9-]{1,63}\Z"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """How one host is reached, as its row in the inventory has it. Each way uses the fields that it needs."""

    name: str  # the `place` of its resource references
    way: str = ""
    address: str = ""
    port: int = 22
    user: str = ""
    key_file: str = ""
    known_hosts_file: str = ""
    use_sudo: bool = False
    instance_id: str = ""
    region: str = ""
    role_arn: str = ""
    gce_instance: str = ""
    cluster: str = ""
    node: str = ""
    poll_s: int | None = None  # seconds between two looks; None: as the way has it


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to reach hosts."""

    name: str
    title: str
    transport: Callable[[Address], Any]  # a byteport.clients.hosts.protocol.Transport for one host
    needs: tuple[str, ...] = ()  # the fields of an address that it cannot do without
    poll_s: float | None = 30.0  # seconds between two looks of the host source; None: it is not looked at unless told


WAYS: Registry[Way] = Registry(package="byteport.clients.hosts", attribute="WAY", group="byteport.ways")
