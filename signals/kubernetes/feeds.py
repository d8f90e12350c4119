"""What each stream of a cluster notes of the objects that it lists and watches. See `reflector.Feed`."""

from collections.abc import Iterable
from datetime import datetime

from byteport.clients.kubernetes.paths import path_of
from signals.kubernetes.cluster import Cluster, Judged
from signals.kubernetes.judgements import Judgement, of_certificate, of_deployment, stable_revision
from signals.kubernetes.objects import Certificate, Deployment, Event, Pod
from signals.kubernetes.pods import CRASH_LOOP
from signals.kubernetes.revisions import STABLE
from signals.reading import State

LOOPS, FAILED, EXPIRES = "pod_crashloop", "deployment_failed", "certificate_expiry"
OUT_OF_MEMORY = frozenset({"SystemOOM", "OOMKilling"})  # of a node as a whole
OF_PODS = frozenset({"BackOff", CRASH_LOOP, "Failed"})
GONE = Judgement(State.RESOLVED)


class PodFeed:
    name = "pods"
    path = path_of("pod")
    shape = Pod

    def __init__(self, cluster: Cluster) -> None:
        self.version = ""
        self._cluster = cluster

    def changed(self, event: str, found: Pod, at: datetime) -> float | None:
        with self._cluster.lock:
            if event == "DELETED":
                self._cluster.book.drop(found.metadata.uid)
            else:
                self._cluster.note_crashes(self._cluster.book.take(found, at))
        return None

    def listed(self, uids: Iterable[str], at: datetime) -> None:
        with self._cluster.lock:
            self._cluster.book.keep_only(uids)

    def seen(self, version: str, at: datetime) -> None:
        self.version = version or self.version
        self._cluster.book.touch(at)


class EventFeed:
    """Events tell what happened, not how things are: a watcher that comes back reads those that it has missed."""

    name = "events"
    path = path_of("event")
    shape = Event

    def __init__(self, cluster: Cluster) -> None:
        self.version = cluster.events_version
        self._cluster = cluster

    def changed(self, event: str, found: Event, at: datetime) -> float | None:
        if event == "DELETED":
            return None
        kind = found.involved_object.kind
        if (kind == "Pod" and found.reason in OF_PODS) or (kind == "Node" and found.reason in OUT_OF_MEMORY):
            self._cluster.note_event(found, at)
        return (at - found.at).total_seconds() if found.at else None

    def listed(self, uids: Iterable[str], at: datetime) -> None:
        """There is nothing to be kept in step."""

    def seen(self, version: str, at: datetime) -> None:
        self.version = self._cluster.events_version = version or self.version


class DeploymentFeed:
    name = "deployments"
    path = path_of("deployment")
    shape = Deployment

    def __init__(self, cluster: Cluster) -> None:
        self.version = ""
        self._cluster = cluster

    def changed(self, event: str, found: Deployment, at: datetime) -> float | None:
        cluster, meta = self._cluster, found.metadata
        with cluster.lock:
            if event == "DELETED":
                self._gone(meta.uid, at)
                return None
            cluster.workloads.deployments.add((meta.namespace, meta.name))
            resource = cluster.ref("deployment", meta.namespace, meta.name)
            judged = cluster.deployments.setdefault(meta.uid, Judged(resource))
            judgement = of_deployment(found)
            if judgement is not None and judgement.state is not judged.state:
                judged.state = judgement.state
                cluster.note_reading(cluster.reading(FAILED, resource, judgement, at))
            self._note_stable(found, judged, at)
        return None

    def _note_stable(self, found: Deployment, judged: Judged, at: datetime) -> None:
        """Remembers which revision has worked, for when a later one does not."""
        stable = stable_revision(found)
        if stable is not None and stable != judged.stable:
            judged.stable = stable
            measured, uid = Judgement(State.MEASURED), found.metadata.uid
            self._cluster.note_reading(
                self._cluster.reading(STABLE, judged.resource, measured, at, detail=uid, value=float(stable))
            )

    def _gone(self, uid: str, at: datetime) -> None:
        judged = self._cluster.deployments.pop(uid, None)
        if judged is not None:
            self._cluster.workloads.deployments.discard((judged.resource.namespace, judged.resource.name))
            self._cluster.note_reading(self._cluster.reading(FAILED, judged.resource, GONE, at))

    def listed(self, uids: Iterable[str], at: datetime) -> None:
        with self._cluster.lock:
            for uid in set(self._cluster.deployments) - set(uids):
                self._gone(uid, at)

    def seen(self, version: str, at: datetime) -> None:
        self.version = version or self.version


class CertificateFeed:
    """A certificate comes due by time alone, so that each is kept and looked at again (`look_again`)."""

    name = "certificates"
    path = path_of("certificate")
    shape = Certificate

    def __init__(self, cluster: Cluster) -> None:
        self.version = ""
        self._cluster = cluster

    def changed(self, event: str, found: Certificate, at: datetime) -> float | None:
        cluster, meta = self._cluster, found.metadata
        with cluster.lock:
            if event == "DELETED":
                self._gone(meta.uid, at)
                return None
            resource = cluster.ref("certificate", meta.namespace, meta.name)
            judged = cluster.certificates.setdefault(meta.uid, Judged(resource))
            judged.certificate = found
            judge_certificate(cluster, judged, at)
        return None

    def _gone(self, uid: str, at: datetime) -> None:
        judged = self._cluster.certificates.pop(uid, None)
        if judged is not None:
            self._cluster.note_reading(self._cluster.reading(EXPIRES, judged.resource, GONE, at))

    def listed(self, uids: Iterable[str], at: datetime) -> None:
        with self._cluster.lock:
            for uid in set(self._cluster.certificates) - set(uids):
                self._gone(uid, at)

    def seen(self, version: str, at: datetime) -> None:
        self.version = version or self.version


def judge_certificate(cluster: Cluster, judged: Judged, at: datetime) -> None:
    """Notes a reading where a certificate has come to another judgement than before."""
    judgement = of_certificate(judged.certificate, at) if judged.certificate else None
    if judgement is not None and judgement.state is not judged.state:
        judged.state = judgement.state
        cluster.note_reading(cluster.reading(EXPIRES, judged.resource, judgement, at))
