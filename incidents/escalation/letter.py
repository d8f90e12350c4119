"""What is told, before it has a form: plain data that a writer turns into Markdown, HTML or text.

Every text in it is raw. To make it safe is the writer's business, once, for everything.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from incidents.trend import Mark, Points

LEFT_OUT = "Left out here for length: it is in the console."


class Prose(msgspec.Struct, frozen=True):
    text: str


class Bullets(msgspec.Struct, frozen=True):
    items: tuple[str, ...]


class Grid(msgspec.Struct, frozen=True):
    """A table; its rows are as long as its header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Excerpt(msgspec.Struct, frozen=True):
    """Lines that somebody's program has written."""

    text: str


class Command(msgspec.Struct, frozen=True):
    """A numbered step by hand: what for, and the exact command."""

    number: int
    title: str
    command: str


class Chart(msgspec.Struct, frozen=True):
    """The value's course, with the bounds that it is judged by (`levels`, with their names) and what happened when."""

    points: Points
    levels: tuple[tuple[str, float], ...] = ()
    marks: tuple[Mark, ...] = ()


Block = Prose | Bullets | Grid | Excerpt | Command | Chart


class Section(msgspec.Struct, frozen=True):
    """`weight`: how much it would be missed. None: it stays whatever the length."""

    heading: str
    blocks: tuple[Block, ...]
    weight: int | None = None


class Letter(msgspec.Struct, frozen=True):
    """What people are told of one incident."""

    title: str  # one line
    lead: str  # why they hear of it
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    links: tuple[tuple[str, str], ...]  # BytePort's own: a text and an address


def fitting(letter: Letter, write: Callable[[Letter], str], limit: int) -> str:
    """The letter as `write` has it, in `limit` characters: what would be missed least is left out first."""
    for lighter in _ever_lighter(letter):
        text = write(lighter)
        if len(text) <= limit:
            return text
    raise ValueError(f"even the shortest form has more than {limit} characters")


def _ever_lighter(letter: Letter) -> Iterator[Letter]:
    yield letter
    weights: Sequence[int] = sorted(section.weight for section in letter.sections if section.weight is not None)
    for weight in weights:
        sections = tuple(_emptied(section, weight) for section in letter.sections)
        letter = msgspec.structs.replace(letter, sections=sections)
        yield letter


def _emptied(section: Section, weight: int) -> Section:
    if section.weight != weight:
        return section
    return Section(section.heading, (Prose(LEFT_OUT),))
