"""The Postmark channel. Real: postmarker, HTTP, PostgreSQL, the outbox and the loop's own conclusions.

Not real: Postmark itself is tests/incidents/escalation/postmark_server.py, which checks each request against Postmark's
documentation. Tasks of the queue are run in this process; time is moved by hand only where it says so.
"""

import base64
import io
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from PIL import Image

from byteport.core.errors import Permanent, Temporary
from incidents.escalation import postmark as module
from incidents.escalation.channel import Kind, Limited, Undeliverable
from incidents.escalation.postmark import CHANNEL
from incidents.models import Delivery, Told
from incidents.outbox import delivery, rounds
from runbooks.models import AgentSettings
from signals.models import Sample, SignalEvent
from tests.incidents import scenes
from tests.incidents.escalation.postmark_server import FROM, TO, TOKEN, postmark, refused
from tests.incidents.escalation.wire import Answer, Fault
from tests.incidents.farend import StandInChannel, channels
from tests.incidents.outbox.test_outbox import escalate, resolve, run_due

pytestmark = pytest.mark.django_db


@pytest.fixture
def mail(db, monkeypatch):
    AgentSettings.objects.create(dry_run=False)
    monkeypatch.setattr(CHANNEL, "settle_s", 0.0, raising=False)
    with postmark() as state, channels(CHANNEL):
        for name, value in (("TOKEN", TOKEN), ("FROM", FROM), ("TO", TO), ("URL", state.base)):
            monkeypatch.setenv(f"BYTEPORT_POSTMARK_{name}", value)
        yield state


def handed_over(**fields):
    event = scenes.planned("detected", **fields)
    for seconds in range(-1200, 1, 60):
        at = event.detected_at + timedelta(seconds=seconds)
        Sample.objects.create(fingerprint=event.fingerprint, at=at, value=91.0 + seconds / 100)
    return escalate(event)


def the() -> Delivery:
    return Delivery.objects.latest("pk")


def later(**time):
    return time_machine.travel(datetime.now(UTC) + timedelta(**time))


def attached(email, name):
    (found,) = (each for each in email["Attachments"] if each["Name"] == name)
    return found, base64.b64decode(found["Content"])


# --- what it says


def test_an_escalation_is_one_email_with_everything_to_go_on(mail, monkeypatch):
    monkeypatch.setenv("BYTEPORT_POSTMARK_STREAM", "alerts")
    event = handed_over(severity="critical")
    run_due()
    (email,) = mail.emails
    assert (email["From"], email["To"], email["MessageStream"], email["Tag"]) == (FROM, TO, "alerts", "disk_pressure")
    assert email["Subject"] == "[BytePort] Disk pressure: /var on web-1 (critical)"
    assert email["Metadata"]["delivery"] == the().uid.hex
    assert email["Metadata"]["incident"] == str(event.pk)
    for body in (email["HtmlBody"], email["TextBody"]):
        assert f"/incidents/{event.pk}/" in body
        assert "It cannot be fixed." in body
        assert "du -xh --max-depth=2 -- /var" in body
        assert str(event.pk) in body
    assert (the().status, the().target) == (Told.SENT, mail.messages[0]["MessageID"])
    assert event.timeline.get(kind="note").message == f"Sent an email to {TO}."


def test_the_postmortem_draft_is_attached_and_the_trend_is_in_line(mail):
    event = handed_over()
    run_due()
    (email,) = mail.emails
    draft, text = attached(email, f"postmortem-{event.pk}.md")
    assert draft["ContentType"] == "text/markdown"
    assert f"# Draft postmortem of incident {event.pk}" in text.decode()
    picture, png = attached(email, "trend.png")
    assert picture["ContentID"] == "cid:trend.png"
    assert '<img src="cid:trend.png"' in email["HtmlBody"]
    assert Image.open(io.BytesIO(png)).size == (1440, 520)


def test_without_samples_there_is_no_picture_and_no_place_for_one(mail):
    escalate(scenes.planned("detected"))
    run_due()
    (email,) = mail.emails
    assert "cid:" not in email["HtmlBody"]
    assert len(email["Attachments"]) == 1


def test_it_links_to_the_issue_where_there_is_one(mail):
    with channels(issues := StandInChannel("github"), CHANNEL):
        event = handed_over()
        run_due()
    assert issues.arrived
    for body in (mail.emails[0]["HtmlBody"], mail.emails[0]["TextBody"]):
        assert f"https://github.example/place-{event.pk}" in body


