"""A channel for tests of the outbox itself: the far end of its wire is a list, the rest is real."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from incidents.escalation.channel import CHANNELS, Kind, Message, Note, Receipt, Setup


class StandInChannel:
    """What it was asked is in `asked`, what has arrived is in `arrived` (a note's id, and what it was)."""

    kinds = frozenset(Kind)
    settle_s = 0.0
    confirm_s = 0.0

    def __init__(self, name: str = "standin", follows: tuple[str, ...] = ()) -> None:
        self.name = name
        self.title = name.capitalize()
        self.follows = follows
        self.state = Setup(given=True)
        self.arrived: list[Note] = []
        self.asked: list[str] = []
        self.on_send: Callable[[Note], None] = lambda note: None
        self.after_send: Callable[[Note], None] = lambda note: None
        self.on_confirm: Callable[[Note], str] = lambda note: ""

    def setup(self) -> Setup:
        return self.state

    def message(self, note: Note) -> Message:
        return Message(f"{note.record.title} of {note.record.label}", f"Incident {note.record.id}: **{note.kind}**")

    def aim(self, note: Note) -> str | None:
        self.asked.append("aim")
        return note.earlier.target if note.earlier else f"place-{note.record.id}"

    def probe(self, note: Note) -> Receipt | None:
        self.asked.append("probe")
        return self.receipt(note) if any(note.id == seen.id for seen in self.arrived) else None

    def send(self, note: Note) -> Receipt:
        self.asked.append("send")
        self.on_send(note)
        self.arrived.append(note)
        self.after_send(note)
        return self.receipt(note)

    def receipt(self, note: Note) -> Receipt:
        return Receipt(f"{self.title} was told", note.target, f"https://{self.name}.example/{note.target}")

    def confirm(self, note: Note) -> str:
        return self.on_confirm(note)

    def check(self) -> str:
        return "answers"


@contextmanager
def channels(*installed: StandInChannel) -> Iterator[None]:
    """Puts these into the registry, in place of those that BytePort brings."""
    kept = dict(CHANNELS)
    vars(CHANNELS)["_found"] = {channel.name: channel for channel in installed}
    try:
        yield
    finally:
        vars(CHANNELS)["_found"] = kept
