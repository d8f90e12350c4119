"""What a signal is about: one resource, named the same way everywhere."""

import re
from collections.abc import Sequence
from typing import Self
from urllib.parse import quote, unquote

import msgspec

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
DRILL_NAMESPACE = re.compile(r"byteport-drill-[0-9a-f]{8}")


class ResourceRef(msgspec.Struct, frozen=True, order=True):
    """A reference to one thing that BytePort watches.

    Text form, each part percent-encoded: `platform/place/kind/name`, or with a namespace
    `platform/place/namespace/kind/name`, e.g. `host/web-1/mount/%2Fvar`, `kubernetes/prod/shop/deployment/cart`.
    """

    platform: str  # "host", "kubernetes", "postgres"
    place: str  # the host's, cluster's or database server's name
    kind: str  # "mount", "memory", "drill" (what a drill has made), "deployment", ...
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        parts = [self.platform, self.place, self.kind, self.name]
        if self.namespace:
            parts.insert(2, self.namespace)
        return "/".join(part if _PLAIN.fullmatch(part) else quote(part, safe="") for part in parts)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form back. Raises ValueError when it is not one."""
        return cls.of_parts([unquote(part) for part in text.split("/")])

    @classmethod
    def of_parts(cls, parts: Sequence[str]) -> Self:
        """From its parts, in the text form's order. Raises ValueError unless there are four or five, none empty."""
        if len(parts) not in (4, 5) or not all(parts):
            given = "/".join(parts)[:200]
            raise ValueError(f"not a resource reference: {given!r}; expected platform/place/[namespace/]kind/name")
        platform, place, *namespace, kind, name = parts
        return cls(platform, place, kind, name, *namespace)

    @property
    def label(self) -> str:
        """For people: `/var on web-1`, `deployment shop/cart in prod`."""
        if self.platform == "host":
            what = {"mount": self.name, "drill": f"drill {self.name}"}.get(self.kind, self.kind)
            return f"{what} on {self.place}"
        if self.platform == "postgres" and self.is_drill:
            return f"drill database {self.name}"
        scoped = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {scoped} in {self.place}"

    @property
    def is_drill(self) -> bool:
        """Whether it was made for a drill: acting on it can touch nothing else, so dry-run does not hold it back.

        On a host that is a volume, in a cluster all that lives in a namespace that a drill has made for itself.
        """
        if self.platform == "kubernetes":
            return DRILL_NAMESPACE.fullmatch(self.namespace) is not None
        return self.kind == "drill"

    @property
    def fleet(self) -> str:
        """The group that shares an action budget: a cluster, or all hosts, or all databases together."""
        if self.is_drill:
            return "drills"
        return f"{self.platform}/{self.place}" if self.platform == "kubernetes" else self.platform

    @property
    def neighbourhood(self) -> str:
        """The smaller group with a budget of its own: a namespace of a cluster, or one host, or one server."""
        if self.is_drill:
            return f"drills/{self.namespace or self.name}"
        return f"{self.fleet}/{self.namespace}" if self.platform == "kubernetes" else f"{self.fleet}/{self.place}"

    @property
    def unit(self) -> str:
        """What the storm brake counts: a workload of a cluster, or else a host or server."""
        return str(self) if self.platform == "kubernetes" else self.neighbourhood
