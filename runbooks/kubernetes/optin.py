"""The opt-in of what lives in a namespace: the namespace's annotation, and a workload's own word against it."""

from collections.abc import Mapping, Sequence
from shlex import quote

from byteport.core.resource import ResourceRef
from runbooks.kubernetes import reads
from runbooks.kubernetes.objects import Raw
from runbooks.runbook import OptIn

KEY = "byteport.io/auto-remediate"
OFF = "off"  # among other words, too: it opts out of everything, as on hosts and in databases
Annotations = Mapping[str, str]


def opt_in_for(word: str, target: ResourceRef) -> OptIn:
    """Reads it now. Raises what the reading client does."""
    return opt_in_of(word, target, reads.namespace_annotations(target), *own_words(reads.raw(target)))


def own_words(obj: Raw) -> tuple[Annotations, ...]:
    """The annotations in which a workload itself can speak against its namespace's opt-in: its own, its template's."""
    template = (obj.get("spec") or {}).get("template") or {}
    return tuple((part.get("metadata") or {}).get("annotations") or {} for part in (obj, template))


def words(annotations: Annotations) -> list[str]:
    return [word for part in annotations.get(KEY, "").split(",") if (word := part.strip())]


def holds(word: str, found: Sequence[str]) -> bool:
    return word in found and OFF not in (each.lower() for each in found)


def opt_in_of(word: str, target: ResourceRef, namespace: Annotations, *own: Annotations) -> OptIn:
    """Pure. The namespace has to hold the word; and whatever has the annotation itself has to hold it as well, so that
    `off`, or a list without the word, opts out. `own`: the annotations of the workload and of its pod template."""
    against = next((found for found in own if KEY in found and not holds(word, words(found))), None)
    if against is not None:
        return OptIn(
            given=False,
            where=f"annotation {KEY} of {target.label}",
            found=against[KEY] or "empty",
            remedy=f"kubectl -n {quote(target.namespace)} annotate {target.kind} {quote(target.name)} {KEY}-",
        )
    found = words(namespace)
    wanted = ",".join(dict.fromkeys([*(each for each in found if each.lower() != OFF), word]))
    return OptIn(
        given=holds(word, found),
        where=f"annotation {KEY} of namespace {target.namespace} in {target.place}",
        found=", ".join(found) or ("no word" if KEY in namespace else "no such annotation"),
        remedy=f"kubectl annotate namespace {quote(target.namespace)} {KEY}={quote(wanted)} --overwrite",
    )
