"""The parts of Kubernetes' objects that are looked at, as small structs straight from the wire's JSON. Pure.

All else of an object is skipped while it is read. https://kubernetes.io/docs/reference/kubernetes-api/
"""

import re
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T", bound="Object")


class Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of all: lives for one look, and holds no cycles."""


class Owner(Part, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Labels(Part, frozen=True):
    template_hash: str = msgspec.field(name="pod-template-hash", default="")


class Annotations(Part, frozen=True):
    revision: str = msgspec.field(name="deployment.kubernetes.io/revision", default="")


class Meta(Part, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: Labels | None = None
    annotations: Annotations | None = None
    owner_references: tuple[Owner, ...] | None = None

    @property
    def revision(self) -> str:
        """Of a Deployment; empty for none."""
        return self.annotations.revision if self.annotations else ""

    @property
    def controller(self) -> Owner | None:
        """What manages this object, by its owner references."""
        return next((owner for owner in self.owner_references or () if owner.controller), None)


class Object(Part, frozen=True):
    """Base of all that is listed and watched."""

    metadata: Meta = Meta()


class Condition(Part, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Waiting(Part, frozen=True):
    reason: str = ""


class Terminated(Part, frozen=True):
    exit_code: int = 0
    reason: str = ""
    finished_at: datetime | None = None


class ContainerState(Part, frozen=True):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Part, frozen=True):
    name: str = ""
    restart_count: int = 0
    state: ContainerState | None = None
    last_state: ContainerState | None = None

    @property
    def ended(self) -> Terminated | None:
        """How it ended last: now, or else before its latest start."""
        now = self.state.terminated if self.state else None
        return now or (self.last_state.terminated if self.last_state else None)

    @property
    def waits_for(self) -> str:
        """Why it does not run: `CrashLoopBackOff`, `ImagePullBackOff`, …; empty when it does, or has ended."""
        return self.state.waiting.reason if self.state and self.state.waiting else ""


class PodStatus(Part, frozen=True):
    phase: str = ""
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None


class Amounts(Part, frozen=True):
    cpu: str = ""


class Resources(Part, frozen=True):
    requests: Amounts | None = None


class Container(Part, frozen=True):
    name: str = ""
    resources: Resources | None = None


class PodSpec(Part, frozen=True):
    containers: tuple[Container, ...] | None = None  # as a bookmark has it


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def containers(self) -> tuple[ContainerStatus, ...]:
        """The states of all its containers, sidecars and init containers among them."""
        return (self.status.container_statuses or ()) + (self.status.init_container_statuses or ())

    @property
    def ready_since(self) -> datetime | None:
        """Since when it is Running and Ready; None when it is not."""
        if self.status.phase != "Running":
            return None
        ready = next((c for c in self.status.conditions or () if c.type == "Ready" and c.status == "True"), None)
        return ready.last_transition_time if ready else None


class Involved(Part, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    field_path: str = ""


class Repeated(Part, frozen=True):
    last_observed_time: datetime | None = None


class Event(Object, frozen=True):
    """core/v1 Event. A repeated one is the same object with a new time."""

    involved_object: Involved = Involved()
    reason: str = ""
    message: str = ""
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: Repeated | None = None

    @property
    def at(self) -> datetime | None:
        """When it happened last, by the cluster's clock."""
        repeated = self.series.last_observed_time if self.series else None
        return repeated or self.last_timestamp or self.event_time or self.metadata.creation_timestamp

    @property
    def container(self) -> str:
        """`spec.containers{app}` → `app`."""
        found = re.search(r"\{([^{}]{1,253})\}\Z", self.involved_object.field_path)
        return found[1] if found else ""


class DeploymentStatus(Part, frozen=True):
    observed_generation: int = 0
    available_replicas: int = 0
    conditions: tuple[Condition, ...] | None = None


class DeploymentSpec(Part, frozen=True):
    replicas: int = 1


class Deployment(Object, frozen=True):
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions or () if c.type == kind), None)


class CertificateStatus(Part, frozen=True):
    not_after: datetime | None = None
    renewal_time: datetime | None = None
    conditions: tuple[Condition, ...] | None = None


class Certificate(Object, frozen=True):
    """cert-manager.io/v1."""

    status: CertificateStatus = CertificateStatus()

    @property
    def ready(self) -> Condition | None:
        return next((c for c in self.status.conditions or () if c.type == "Ready"), None)


class Usage(Part, frozen=True):
    name: str = ""
    usage: Amounts = Amounts()


class PodMetrics(Object, frozen=True):
    """metrics.k8s.io/v1beta1."""

    timestamp: datetime | None = None
    containers: tuple[Usage, ...] | None = None


class ReplicaSet(Object, frozen=True):
    """Only who owns it."""


class Change(Part, Generic[T], frozen=True):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: T


class Mistake(Object, frozen=True):
    """The object of an ERROR line: a `Status`. Or of any line, when nothing but its metadata is wanted."""

    code: int = 0
    reason: str = ""
    message: str = ""


class ListMeta(Part, frozen=True):
    resource_version: str = ""


class Page(Part, frozen=True):
    """One page of a list; its items are read one by one, so that a malformed one does not hide the others."""

    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


_CPU = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([num]|[kMG]?)")
_CPU_UNITS = {"n": 1e-6, "u": 1e-3, "m": 1.0, "": 1e3, "k": 1e6, "M": 1e9, "G": 1e12}


def millicores(text: str) -> float:
    """A CPU quantity in thousandths of a core: `250m`, `1.5`, `1048576n`; 0 for what is none.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    found = _CPU.fullmatch(text)
    return float(found[1]) * _CPU_UNITS[found[2]] if found else 0.0
