"""One cluster as it is watched: what is known of it, and what its streams have handed over since the last harvest.

The streams only note, under the lock, and never wait for anything else than the API server's next word.
"""

import threading
from collections.abc import Iterable
from datetime import datetime

import msgspec

from byteport.core.masking import mask_secrets
from byteport.core.resource import ResourceRef
from signals.alert import clean
from signals.kubernetes.judgements import Judgement
from signals.kubernetes.objects import Certificate, Event
from signals.kubernetes.pods import Crash, PodBook, Remembered
from signals.kubernetes.workloads import Workloads
from signals.reading import Reading, State

MESSAGE_CHARS = 500
REPEATS_S = 10.0
KEPT = 20_000

Finding = Crash | Event


class ClusterState(msgspec.Struct):
    """What the next watcher of this cluster has to know."""

    pods: Remembered = msgspec.field(default_factory=Remembered)
    events_version: str = ""


class Judged(msgspec.Struct):
    """A Deployment or Certificate, and what it came to when it was last looked at."""

    resource: ResourceRef
    state: State | None = None
    stable: int | None = None  # the revision of a Deployment that was last seen fully available
    certificate: Certificate | None = None


class Cluster:
    """What is known of one cluster. `wake` is set when there is something to harvest."""

    def __init__(self, place: str, slug: str, state: ClusterState, wake: threading.Event) -> None:
        self.place = place
        self.slug = slug
        self.lock = threading.RLock()
        self.book = PodBook(state.pods)
        self.workloads = Workloads(place)
        self.deployments: dict[str, Judged] = {}  # by uid
        self.certificates: dict[str, Judged] = {}  # by uid
        self.events_version = state.events_version
        self._findings: dict[tuple[str, ...], Finding] = {}  # of each thing the latest, so that it has bounds
        self._readings: dict[str, Reading] = {}
        self._noted_at: dict[tuple[str, ...], float] = {}
        self._wake = wake

    def note_crashes(self, crashes: Iterable[Crash]) -> None:
        for crash in crashes:
            self._note(("crash", crash.pod.uid, crash.container), crash)

    def note_event(self, event: Event, at: datetime) -> None:
        """An event that repeats itself within seconds is noted once."""
        involved, now = event.involved_object, at.timestamp()
        key = ("event", involved.uid or involved.name, event.container, event.reason)
        if now - self._noted_at.get(key, 0.0) < REPEATS_S:
            return
        if len(self._noted_at) >= KEPT:
            self._noted_at = {kept: then for kept, then in self._noted_at.items() if now - then < REPEATS_S}
        self._noted_at[key] = now
        self._note(key, event)

    def _note(self, key: tuple[str, ...], finding: Finding) -> None:
        with self.lock:
            self._findings[key] = finding
        self._wake.set()

    def note_reading(self, reading: Reading) -> None:
        with self.lock:
            self._readings[reading.fingerprint] = reading
        self._wake.set()

    def drain(self) -> tuple[dict[tuple[str, ...], Finding], list[Reading]]:
        """What was noted, once."""
        with self.lock:
            findings, readings = self._findings, list(self._readings.values())
            self._findings, self._readings = {}, {}
        return findings, readings

    def put_back(self, findings: dict[tuple[str, ...], Finding]) -> None:
        """What could not be looked up yet; newer findings of the same things stand."""
        with self.lock:
            self._findings = findings | self._findings

    def state(self) -> ClusterState:
        with self.lock:
            return ClusterState(self.book.remembered(), self.events_version)

    def ref(self, kind: str, namespace: str, name: str) -> ResourceRef:
        return ResourceRef("kubernetes", self.place, kind, name, namespace)

    def reading(
        self,
        signal: str,
        resource: ResourceRef,
        judgement: Judgement,
        at: datetime,
        detail: str = "",
        value: float | None = None,
    ) -> Reading:
        said = {key: mask_secrets(text[:MESSAGE_CHARS]) for key, text in judgement.labels.items()}
        return Reading(
            signal=signal,
            resource=resource,
            at=at,
            value=value,
            state=judgement.state,
            detail=detail,
            source=self.slug,
            labels={key: clean(text, MESSAGE_CHARS) for key, text in said.items()},
        )
