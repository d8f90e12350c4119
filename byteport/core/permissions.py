"""What BytePort may do in a cluster, as its sources, runbooks and actions declare it.

Text form: `pods: get, list, watch`, `apps/deployments: get, patch`, `cert-manager.io/certificates/status: patch`.
A resource without a group is of the core group.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Self

import msgspec

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
# The groups whose names hold no dot: what stands before the first slash is a group only if it is one of them or has
# a dot, so that `pods/log` is a subresource of the core group.
DOTLESS_GROUPS = frozenset({"apps", "autoscaling", "batch", "policy"})
OTHER_PLATFORMS = frozenset({"host", "postgres"})


class Permission(msgspec.Struct, frozen=True, order=True):
    """Verbs on one resource of one API group."""

    group: str  # "" is the core group
    resource: str  # plural, with its subresource: "pods", "pods/log", "deployments"
    verbs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.group}/{self.resource}: {', '.join(self.verbs)}".removeprefix("/")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form. Raises ValueError when it is not one."""
        what, separator, listed = text.partition(": ")
        verbs = tuple(verb.strip() for verb in listed.split(","))
        group, slash, rest = what.partition("/")
        grouped = bool(slash) and ("." in group or group in DOTLESS_GROUPS)
        resource = rest if grouped else what
        if not separator or not resource or not set(verbs) <= set(VERBS) or resource.count("/") > 1:
            raise ValueError(f"not a permission: {text!r}; expected e.g. 'apps/deployments: get, patch'")
        return cls(group if grouped else "", resource, verbs)


def cluster_permissions(texts: Iterable[str]) -> tuple[Permission, ...]:
    """Those that are about clusters, one a resource, each with its verbs in the usual order and once.

    Raises ValueError for what is no permission. `host: …` and `postgres: …` are about other platforms.
    """
    verbs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for text in texts:
        if text.partition(":")[0] not in OTHER_PLATFORMS:
            permission = Permission.parse(text)
            verbs[permission.group, permission.resource].update(permission.verbs)
    return tuple(
        Permission(group, resource, tuple(verb for verb in VERBS if verb in wanted))
        for (group, resource), wanted in sorted(verbs.items())
    )
