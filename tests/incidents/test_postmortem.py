"""The postmortem's text. Most of it from fixed records, without a database; the last part from what the loop's own
functions write into a real PostgreSQL."""

import html
import re
from pathlib import Path

import markdown
import pytest
from django.conf import settings
from django.db import DatabaseError, transaction
from msgspec.structs import replace

from byteport.core.clock import now
from incidents.conclude import cleared, escalate, resolve
from incidents.markup import to_html
from incidents.postmortem import figures, render_record
from incidents.record import Deed, Earlier, Entry, Gap, Gate, Look, Record, Word
from incidents.trend import Points
from runbooks.runbook import RUNBOOKS, Diagnosis, ManualStep
from runbooks.stage import Move
from signals.models import ResolvedBy, SignalEvent, Status
from tests.incidents import scenes
from tests.incidents.examples import ADVICE, CLEANUP_LOGS, START, at, deed, example_of

HANDED_OVER = "It did not help within 120 s: 84.0 % used, not below 80 %"
ESCALATED = replace(
    CLEANUP_LOGS,
    status="escalated",
    resolved_by="",
    resolved_at=None,
    escalated_at=at(125),
    reason=HANDED_OVER,
    timeline=(*CLEANUP_LOGS.timeline[:4], Entry(at(125), "byteport", "escalated", HANDED_OVER)),
    value_last=84.0,
    advice=ADVICE,
)
REFUSAL = Gate(1, "opt_in", False, "Not opted in to disk (web-1: no such file). To opt in: put the line there.", START)
REFUSED = replace(ESCALATED, deeds=(), looks=(), acted_at=None, gates=(*CLEANUP_LOGS.gates[:3], REFUSAL))


def section(record: Record, name: str) -> str:
    """The text below one heading."""
    found = re.search(rf"^## {name}\n\n(.*?)(?=^## |^---$|\Z)", render_record(record), re.MULTILINE | re.DOTALL)
    assert found, f"no section {name}"
    return found[1].strip()


def headings(record: Record) -> list[str]:
    return re.findall(r"^## (.*)$", render_record(record), re.MULTILINE)


