"""What is remembered of a cluster's pods: whose each is, whether it is ready, how often its containers restarted.

Restarts are counted from `restartCount`, never guessed. Where it is not known when they were, because nothing was seen
of a container for longer than the window, only the one counts whose end is on record. About 500 bytes a pod. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from sys import intern

import msgspec

from signals.kubernetes.objects import ContainerStatus, Pod, millicores

WINDOW_S = 900.0
MANY = 3  # so many restarts within the window are a crash loop
KEPT = 32  # of a container's latest restarts
REPEAT_S = 300.0  # how often a crash loop that goes on is told again
LIVE_S = 60.0  # what is told this soon is taken to happen now, so that the cluster's clock does not matter
CRASH_LOOP = "CrashLoopBackOff"
CANNOT_START = frozenset(
    {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"},
)
TOLD = CANNOT_START | {CRASH_LOOP}
FINISHED = frozenset({"Succeeded", "Failed"})


class Container(msgspec.Struct):
    """A container that has restarted, or waits to. Times are seconds since the epoch."""

    restarts: int = 0  # its `restartCount`
    recent: list[float] = []  # when it restarted, within the window
    waits_for: str = ""
    exit_code: int | None = None
    reason: str = ""
    told_at: float = 0.0

    @property
    def is_told(self) -> bool:
        """Whether the pod says what became of it."""
        return bool(self.waits_for) or self.exit_code is not None

    def recent_restarts(self, now: float) -> int:
        self.recent = [at for at in self.recent if at > now - WINDOW_S]
        return len(self.recent)


class Owner(msgspec.Struct, frozen=True, gc=False):
    """What manages a pod, as its owner reference says; a bare pod has none."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    template_hash: str = ""


class Known(msgspec.Struct, gc=False):
    """One pod."""

    uid: str
    namespace: str
    name: str
    owner: Owner
    ready_since: float = 0.0  # 0: it is not Running and Ready
    finished: bool = False  # it has ended for good, or is being deleted
    requests: tuple[tuple[str, float], ...] = ()  # container, millicores
    containers: dict[str, Container] | None = None


class Crash(msgspec.Struct, frozen=True):
    """A container in a crash loop."""

    pod: Known
    container: str
    exit_code: int | None
    reason: str  # how it ended: "Error", "OOMKilled", …
    restarts: int  # within the window


class Remembered(msgspec.Struct):
    """What outlives the watcher: restart counts and times by pod and container, as of a moment."""

    as_of: float = 0.0
    counts: dict[str, dict[str, int]] = {}
    recent: dict[str, dict[str, list[float]]] = {}


