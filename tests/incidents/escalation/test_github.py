"""The GitHub channel. Real: PyGithub, HTTP, PostgreSQL, the outbox and the loop's own conclusions.

Not real: GitHub itself is tests/incidents/escalation/github_server.py, which checks each request and answer against
GitHub's own description. Tasks of the queue are run in this process; time is moved by hand only where it says so.
"""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import time_machine
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from byteport.core.errors import Permanent, Temporary
from incidents.escalation import github as module
from incidents.escalation.channel import Kind, Limited, Undeliverable
from incidents.escalation.github import CHANNEL
from incidents.models import Delivery, Told
from incidents.outbox import delivery, rounds
from runbooks.models import AgentSettings
from signals.models import ResolvedBy, SignalEvent
from tests.incidents import scenes
from tests.incidents.escalation.github_server import REPO, TOKEN, github, label
from tests.incidents.escalation.wire import Answer, Fault
from tests.incidents.farend import channels
from tests.incidents.outbox.test_outbox import escalate, resolve, run_due

pytestmark = pytest.mark.django_db
ISSUES = f"/repos/{REPO}/issues"
SECONDARY = Answer(
    403,
    {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."},
    {"Retry-After": "90"},
)


@pytest.fixture
def hub(db, monkeypatch):
    AgentSettings.objects.create(dry_run=False)
    monkeypatch.setattr(module, "WRITE_PAUSE_S", 0.0)
    monkeypatch.setattr(CHANNEL, "settle_s", 0.0, raising=False)
    with github() as state, channels(CHANNEL):
        monkeypatch.setenv("BYTEPORT_GITHUB_REPO", REPO)
        monkeypatch.setenv("BYTEPORT_GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("BYTEPORT_GITHUB_URL", state.base)
        state.labels.update(dict.fromkeys(("byteport", "severity:warning", "disk_pressure"), "ededed"))
        yield state


def handed_over(trouble=None, **fields) -> SignalEvent:
    """An incident that was just escalated; of the same trouble where one is given."""
    event = scenes.planned("detected", **fields)
    if trouble is not None:
        SignalEvent.objects.filter(pk=event.pk).update(fingerprint=trouble)
        event.refresh_from_db()
    return escalate(event)


def the(kind: Kind = Kind.ESCALATED) -> Delivery:
    return Delivery.objects.filter(kind=kind).latest("pk")


def later(**time):
    return time_machine.travel(datetime.now(UTC) + timedelta(**time))


# --- one trouble, one issue


def test_an_escalation_opens_an_issue_with_its_labels(hub):
    event = handed_over(severity="critical")
    run_due()
    (issue,) = hub.issues.values()
    assert issue["title"] == "Disk pressure: /var on web-1 (critical)"
    assert {label["name"] for label in issue["labels"]} == {"byteport", "severity:critical", "disk_pressure"}
    assert f"/incidents/{event.pk}/" in issue["body"]
    assert (the().status, the().url, the().target) == (Told.SENT, f"https://github.com/{REPO}/issues/1", "1")
    assert event.timeline.get(kind="note").message == f"Opened issue 1 in {REPO}."


def test_labels_are_made_if_missing_and_left_as_they_are_if_not(hub):
    hub.labels.clear()
    hub.labels["byteport"] = "123456"
    handed_over()
    run_due()
    assert hub.labels == {"byteport": "123456", "severity:warning": "fbca04", "disk_pressure": "d4c5f9"}


def test_the_same_within_a_day_is_a_comment_with_the_new_action_log(hub):
    trouble = uuid4()
    first = handed_over(trouble)
    run_due()
    resolve(first)
    again = handed_over(trouble)
    run_due()
    assert list(hub.issues) == [1]
    comment = hub.comments[1][-1]["body"]
    assert f"It happened again (incident {again.pk})" in comment
    assert "What BytePort tried" in comment
    assert "What you can do now" in comment


@pytest.mark.parametrize("differs", ["severity", "fingerprint"])
def test_another_severity_or_resource_is_another_issue(hub, differs):
    trouble = uuid4()
    first = handed_over(trouble)
    run_due()
    resolve(first)
    handed_over(trouble, severity="critical") if differs == "severity" else handed_over(uuid4())
    run_due()
    assert list(hub.issues) == [1, 2]


def test_a_day_later_it_is_a_new_issue_that_links_to_the_one_before(hub):
    trouble = uuid4()
    resolve(handed_over(trouble))
    run_due()
    with later(hours=25):
        handed_over(trouble)
        handed_over(uuid4())
        run_due()
    assert list(hub.issues) == [1, 2, 3]
    linked = [f"The same was in https://github.com/{REPO}/issues/1 before." in hub.issues[n]["body"] for n in (2, 3)]
    assert linked == [True, False]


def test_a_record_of_another_repository_leads_to_no_comment_in_this_one(hub):
    trouble = uuid4()
    resolve(handed_over(trouble))
    run_due()
    Delivery.objects.update(url="https://github.com/acme/other/issues/1")
    hub.issues[1]["body"] = "Somebody else's."
    comments = len(hub.comments[1])
    handed_over(trouble)
    run_due()
    assert (list(hub.issues), len(hub.comments[1])) == ([1, 2], comments)


# --- it grows worse


def grown_worse(trouble=None) -> SignalEvent:
    event = handed_over(trouble)
    run_due()
    SignalEvent.objects.filter(pk=event.pk).update(severity="critical")
    return event


def labels(issue) -> set[str]:
    return {label["name"] for label in issue["labels"]}


def test_what_grows_worse_is_a_comment_and_the_issue_is_graded_anew(hub):
    grown_worse()
    hub.issues[1]["labels"].append(label(hub, "byteport") | {"name": "team:web"})
    body = hub.issues[1]["body"]
    rounds.sweep()
    run_due()
    assert "### It has grown worse: critical" in hub.comments[1][0]["body"]
    assert "This is critical now, and was less when" in hub.comments[1][0]["body"]
    assert labels(hub.issues[1]) == {"byteport", "severity:critical", "disk_pressure", "team:web"}
    assert hub.issues[1]["body"] == body.replace("severity=warning", "severity=critical", 1)
    assert (list(hub.issues), len(hub.comments[1])) == ([1], 1)


def test_an_issue_that_was_graded_anew_is_found_again_with_a_fresh_database(hub):
    trouble = uuid4()
    grown_worse(trouble)
    rounds.sweep()
    run_due()
    SignalEvent.objects.all().delete()
    handed_over(trouble, severity="critical")
    run_due()
    assert (list(hub.issues), len(hub.comments[1])) == ([1], 2)


def test_what_grows_worse_after_somebody_has_closed_it_is_a_new_issue_that_links_to_it(hub):
    grown_worse()
    hub.issues[1]["state"] = "closed"
    rounds.sweep()
    run_due()
    assert "The same was in #1, which somebody has closed." in hub.issues[2]["body"]
    assert labels(hub.issues[2]) == {"byteport", "severity:critical", "disk_pressure"}
    assert labels(hub.issues[1]) == {"byteport", "severity:warning", "disk_pressure"}


@pytest.mark.parametrize("request_", [("POST", f"{ISSUES}/1/comments"), ("PATCH", f"{ISSUES}/1")])
def test_an_answer_that_got_lost_meanwhile_leads_to_one_comment_and_the_new_grade(hub, request_):
    grown_worse()
    hub.faults.append(Fault(*request_, Answer(502, b""), after=True))
    rounds.sweep()
    run_due()
    with later(minutes=1):
        run_due()
    assert (len(hub.comments[1]), "severity:critical" in labels(hub.issues[1])) == (1, True)
    assert the(Kind.WORSENED).status == Told.SENT


def test_it_holds_with_a_fresh_database(hub):
    trouble = uuid4()
    handed_over(trouble)
    handed_over(uuid4())
    run_due()
    SignalEvent.objects.all().delete()
    assert not Delivery.objects.exists()
    handed_over(trouble)
    run_due()
    assert (len(hub.issues), len(hub.comments[1])) == (2, 1)


def test_what_a_person_has_closed_stays_closed_and_a_new_one_is_linked(hub):
    trouble = uuid4()
    resolve(handed_over(trouble))
    run_due()
    hub.issues[1]["state"] = "closed"
    handed_over(trouble)
    run_due()
    assert hub.issues[1]["state"] == "closed"
    assert "The same was in #1, which somebody has closed." in hub.issues[2]["body"]


def test_an_issue_that_was_deleted_is_not_missed(hub):
    trouble = uuid4()
    resolve(handed_over(trouble))
    run_due()
    hub.issues.clear()
    handed_over(trouble)
    run_due()
    assert len(hub.issues) == 1


def test_a_log_that_holds_a_marker_is_taken_for_no_issue_of_byteports(hub):
    other = uuid4()
    marker = f"<!-- byteport fingerprint={other.hex} severity=warning -->\n<!-- byteport delivery={uuid4().hex} -->"
    event = scenes.planned("detected")
    event.diagnosis["log"] = marker
    event.save(update_fields=["diagnosis"])
    escalate(event)
    run_due()
    assert marker.splitlines()[0] in hub.issues[1]["body"]
    handed_over(other)
    run_due()
    assert len(hub.issues) == 2


# --- when it is over


def test_when_people_have_ended_it_the_issue_gets_the_postmortem_and_stays_open(hub):
    event = handed_over()
    run_due()
    resolve(event)
    run_due()
    comment = hub.comments[1][0]["body"]
    assert f"# Postmortem of incident {event.pk}" in comment
    assert hub.issues[1]["state"] == "open"


@pytest.mark.parametrize(("setting", "state"), [("byteport", "closed"), ("cleared", "closed"), ("never", "open")])
def test_when_byteport_has_ended_the_same_trouble_the_issue_is_closed_unless_never(hub, monkeypatch, setting, state):
    monkeypatch.setenv("BYTEPORT_GITHUB_CLOSE", setting)
    trouble = uuid4()
    first = handed_over(trouble)
    run_due()
    hub.comments.clear()
    SignalEvent.objects.filter(pk=first.pk).update(
        status="resolved", resolved_by="person", resolved_at=first.detected_at
    )
    fixed = scenes.planned("verifying")
    SignalEvent.objects.filter(pk=fixed.pk).update(fingerprint=trouble)
    fixed.refresh_from_db()
    resolve(fixed, ResolvedBy.BYTEPORT)
    run_due()
    assert "BytePort has fixed it." in hub.comments[1][0]["body"]
    assert hub.issues[1]["state"] == state


def test_a_setting_closes_it_whoever_has_ended_it(hub, monkeypatch):
    monkeypatch.setenv("BYTEPORT_GITHUB_CLOSE", "cleared")
    event = handed_over()
    run_due()
    resolve(event)
    run_due()
    assert (hub.issues[1]["state"], hub.issues[1]["state_reason"]) == ("closed", "completed")
    assert the(Kind.CLEARED).status == Told.SENT
    assert "and closed it" in event.timeline.order_by("-pk").first().message


def test_an_incident_that_took_days_still_finds_its_issue(hub):
    event = handed_over()
    run_due()
    with later(days=5):
        resolve(event)
        run_due()
    assert len(hub.comments[1]) == 1


# --- what goes wrong on the way


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it was done"])
@pytest.mark.parametrize("answer", [Answer(502, b"<html>Bad Gateway</html>"), Answer(503, {"message": "x"}), None])
def test_a_gateways_error_or_a_cut_line_leads_neither_to_none_nor_to_two(hub, answer, after):
    hub.faults.append(Fault("POST", ISSUES, answer, after=after))
    handed_over()
    run_due()
    assert (the().status, bool(the().error)) == (Told.SENDING, True)
    with later(minutes=1):
        run_due()
    assert (len(hub.issues), the().status) == (1, Told.SENT)


def test_an_hours_outage_leads_neither_to_none_nor_to_two(hub):
    hub.faults.append(Fault("(GET|POST)", ".*", Answer(502, b""), times=10**6))
    trouble = uuid4()
    start = datetime.now(UTC)
    first = handed_over(trouble)
    for minute in range(0, 60, 3):
        with time_machine.travel(start + timedelta(minutes=minute), tick=False):
            run_due()
            if minute == 30:
                resolve(first)
                again = handed_over(trouble)
    assert len(hub.asked) <= 20
    hub.faults.clear()
    with time_machine.travel(start + timedelta(minutes=90), tick=False):
        run_due()
    assert list(hub.issues) == [1]
    assert [f"incident {event.pk}" in hub.comments[1][n]["body"] for n, event in enumerate((first, again))] == [
        True,
        True,
    ]


def test_a_time_out_after_the_issue_was_in_fact_created(hub, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 1)
    hub.faults.append(Fault("POST", ISSUES, after=True, hang_s=1.3))
    handed_over()
    run_due()
    assert "cannot be reached" in the().error
    assert len(hub.issues) == 1
    with later(minutes=1):
        run_due()
    assert (len(hub.issues), the().status, the().target) == (1, Told.SENT, "1")


def test_a_comment_whose_answer_got_lost_is_not_written_twice_and_its_issue_is_closed(hub, monkeypatch):
    monkeypatch.setenv("BYTEPORT_GITHUB_CLOSE", "cleared")
    event = handed_over()
    run_due()
    hub.faults.append(Fault("POST", f"{ISSUES}/1/comments", Answer(502, b""), after=True))
    resolve(event)
    run_due()
    assert hub.issues[1]["state"] == "open"
    with later(minutes=1):
        run_due()
    assert (len(hub.comments[1]), hub.issues[1]["state"]) == (1, "closed")


def test_a_secondary_rate_limit_holds_everything_for_as_long_as_it_says(hub):
    hub.faults.append(Fault("POST", ISSUES, SECONDARY))
    handed_over()
    handed_over()
    run_due()
    assert hub.writes().count(f"POST {ISSUES}") == 1
    assert 89 <= (the().due_at - datetime.now(UTC)).total_seconds() <= 92
    asked = len(hub.asked)
    with later(seconds=80):
        run_due()
        assert len(hub.asked) == asked
    with later(seconds=95):
        run_due()
    assert len(hub.issues) == 2


def test_a_used_up_rate_limit_is_waited_for_until_its_reset(hub):
    reset = int(datetime.now(UTC).timestamp()) + 600
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Limit": "5000", "X-RateLimit-Reset": str(reset)}
    hub.faults.append(Fault("GET", ISSUES, Answer(403, {"message": "API rate limit exceeded for user."}, headers)))
    handed_over()
    run_due()
    assert abs(the().due_at.timestamp() - reset) < 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(429, {"message": "Too many"}), Limited),
        (Answer(403, {"message": "Resource not accessible by personal access token"}), Undeliverable),
        (Answer(404, {"message": "Not Found"}), Undeliverable),
        (Answer(410, {"message": "Issues has been disabled in this repository."}), Undeliverable),
        (Answer(422, {"message": "Validation Failed", "errors": []}), Undeliverable),
        (Answer(418, {"message": "I'm a teapot"}), Permanent),
        (Answer(500, {"message": "Server Error"}), Temporary),
        (Answer(200, b"{not json"), Temporary),
        (Answer(200, [{"number": "five"}]), Temporary),
        (Answer(200, {"message": "no list"}), Temporary),
    ],
)
def test_whatever_github_answers_becomes_one_of_byteports_own_errors(hub, answer, kind):
    hub.faults.append(Fault("GET", ISSUES, answer))
    event = handed_over()
    note = delivery.note_of(Delivery.objects.get(event=event), datetime.now(UTC))
    with pytest.raises(kind) as told:
        CHANNEL.aim(note)
    assert type(told.value) is kind
    assert getattr(told.value, "remedy", "x")


