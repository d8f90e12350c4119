"""Lists one kind of object and then watches it, for as long as it is asked to, whatever befalls the API server.

It goes on from the version that it has seen last; where that is too old (410, in either form) it lists anew. After a
fault it waits, longer each time and with jitter, or as long as the server asks it to (429).
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import random
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.errors import Gone, NotFound, TooManyRequests, Unavailable, Unreadable
from byteport.clients.kubernetes.wire import Lines
from byteport.core.backoff import backoff_s
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from signals.kubernetes.objects import Change, Mistake, Object, Page

log = structlog.get_logger()

T = TypeVar("T", bound=Object)

WATCH_S = (120, 180)  # the server ends a watch after that long; a different time for each, so that they do not march
IDLE_S = 240.0  # longer than any watch: only a connection that is dead falls silent for so long
BACKOFF_S = (0.5, 60.0)  # after a fault: the first pause, the longest
ABSENT_S = 300.0  # how often it is looked whether a kind that was not there is there now
PAGE = 250


class Feed(Protocol[T]):
    """What becomes of what is listed and watched. Its methods neither wait nor raise."""

    name: str  # "pods", "events", …
    path: str
    shape: type[T]
    version: str  # to go on from; empty: list first

    def changed(self, event: str, found: T, at: datetime) -> float | None:
        """ADDED, MODIFIED or DELETED. Returns how many seconds ago it happened, where the object says so."""

    def listed(self, uids: Iterable[str], at: datetime) -> None:
        """A list is complete; each object of it went through `changed` as ADDED."""

    def seen(self, version: str, at: datetime) -> None:
        """All up to this version was handed over."""


class Health(msgspec.Struct):
    """What is known of one stream. `error` is fit for an operator's eyes; empty: it is well."""

    name: str
    contact_at: datetime | None = None  # when the API server last said anything
    event_at: datetime | None = None  # when the last change came in
    events: int = 0
    lag_s: float | None = None  # between the latest change and its arrival
    malformed: int = 0
    error: str = ""
    absent: bool = False  # the cluster has no such kind


