"""Makes readings of what a cluster's streams have noted; reads from the cluster what has to be looked up for it."""

import time
from collections.abc import Iterator
from datetime import datetime

import msgspec

from byteport.clients.kubernetes.call import Call
from byteport.clients.kubernetes.errors import NotFound
from byteport.clients.kubernetes.paths import path_of
from byteport.clients.kubernetes.reader import only_get
from byteport.clients.kubernetes.wire import Wire
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals.kubernetes.cluster import Cluster, Finding
from signals.kubernetes.feeds import LOOPS, OUT_OF_MEMORY, judge_certificate
from signals.kubernetes.judgements import Judgement
from signals.kubernetes.objects import Event, Pod
from signals.kubernetes.pods import CANNOT_START, CRASH_LOOP, Container, Crash, Known, PodBook
from signals.kubernetes.troubles import Key, Troubles
from signals.reading import Reading, State

READ_TIMEOUT_S = 5.0
FRESH_S = 60.0  # an event that is older counts only if its pod still is in trouble
OLDEST_S = 3600.0
ROUND_S = 0.5  # of look-ups in a row; then what was found so far goes out
LEARNED = 20  # workloads that are looked up in one tick
READY = "ready_pods"  # told of every workload now and then, so that it is known how many there are
FOREIGN = "kubernetes:"  # before the names of troubles that BytePort only hands to people

_POD = msgspec.json.Decoder(Pod)


