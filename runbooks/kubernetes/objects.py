"""Kubernetes objects as small types: only what BytePort judges by, read from the API's JSON. Pure."""

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from byteport.core.errors import Permanent

T = TypeVar("T")
Raw = dict[str, Any]  # an object as the API server gave it


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The API writes camelCase, and leaves out what is empty."""


class OwnerReference(_Part, frozen=True, kw_only=True):
    kind: str
    name: str
    uid: str
    api_version: str = ""
    controller: bool = False


class ManagedFields(_Part, frozen=True, kw_only=True):
    """Who wrote a part of the object, and when last."""

    manager: str = ""
    subresource: str = ""
    time: datetime | None = None


class Meta(_Part, frozen=True, kw_only=True):
    name: str
    uid: str
    namespace: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    managed_fields: tuple[ManagedFields, ...] = ()

    @property
    def controller(self) -> OwnerReference | None:
        """What made it and keeps it; None for what stands alone."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class Condition(_Part, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_update_time: datetime | None = None  # of Deployments only
    last_transition_time: datetime | None = None


class Namespace(_Part, frozen=True, kw_only=True):
    metadata: Meta


# --- workloads


class Selector(_Part, frozen=True, kw_only=True):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[Raw, ...] = ()


class RollingUpdate(_Part, frozen=True, kw_only=True):
    partition: int = 0  # of StatefulSets only


class UpdateStrategy(_Part, frozen=True, kw_only=True):
    type: str = "RollingUpdate"
    rolling_update: RollingUpdate = RollingUpdate()


class WorkloadSpec(_Part, frozen=True, kw_only=True):
    """Of a Deployment, StatefulSet or DaemonSet; what a kind does not have keeps its default."""

    selector: Selector
    template: Raw
    replicas: int = 1
    paused: bool = False
    update_strategy: UpdateStrategy = UpdateStrategy()
    pod_management_policy: str = ""


class WorkloadStatus(_Part, frozen=True, kw_only=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    conditions: tuple[Condition, ...] = ()


class Workload(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: WorkloadSpec
    status: WorkloadStatus = WorkloadStatus()


class ReplicaSetSpec(_Part, frozen=True, kw_only=True):
    template: Raw
    replicas: int = 1


class ReplicaSetStatus(_Part, frozen=True, kw_only=True):
    available_replicas: int = 0


class ReplicaSet(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: ReplicaSetSpec
    status: ReplicaSetStatus = ReplicaSetStatus()


# --- pods


class Terminated(_Part, frozen=True, kw_only=True):
    exit_code: int
    reason: str = ""
    signal: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def lived_s(self) -> float | None:
        """Seconds from its start to its end, where both are known."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class Waiting(_Part, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class Running(_Part, frozen=True, kw_only=True):
    started_at: datetime | None = None


class ContainerState(_Part, frozen=True, kw_only=True):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part, frozen=True, kw_only=True):
    name: str
    restart_count: int = 0
    ready: bool = False
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()

    @property
    def ended(self) -> Terminated | None:
        """How it ended last."""
        return self.last_state.terminated or self.state.terminated


class PodStatus(_Part, frozen=True, kw_only=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: Raw = {}
    status: PodStatus = PodStatus()


# --- cert-manager


class IssuerReference(_Part, frozen=True, kw_only=True):
    name: str = ""
    kind: str = "Issuer"


class CertificateSpec(_Part, frozen=True, kw_only=True):
    issuer_ref: IssuerReference = IssuerReference()
    dns_names: tuple[str, ...] = ()


class CertificateStatus(_Part, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()
    not_after: datetime | None = None
    renewal_time: datetime | None = None
    last_failure_time: datetime | None = None
    failed_issuance_attempts: int = 0
    revision: int = 0


class Certificate(_Part, frozen=True, kw_only=True):
    metadata: Meta
    spec: CertificateSpec = CertificateSpec()
    status: CertificateStatus = CertificateStatus()


def read_as(kind: type[T], raw: Any) -> T:
    """An answer as its type. Raises Permanent when it is not shaped as the API's documents say."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise Permanent(f"The API server's answer is no readable {kind.__name__}: {error}") from error


def condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    return next((found for found in conditions if found.type == kind), None)