class Reflector(threading.Thread, Generic[T]):
    """Follows one kind in one cluster, in a thread of its own, until `close`."""

    def __init__(self, place: str, feed: Feed[T], *, optional: bool = False) -> None:
        super().__init__(name=f"{feed.name}@{place}", daemon=True)
        self.place = place
        self.feed = feed
        self.health = Health(name=f"{place}/{feed.name}")
        self.synced = False  # a list, or what was missed since the last one, is complete
        self._optional = optional
        self._closing = threading.Event()
        self._lines: Lines | None = None
        shape: Any = feed.shape
        self._change = msgspec.json.Decoder(Change[shape])
        self._object = msgspec.json.Decoder(shape)

    def close(self) -> None:
        """Ends it, also while it waits for the API server."""
        self._closing.set()
        lines = self._lines
        if lines is not None:
            lines.close()

    def run(self) -> None:
        faults = 0
        while not self._closing.is_set():
            pause, faults = self._turn(faults)
            self._closing.wait(pause)

    def _turn(self, faults: int) -> tuple[float, int]:
        """Lists if need be and watches once. Returns how long to wait until the next time, and the faults in a row."""
        heard = self.health.contact_at
        try:
            if not self.feed.version:
                self._list()
            if not self._closing.is_set():
                self._watch()
        except Gone:
            self.feed.version = ""
            log.info("listing anew", stream=self.health.name)
            return (0.0 if faults == 0 else backoff_s(faults, *BACKOFF_S)), faults + 1
        except TooManyRequests as error:
            return self._failed(error, error.delay_s * random.uniform(1.0, 1.2)), faults + 1  # noqa: S311 (jitter)
        except NotFound as error:
            return self._missing(error)
        except (Temporary, Permanent) as error:
            faults = faults if self.health.contact_at == heard else 0
            return self._failed(error, backoff_s(faults, *BACKOFF_S)), faults + 1
        return 0.0, 0

    def _failed(self, error: Exception, pause: float) -> float:
        self.health.error = str(error)
        log.warning("stream failed", stream=self.health.name, error=str(error), pause_s=round(pause, 1))
        return pause

    def _missing(self, error: NotFound) -> tuple[float, int]:
        """The cluster does not have this kind, which is well for some."""
        self.feed.version, self.health.absent = "", True
        if not self._optional:
            self._failed(error, ABSENT_S)
        self._well()
        return ABSENT_S, 0

    def _well(self) -> datetime:
        self.health.contact_at = at = now()
        return at

    def _list(self) -> None:
        uids: list[str] = []
        version = ""
        for body in reader.list_pages(self.place, self.feed.path, page=PAGE):
            page = self._page(body)
            version = version or page.metadata.resource_version
            at = self._well()
            for item in page.items or ():
                uids += self._listed(item, at)
            if self._closing.is_set():
                return
        self.health.absent = False
        self.feed.listed(uids, at)
        self.feed.seen(version, at)
        self.synced = True

    def _page(self, body: bytes) -> Page:
        try:
            return msgspec.json.decode(body, type=Page)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"{self.feed.path} on {self.place}: the answer is no list ({error}).") from error

    def _listed(self, item: msgspec.Raw, at: datetime) -> list[str]:
        """The object's uid, once it is handed over; one that cannot be read keeps its uid if that can be."""
        try:
            self.feed.changed("ADDED", self._object.decode(item), at)
        except (msgspec.DecodeError, RecursionError) as error:
            self._skip(error)
        try:
            return [msgspec.json.decode(item, type=Mistake).metadata.uid]
        except (msgspec.DecodeError, RecursionError):
            return []

    def _skip(self, error: Exception) -> None:
        self.health.malformed += 1
        log.warning("malformed object skipped", stream=self.health.name, error=str(error)[:500])

    def _watch(self) -> None:
        """From the version that was seen last until the server ends it."""
        lines = reader.watch(
            self.place,
            self.feed.path,
            idle_s=IDLE_S,
            resourceVersion=self.feed.version,
            allowWatchBookmarks=True,
            timeoutSeconds=random.randint(*WATCH_S),  # noqa: S311 (jitter)
        )
        self._lines = lines
        self.health.error, self.synced = "", True
        self._well()
        try:
            for line in lines:
                self._line(line)
                if self._closing.is_set():
                    return
        finally:
            lines.close()

    def _line(self, line: bytes) -> None:
        at = self._well()
        try:
            change = self._change.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            self.feed.seen(self._odd(line, error), at)
            return
        if change.type == "ERROR":
            raise self._mistake(line)
        if change.type != "BOOKMARK":
            self._took(self.feed.changed(change.type, change.object, at), at)
        self.feed.seen(change.object.metadata.resource_version, at)

    def _odd(self, line: bytes, error: Exception) -> str:
        """A line that is not as the kind's should be: an ERROR, or an object to be skipped. Returns its version."""
        try:
            change = msgspec.json.decode(line, type=Change[Mistake])
        except (msgspec.DecodeError, RecursionError):
            self._skip(error)
            return ""
        if change.type == "ERROR":
            raise self._mistake(line)
        if change.type != "BOOKMARK":
            self._skip(error)
        return change.object.metadata.resource_version

    def _took(self, lag_s: float | None, at: datetime) -> None:
        self.health.event_at = at
        self.health.events += 1
        if lag_s is not None:
            self.health.lag_s = max(lag_s, 0.0)

    def _mistake(self, line: bytes) -> Temporary:
        try:
            said = msgspec.json.decode(line, type=Change[Mistake]).object
        except (msgspec.DecodeError, RecursionError):
            said = Mistake()
        text = f"The watch of {self.feed.path} on {self.place} ended: {said.message[:500] or 'without a reason'}"
        return Gone(text) if said.code == 410 else Unavailable(text)