def test_there_is_one_email_for_an_escalation_and_none_for_its_end(mail):
    event = handed_over()
    for _ in range(3):
        run_due()
        rounds.sweep()
    resolve(event)
    run_due()
    assert len(mail.emails) == 1


def test_what_grows_worse_is_one_email_more(mail):
    event = handed_over()
    run_due()
    SignalEvent.objects.filter(pk=event.pk).update(severity="critical")
    for _ in range(3):
        rounds.sweep()
        run_due()
    first, second = mail.emails
    assert second["Subject"] == "[BytePort] Worse: Disk pressure: /var on web-1 (critical)"
    assert "This is critical now" in second["TextBody"]
    assert first["Metadata"]["delivery"] != second["Metadata"]["delivery"]


def test_a_reminder_is_sent_when_it_is_asked_for(mail, settings):
    settings.REMINDER_S = 3600
    handed_over()
    run_due()
    with later(hours=2):
        rounds.sweep()
        run_due()
    assert [email["Subject"][:23] for email in mail.emails] == ["[BytePort] Disk pressur", "[BytePort] Still open: "]
    assert "This is still open, 2 h" in mail.emails[1]["TextBody"]


# --- what goes wrong on the way


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it was done"])
@pytest.mark.parametrize(
    "answer",
    [Answer(500, b"<html>"), Answer(503, {"ErrorCode": 100, "Message": "Maintenance"}), Answer(200, b""), None],
)
def test_an_error_or_a_cut_line_leads_neither_to_none_nor_to_two(mail, answer, after):
    mail.faults.append(Fault("POST", "/email", answer, after=after))
    handed_over()
    run_due()
    assert (the().status, bool(the().error)) == (Told.SENDING, True)
    with later(minutes=2):
        run_due()
    assert (len(mail.emails), the().status) == (1, Told.SENT)
    assert the().target == mail.messages[0]["MessageID"]


