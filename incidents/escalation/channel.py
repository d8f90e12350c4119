"""The contract of a channel. A further one is one file in `incidents/escalation/` that defines `CHANNEL`.

A channel knows how to say one thing to one far end, and how to find out whether it has said it already. What a far end
or its library raises becomes Temporary, Limited or Permanent there; the outbox (`incidents.outbox`) does the rest.
"""

from collections.abc import Set
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Protocol, runtime_checkable
from uuid import UUID

import msgspec

from byteport.core.errors import Permanent, Temporary
from byteport.core.registry import Registry
from incidents.record import Record


class Kind(StrEnum):
    """What is told of an incident."""

    ESCALATED = "escalated"  # BytePort hands it over
    WORSENED = "worsened"  # its severity has risen while people have it
    REMINDER = "reminder"  # it is still open
    CLEARED = "cleared"  # its signal is over


class Limited(Temporary):
    """The far end asks for a pause of `delay_s`. It holds for the whole channel."""


class Undeliverable(Permanent):
    """The far end does not take it, and will not until a person does what `remedy` says."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Setup(msgspec.Struct, frozen=True):
    """How far a channel is set up.

    `given`: somebody has begun to. `missing` names the settings that are still needed, `faults` says what is wrong with
    those that are there. `version` is another when a setting is (`version_of`).
    """

    given: bool = False
    missing: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    version: str = ""

    @property
    def ready(self) -> bool:
        return self.given and not self.missing and not self.faults


def version_of(found: msgspec.Struct) -> str:
    """Names these settings without telling any of them."""
    return sha256(msgspec.json.encode(found)).hexdigest()[:16]


class Earlier(msgspec.Struct, frozen=True):
    """Where BytePort itself has on record that people have this incident, or lately had the same trouble."""

    target: str
    url: str


class Link(msgspec.Struct, frozen=True):
    """Where another channel has put the same incident."""

    title: str
    url: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell, with all that there is to say of it."""

    id: UUID  # travels with it, so that it is recognised at the far end
    kind: Kind
    fingerprint: UUID  # of signal, resource and detail: the same trouble has the same
    severity: str  # when it was handed over
    record: Record
    at: datetime  # now
    since: datetime  # what is older is none of the same trouble
    earlier: Earlier | None = None
    before: Earlier | None = None  # without an `earlier` one: where the same trouble was longer ago, or less bad
    links: tuple[Link, ...] = ()
    began_at: datetime | None = None  # of the first attempt; None before it
    target: str = ""  # what `aim` has said


class Message(msgspec.Struct, frozen=True):
    """What a person would read: for the console, which shows it before it is sent and keeps it after."""

    title: str
    markdown: str


class Receipt(msgspec.Struct, frozen=True):
    """It has arrived."""

    words: str  # what came of it, for the timeline: "opened issue 5"
    target: str  # where it is, for what follows
    url: str = ""
    warning: str = ""  # it has arrived, but not quite as it should


@runtime_checkable
class Channel(Protocol):
    """One way to tell people. All but `setup` and `message` raise Temporary, Limited, Permanent or Undeliverable."""

    name: str
    title: str
    kinds: Set[Kind]  # what it tells of an incident
    follows: tuple[str, ...]  # channels that it would like to link to, and waits for a little while
    settle_s: float  # after a call whose end is unknown, this long until its effect can be seen
    confirm_s: float  # after it was taken, this long until `confirm` is worth asking; 0: never

    def setup(self) -> Setup:
        """Looks at its settings, in the environment as it is now. Raises nothing."""

    def message(self, note: Note) -> Message:
        """What it would say. Pure."""

    def aim(self, note: Note) -> str | None:
        """Decides where the note belongs: a word of its own for `note.target`, or None when there is no need of it.

        Changes nothing. The answer is kept before anything is sent, so that `probe` knows where to look.
        """

    def probe(self, note: Note) -> Receipt | None:
        """After an attempt of which nobody knows the end: its receipt, completed; None when nothing has arrived."""

    def send(self, note: Note) -> Receipt: ...

    def confirm(self, note: Note) -> str:
        """Asks whether what was taken has arrived: what is amiss with it, or nothing.

        Raises Undeliverable when it has reached nobody.
        """

    def check(self) -> str:
        """Tries the credentials, changing nothing; what they are good for, in a few words."""


CHANNELS: Registry[Channel] = Registry(package="incidents.escalation", attribute="CHANNEL", group="byteport.channels")
