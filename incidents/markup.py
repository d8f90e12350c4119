"""Markdown that holds foreign text safely: names, reasons and logs were written by somebody else.

Whatever was not written by BytePort passes through `md_escape`, `cell` or `fence`. What they give shows as it
was written, in GitHub's dialect and in Python-Markdown alike, and is no markup, HTML, link or mention there.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import quote

import markdown
import nh3
from django.utils.safestring import SafeString, mark_safe

from byteport.core.masking import mask_secrets

LIMIT = 600  # characters of one foreign text in running text or a cell
FENCE_LIMIT = 4000
NOTHING = "–"
TAGS = {
    *("h1", "h2", "h3", "p", "hr", "a", "strong", "em", "code", "pre", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}

HTTP = re.compile(r"https?://[^/\s]")
_JOINERS = "\u200c\u200d"  # parts of words and emoji in many scripts: the only invisible characters that stay
_ZWJ = "\u200d"
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

# Whatever either dialect, or GitHub beyond its dialect, may take for more than text: in turn what begins a
# block, a list's number, mentions and numbers of issues, bare links, outer underscores, and single marks.
_MARKUP = re.compile(
    r"""^[+=-] | ^(?P<number>\d{1,9})(?P<dot>[.)])(?=\s|$) | (?P<joined>[@\#]|\bGH-(?=\d))
    | (?P<link>://) | (?P<www>\bwww)\.
    | (?P<plain>(?<![A-Za-z0-9])_ | _(?![A-Za-z0-9]) | [\\*\[\]]) | [&<>|`~$]""",
    re.VERBOSE | re.IGNORECASE,
)


def md_escape(text: str, limit: int = LIMIT) -> str:
    """Foreign text for one line of Markdown, secrets masked, cut to `limit` characters."""
    return _MARKUP.sub(_defused, line(text, limit))


def line(text: str, limit: int = LIMIT) -> str:
    """Foreign text as one line of plain text: secrets masked, nothing invisible in it, cut to `limit` characters."""
    return cut(mask_secrets(_visible(" ".join(_whole(text, limit).split()))), limit)


def lines(text: str, limit: int = FENCE_LIMIT) -> str:
    """Foreign text as lines of plain text: secrets masked, nothing invisible in it, cut to `limit` characters."""
    masked = mask_secrets(_whole(text, limit)).splitlines()
    return cut("\n".join(_visible(each.expandtabs(4)) for each in masked), limit)


def cell(text: str, limit: int = LIMIT) -> str:
    """Foreign text for a cell of a table; a dash when there is none."""
    return md_escape(text, limit) or NOTHING


def fence(text: str, info: str = "", limit: int = FENCE_LIMIT) -> str:
    """Foreign text as a block of code, with a fence longer than any in it; secrets masked."""
    body = lines(text, limit)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{info}\n{body}\n{marks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def to_html(text: str) -> SafeString:
    """Markdown as HTML of a few plain elements; whatever else is in it, however it came there, is taken out."""
    html = markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"])
    return mark_safe(  # noqa: S308 (just sanitised)
        nh3.clean(html, tags=TAGS, attributes={"a": {"href"}}, url_schemes={"http", "https"})
    )


def cut(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis: `limit` characters at most."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def _whole(text: str, limit: int) -> str:
    """So much of a text that what is masked in it is masked before it is cut, and no more."""
    return text[: 4 * limit]


def _visible(text: str) -> str:
    """Control characters, bidirectional overrides and the like are shown by their number, not obeyed."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in _JOINERS
    return f"[U+{ord(character):04X}]" if hidden else character


def _defused(found: re.Match[str]) -> str:
    """The same to a reader, and nothing to a parser."""
    match found.lastgroup:
        case "plain":
            return f"\\{found[0]}"
        case "dot":
            return f"{found['number']}\\{found['dot']}"
        case "joined":
            return f"{_entity(found[0])}{_ZWJ}"
        case "link":
            return f"{_entity(':')}//"
        case "www":
            return f"{found['www']}{_entity('.')}"
        case _:
            return _entity(found[0])


def _entity(marks: str) -> str:
    return "".join(_NAMED.get(character) or f"&#{ord(character)};" for character in marks)


def http_address(text: str) -> str:
    """The text as the address of a link; nothing where it is none that a browser should go to."""
    return quote(text, safe=":/?#[]@!$&'*+,;=%~") if HTTP.match(text) else ""