class PodBook:
    """The pods of one cluster. Not thread-safe."""

    def __init__(self, remembered: Remembered | None = None) -> None:
        self.pods: dict[str, Known] = {}
        self._before = remembered or Remembered()  # until the first list is complete
        self._as_of = self._before.as_of
        self._owners: dict[tuple[str, str, str], Owner] = {}  # one object for all pods of an owner

    def take(self, pod: Pod, at: datetime) -> list[Crash]:
        """Notes a pod as it is now. Returns which of its containers have newly turned out to be in a crash loop."""
        now = at.timestamp()
        known = self.pods.get(pod.metadata.uid)
        first_look = known is None
        if known is None:
            known = self.pods[pod.metadata.uid] = self._new(pod)
        ready = pod.ready_since
        known.ready_since = ready.timestamp() if ready else 0.0
        known.finished = pod.status.phase in FINISHED or pod.metadata.deletion_timestamp is not None
        crashes = [self._look(known, status, pod, now, first_look) for status in pod.containers]
        return [] if known.finished else [crash for crash in crashes if crash]

    def _new(self, pod: Pod) -> Known:
        meta = pod.metadata
        return Known(
            uid=meta.uid,
            namespace=intern(meta.namespace),
            name=meta.name,
            owner=self._owner_of(pod),
            requests=requests_of(pod),
        )

    def _owner_of(self, pod: Pod) -> Owner:
        by = pod.metadata.controller
        if by is None:
            return BARE
        template_hash = pod.metadata.labels.template_hash if pod.metadata.labels else ""
        return self._owners.setdefault((by.kind, by.name, by.uid), Owner(by.kind, by.name, by.uid, template_hash))

    def _look(self, known: Known, status: ContainerStatus, pod: Pod, now: float, first_look: bool) -> Crash | None:
        waits_for = status.waits_for if status.waits_for in TOLD else ""
        if not (status.restart_count or waits_for or known.containers):
            return None  # the many of which there is nothing to say take no memory
        containers = known.containers = known.containers or {}
        container = containers.get(status.name)
        new = self._new_restarts(container, status, pod, now, first_look)
        if container is None:
            container = containers[intern(status.name)] = Container(recent=self._recent_before(known.uid, status.name))
        looping = waits_for == CRASH_LOOP and container.waits_for != CRASH_LOOP
        _note(container, status, waits_for, new)
        if looping or (new and container.recent_restarts(now) >= MANY):
            return self._crash(known, status.name, container, now)
        return None

    def _new_restarts(
        self, container: Container | None, status: ContainerStatus, pod: Pod, now: float, first_look: bool
    ) -> Sequence[float]:
        """When the restarts were that this look adds to the known ones, as far as they can be told."""
        if container is not None:
            return self._since(container.restarts, status, now)
        if self._as_of or not first_look:  # what is not in the record had none
            before = self._before.counts.get(pod.metadata.uid, {}).get(status.name, 0) if first_look else 0
            return self._since(before, status, now)
        if _created(pod) > now - WINDOW_S:
            return _times(status.restart_count, _created(pod), _on_record(status, now) or now)
        latest = _on_record(status, now)
        return (latest,) if latest else ()

    def _since(self, count: int, status: ContainerStatus, now: float) -> Sequence[float]:
        """The restarts since `count`: all of them, if they are known to have been within the window."""
        new, gap = max(status.restart_count - count, 0), now - self._as_of
        latest = now if gap <= LIVE_S else _on_record(status, now)
        if gap > WINDOW_S:
            return (latest,) if new and latest else ()
        return _times(new, self._as_of, latest or self._as_of)

    def _recent_before(self, uid: str, container: str) -> list[float]:
        return list(self._before.recent.get(uid, {}).get(container, ()))

    def _crash(self, known: Known, name: str, container: Container, now: float) -> Crash:
        container.told_at = now
        return Crash(known, name, container.exit_code, container.reason, container.recent_restarts(now))

    def lasting(self, at: datetime) -> Iterator[Crash]:
        """The crash loops that go on and were not told of for a while."""
        now = at.timestamp()
        for known in self.pods.values():
            for name, container in () if known.finished else (known.containers or {}).items():
                if container.waits_for == CRASH_LOOP and now - container.told_at >= REPEAT_S:
                    yield self._crash(known, name, container, now)

    def touch(self, at: datetime) -> None:
        """The API server has spoken (a bookmark): all that is known is known as of now."""
        self._as_of = max(self._as_of, at.timestamp())

    def drop(self, uid: str) -> None:
        self.pods.pop(uid, None)

    def keep_only(self, uids: Iterable[str]) -> None:
        """A list is complete: what it did not have is gone."""
        kept = set(uids)
        for uid in [uid for uid in self.pods if uid not in kept]:
            del self.pods[uid]
        self._before = Remembered()
        owners = {(known.owner.kind, known.owner.name, known.owner.uid) for known in self.pods.values()}
        self._owners = {key: owner for key, owner in self._owners.items() if key in owners}

    def remembered(self) -> Remembered:
        """What the next watcher has to know, so that it can count on."""
        kept = Remembered(as_of=self._as_of, counts={}, recent={})
        for uid, known in self.pods.items():
            for name, container in (known.containers or {}).items():
                if container.restarts:
                    kept.counts.setdefault(uid, {})[name] = container.restarts
                if container.recent_restarts(self._as_of):
                    kept.recent.setdefault(uid, {})[name] = container.recent
        return kept


BARE = Owner()


def _note(container: Container, status: ContainerStatus, waits_for: str, new: Sequence[float]) -> None:
    container.restarts = status.restart_count
    container.waits_for = intern(waits_for)
    container.recent = [*container.recent, *new][-KEPT:]
    ended = status.ended
    if ended is not None:
        container.exit_code, container.reason = ended.exit_code, intern(ended.reason)


def _times(count: int, earliest: float, latest: float) -> Sequence[float]:
    """Of several restarts only the latest one's time is known; the others were not before `earliest`."""
    return [earliest] * min(count - 1, KEPT) + [latest] if count else ()


def _created(pod: Pod) -> float:
    return pod.metadata.creation_timestamp.timestamp() if pod.metadata.creation_timestamp else 0.0


def _on_record(status: ContainerStatus, now: float) -> float:
    """When its latest restart was, if that is on record and was within the window; else 0."""
    ended = status.ended
    at = ended.finished_at.timestamp() if ended and ended.finished_at and status.restart_count else 0.0
    return at if now - WINDOW_S < at <= now else 0.0


def requests_of(pod: Pod) -> tuple[tuple[str, float], ...]:
    """The CPU that each container asks for, in millicores; those that ask for none are left out."""
    texts = (
        (container.name, container.resources.requests.cpu)
        for container in pod.spec.containers or ()
        if container.resources and container.resources.requests
    )
    return tuple((intern(name), amount) for name, text in texts if (amount := millicores(text)))
