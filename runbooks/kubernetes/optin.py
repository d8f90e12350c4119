"""The opt-in of what lives in a namespace: the namespace's annotation, and a workload's own word against it. Pure."""

from collections.abc import Mapping
from shlex import quote

from byteport.core.resource import ResourceRef
from runbooks.runbook import OptIn

KEY = "byteport.io/auto-remediate"
Annotations = Mapping[str, str]


def words(annotations: Annotations) -> list[str]:
    return [word for part in annotations.get(KEY, "").split(",") if (word := part.strip())]


def opt_in_of(word: str, target: ResourceRef, namespace: Annotations, *own: Annotations) -> OptIn:
    """The namespace has to hold the word; and whatever has the annotation itself has to hold it as well, so that
    `off`, or a list without the word, opts out. `own`: the annotations of the workload and of its pod template."""
    against = next((found for found in own if KEY in found and word not in words(found)), None)
    if against is not None:
        return OptIn(
            given=False,
            where=f"annotation {KEY} of {target.label}",
            found=against[KEY] or "empty",
            remedy=f"kubectl -n {quote(target.namespace)} annotate {target.kind} {quote(target.name)} {KEY}-",
        )
    found = words(namespace)
    wanted = ",".join([*found, word])
    return OptIn(
        given=word in found,
        where=f"annotation {KEY} of namespace {target.namespace} in {target.place}",
        found=", ".join(found) or ("no word" if KEY in namespace else "no such annotation"),
        remedy=f"kubectl annotate namespace {quote(target.namespace)} {KEY}={quote(wanted)} --overwrite",
    )