def test_a_refused_token_is_shown_with_the_remedy_and_never_itself(hub, monkeypatch):
    monkeypatch.setenv("BYTEPORT_GITHUB_TOKEN", "ghp_wrongwrongwrong")
    handed_over()
    run_due()
    assert the().status == Told.FAILED
    assert "401" in the().error
    assert "BYTEPORT_GITHUB_TOKEN" in the().remedy
    assert "wrong" not in the().error + the().remedy


# --- its settings


def test_a_github_app_works_as_well_as_a_token(hub, monkeypatch, tmp_path):
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (tmp_path / "app.pem").write_bytes(pem)
    monkeypatch.delenv("BYTEPORT_GITHUB_TOKEN")
    monkeypatch.setenv("BYTEPORT_GITHUB_APP_ID", "7")
    monkeypatch.setenv("BYTEPORT_GITHUB_APP_KEY_FILE", str(tmp_path / "app.pem"))
    monkeypatch.setenv("BYTEPORT_GITHUB_INSTALLATION_ID", "42")
    handed_over()
    run_due()
    assert len(hub.issues) == 1
    assert "POST /app/installations/42/access_tokens" in hub.asked


def test_a_broken_app_key_is_the_operators_to_mend(hub, monkeypatch):
    monkeypatch.delenv("BYTEPORT_GITHUB_TOKEN")
    for name, value in (("APP_ID", "7"), ("APP_KEY", "no key"), ("INSTALLATION_ID", "42")):
        monkeypatch.setenv(f"BYTEPORT_GITHUB_{name}", value)
    handed_over()
    run_due()
    assert (the().status, "credentials" in the().error) == (Told.FAILED, True)


