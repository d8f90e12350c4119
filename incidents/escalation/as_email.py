"""A letter as an email: HTML with its styles in line, as mail programs want it, and plain text.

Foreign text is escaped, secrets are masked, and what reads as an address is kept from being made a link: a joiner that
nobody sees stands in it. Commands stay as they are, to be copied.
"""

import re
from collections.abc import Iterator, Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from incidents.escalation.letter import Block, Bullets, Chart, Command, Excerpt, Grid, Letter, Prose, Section
from incidents.markup import NOTHING, http_address, line, lines
from incidents.trend import sparkline

LIMIT, COMMAND_LIMIT = 600, 4_000
PICTURE = "trend.png"  # the picture's name and content id
JOINER = "\u200c"
ADDRESS = re.compile(r"(?P<scheme>:)(?=//)|(?P<www>\bwww)(?=\.)|(?P<at>@)(?=\w)", re.IGNORECASE)

SANS = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
MONO = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px"
STYLES = {
    "body": f"margin:0;padding:24px;{SANS};font-size:14px;line-height:1.5;color:#16202b;background:#ffffff",
    "lead": "font-size:16px;font-weight:600;margin:0 0 16px",
    "heading": "font-size:15px;margin:24px 0 8px",
    "table": "border-collapse:collapse;margin:0 0 8px",
    "cell": "border:1px solid #d8dde4;padding:5px 10px;text-align:left;vertical-align:top",
    "pre": f"{MONO};background:#f5f6f8;border:1px solid #d8dde4;padding:10px 12px;white-space:pre-wrap;margin:0 0 8px",
    "p": "margin:0 0 8px",
    "foot": "margin:24px 0 0;padding:12px 0 0;border-top:1px solid #d8dde4;color:#53606e",
}


def plain(text: str, limit: int = LIMIT) -> str:
    """Foreign text as one line of an email."""
    return unlinked(line(text, limit)) or NOTHING


def unlinked(text: str) -> str:
    """With nothing in it that a mail program would make a link."""
    return ADDRESS.sub(lambda found: f"{found[0]}{JOINER}", text)


# ------------------------------------------------------------------------------------------------------- HTML


def html(letter: Letter) -> str:
    """A whole page. Its picture is the attachment with the content id PICTURE."""
    return format_html(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{}</title></head>\n<body style="{}">\n'
        '<p style="{}">{}</p>\n{}\n{}\n<p style="{}">{}</p>\n</body></html>\n',
        plain(letter.title),
        STYLES["body"],
        STYLES["lead"],
        plain(letter.lead),
        _table((), [(name, text) for name, text in letter.facts]),
        _joined("\n", map(_section, letter.sections)),
        STYLES["foot"],
        _joined(" · ", (_link(text, address) for text, address in letter.links)),
    )


def _joined(between: str, parts: Iterator[SafeString]) -> SafeString:
    return format_html_join(between, "{}", ((part,) for part in parts))


def _link(text: str, address: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', http_address(address), plain(text))


def _section(section: Section) -> SafeString:
    blocks = _joined("\n", map(_block, section.blocks))
    return format_html('<h2 style="{}">{}</h2>\n{}', STYLES["heading"], section.heading, blocks)


def _block(block: Block) -> SafeString:
    match block:
        case Prose(text):
            return format_html('<p style="{}">{}</p>', STYLES["p"], plain(text))
        case Bullets(items):
            return format_html("<ul>{}</ul>", format_html_join("", "<li>{}</li>", ((plain(item),) for item in items)))
        case Grid(header, rows):
            return _table(header, rows)
        case Excerpt(text):
            return format_html('<pre style="{}">{}</pre>', STYLES["pre"], unlinked(lines(text)))
        case Command(number, title, command):
            told = format_html('<p style="{}">{}. {}:</p>\n', STYLES["p"], number, plain(title))
            return told + format_html('<pre style="{}">{}</pre>', STYLES["pre"], lines(command, COMMAND_LIMIT))
        case Chart():
            return format_html(
                '<p style="{}"><img src="cid:{}" width="720" alt="The trend of the value" style="max-width:100%"></p>',
                STYLES["p"],
                PICTURE,
            )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> SafeString:
    """Without a header, the first cell of each row is one."""
    head = format_html("<tr>{}</tr>", _cells("th", header)) if header else SafeString("")
    body = _joined("", (_row(row, bool(header)) for row in rows))
    return format_html('<table style="{}" role="presentation">{}{}</table>', STYLES["table"], head, body)


def _row(row: Sequence[str], has_header: bool) -> SafeString:
    first = "td" if has_header else "th"
    return format_html("<tr>{}{}</tr>", _cells(first, row[:1]), _cells("td", row[1:]))


def _cells(tag: str, texts: Sequence[str]) -> SafeString:
    each = ((SafeString(tag), STYLES["cell"], plain(text), SafeString(tag)) for text in texts)
    return format_html_join("", '<{} style="{}">{}</{}>', each)


# ------------------------------------------------------------------------------------------------------- text


def text(letter: Letter) -> str:
    """The same for who reads no HTML."""
    return "\n\n".join(_paragraphs(letter)) + "\n"


def _paragraphs(letter: Letter) -> Iterator[str]:
    yield plain(letter.lead)
    width = max((len(name) for name, _ in letter.facts), default=0)
    yield "\n".join(f"{name:<{width}}  {plain(fact)}" for name, fact in letter.facts)
    for section in letter.sections:
        yield f"{section.heading}\n{'-' * len(section.heading)}"
        yield from map(_as_text, section.blocks)
    yield "\n".join(f"{plain(name)}: {http_address(address)}" for name, address in letter.links)


def _as_text(block: Block) -> str:
    match block:
        case Prose(words):
            return plain(words)
        case Bullets(items):
            return "\n".join(f"- {plain(item)}" for item in items)
        case Grid(_, rows):
            return "\n".join(f"- {': '.join(plain(cell) for cell in row if cell)}" for row in rows)
        case Excerpt(words):
            return _indented(unlinked(lines(words)))
        case Command(number, title, command):
            return f"{number}. {plain(title)}:\n\n{_indented(lines(command, COMMAND_LIMIT))}"
        case Chart(points, _, _):
            return _indented(sparkline(points))


def _indented(words: str) -> str:
    return "\n".join(f"    {each}" for each in words.splitlines())
