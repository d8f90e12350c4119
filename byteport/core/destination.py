"""Where BytePort may call an address that an operator has typed in. Pure: resolving a name is done elsewhere.

An address is judged after its name was resolved, and what was judged is what is connected to, so that no name can lead
to what a machine only answers itself: its link-local services and a cloud's metadata, with the credentials in it.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import msgspec

URL_CHARS = 2000
PORTS = {"https": 443, "http": 80}

Address = IPv4Address | IPv6Address

# Link-local addresses have the metadata of AWS, Azure, GCP and OpenStack; the others are, from the vendors' own pages:
# "this host"; Alibaba's and Oracle's metadata; Azure's platform channel; AWS's services of an instance and GCP's
# metadata by IPv6.
NEVER = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "169.254.0.0/16",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "168.63.129.16/32",
            "::/128",
            "fe80::/10",
            "fd00:ec2::/32",
            "fd20:ce::254/128",
        ),
    )
)
NAT64 = ip_network("64:ff9b::/96")
# What IPv6 has for somebody's own: in public, in a private network, in this machine. The rest is given up, or may lead
# to any address of IPv4 by a translator of the network's own (RFC 8215).
OWN_IPV6 = tuple(map(ip_network, ("2000::/3", "fc00::/7", "::1/128")))
BROADCAST = IPv4Address("255.255.255.255")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_PLAIN = re.compile(r"[\x21-\x7e]+")


class Destination(msgspec.Struct, frozen=True):
    """An address in its parts. `path` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_encrypted(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """As it stands in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def destination_of(url: str) -> Destination:
    """The address in its parts. Raises ValueError with what is wrong with it, in words for its operator."""
    if len(url) > URL_CHARS or not _PLAIN.fullmatch(url):
        raise ValueError(f"it has more than {URL_CHARS:,} characters, or other than plain ASCII ones")
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("it does not begin with https://")
    if "@" in parts.netloc:
        raise ValueError("it has a name or password in it")
    if parts.fragment:
        raise ValueError("what follows # is never sent")
    host, port = parts.hostname or "", parts.port
    if port == 0 or not (_HOST.fullmatch(host) or _is_address(host)):
        raise ValueError("its host or port is none")
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Destination(parts.scheme, host, port or PORTS[parts.scheme], path)


def _is_address(host: str) -> bool:
    try:
        return "%" not in host and bool(ip_address(host))
    except ValueError:
        return False


def refusal(address: Address, *, private: bool, encrypted: bool) -> str:
    """Why it is not called; empty when it may be. `private`: addresses of private networks are allowed."""
    inner = _within(address)
    if any(inner in network for network in NEVER) or inner.is_link_local:
        return f"{address} is a link-local address or a cloud's metadata, which are never called"
    if _is_nobodys(inner):
        return f"{address} is nobody's own address"
    if not inner.is_global and not private:
        return f"{address} is in a private network"
    if inner.is_global and not encrypted:
        return f"{address} is public, where nothing is sent unencrypted"
    return ""


def _is_nobodys(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        return not any(address in network for network in OWN_IPV6)
    return address.is_multicast or address == BROADCAST


def _within(address: Address) -> Address:
    """The IPv4 address that one of IPv6 leads to, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
