"""The contract of a source. A new one is one file in `signals/sources/` that defines `SOURCE`.

There are three kinds: those that BytePort asks (`PollSource`), those that it follows (`StreamSource`), and those that
call BytePort (`WebhookSource`).
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import msgspec

from byteport.core.registry import Registry
from byteport.core.resource import ResourceRef
from signals.mapping import RuleSet
from signals.reading import Reading
from signals.standard_alerts import STANDARD_RULES


class Progress(msgspec.Struct):
    """How far a source has read, and the calls that it has made. It moves both on; BytePort keeps them once what was
    read is durable, and the calls also when it fails."""

    read_until: datetime | None = None
    calls: int = 0

    def count(self) -> None:
        self.calls += 1


class SourceConfig(msgspec.Struct, frozen=True):
    """What an operator has set for one row of `sources`: slug, settings, the unsealed secret, the mapping of alerts."""

    slug: str
    options: dict[str, Any] = {}
    secret: str = ""
    rules: RuleSet = STANDARD_RULES
    progress: Progress = msgspec.field(default_factory=Progress)


@runtime_checkable
class PollSource(Protocol):
    """A source that BytePort asks at an interval."""

    name: str  # the kind, as in `Source.kind`
    title: str
    permissions: tuple[str, ...]  # what it reads in a cluster, e.g. "pods: get, list, watch"; () where there is none

    def interval_s(self) -> float:
        """Seconds until it should be asked again; asked anew each time, since it may vary."""

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        """Looks once. Raises Temporary or Permanent."""

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        """Looks at one resource now, for verification. None: there is no data. Raises Temporary or Permanent."""


@runtime_checkable
class MetricSource(PollSource, Protocol):
    """A poll source that reads a vendor's metrics: each of its rows has a pace of its own, each call
    costs, and a measurement is there only a while after it was made."""

    def every_s(self, options: dict[str, Any]) -> float:
        """Seconds from one poll to the next. Raises Permanent when the options are none."""

    def behind_s(self, options: dict[str, Any], signal: str) -> float:
        """How long it takes at the most until a reading of the signal tells of a change. Raises Permanent too."""


@runtime_checkable
class Credentialed(Protocol):
    """A source that signs in with credentials of the environment or the platform."""

    def credentials(self, options: dict[str, Any]) -> str:
        """Which ones are found, without any secret. Raises Permanent, saying what to set, or Temporary."""


@runtime_checkable
class Optioned(Protocol):
    """A source that knows which options its rows can have."""

    title: str

    def fault(self, options: dict[str, Any]) -> str:
        """What is wrong with a row's options; empty when nothing is."""


class StreamHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one stream of a source fares. `error` is fit for an operator's eyes; empty: it is well."""

    name: str  # e.g. "prod/pods"
    contact_at: datetime | None = None  # when the far end last said anything
    event_at: datetime | None = None  # when the latest event came in
    lag_s: float | None = None  # from when that happened to when it came in, where the event says so
    events: int = 0  # since the stream began
    error: str = ""
    note: str = ""  # what is worth knowing and no fault, e.g. "not installed"


class OpenSeries(msgspec.Struct, frozen=True):
    """A signal of a resource that has an open event."""

    signal: str
    resource: ResourceRef
    detail: str


class Channel(Protocol):
    """What a stream source speaks to BytePort through. Its methods raise Temporary while PostgreSQL is away."""

    def emit(self, readings: Sequence[Reading]) -> None:
        """Takes readings in. Once it returns, they are durable."""

    def recall(self, key: str) -> bytes:
        """What `remember` has kept, also of an earlier process; empty when there is nothing."""

    def remember(self, key: str, state: bytes) -> None: ...

    def report(self, streams: Sequence[StreamHealth]) -> None:
        """Tells how the streams fare. A source is well when all of its streams are."""

    def open_series(self) -> Sequence[OpenSeries]:
        """What this source has opened and not yet reported to be over."""


@runtime_checkable
class StreamSource(Protocol):
    """A source that BytePort follows. It cannot be asked again: verification reads the resource itself (`Runbook`)."""

    name: str  # the kind, as in `Source.kind`
    title: str
    permissions: tuple[str, ...]  # what it reads in a cluster; () where there is none

    def follow(self, config: SourceConfig, channel: Channel, stop: threading.Event) -> None:
        """Follows until `stop` is set, whatever befalls the far end. Raises Permanent when it cannot even begin."""


class Call(msgspec.Struct, frozen=True):
    """One call of a webhook as it came in; nothing of it is proven. The names of headers are case-insensitive."""

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = {}


class Ending(msgspec.Struct, frozen=True):
    """The sender says that its incident is over, naming it by its own key and saying nothing of what it was about."""

    incident: str
    at: datetime


@runtime_checkable
class WebhookSource(Protocol):
    """A source that calls BytePort at `POST /hooks/<slug>`."""

    name: str  # the kind, as in `Source.kind`
    title: str
    permissions: tuple[str, ...]  # what it reads in a cluster; () where there is none

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        """Checks the raw body before any parsing, in constant time. An empty secret lets nobody in.

        Returns the delivery's id, in lower-case hex, where a second one is a replay and has to be refused; None where
        the sender may repeat itself. Raises UnauthenticatedError; Temporary where a proof cannot be had now.
        """

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading | Ending]:
        """The body's readings. Raises MalformedError, and no other error whatever the bytes are."""

    def snippet(self, url: str, secret: str) -> str:
        """What to paste at the sender, for the admin to show, with the secret in it where the sender needs one."""


@runtime_checkable
class Keyed(Protocol):
    """A webhook that says whether its sender needs the secret; where one does not say, it is taken to be needed."""

    needs_secret: bool


def needs_secret(source: WebhookSource) -> bool:
    """Whether there is a secret to be shown, for a person to give it to the sender."""
    return source.needs_secret if isinstance(source, Keyed) else True


@runtime_checkable
class Confirming(Protocol):
    """A webhook whose sender asks first whether this address wants its calls."""

    def confirm(self, config: SourceConfig, call: Call) -> None:
        """Answers, if this authentic call is that question. Raises Temporary or Refused."""


@runtime_checkable
class Preflighted(Protocol):
    """A webhook whose sender asks with OPTIONS whether it may call. Saying yes proves nothing about the caller."""

    def preflight(self, config: SourceConfig, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of the answer; none when it may not."""


@runtime_checkable
class Answering(Protocol):
    """A webhook whose sender expects an answer of its own form."""

    def answer(self, call: Call) -> Mapping[str, Any]: ...


SOURCES: Registry[PollSource | StreamSource | WebhookSource] = Registry(
    package="signals.sources", attribute="SOURCE", group="byteport.sources"
)