@pytest.mark.parametrize(
    ("given", "missing", "faults"),
    [
        ({}, ("BYTEPORT_GITHUB_REPO", "BYTEPORT_GITHUB_TOKEN"), 0),
        ({"REPO": "acme/ops"}, ("BYTEPORT_GITHUB_TOKEN",), 0),
        ({"TOKEN": "x"}, ("BYTEPORT_GITHUB_REPO",), 0),
        ({"REPO": "a/b", "APP_ID": "1"}, ("BYTEPORT_GITHUB_APP_KEY", "BYTEPORT_GITHUB_INSTALLATION_ID"), 0),
        ({"REPO": "https://github.com/a/b", "TOKEN": "x"}, (), 1),
        ({"REPO": "a/b", "TOKEN": "x", "URL": "github.example"}, (), 1),
        ({"REPO": "a/b", "TOKEN": "x", "CLOSE": "sometimes"}, (), 1),
        ({"REPO": "a/b", "TOKEN": "x", "APP_ID": "1", "APP_KEY": "k", "INSTALLATION_ID": "x"}, (), 2),
        ({"REPO": "a/b", "TOKEN_FILE": "/nonexistent"}, (), 1),
        ({"REPO": "a/b", "TOKEN": "x"}, (), 0),
    ],
)
def test_what_is_missing_or_wrong_in_its_settings_is_named(monkeypatch, given, missing, faults):
    for name, value in given.items():
        monkeypatch.setenv(f"BYTEPORT_GITHUB_{name}", value)
    setup = CHANNEL.setup()
    assert (setup.missing, len(setup.faults)) == (missing, faults)
    assert setup.ready is (bool(given) and not missing and not faults)


def test_no_setting_can_be_read_from_the_version_of_them_all(monkeypatch):
    monkeypatch.setenv("BYTEPORT_GITHUB_REPO", REPO)
    versions = set()
    for token in ("ghp_first", "ghp_second"):
        monkeypatch.setenv("BYTEPORT_GITHUB_TOKEN", token)
        versions.add(CHANNEL.setup().version)
    assert len(versions) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)


def test_its_check_says_what_the_credentials_are_good_for(hub):
    assert CHANNEL.check() == "acme/ops can be read, and has issues"
    hub.has_issues = False
    with pytest.raises(Undeliverable):
        CHANNEL.check()
    assert hub.writes() == []


def test_nothing_is_asked_of_the_network_to_show_what_would_be_said(hub):
    event = handed_over()
    message = CHANNEL.message(delivery.note_of(Delivery.objects.get(event=event), datetime.now(UTC)))
    assert re.match(r"<!-- byteport fingerprint=[0-9a-f]{32} severity=warning -->\n", message.markdown)
    assert hub.asked == []