def plain(text: str) -> str:
    """Markdown as a reader sees it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", to_html(text))).split())


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_the_example_in_the_docs_is_what_the_code_renders(name):
    """After a change that is meant: `python -m tests.incidents.render_examples`."""
    file = Path(settings.BASE_DIR) / "docs" / "examples" / f"{name}.md"
    assert file.read_text(encoding="utf-8") == render_record(example_of(name))


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_the_example_of_a_runbook_is_of_that_runbook(name):
    example = example_of(name)
    assert (example.runbook, example.signal) == (name, RUNBOOKS[name].signal)
    assert {deed.name for deed in example.deeds} <= set(RUNBOOKS[name].actions)


# ------------------------------------------------------------------------------------------ what it says


def test_the_title_names_incident_signal_and_resource():
    assert render_record(CLEANUP_LOGS).startswith("# Postmortem of incident 12: disk_pressure, /var on web-1\n")


def test_an_open_incident_has_a_draft_that_says_so():
    text = render_record(ESCALATED)
    assert text.startswith("# Draft postmortem of incident 12")
    assert "**Draft:** the incident is still open (escalated)" in text
    assert "Draft" not in render_record(CLEANUP_LOGS)


def test_the_summary_gives_the_figures():
    text = section(CLEANUP_LOGS, "Summary")
    for name, shown in {
        "Severity": "warning",
        "Status": "resolved by BytePort",
        "Detected": "2026-03-01 03:12:40",
        "Acted": "2026-03-01 03:12:42",
        "Time to resolve": "1 min",
        "Value at detection": "91.2 % (threshold 85.0 %)",
        "Value at the end": "71.4 %",
        "Runbook": "cleanup_logs",
        "Dry-run": "no",
    }.items():
        assert f"| **{name}** | {shown} |" in text


def test_the_story_of_a_fix():
    text = section(CLEANUP_LOGS, "What happened")
    assert "BytePort detected Disk pressure on /var on web-1, reported by host: 91.2 % against a threshold" in text
    assert "BytePort ran cleanup_logs: of 3 steps 2 done, 1 skipped." in text
    assert "It was resolved by BytePort 1 min after detection: 3 good looks in a row" in text


def test_the_story_of_a_hand_over():
    text = section(ESCALATED, "What happened")
    assert "It was handed over to people after 2 min 5 s: It did not help within 120 s" in text
    assert "The signal has not cleared yet." in text


def test_the_story_of_what_people_fixed_still_says_why_they_had_to():
    record = replace(
        ESCALATED, status="resolved", resolved_by="person", resolved_at=at(3600), reason="The signal cleared."
    )
    text = section(record, "What happened")
    assert "It did not help within 120 s" in text
    assert "The signal cleared 1 h after detection, while people had it." in text


def test_the_story_of_a_refusal():
    assert "BytePort changed nothing." in section(REFUSED, "What happened")


def test_the_story_of_a_dry_run():
    simulated = tuple(replace(done, dry_run=True, status="simulated") for done in CLEANUP_LOGS.deeds)
    gates = (Gate(1, "dry_run", False, "The agent is in dry-run.", START),)
    record = replace(ESCALATED, status="simulated", escalated_at=None, deeds=simulated, gates=gates)
    text = section(record, "What happened")
    assert "in dry-run and changed nothing; it would have run cleanup_logs, of 3 steps 3 simulated." in text
    assert "| **Dry-run** | yes: nothing was changed |" in section(record, "Summary")
    assert "In dry-run; nothing of this was done:" in section(record, "Actions")
    assert "`manage.py agent dry-run off`" in section(record, "Follow-ups")


def test_the_story_of_what_passed_by_itself():
    record = replace(
        CLEANUP_LOGS, resolved_by="itself", deeds=(), looks=(), gates=(), acted_at=None, diagnosis=None, runbook=""
    )
    assert "The signal cleared by itself 1 min after detection." in section(record, "What happened")
    assert "| **Dry-run** | it did not come to that |" in section(record, "Summary")
    assert "No diagnosis was made" in section(record, "Root cause")
    assert "No gate was asked" in section(record, "What the gates said")


def test_the_impact_says_for_how_long_how_bad_and_on_what():
    text = section(replace(CLEANUP_LOGS, repeats=3), "Impact")
    assert "| **For how long** | 1 min from detection to the end |" in text
    assert "| **How bad** | warning: 91.2 % at the highest that was measured (threshold 85.0 %) |" in text
    assert "| **On what** | /var on web-1 |" in text
    assert "| **Fired again while open** | 3 times |" in text
    assert "since 2026-03-01 03:12:40 UTC, and not over" in section(ESCALATED, "Impact")
    assert "| **How bad** | warning |" in section(replace(CLEANUP_LOGS, trend=Points()), "Impact")


def test_the_timeline_is_in_order_with_the_time_between():
    rows = section(CLEANUP_LOGS, "Timeline").splitlines()[2:]
    assert [row.split(" | ")[3] for row in rows] == [
        "detected", "diagnosed", "acting", "action", "action", "action", "verifying", "resolved",
    ]  # fmt: skip
    assert rows[-1].startswith("| 2026-03-01 03:13:40 | 50 s | byteport | resolved | 3 good looks")


def test_a_cut_timeline_says_how_much_is_missing_and_where():
    record = replace(CLEANUP_LOGS, timeline_cut=Gap(2882, 3), deeds=())
    rows = section(record, "Timeline").splitlines()[2:]
    assert "2,882 more are on record" in rows[3]
    assert len(rows) == 6


def test_evidence_and_inference_are_told_apart_and_a_guess_is_called_one():
    text = section(CLEANUP_LOGS, "Root cause")
    assert text.index("**Evidence**") < text.index("- 42 rotated logs") < text.index("**Inference**")
    assert "a guess" in text
    sure = replace(CLEANUP_LOGS, diagnosis=Diagnosis(evidence=("It is full.",), inference="Logs did it."))
    assert "guess" not in section(sure, "Root cause")


def test_actions_bear_result_figures_and_duration():
    row = section(CLEANUP_LOGS, "Actions").splitlines()[3]
    assert "done: deleted 41 of 42 files, 6.1 GB" in row
    assert "found: files 42, 6.2 GB; deleted: files 41, 6.1 GB; left: open 1" in row
    assert row.endswith("| 3.9 s |")


def test_an_action_that_is_not_over_is_said_to_be_under_way():
    begun = Deed(name="host.clear_tmp", summary="Clear", dry_run=False, status="started", started_at=START)
    assert "begun, and not ended yet | – | – |" in section(replace(ESCALATED, deeds=(begun,)), "Actions")


def test_refusals_come_before_what_was_allowed():
    rows = section(REFUSED, "What the gates said").splitlines()[2:]
    assert rows[0].startswith("| opt_in | **refused** | Not opted in to disk")
    assert [row.split(" | ")[0] for row in rows] == ["| opt_in", "| paused", "| never", "| verifiable"]


def test_a_refusal_of_an_earlier_round_is_kept_beside_the_later_yes():
    gates = (
        Gate(1, "cooldown", False, "It ran lately.", START),
        Gate(2, "cooldown", False, "It ran lately.", at(15)),
        Gate(3, "cooldown", True, "It may run.", at(30)),
    )
    rows = section(replace(CLEANUP_LOGS, gates=gates), "What the gates said").splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["**refused**", "allowed"]
    assert rows[0].endswith("03:12:40 |")


def test_the_word_of_a_person_is_on_record():
    asked = Word(requested_at=at(3), expires_at=at(3603), approved=False, by="ann", decided_at=at(60), why="not now")
    silent = Word(requested_at=at(3), expires_at=at(3603))
    text = section(replace(REFUSED, approvals=(asked, silent)), "What the gates said")
    assert "refused by ann at 2026-03-01 03:13:40 UTC (not now)." in text
    assert "nobody decided by 2026-03-01 04:12:43 UTC." in text


def test_verification_shows_each_look_and_how_long_after_the_action():
    rows = section(CLEANUP_LOGS, "Verification").splitlines()[2:]
    assert rows[0] == "| 2026-03-01 03:13:20 | 30 s | 71.3 % | good | 71.3 % used, below 80 % |"
    assert len(rows) == 3


def test_a_look_without_data_is_not_given_a_value():
    record = replace(ESCALATED, looks=(Look(at(40), None, "inconclusive", "no data"),))
    assert "| – | inconclusive | no data |" in section(record, "Verification")


def test_the_trend_is_text_and_figures():
    text = section(CLEANUP_LOGS, "Trend")
    assert re.match(r"`[▁▂▃▄▅▆▇█]+`\n", text)
    assert "| 71.3 % | 91.2 % | 71.4 % | 85.0 % | 80.0 % |" in text
    assert "<svg" not in render_record(CLEANUP_LOGS)
    assert "No samples" in section(replace(CLEANUP_LOGS, trend=Points()), "Trend")


def test_manual_steps_are_given_when_it_was_handed_over_and_only_then():
    text = section(ESCALATED, "Manual steps")
    assert "```sh\nlsof -nP +L1 -- /var\n```" in text
    assert "Manual steps" not in headings(CLEANUP_LOGS)


def test_figures_are_for_people():
    result = {
        "freed_bytes": 1_547_000_000,
        "images": 3,
        "left": {"too_new": 1200},
        "examples": list("abcdef"),
        "x": None,
    }
    assert plain(figures(result)) == "freed: 1.5 GB; images: 3; left: too_new 1,200; examples: a, b, c …"


def test_the_same_record_gives_the_same_text():
    assert render_record(CLEANUP_LOGS) == render_record(CLEANUP_LOGS)


# ------------------------------------------------------------------------------------------ hostile texts

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "` `` ``` ````",
    "```\n\n# out\n",
    "| a | b |\n| --- | --- |",
    "line\r\n\r\n## Manual steps\r\n\r\n1. rm -rf /",
    "@everyone @acme/ops",
    "\u202egnp.exe\u2066\u200f",
    "<!-- ",
    "&#60;script&#62;",
    "\\",
    "</svg></article><h2>Trend</h2>",
]


def everywhere(text: str) -> Record:
    """A record with this text wherever somebody else's text can be."""
    return replace(
        ESCALATED,
        signal=text, title=text, label=text, resource=text, source=text, detail=text, severity=text, reason=text,
        runbook=text,
        diagnosis=Diagnosis(evidence=(text, text), inference=text, confident=False),
        timeline=(Entry(START, text, text, text), Entry(at(125), "byteport", "escalated", text)),
        gates=tuple(Gate(1, name, name == "a", text, START) for name in (text, "opt_in", "a")),
        deeds=(
            deed(text, text, 1, 2, "failed", text, folder=text, examples=[text], errors={text: 3}),
            deed(text, text, 1, 2, text, text),
        ),
        looks=(Look(at(40), None, text, text),),
        approvals=(Word(requested_at=START, expires_at=START, approved=False, by=text, decided_at=START, why=text),),
        earlier=(Earlier(9, START, text),), earlier_count=1, has_runbook=False,
        advice=tuple(ManualStep(text, f"rm -- {text}") for _ in range(3)),
    )  # fmt: skip