def test_a_time_out_after_it_was_in_fact_taken(mail, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    mail.faults.append(Fault("POST", "/email", after=True, hang_s=0.5))
    handed_over()
    run_due()
    assert "cannot be reached" in the().error
    with later(minutes=2):
        run_due()
    assert (len(mail.emails), the().status) == (1, Told.SENT)


def test_too_many_requests_hold_the_whole_channel(mail):
    mail.faults.append(Fault("POST", "/email", refused(429, "Rate limit exceeded.", 429)))
    handed_over()
    handed_over()
    run_due()
    assert mail.asked.count("POST /email") == 1
    with later(seconds=75):
        run_due()
    assert len(mail.emails) == 2


def test_an_inactive_recipient_is_shown_with_the_remedy(mail):
    mail.inactive.add(TO)
    handed_over()
    run_due()
    assert the().status == Told.FAILED
    assert f"Found inactive addresses: {TO}." in the().error
    assert "Reactivate the address in Postmark" in the().remedy
    mail.inactive.clear()
    assert rounds.send_again(the().pk)
    run_due()
    assert (len(mail.emails), the().status) == (1, Told.SENT)


def test_one_inactive_recipient_of_two_is_a_warning(mail, monkeypatch):
    monkeypatch.setenv("BYTEPORT_POSTMARK_TO", f"{TO}, cto@example.com")
    mail.inactive.add("cto@example.com")
    handed_over()
    run_due()
    assert the().status == Told.SENT
    assert "will not deliver to these inactive addresses: cto@example.com" in the().error


@pytest.mark.parametrize(
    ("to", "bounced", "kind", "status", "words"),
    [
        (TO, [TO], "HardBounce", Told.FAILED, "It has reached nobody. ops@example.com: HardBounce."),
        (TO, [TO.upper()], "SpamComplaint", Told.FAILED, "It has reached nobody."),
        (f"{TO},a@example.com", [TO], "HardBounce", Told.SENT, "It has not reached everybody. ops@example.com"),
        (TO, [TO], "AutoResponder", Told.SENT, ""),
        (TO, [], "", Told.SENT, ""),
    ],
)
def test_what_bounces_later_is_shown_with_the_remedy(mail, monkeypatch, to, bounced, kind, status, words):
    monkeypatch.setenv("BYTEPORT_POSTMARK_TO", to)
    handed_over()
    run_due()
    for address in bounced:
        mail.bounce(address, kind)
    with later(minutes=6):
        rounds.sweep()
        run_due()
    assert the().status == status
    assert the().error.startswith(words)
    assert bool(the().error) is bool(words)
    assert ("Reactivate" in the().error + the().remedy) is bool(words)


@pytest.mark.parametrize(
    ("answer", "kind", "remedy"),
    [
        (refused(10, "Bad token", 401), Undeliverable, "BYTEPORT_POSTMARK_TOKEN"),
        (refused(300, "Invalid email request"), Undeliverable, "BYTEPORT_POSTMARK_FROM"),
        (refused(400, "no Sender Signature"), Undeliverable, "sender signature"),
        (refused(405, "Not allowed to send"), Undeliverable, "account"),
        (refused(406, "Inactive"), Undeliverable, "Suppressions"),
        (refused(412, "Account is pending"), Undeliverable, "account"),
        (refused(1235, "no such stream"), Undeliverable, "Postmark says"),
        (Answer(413, b"too large"), Undeliverable, "Postmark says"),
        (Answer(404, {"ErrorCode": 0, "Message": "?"}), Permanent, ""),
        (refused(429, "slow down", 429), Limited, ""),
        (refused(100, "Maintenance", 503), Temporary, ""),
        (Answer(500, {"ErrorCode": 0, "Message": "Internal"}), Temporary, ""),
        (Answer(502, b"<html>"), Temporary, ""),
        (Answer(422, {"message": "no code"}), Temporary, ""),
        (Answer(200, {"ErrorCode": 0}), Temporary, ""),
        (Answer(200, b"[]"), Temporary, ""),
        (Answer(200, {"ErrorCode": 406, "Message": "Inactive"}), Undeliverable, "Suppressions"),
    ],
)
def test_whatever_postmark_answers_becomes_one_of_byteports_own_errors(mail, answer, kind, remedy):
    event = handed_over()
    note = delivery.note_of(Delivery.objects.get(event=event), datetime.now(UTC))
    mail.faults.append(Fault("POST", "/email", answer))
    with pytest.raises(kind) as told:
        CHANNEL.send(note)
    assert isinstance(told.value, kind)
    assert remedy in getattr(told.value, "remedy", "")
    assert TOKEN not in str(told.value)


# --- its settings


@pytest.mark.parametrize(
    ("given", "missing", "faults"),
    [
        ({}, 3, 0),
        ({"TOKEN": "x"}, 2, 0),
        ({"TOKEN": "x", "FROM": FROM}, 1, 0),
        ({"TOKEN": "x", "FROM": FROM, "TO": TO}, 0, 0),
        ({"TOKEN": "x", "FROM": "byteport", "TO": TO}, 0, 1),
        ({"TOKEN": "x", "FROM": "a@example.com, b@example.com", "TO": TO}, 0, 1),
        ({"TOKEN": "x", "FROM": "a@example.com\r\nBcc: b@example.com", "TO": TO}, 0, 1),
        ({"TOKEN": "x", "FROM": FROM, "TO": "ops@example.com, nobody"}, 0, 1),
        ({"TOKEN": "x", "FROM": FROM, "TO": ",".join(f"a{n}@example.com" for n in range(51))}, 0, 1),
        ({"TOKEN": "x", "FROM": FROM, "TO": TO, "URL": "postmark"}, 0, 1),
        ({"TOKEN_FILE": "/nonexistent", "FROM": FROM, "TO": TO}, 0, 1),
    ],
)
def test_what_is_missing_or_wrong_in_its_settings_is_named(monkeypatch, given, missing, faults):
    for name, value in given.items():
        monkeypatch.setenv(f"BYTEPORT_POSTMARK_{name}", value)
    setup = CHANNEL.setup()
    assert (len(setup.missing), len(setup.faults)) == (missing, faults)
    assert setup.ready is (bool(given) and not missing and not faults)


def test_its_check_says_what_the_token_is_good_for(mail, monkeypatch):
    assert CHANNEL.check() == "server Production, message stream outbound (Transactional)"
    monkeypatch.setenv("BYTEPORT_POSTMARK_STREAM", "nowhere")
    with pytest.raises(Undeliverable, match="does not exist"):
        CHANNEL.check()
    assert mail.writes() == []


def test_its_kinds_are_a_word_once_another_when_it_is_worse_and_a_reminder():
    assert CHANNEL.kinds == {Kind.ESCALATED, Kind.WORSENED, Kind.REMINDER}
