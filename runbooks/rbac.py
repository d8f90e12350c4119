"""Which rights in a cluster each part of BytePort needs, from what sources, runbooks and actions declare. Pure.

The watcher reads for the sources; the worker reads and acts for the runbooks; the web process needs nothing.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from byteport.core.permissions import Permission, cluster_permissions
from runbooks.action import ACTIONS
from runbooks.runbook import RUNBOOKS, Runbook
from signals.source import SOURCES


class Need(msgspec.Struct, frozen=True):
    """One source or runbook, and the rights that it needs: one entry a resource."""

    name: str
    title: str
    permissions: tuple[Permission, ...]


def of_sources() -> list[Need]:
    """What the sources read; those that read no cluster are left out."""
    needs = [Need(name, each.title, cluster_permissions(each.permissions)) for name, each in SOURCES.items()]
    return [need for need in needs if need.permissions]


def of_runbooks(names: Iterable[str] | None = None) -> list[Need]:
    """What each runbook reads, and what its actions need; of all unless named. Raises KeyError for an unknown name."""
    return [
        Need(name, RUNBOOKS[name].title, _of_runbook(RUNBOOKS[name])) for name in (RUNBOOKS if names is None else names)
    ]


def _of_runbook(runbook: Runbook) -> tuple[Permission, ...]:
    acting = (text for name in runbook.actions for text in ACTIONS[name].permissions)
    return cluster_permissions([*runbook.permissions, *acting])


def union(needs: Iterable[Need]) -> tuple[Permission, ...]:
    """All of it together, one entry a resource, nothing twice."""
    return cluster_permissions(str(permission) for need in needs for permission in need.permissions)


def rules(permissions: Iterable[Permission]) -> list[dict[str, Any]]:
    """As a ClusterRole has them, one rule a resource."""
    return [{"apiGroups": [one.group], "resources": [one.resource], "verbs": list(one.verbs)} for one in permissions]