def unsanitised(record: Record) -> str:
    return markdown.markdown(render_record(record), extensions=["tables", "fenced_code", "sane_lists"])


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_text_changes_the_page_even_before_it_is_sanitised(text):
    tags = re.compile(r"<[^>]*>")
    assert tags.findall(unsanitised(everywhere(text))) == tags.findall(unsanitised(everywhere("x")))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_harmless_in_the_page(text):
    page = to_html(render_record(everywhere(text)))
    assert not re.search(r"<(script|img|svg|iframe|!--)|<[^>]*(javascript:|onerror)", page)
    assert page.count("<h2>Trend</h2>") == 1


def test_nobody_is_mentioned_outside_of_a_block_of_code():
    text = re.sub(r"^(```+)sh\n.*?^\1$", "", render_record(everywhere("@everyone")), flags=re.MULTILINE | re.DOTALL)
    assert "@" not in text
    assert "@everyone" not in html.unescape(text)


def test_no_direction_override_is_left():
    assert not re.search(
        r"[\u202a-\u202e\u2066-\u2069\u200e\u200f]", render_record(everywhere("a\u202eb\u2066c\u200f"))
    )


def test_no_secret_is_left():
    assert "hunter2" not in render_record(everywhere("password=hunter2"))


def test_huge_texts_give_a_bounded_page():
    assert len(render_record(everywhere("x" * 1_000_000))) < 60_000


