"""Nodes of a cluster: `hostctl` in a short-lived Job, pinned to the node, whose answer is read from the pod's log.

This is the one client that changes something in a cluster: it makes and removes that Job, in BytePort's own namespace.
`node_job.JobFence` lets nothing else pass. The opt-in is the Node object's annotation.
"""

import secrets
import time
from base64 import b64encode
from contextlib import suppress
from shlex import quote
from typing import Any

import msgspec
from django.conf import settings

from byteport.clients.hosts.annotations import OPT_IN, opt_in_words
from byteport.clients.hosts.node_job import CONTAINER, JobFence, NodeJob
from byteport.clients.hosts.program import decode, may_have_happened
from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, Annotations, HostAnswer, HostRequest, Scope
from byteport.clients.kubernetes.paths import path_of
from byteport.clients.kubernetes.reader import get, get_text, list_items
from byteport.clients.kubernetes.wire import Wire
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.core.ways import Address, Way

START_S = 40.0  # until the container runs; its image may have to be pulled
LOOK_S = 0.5
CALL_TIMEOUT_S = 10.0
MOST_PODS = 20
SAID_CHARS = 400
PERMISSIONS = ("batch/jobs: create, delete", "pods: list", "pods/log: get", "nodes: get")


class Ended(msgspec.Struct, frozen=True, rename="camel"):
    exit_code: int = -1
    reason: str = ""


class Waiting(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class State(msgspec.Struct, frozen=True):
    """Of the container: one of these, or none yet."""

    waiting: Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: Ended | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    state: State = State()


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    reason: str = ""
    message: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()

    @property
    def state(self) -> State:
        return self.container_statuses[0].state if self.container_statuses else State()

    def why_not_begun(self) -> str:
        waiting = self.state.waiting or Waiting()
        said = (self.reason or waiting.reason, self.message or waiting.message)
        return ": ".join(filter(None, said)) or f"it is {self.phase or 'unknown'}"


class Meta(msgspec.Struct, frozen=True):
    name: str


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta
    status: PodStatus = PodStatus()


class NodeTransport:
    """One node."""

    def __init__(self, host: Address) -> None:
        self._host = host

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        job = self._job(request, START_S + timeout_s)
        wire = Wire(self._host.cluster, JobFence(job).admit)
        try:
            wire.send(job.creation(), timeout_s=CALL_TIMEOUT_S)
            with may_have_happened():
                ended, printed = Run(self._host, job).output(timeout_s)
        finally:
            # What is under way ends all the same: it does not heed SIGTERM, and has GRACE_S. Where this fails, the Job
            # is removed by itself a little later; the answer is what counts.
            with suppress(BytePortError):
                wire.send(job.removal(), timeout_s=CALL_TIMEOUT_S)
        if len(printed) > MAX_ANSWER_BYTES:
            raise Permanent(
                f"{self._host.name} answered with more than {MAX_ANSWER_BYTES} bytes; it was cut off there."
            )
        return decode(printed.encode(), ended.exit_code, f"{ended.reason} {printed[-SAID_CHARS:]}".encode())

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        node = get(self._host.cluster, path_of("node", name=self._host.node), timeout_s=timeout_s)
        value = ((node.get("metadata") or {}).get("annotations") or {}).get(OPT_IN)
        return Annotations(
            words=opt_in_words(value or ""),
            present=value is not None,
            where=f"the annotation {OPT_IN} of the node {self._host.node} in {self._host.cluster}",
        )

    def remedy(self, words: str) -> str:
        return f"kubectl annotate node {quote(self._host.node)} {OPT_IN}={quote(words)} --overwrite"

    def _job(self, request: HostRequest, deadline_s: float) -> NodeJob:
        if not settings.NODE_IMAGE or not settings.NAMESPACE:
            raise Permanent(
                "Nodes are not reached: BYTEPORT_NODE_IMAGE has to name BytePort's own image, and BYTEPORT_NAMESPACE"
                " the namespace of its Jobs (in the chart: nodeAccess.enabled)."
            )
        return NodeJob(
            name=f"byteport-node-{secrets.token_hex(8)}",
            namespace=settings.NAMESPACE,
            node=self._host.node,
            image=settings.NODE_IMAGE,
            pull_secrets=tuple(settings.NODE_PULL_SECRETS),
            request=b64encode(msgspec.json.encode(request)).decode(),
            deadline_s=deadline_s,
        )


class Run:
    """One Job on its way."""

    def __init__(self, host: Address, job: NodeJob) -> None:
        self._host, self._job = host, job

    def output(self, timeout_s: float) -> tuple[Ended, str]:
        """How it ended and what it printed, the log cut off at its limit."""
        pod = self._ended(timeout_s)
        ended = pod.status.state.terminated
        if ended is None:
            raise Temporary(f"{self._host.node} did not run it ({pod.status.why_not_begun()}).")
        path = path_of("pod", self._job.namespace, pod.metadata.name, "log")
        limit, container = MAX_ANSWER_BYTES + 1, CONTAINER
        return ended, get_text(self._host.cluster, path, limit, timeout_s=CALL_TIMEOUT_S, container=container)

    def _ended(self, timeout_s: float) -> Pod:
        """The pod, once its container has ended or it is clear that it never will begin. Raises Temporary."""
        until, pod, has_begun = time.monotonic() + START_S, None, False
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            pod = self._look() or pod
            if pod is None:
                continue
            if pod.status.state.terminated is not None or pod.status.phase in ("Failed", "Succeeded"):
                return pod
            if pod.status.state.running is not None and not has_begun:
                has_begun, until = True, time.monotonic() + timeout_s
        if has_begun:
            raise Temporary(f"{self._host.node} did not answer within {timeout_s:g} s.")
        raise Temporary(self._why_not_begun(pod))

    def _look(self) -> Pod | None:
        path, selector = path_of("pod", self._job.namespace), f"job-name={self._job.name}"
        found = list_items(self._host.cluster, path, most=MOST_PODS, labelSelector=selector)
        try:
            return msgspec.convert(found[0], Pod) if found else None
        except msgspec.ValidationError as error:
            raise Permanent(f"The pod of {self._job.name} is none that BytePort understands: {error}") from error

    def _why_not_begun(self, pod: Pod | None) -> str:
        if pod is not None:
            return f"{self._host.node} did not begin within {START_S:g} s ({pod.status.why_not_begun()})."
        return (
            f"No pod was made on {self._host.node} within {START_S:g} s: see whether the namespace"
            f" {self._job.namespace} admits it (docs/hosts.md) and the Job controller runs."
        )


# A look is a Job: nodes are looked at only where a person sets an interval. Their signals come from other sources.
WAY = Way(
    name="node", title="Node of a Kubernetes cluster", transport=NodeTransport, needs=("cluster", "node"), poll_s=None
)
