"""Which of a list of reads a cluster allows, found out with GET alone: each is tried, in the smallest form there is."""

from collections.abc import Iterable, Iterator

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.errors import Forbidden, NotFound
from byteport.clients.kubernetes.paths import KINDS, VERSION, path_of
from byteport.core.permissions import cluster_permissions

TIMEOUT_S = 10.0
NO_SUCH_NAME = "byteport-looks-whether-it-may-read"


def version_of(place: str) -> str:
    """E.g. `v1.36.0`. Raises what `errors` has."""
    return str(reader.get(place, VERSION, timeout_s=TIMEOUT_S).get("gitVersion", "of an unknown version"))


def forbidden_reads(place: str, permissions: Iterable[str]) -> Iterator[Forbidden]:
    """The reads that are not allowed, each as the error that names the rule to add.

    What the cluster does not have is left out. Raises what `errors` has, but for Forbidden and NotFound.
    """
    kinds = {(kind.group, kind.plural): kind.name for kind in KINDS.values()}
    for permission in cluster_permissions(permissions):
        plural, _, subresource = permission.resource.partition("/")
        kind = kinds.get((permission.group, plural))
        for verb in permission.verbs if kind else ():
            try:
                _try(place, kind or "", verb, subresource)
            except Forbidden as error:
                yield error
            except NotFound:
                pass


def _try(place: str, kind: str, verb: str, subresource: str) -> None:
    if verb == "get":
        namespace = "default" if KINDS[kind].namespaced else ""
        reader.get(place, path_of(kind, namespace, NO_SUCH_NAME, subresource), timeout_s=TIMEOUT_S)
    elif verb == "list":
        reader.get(place, path_of(kind), timeout_s=TIMEOUT_S, limit=1)
    elif verb == "watch":
        reader.watch(place, path_of(kind), idle_s=TIMEOUT_S, timeoutSeconds=1).close()