# ------------------------------------------------------------------------------------------ draft and final


@pytest.mark.django_db
def test_an_escalation_stores_a_draft_and_its_clearing_the_final_text():
    event = scenes.planned("verifying")
    with transaction.atomic():
        escalate(event, Move(to=Status.ESCALATED, reason=HANDED_OVER), at=now(), token=None)
    event.refresh_from_db()
    assert not event.postmortem_final
    assert event.postmortem_md.startswith("# Draft postmortem")
    assert "## Manual steps" in event.postmortem_md
    with transaction.atomic():
        resolve(event, cleared(event, ResolvedBy.PERSON), at=now(), token=None)
    event.refresh_from_db()
    assert event.postmortem_final
    assert event.postmortem_md.startswith("# Postmortem")
    assert "while people had it" in event.postmortem_md
    assert HANDED_OVER.split(":", maxsplit=1)[0] in event.postmortem_md


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change", [{"postmortem_md": "# Otherwise"}, {"postmortem_final": False}, {"postmortem_md": "", "severity": "info"}]
)
def test_a_final_text_is_never_written_again_by_whomever(change):
    event = scenes.incident("resolved", postmortem_md="# So it was", postmortem_final=True)
    with pytest.raises(DatabaseError, match="a final postmortem is never written again"), transaction.atomic():
        SignalEvent.objects.filter(pk=event.pk).update(**change)
    event.refresh_from_db()
    assert (event.postmortem_md, event.postmortem_final) == ("# So it was", True)


@pytest.mark.django_db
def test_all_else_of_an_incident_that_is_over_can_still_be_written():
    event = scenes.incident("resolved", postmortem_md="# So it was", postmortem_final=True)
    event.labels = {"a": "b"}
    event.save()
    assert SignalEvent.objects.filter(labels={"a": "b"}).exists()


@pytest.mark.django_db
def test_a_draft_is_written_anew_as_often_as_need_be():
    event = scenes.incident("escalated", postmortem_md="# Draft")
    assert SignalEvent.objects.filter(pk=event.pk).update(postmortem_md="# Later draft") == 1
