"""The contract of a source. A new one is one file in `signals/sources/` that defines `SOURCE`.

There are two kinds: those that BytePort asks (`PollSource`), and those that call BytePort (`WebhookSource`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import msgspec

from byteport.core.errors import BytePortError
from byteport.core.registry import Registry
from byteport.core.resource import ResourceRef
from signals.reading import Reading


class SourceConfig(msgspec.Struct, frozen=True):
    """What an operator has set for one row of `sources`: its slug, its settings, its unsealed secret."""

    slug: str
    options: dict[str, Any] = {}
    secret: str = ""


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


class UnauthenticatedError(BytePortError):
    """A call does not prove who sent it. The text is for BytePort's log; the caller is not told which check failed."""


class MalformedError(BytePortError):
    """A call is its sender's own, and not in the format. The text is for the sender."""


@runtime_checkable
class WebhookSource(Protocol):
    """A source that calls BytePort at `POST /hooks/<slug>`."""

    name: str  # the kind, as in `Source.kind`
    title: str
    permissions: tuple[str, ...]  # what it reads in a cluster; () where there is none

    def authenticate(self, config: SourceConfig, headers: Mapping[str, str], body: bytes, now: datetime) -> str | None:
        """Checks the raw body before any parsing, in constant time. An empty secret lets nobody in.

        Returns the delivery's id, in lower-case hex, where a second one is a replay and has to be refused; None where
        the sender may repeat itself. Raises UnauthenticatedError.
        """

    def parse(self, config: SourceConfig, body: bytes, now: datetime) -> Sequence[Reading]:
        """The body's readings. Raises MalformedError, and no other error whatever the bytes are."""

    def snippet(self, url: str, secret: str) -> str:
        """What to paste at the sender, for the admin to show."""


SOURCES: Registry[PollSource | WebhookSource] = Registry(
    package="signals.sources", attribute="SOURCE", group="byteport.sources"
)
