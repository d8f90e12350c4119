"""The opt-in `byteport.io/auto-remediate` in each platform's own way of writing it. Pure, but for the file on a host,
which `hostctl` reads."""

from collections.abc import Iterable, Mapping

from byteport.clients.hosts.protocol import Annotations, HostRequest, Scope, Transport
from byteport.core.errors import Permanent

OPT_IN = "byteport.io/auto-remediate"
GCE_LABEL = "byteport-io_auto-remediate"  # a GCE label has neither dots nor slashes in its key, nor commas in its value
FILE = "/etc/byteport/annotations"


def opt_in_words(value: str, separator: str = ",") -> tuple[str, ...]:
    """`disk, memory` → ("disk", "memory"). `off` among them opts out of everything."""
    return _unless_off(word.strip().lower() for word in value.split(separator))


def gce_opt_in_words(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The words in a GCE instance's labels, joined by `_` there."""
    return opt_in_words(labels.get(GCE_LABEL, ""), separator="_")


def _unless_off(words: Iterable[str]) -> tuple[str, ...]:
    found = tuple(word for word in words if word)
    return () if "off" in found else found


def from_file(transport: Transport, name: str, scope: Scope, *, timeout_s: float) -> Annotations:
    """Of a host that has its opt-in in a file, read by `hostctl`, which trusts it only when root alone can write it."""
    answer = transport.run(HostRequest(verb="annotations", scope=scope), timeout_s=timeout_s)
    if answer.status != "done":
        raise Permanent(f"annotations on {name}: {answer.reason}")
    holder = f"drill volume {scope.id} on {name}" if scope.kind == "drill" else name
    return Annotations(
        words=tuple(answer.result["words"]), present=answer.result["present"], where=f"{FILE} of {holder}"
    )


def file_remedy(name: str, words: str) -> str:
    return f"as root on {name}, put the line `{OPT_IN}: {words}` into {FILE}."
