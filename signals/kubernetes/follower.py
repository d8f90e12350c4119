"""Follows all clusters of a source: starts their streams, and in one thread makes readings of what they note.

What a watcher has to know when it takes over (versions, restart counts) is kept only once every reading that follows
from it is durable. So nothing is lost over a restart; what is told twice changes nothing.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog

from byteport.clients.kubernetes.clusters import cluster_names
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals.kubernetes.cluster import Cluster, ClusterState, Judged
from signals.kubernetes.feeds import EXPIRES, FAILED, CertificateFeed, DeploymentFeed, EventFeed, PodFeed
from signals.kubernetes.harvest import Harvester
from signals.kubernetes.meter import SATURATES, Meter
from signals.kubernetes.reflector import Health, Reflector
from signals.kubernetes.troubles import Key
from signals.reading import Reading, State
from signals.source import Channel, OpenSeries, StreamHealth

log = structlog.get_logger()

GATHER_S = 0.05  # what comes in together goes out together
ROUND_S = 1.0
TICK_S = 5.0
REPORT_S = 3.0
RECONCILE_S = 30.0
INVENTORY_S = 1800.0
SAVE_S = 5.0
BYTES_A_SECOND = 20_000  # a large state is saved less often
CURRENT_S = 200.0  # a stream whose server has said nothing for so long may have missed something
LEAVE_S = 5.0


class Every:
    """Says when something is due again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._next: datetime | None = None

    def is_due(self, at: datetime) -> bool:
        if self._next is not None and at < self._next:
            return False
        self._next = at + timedelta(seconds=self.seconds)
        return True


class Followed:
    """One cluster with its streams."""

    def __init__(self, place: str, slug: str, state: ClusterState, wake: threading.Event) -> None:
        self.cluster = Cluster(place, slug, state, wake)
        self.harvester = Harvester(self.cluster)
        self.pods = Reflector(place, PodFeed(self.cluster))
        self.deployments = Reflector(place, DeploymentFeed(self.cluster))
        self.certificates = Reflector(place, CertificateFeed(self.cluster), optional=True)
        self.pods_known = threading.Event()
        self.threads: Sequence[Reflector[Any] | Meter] = (
            self.pods,
            Reflector(place, EventFeed(self.cluster)),
            self.deployments,
            self.certificates,
            Meter(self.cluster, self.pods_known),
        )
        self.key = place
        self.tick, self.save, self.inventory = Every(TICK_S), Every(SAVE_S), Every(INVENTORY_S)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        for thread in self.threads:
            thread.close()

    def readings(self, at: datetime) -> tuple[list[Reading], bytes]:
        """What follows from what came in, and the state to keep once that is durable; empty when none is due."""
        if self.pods.synced:
            self.pods_known.set()
        state = self._state(at)
        readings, complete = self.harvester.harvest(at, pods_known=self.pods_known.is_set())
        if self.tick.is_due(at):
            readings += self.harvester.tick(at, pods_current=is_current(self.pods, at))
        if self.pods_known.is_set() and self.inventory.is_due(at):
            readings += self.harvester.inventory(at)
        return readings, state if complete else b""

    def _state(self, at: datetime) -> bytes:
        """Taken before the harvest: it must not know more than what has been made readings of."""
        if not self.pods_known.is_set() or not self.save.is_due(at):
            return b""
        state = msgspec.json.encode(self.cluster.state())
        self.save.seconds = SAVE_S + len(state) / BYTES_A_SECOND
        return state

    def reconcile(self, open_series: Sequence[OpenSeries], at: datetime) -> Iterator[Reading]:
        """Takes on what an earlier watcher has opened, and reports as over what is not there any more."""
        for series in open_series:
            if series.resource.place == self.cluster.place and self._is_over(series):
                yield Reading(
                    signal=series.signal,
                    resource=series.resource,
                    at=at,
                    state=State.RESOLVED,
                    detail=series.detail,
                    source=self.cluster.slug,
                )

    def _is_over(self, series: OpenSeries) -> bool:
        """Whether the trouble is over for certain, because its resource is gone or says so."""
        if series.signal == FAILED:
            return self.deployments.synced and self._is_fine(self.cluster.deployments, series.resource)
        if series.signal == EXPIRES:
            return self.certificates.synced and self._is_fine(self.cluster.certificates, series.resource)
        if series.signal == SATURATES:
            return self.pods_known.is_set() and not self._may_have_pods(series.resource)
        self.harvester.troubles.adopt(Key(series.signal, series.resource, series.detail))
        return False

    def _is_fine(self, known: dict[str, Judged], resource: ResourceRef) -> bool:
        with self.cluster.lock:
            states = {judged.state for judged in known.values() if judged.resource == resource}
        return states <= {State.RESOLVED}

    def _may_have_pods(self, workload: ResourceRef) -> bool:
        with self.cluster.lock:
            pods = [pod for pod in self.cluster.book.pods.values() if pod.namespace == workload.namespace]
        return any(self.cluster.workloads.known(pod) in (None, workload) for pod in pods)

    def report(self) -> Iterator[StreamHealth]:
        for thread in self.threads:
            yield reported(thread.health, self.harvester.problem if thread is self.pods else "")


