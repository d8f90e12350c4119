"""Foreign text in Markdown, as two parsers see it: Python-Markdown (the console's) and markdown-it (CommonMark with
tables and strikethrough, as GitHub has them). Both are real, and what they make is looked at before it is sanitised."""

import html
import re
import unicodedata

import markdown
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from byteport.core.masking import mask_secrets
from incidents.markup import cell, fence, md_escape, table, to_html

COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "<https://evil.example>",
    "`code` and ```more``` and ``",
    "a | b | c",
    "end of cell |\n| --- |",
    "line\n# heading\n\n- list\n\n> quote\n```\nfence",
    "**bold** __bold__ *it* _it_ ~~gone~~",
    "1. one",
    "2) two",
    "- item",
    "+ item",
    "# heading",
    "=====",
    "-----",
    "    code",
    "&lt;b&gt; &amp; &#60;b&#62;",
    "trailing backslash \\",
    "\\` \\| \\[x](y)",
    "[ref]: https://evil.example",
    "[^1] and [x][y]",
    "\x02wzxhzdk:0\x03 \x00",
    "<!-- comment",
    "$x$ :+1: {: #id }",
]
FRAMES = [
    "{}",
    "- {}",
    "**{}** and more",
    "| a | b |\n| --- | --- |\n| {} | z |\n| z | {} |",
    "# T {}",
]
marks = st.sampled_from(
    [*"\\`*_{}[]()<>#+-.!|~&:;@$=/\n\t \"'", "](", "```", "://", "www.", "1. ", "&#60;", "<b>", "x"]
)
foreign = st.lists(st.one_of(marks, st.characters(exclude_categories=("Cs",))), max_size=30).map("".join)


def parsed(text: str) -> list[str]:
    return [markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"]), COMMONMARK.render(text)]


def tags(page: str) -> list[str]:
    return re.findall(r"<[^>]*>", page)


def words(page: str) -> str:
    """What a reader sees, without what nobody sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u200d", "").split())


def seen(text: str) -> str:
    """What a reader should see of a foreign text."""
    hidden = [c for c in set(text) if unicodedata.category(c) in ("Cc", "Cf") and c not in "\u200c\u200d"]
    shown = str.maketrans({c: f"[U+{ord(c):04X}]" for c in hidden})
    return mask_secrets(" ".join(text.split()).translate(shown)).replace("\u200d", "")


def assert_it_is_text(text: str, frame: str) -> None:
    """In this frame, both parsers show it as it is, and build what they would build around any other word."""
    foreign, plain = parsed(frame.replace("{}", md_escape(text))), parsed(frame.replace("{}", "§"))
    for page, benign in zip(foreign, plain, strict=True):
        assert tags(page) == tags(benign)
        assert words(page) == words(benign).replace("§", seen(text))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_is_no_markup(text, frame):
    assert_it_is_text(text, frame)


@settings(deadline=None)
@given(foreign, st.sampled_from(FRAMES))
def test_no_text_at_all_becomes_markup(text, frame):
    assume(md_escape(text))
    assert_it_is_text(text, frame)


@pytest.mark.parametrize(
    "text", ["@everyone", "cc @acme/ops please", "a@b.example", "#12 and acme/app#12", "GH-12, gh-3"]
)
def test_nobody_is_mentioned_and_no_issue_is_linked(text):
    for page in parsed(md_escape(text)):
        assert not re.search(r"[@#]\w|gh-\d", html.unescape(page), re.IGNORECASE)


@pytest.mark.parametrize("text", ["https://evil.example", "ftp://evil.example", "www.evil.example", "WWW.evil.example"])
def test_a_bare_address_is_not_made_a_link(text):
    """GitHub links what reads as an address in the source: so the source must not."""
    assert not re.search(r"://|www\.", md_escape(text), re.IGNORECASE)


def test_a_direction_override_is_shown_not_obeyed():
    assert "\u202e" not in md_escape("invoice\u202efdp.exe")
    assert words(to_html(md_escape("invoice\u202efdp.exe"))) == "invoice[U+202E]fdp.exe"
    assert "[U+202E]" in fence("rm -- invoice\u202efdp.exe")


def test_an_ordinary_name_stays_as_it_is():
    for name in ("cleanup_logs", "/var/log/my-app.log.3.gz", "host/web-1/mount/%2Fvar", "91.2 % used", "shop/cart"):
        assert md_escape(name) == name


def test_an_emoji_and_a_foreign_script_stay_as_they_are():
    assert md_escape("👩‍🚒 نام‌ها größer") == "👩‍🚒 نام‌ها größer"


def test_a_long_text_is_cut():
    assert len(md_escape("x" * 10_000, limit=100)) == 100
    assert md_escape("x" * 10_000, limit=100).endswith("…")


def test_a_secret_is_masked_on_both_ways_in():
    assert "hunter2" not in md_escape("password=hunter2")
    assert "hunter2" not in fence("export PASSWORD=hunter2")


def test_a_secret_is_masked_before_the_text_is_cut():
    assert "hunt" not in md_escape("x" * 80 + " password=hunter2hunter2", limit=100)


def test_a_lone_surrogate_can_still_be_stored():
    md_escape("a\ud800b").encode()
    fence("a\ud800b").encode()


def test_an_empty_cell_holds_a_dash():
    assert cell("") == "–"
    assert table(("a",), [[cell(" \n ")]]).endswith("| – |")


@pytest.mark.parametrize("text", ["```\n# out", "a\n````\n<script>\n`````\nb", "~~~\nx", "```sh", ""])
def test_nothing_breaks_out_of_a_fence(text):
    for page in parsed(f"before\n\n{fence(text, 'sh')}\n\nafter"):
        assert [tag.split()[0].strip(">") for tag in tags(page)] == [
            "<p", "</p", "<pre", "<code", "</code", "</pre", "<p", "</p",
        ]  # fmt: skip


@settings(deadline=None)
@given(foreign)
def test_nothing_at_all_breaks_out_of_a_fence(text):
    for page in parsed(f"before\n\n{fence(text)}\n\nafter"):
        assert [tag.split()[0].strip(">") for tag in tags(page)].count("<p") == 2
        assert len(re.findall("<pre", page)) == 1


def test_a_command_in_a_fence_is_shown_to_the_letter():
    command = "du -xh --max-depth=2 -- '/srv/a b' | sort -rh | head -25 && df -h *_x_*"
    assert words(to_html(fence(command, "sh"))) == command


@pytest.mark.parametrize(
    "page",
    [
        "<script>alert(1)</script>",
        "<svg onload=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](data:text/html,1)",
        '<a href="https://x" onclick="y" style="z">x</a>',
        "<iframe src=//evil.example></iframe>",
        "<form action=/agent/dry-run/ method=post><button>x</button></form>",
        "![x](https://evil.example/pixel.png)",
    ],
)
def test_markup_that_came_in_all_the_same_is_taken_out(page):
    shown = to_html(page).lower()
    assert not re.search(r"script|<svg|javascript:|data:|onclick|style|<iframe|<form|<button|<img", shown)