class Harvester:
    """Belongs to one thread. `problem` is what went wrong in the latest round."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.troubles = Troubles()
        self.problem = ""
        self._wire = Wire(cluster.place, only_get)

    def harvest(self, at: datetime, *, pods_known: bool) -> tuple[list[Reading], bool]:
        """The readings, and whether that is all. What cannot be looked up now waits for the next time.

        `pods_known` is False until a list of all pods is complete: until then nothing is said of them.
        """
        findings, readings = self.cluster.drain()
        self.problem, until = "", time.monotonic() + ROUND_S
        while findings and pods_known and time.monotonic() < until:
            key, finding = next(iter(findings.items()))
            del findings[key]
            try:
                readings += self._of(finding, at)
            except Temporary as error:
                self.problem = str(error)
                findings[key] = finding  # as the last one: what fails each time must not keep back the others
                break
        self.cluster.put_back(findings)
        return readings, not findings

    def _of(self, finding: Finding, at: datetime) -> Iterator[Reading]:
        if isinstance(finding, Crash):
            yield from self._of_crash(finding, at)
        elif finding.reason in OUT_OF_MEMORY:
            yield from self._of_node(finding, at)
        else:
            yield from self._of_event(finding, at)

    def _of_crash(self, crash: Crash, at: datetime) -> Iterator[Reading]:
        labels = {"pod": crash.pod.name, "container": crash.container, "reason": crash.reason}
        detail = crash.container
        if crash.exit_code is not None:
            labels["exit_code"] = str(crash.exit_code)
            detail = f"{crash.container} exit {crash.exit_code}"
        labels = {key: value for key, value in labels.items() if value}
        yield from self._fires(LOOPS, self._workload(crash.pod), detail, labels, at, float(crash.restarts))

    def _workload(self, pod: Known) -> ResourceRef:
        """What the pod belongs to. A right that is missing is told, and the names have to do."""
        try:
            return self.cluster.workloads.find(pod)
        except Permanent as error:
            self.problem = str(error)
            return self.cluster.workloads.guess(pod)

    def _fires(
        self,
        signal: str,
        resource: ResourceRef,
        detail: str,
        labels: dict[str, str],
        at: datetime,
        value: float | None = None,
    ) -> Iterator[Reading]:
        if self.troubles.fires(Key(signal, resource, detail), at):
            judgement = Judgement(State.FIRING, labels)
            yield self.cluster.reading(signal, resource, judgement, at, detail, value)

    def _of_node(self, event: Event, at: datetime) -> Iterator[Reading]:
        if not _is_older(event, FRESH_S, at):
            node = self.cluster.ref("node", "", event.involved_object.name)
            yield from self._fires(f"{FOREIGN}SystemOOM", node, "", {"message": event.message}, at)

    def _of_event(self, event: Event, at: datetime) -> Iterator[Reading]:
        """The event only says that there is something to see; what there is, the pod itself says."""
        if _is_older(event, OLDEST_S, at):
            return
        look = self._look_at(event, at)
        if look is None:
            return
        pod, name, container = look
        if container.waits_for in CANNOT_START:
            labels = {"pod": pod.name, "container": name, "reason": container.waits_for, "message": event.message}
            yield from self._fires(f"{FOREIGN}{container.waits_for}", self._workload(pod), name, labels, at)
        elif _is_crash(event) and (container.waits_for == CRASH_LOOP or not _is_older(event, FRESH_S, at)):
            restarts = container.recent_restarts(at.timestamp())
            yield from self._of_crash(Crash(pod, name, container.exit_code, container.reason, restarts), at)

    def _look_at(self, event: Event, at: datetime) -> tuple[Known, str, Container] | None:
        """The event's pod and container as they are now; None where there is no such pod any more."""
        cluster, uid = self.cluster, event.involved_object.uid
        with cluster.lock:
            pod = cluster.book.pods.get(uid)
            if pod is not None and _meant(pod, event)[1].is_told:
                return None if pod.finished else (pod, *_meant(pod, event))
        found = self._read_pod(event.involved_object.namespace, event.involved_object.name)
        if found is None or found.metadata.uid != uid:
            return None
        with cluster.lock:  # the pod's own stream has not told of it yet
            book = cluster.book if uid in cluster.book.pods else PodBook()
            cluster.note_crashes(book.take(found, at))
            pod = book.pods[uid]
            return None if pod.finished else (pod, *_meant(pod, event))

    def _read_pod(self, namespace: str, name: str) -> Pod | None:
        try:
            call = Call.get(path_of("pod", namespace, name))
            return _POD.decode(self._wire.send(call, timeout_s=READ_TIMEOUT_S))
        except NotFound:
            return None
        except (Permanent, msgspec.DecodeError) as error:
            self.problem = str(error)
            return None

    # --- by time alone

    def tick(self, at: datetime, *, pods_current: bool) -> Iterator[Reading]:
        """What lasts, and what is over. `pods_current` is False while the pods may have changed unseen."""
        cluster = self.cluster
        self._learn_workloads()
        with cluster.lock:
            cluster.note_crashes(list(cluster.book.lasting(at)))
            for judged in cluster.certificates.values():
                judge_certificate(cluster, judged, at)
            ended = self.troubles.over(cluster.book.pods.values(), cluster.workloads.known, at) if pods_current else ()
        for key in ended:
            yield cluster.reading(key.signal, key.resource, Judgement(State.RESOLVED), at, key.detail)

    def _learn_workloads(self) -> None:
        """Looks up, a few at a time, which workloads the pods belong to that stand beside a troubled one."""
        namespaces, known = self.troubles.namespaces, self.cluster.workloads.known
        with self.cluster.lock:
            beside = [pod for pod in self.cluster.book.pods.values() if pod.namespace in namespaces and not known(pod)]
        try:
            for pod in beside[:LEARNED]:
                self.cluster.workloads.find(pod)
        except (Temporary, Permanent) as error:
            self.problem = str(error)

    def inventory(self, at: datetime) -> Iterator[Reading]:
        """How many pods of each workload are ready."""
        ready: dict[ResourceRef, int] = {}
        with self.cluster.lock:
            for pod in self.cluster.book.pods.values():
                workload = None if pod.finished else self.cluster.workloads.known(pod)
                if workload is not None and workload.kind not in ("pod", "job"):
                    ready[workload] = ready.get(workload, 0) + bool(pod.ready_since)
        for workload, count in ready.items():
            yield self.cluster.reading(READY, workload, Judgement(State.MEASURED), at, value=float(count))


NOTHING = Container()


def _meant(pod: Known, event: Event) -> tuple[str, Container]:
    """The container that an event is about; where it does not say, the one that is in trouble."""
    containers = pod.containers or {}
    if event.container:
        return event.container, containers.get(event.container, NOTHING)
    return next(((name, found) for name, found in containers.items() if found.waits_for), ("", NOTHING))


def _is_crash(event: Event) -> bool:
    """`BackOff` is said of images that cannot be pulled, too."""
    return event.reason == CRASH_LOOP or (event.reason == "BackOff" and "restarting failed" in event.message)


def _is_older(event: Event, seconds: float, at: datetime) -> bool:
    return event.at is not None and (at - event.at).total_seconds() > seconds
