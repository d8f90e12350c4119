"""What is told, as two parsers see it. Real: everything that writes; markdown-it (CommonMark with GitHub's tables) and
Python-Markdown read it again. GitHub's own filters (mentions, issues' numbers) look at the text outside of code."""

import html
import re
from html.parser import HTMLParser

import markdown as python_markdown
import pytest
from markdown_it import MarkdownIt
from msgspec.structs import replace

from incidents.escalation import as_email
from incidents.escalation.as_markdown import markdown
from incidents.escalation.channel import Kind
from incidents.escalation.chart import STEPS, evenly, mermaid
from incidents.escalation.contents import letter_of
from incidents.escalation.github import BODY_LIMIT, CHANNEL, cleared_body, escalated_body, labels_of
from incidents.escalation.letter import LEFT_OUT, fitting
from incidents.escalation.postmark import Settings, email_of
from incidents.picture import png
from incidents.postmortem import render_record
from incidents.record import Gate
from incidents.trend import Point, Points
from runbooks.runbook import Diagnosis
from tests.incidents.escalation.letters import HOSTILE, escalated, note, poisoned
from tests.incidents.examples import at, course, deed

COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Reader(HTMLParser):
    """The tags of a page, and its text outside of code and comments."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.depth = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(f"<{tag} {sorted(attrs)}>")
        self.depth += tag == "code"

    def handle_endtag(self, tag):
        self.tags.append(f"</{tag}>")
        self.depth -= tag == "code"

    def handle_data(self, data):
        if not self.depth:
            self.text += data


def read(body: str) -> list[Reader]:
    pages = COMMONMARK.render(body), python_markdown.markdown(body, extensions=["tables", "fenced_code", "sane_lists"])
    return [Reader(page) for page in pages]


# --- what it says


def test_the_body_says_what_the_next_person_needs():
    body = escalated_body(note())
    for words in (
        "BytePort hands this over to people: 96.0 % used, which is 95 % or more",
        "| **Resource** | /var on web-1 (host/web-1/mount/%2Fvar) |",
        "| **Host** | web-1 |",
        "| **Value** | 96.0 % (threshold 85.0 %, clears below 80.0 %) |",
        "| Clear files in /tmp unused for 48 h | failed | EACCES: Permission denied |",
        "| Vacuum the system journal to 50 MB | done | freed 1.5 GB |",
        "```mermaid\nxychart-beta",
        "```sh\ndu -xh --max-depth=2 -- /var",
        "[Incident 12 in the console](https://byteport.example.com/incidents/12/)",
    ):
        assert words in body
    assert body.count("```sh") == 3


def test_what_the_gates_refused_is_said_with_its_reason():
    gates = (Gate(1, "opt_in", False, "Not opted in to `disk`.", at(2)), Gate(1, "paused", True, "Not paused.", at(2)))
    body = escalated_body(note(escalated(gates=gates, deeds=(), looks=())))
    assert "### What held it back" in body
    assert "opt in: Not opted in to" in body
    assert "Not paused" not in body
    assert "Nothing was changed." in body


def test_exit_code_and_the_end_of_the_log_are_shown_masked():
    log = "\n".join(f"line {n}" for n in range(500)) + "\npassword=hunter2\npanic: out of luck"
    body = escalated_body(note(escalated(diagnosis=Diagnosis(evidence=(), inference="", log=log, exit_code=137))))
    assert "| **Exit code** | 137 |" in body
    assert "panic: out of luck" in body
    assert "line 499" in body
    assert "line 4\n" not in body
    assert "hunter2" not in body


def test_a_secret_that_the_cut_would_halve_is_masked_all_the_same():
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join("MIIEow" + "x" * 58 for _ in range(80))
    body = escalated_body(note(escalated(diagnosis=Diagnosis(evidence=(), inference="", log=key))))
    assert "MIIEow" not in body


@pytest.mark.parametrize(
    "resource",
    [
        "host/web 1/memory/memory",
        "kubernetes/prod/shop/deployment/a%27b",
        "postgres/db-1/database/x",
        "moon/base/thing/x",
        "nonsense",
    ],
)
def test_without_a_runbook_there_are_still_three_steps_with_exact_commands(resource):
    record = escalated(advice=(), has_runbook=False, runbook="", resource=resource)
    assert escalated_body(note(record)).count("```sh") == 3


def test_a_reminder_says_how_long_it_has_been_open():
    assert "This is still open, 5 s after it was handed over" in letter_of(note(kind=Kind.REMINDER)).lead


def test_the_title_is_one_line_and_fits():
    title = CHANNEL.message(note(poisoned("x\ny\r\nz\x00" * 200))).title
    assert len(title) <= 256
    assert title.isprintable()


# --- it is no markup


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_somebody_elses_becomes_markup(text):
    """Both parsers build what they would build around any other word."""
    for foreign, plain in zip(
        read(escalated_body(note(poisoned(text)))), read(escalated_body(note(poisoned("§")))), strict=True
    ):
        assert foreign.tags == plain.tags


@pytest.mark.parametrize("text", HOSTILE)
def test_nobody_is_mentioned_and_nothing_is_linked(text):
    for body in (escalated_body(note(poisoned(text))), cleared_body(note(poisoned(text), kind=Kind.CLEARED))):
        for page in read(body):
            seen = html.unescape(page.text)
            assert not re.search(r"(?<!\w)@\w|#\d|\bGH-\d", seen), seen
        outside = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
        addresses = re.findall(r"(?:https?://|(?<!\w)www\.)[^\s)]*", outside)
        assert {address.split("/")[2] for address in addresses} <= {"byteport.example.com", "github.com"}


@pytest.mark.parametrize("text", HOSTILE)
def test_the_hidden_lines_are_byteports_own(text):
    body = escalated_body(note(poisoned(text)))
    outside = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert re.findall("<!--.*?-->", outside) == [
        "<!-- byteport fingerprint=00000000000000000000000000000007 severity=critical -->",
        "<!-- byteport delivery=0000000000000000000000000000de11 -->",
    ]


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 300, "a,b"])
def test_a_label_is_what_a_label_may_be(text):
    for label in labels_of(note(poisoned(text))):
        assert re.fullmatch(r"[\w.:/ -]{1,50}", label)


# --- the email

SETTINGS = Settings("token", "byteport@example.com", "ops@example.com", "outbound", "https://api.postmarkapp.com")


@pytest.mark.parametrize("text", HOSTILE)
def test_the_email_has_no_tags_but_its_own(text):
    foreign, plain = (Reader(as_email.html(letter_of(note(poisoned(each))))) for each in (text, "§"))
    assert foreign.tags == plain.tags


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_the_email_reads_as_an_address_but_its_own(text):
    """Mail programs make links of what does. Commands are for copying, and stay as they are."""
    letter = letter_of(note(poisoned(text), kind=Kind.REMINDER))
    letter = replace(letter, sections=tuple(each for each in letter.sections if each.heading != "What you can do now"))
    for body in (as_email.html(letter), as_email.text(letter)):
        found = re.findall(r"(?:https?://|(?<!\w)www\.)[^\s\"'<]*|(?<=\s)\w+@\w+", html.unescape(body))
        assert {address.split("/")[2] for address in found if "/" in address} <= {"byteport.example.com", "github.com"}
        assert not [address for address in found if "@" in address or address.startswith("www")]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_a_header(text):
    email = email_of(note(poisoned(text)), SETTINGS)
    for value in (email["Subject"], email["Tag"], *email["Metadata"].values(), *email["Headers"].values()):
        assert value.isprintable()
    assert (email["From"], email["To"]) == (SETTINGS.sender, SETTINGS.recipients)


def test_the_email_masks_secrets_too():
    record = escalated(reason="password=hunter2", detail="token: hunter2abc", timeline=())
    email = email_of(note(record), SETTINGS)
    assert "hunter2" not in email["HtmlBody"] + email["TextBody"] + email["Subject"]


def test_the_email_says_the_same_as_the_issue():
    letter = letter_of(note())
    for words in ("96.0 % used, which is 95 % or more", "EACCES: Permission denied", "du -xh --max-depth=2 -- /var"):
        assert words in as_email.html(letter)
        assert words in as_email.text(letter)


def test_the_picture_is_drawn_also_of_odd_courses():
    for values in ((5.0,), (5.0, 5.0), (-1e12, 1e12), (float(2**60), 0.0)):
        points = Points(tuple(Point(at(n * 30), value, value, value) for n, value in enumerate(values)), "")
        assert png(points, [("threshold", 3.0), ("clear", 2.0)]).startswith(b"\x89PNG")


# --- it fits


def huge() -> dict:
    deeds = tuple(deed("@" * 600, "x", n, 1, "failed", "#" * 600) for n in range(120))
    return {
        "deeds": deeds,
        "gates": tuple(Gate(n, "opt_in", False, f"{n}" + "<" * 600, at(n)) for n in range(120)),
        "diagnosis": Diagnosis(evidence=("&" * 600,) * 500, inference="@" * 9_000, log="`" * 60_000),
        "detail": "@" * 9_000,
        "label": "@" * 1_000,
    }


def test_the_longest_body_fits_and_keeps_what_matters_most():
    body = escalated_body(note(escalated(**huge())))
    assert len(body) <= 65_536
    assert body.count("```sh") == 3
    assert LEFT_OUT in html.unescape(body)
    assert "**Value**" in body


def test_what_is_missed_least_is_left_out_first():
    letter = letter_of(note())
    whole = markdown(letter)
    assert fitting(letter, markdown, len(whole)) == whole
    shorter = fitting(letter, markdown, len(whole) - 1)
    assert "mermaid" not in shorter
    assert "EACCES" in shorter
    with pytest.raises(ValueError, match="shortest"):
        fitting(letter, markdown, 100)


def test_the_longest_postmortem_fits_into_a_comment():
    record = escalated(**huge(), status="resolved", resolved_by="person", resolved_at=at(900))
    assert len(render_record(record)) > 65_536
    body = cleared_body(note(record, kind=Kind.CLEARED))
    assert len(body) <= BODY_LIMIT + 500
    assert "# Postmortem of incident 12" in body
    assert "this was shortened" in body


# --- the chart


def test_the_chart_has_numbers_without_exponents_and_as_many_as_mermaid_spreads_evenly():
    wild = Points(
        tuple(Point(at(n), value, value, value) for n, value in enumerate((1e-9, 2.5e17, 3.0))), "re[starts\n"
    )
    chart = mermaid(wild, [("threshold", 85.0)])
    assert re.fullmatch(
        r'xychart-beta\n    title "Trend \(threshold 85\)"\n    x-axis "minutes since [\d:]{8} UTC" 0 --> [\d.]+\n'
        r'    y-axis "restarts" [-\d.]+ --> [\d.]+\n    line \[([-\d.]+(?:, )?){40}\]\n    line \[(85(?:, )?){40}\]',
        chart,
    )


def test_the_course_is_read_at_moments_the_same_time_apart():
    values = evenly(course(), STEPS)
    assert len(values) == STEPS
    assert (values[0], values[-1]) == (course().points[0].value, 71.4)
    one = Points((Point(at(0), 5.0, 5.0, 5.0),), "%")
    assert evenly(one, 3) == [5.0, 5.0, 5.0]
