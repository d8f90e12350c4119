"""A container's memory limit, and how far BytePort may raise it. Pure."""

import msgspec

from runbooks.kubernetes import quantity
from runbooks.kubernetes.names import ORIGINAL_LIMITS
from runbooks.kubernetes.objects import Meta, Workload
from runbooks.runbook import CannotPlan


class Limits(msgspec.Struct, frozen=True):
    """Quantities as Kubernetes writes them; empty for none. `noted`: the limit before BytePort first touched it."""

    now: str = ""
    request: str = ""
    noted: str = ""

    @property
    def first(self) -> str:
        """The limit that counts as the first: the noted one, unless somebody has lowered it since."""
        now, noted = whole_bytes(self.now), whole_bytes(self.noted)
        return self.noted if noted and now and noted < now else self.now

    @property
    def described(self) -> str:
        noted = f" (it was {self.noted} before BytePort first raised it)" if self.noted else ""
        return f"Its memory limit is {self.now or 'not set'}{noted}, its request {self.request or 'not set'}."


def limits_of(workload: Workload, container: str) -> Limits | None:
    """None where the template has no such container: it was put in on the way, as a service mesh does."""
    containers = (workload.spec.template.get("spec") or {}).get("containers") or []
    found = next((one for one in containers if one.get("name") == container), None)
    if found is None:
        return None
    resources = found.get("resources") or {}
    limit, request = (str((resources.get(part) or {}).get("memory", "")) for part in ("limits", "requests"))
    return Limits(limit, request, original_limits(workload.metadata).get(container, ""))


def original_limits(meta: Meta) -> dict[str, str]:
    """Container → its memory limit before BytePort first touched it, as it is noted on the object."""
    try:
        return msgspec.json.decode(meta.annotations.get(ORIGINAL_LIMITS, "{}"), type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def raised(limits: Limits | None, container: str) -> str | CannotPlan:
    """The limit to set: twice what it is, and at most twice what it was at first."""
    if limits is None:
        return CannotPlan(
            f"Container {container} is not among the workload's own; BytePort does not change its memory."
        )
    now, first = whole_bytes(limits.now), whole_bytes(limits.first)
    if not now or not first:
        return CannotPlan(
            f"Container {container} was out of memory and has no memory limit that BytePort could raise:"
            " the node itself is short of memory, or a limit lies above it."
        )
    wanted = min(2 * now, 2 * first)
    if wanted <= now:
        return CannotPlan(
            f"The memory limit of container {container} is {limits.now}; it was {limits.first} before BytePort first"
            " raised it, and BytePort goes to twice that and no further. It may have a leak."
        )
    return quantity.memory(wanted)


def suggested(limits: Limits | None) -> str:
    """For people, who may go further: twice what it is."""
    now = whole_bytes(limits.now) if limits else 0
    return quantity.memory(2 * now) if now else "512Mi"


def whole_bytes(text: str) -> int:
    """0 for none, and for what is no quantity."""
    try:
        return int(quantity.parse(text)) if text else 0
    except ValueError:
        return 0