def is_current(pods: Reflector[Any], at: datetime) -> bool:
    """Whether what is known of the pods is what they are."""
    heard = pods.health.contact_at
    return pods.synced and not pods.health.error and heard is not None and (at - heard).total_seconds() < CURRENT_S


def reported(health: Health, problem: str) -> StreamHealth:
    notes = ["not installed in this cluster"] if health.absent else []
    if health.malformed:
        notes.append(f"{health.malformed} objects could not be read")
    return StreamHealth(
        name=health.name,
        contact_at=health.contact_at,
        event_at=health.event_at,
        lag_s=health.lag_s,
        events=health.events,
        error=health.error or problem,
        note="; ".join(notes),
    )


class Follower:
    """Runs in one thread; its streams in theirs."""

    def __init__(self, slug: str, channel: Channel) -> None:
        self._channel = channel
        self._slug = slug
        self._wake = threading.Event()
        self._waiting: dict[str, Reading] = {}  # made, but not durable yet; the latest of each series
        self._report, self._reconcile = Every(REPORT_S), Every(RECONCILE_S)
        self.clusters = [self._followed(place) for place in self._places()]

    def _places(self) -> list[str]:
        places = cluster_names()
        if not places:
            raise Permanent("No cluster is configured: set BYTEPORT_KUBECONFIG, or run BytePort in a cluster.")
        return places

    def _followed(self, place: str) -> Followed:
        return Followed(place, self._slug, decoded(self._channel.recall(place)), self._wake)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises Permanent when a stream has died, which none should."""
        for followed in self.clusters:
            followed.start()
        try:
            while not stop.is_set():
                self._wake.wait(ROUND_S)
                stop.wait(GATHER_S)
                self._wake.clear()
                self._round(now())
                self._look_for_the_dead()
        finally:
            self._leave()

    def _round(self, at: datetime) -> None:
        states: dict[str, bytes] = {}
        for followed in self.clusters:
            readings, states[followed.key] = followed.readings(at)
            self._waiting |= {reading.fingerprint: reading for reading in readings}
        try:
            self._hand_over(states, at)
        except Temporary as error:
            log.warning("what was found waits", source=self._slug, readings=len(self._waiting), error=str(error))

    def _hand_over(self, states: dict[str, bytes], at: datetime) -> None:
        if self._waiting:
            self._channel.emit(list(self._waiting.values()))
            self._waiting = {}
        for key, state in states.items():
            if state:
                self._channel.remember(key, state)
        if self._report.is_due(at):
            self._channel.report([health for followed in self.clusters for health in followed.report()])
        if self._reconcile.is_due(at):
            self._take_on(at)

    def _take_on(self, at: datetime) -> None:
        open_series = self._channel.open_series()
        over = [reading for followed in self.clusters for reading in followed.reconcile(open_series, at)]
        if over:
            self._channel.emit(over)

    def _look_for_the_dead(self) -> None:
        for followed in self.clusters:
            for thread in followed.threads:
                if not thread.is_alive():
                    raise Permanent(f"The stream {thread.name} has ended by a fault of BytePort's own: see its log.")

    def _leave(self) -> None:
        for followed in self.clusters:
            followed.close()
        until = now() + timedelta(seconds=LEAVE_S)
        for followed in self.clusters:
            for thread in followed.threads:
                thread.join(max((until - now()).total_seconds(), 0.0))


def decoded(state: bytes) -> ClusterState:
    """What was remembered; nothing where that is from another version of BytePort."""
    try:
        return msgspec.json.decode(state, type=ClusterState) if state else ClusterState()
    except msgspec.DecodeError as error:
        log.warning("what was remembered cannot be read", error=str(error))
        return ClusterState()
