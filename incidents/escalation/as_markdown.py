"""A letter in GitHub's Markdown. Foreign text is shown as it was written, and is no markup, link or mention.

It cannot end a block of code either, nor a comment: see `incidents.markup`.
"""

from collections.abc import Iterator

from incidents.escalation.chart import mermaid
from incidents.escalation.letter import Block, Bullets, Chart, Command, Excerpt, Grid, Letter, Prose, Section
from incidents.markup import cell, fence, http_address, md_escape, table

FACT_LIMIT, CELL_LIMIT, PROSE_LIMIT, COMMAND_LIMIT = 300, 300, 600, 1_500


def markdown(letter: Letter) -> str:
    """The letter below its title, which goes elsewhere."""
    return "\n\n".join(_parts(letter)) + "\n"


def _parts(letter: Letter) -> Iterator[str]:
    yield f"**{md_escape(letter.lead, PROSE_LIMIT)}**"
    yield table(("Fact", "On record"), ((f"**{name}**", cell(text, FACT_LIMIT)) for name, text in letter.facts))
    for section in letter.sections:
        yield from _section(section)
    yield "---\n\n" + " · ".join(f"[{md_escape(text)}]({http_address(address)})" for text, address in letter.links)


def _section(section: Section) -> Iterator[str]:
    yield f"### {section.heading}"
    yield from map(_block, section.blocks)


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return md_escape(text, PROSE_LIMIT)
        case Bullets(items):
            return "\n".join(f"- {cell(item, CELL_LIMIT)}" for item in items)
        case Grid(header, rows):
            return table(header, ([cell(text, CELL_LIMIT) for text in row] for row in rows))
        case Excerpt(text):
            return fence(text, "text")
        case Command(number, title, command):
            return f"{number}\\. {md_escape(title, CELL_LIMIT)}:\n\n{fence(command, 'sh', COMMAND_LIMIT)}"
        case Chart(points, levels, _):
            return f"```mermaid\n{mermaid(points, levels)}\n```"
