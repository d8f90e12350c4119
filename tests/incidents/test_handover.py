"""What console, checks and doctor say of the outbox. Real: PostgreSQL, every view, template and middleware.

Not real: the channels, whose far end is a list (tests/incidents/farend.py); the deliveries are written as rows.
"""

import json
import re
from contextlib import suppress
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.management import call_command
from django.test import Client

from byteport.core.clock import now
from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry, QueuedTask
from incidents.escalation.channel import Setup
from incidents.models import Told
from signals.models import SignalEvent
from tests.incidents import scenes
from tests.incidents.escalation.letters import HOSTILE
from tests.incidents.farend import StandInChannel, channels

pytestmark = pytest.mark.django_db
UNSET = Setup(missing=("BYTEPORT_PIGEON_LOFT", "BYTEPORT_PIGEON_NAME"))


@pytest.fixture
def pigeon():
    pigeon = StandInChannel("pigeon")
    with channels(pigeon):
        yield pigeon


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def doctor() -> dict[str, list[dict[str, str]]]:
    out = StringIO()
    with suppress(SystemExit):  # its exit code
        call_command("doctor", "--json", stdout=out)
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(out.getvalue())["findings"]:
        found.setdefault(finding["name"], []).append(finding)
    return found


# --- nobody can be told


def test_with_no_channel_every_page_says_that_nobody_was_told_and_what_to_set(operator, pigeon):
    pigeon.state = UNSET
    scenes.incident("escalated")
    for path in ("/", "/incidents/", "/top/"):
        shown = page(operator, path)
        assert "Nobody was told." in shown
        assert "BYTEPORT_PIGEON_LOFT, BYTEPORT_PIGEON_NAME (Pigeon)" in shown


def test_what_people_have_heard_of_before_and_what_is_a_drill_is_not_said_to_be_told_to_nobody(operator, pigeon):
    pigeon.state = UNSET
    scenes.delivery(scenes.incident("escalated"), "pigeon", "sent", sent_at=now())
    scenes.incident("escalated", ResourceRef("host", "web-1", "drill", "d1"))
    assert "Nobody was told." not in page(operator, "/")
    scenes.delivery(scenes.incident("escalated"), "pigeon", "held")
    assert "<strong>Nobody was told.</strong> 1 incident was handed over" in page(operator, "/")


def test_with_nothing_to_tell_or_a_way_to_tell_it_no_page_says_so(operator, pigeon):
    scenes.incident("escalated")
    assert "Nobody was told." not in page(operator, "/")
    pigeon.state = UNSET
    SignalEvent.objects.all().delete()
    scenes.incident("resolved")
    assert "Nobody was told." not in page(operator, "/")


def test_doctor_says_so_too(pigeon):
    pigeon.state = UNSET
    assert doctor()["hand-over"][0]["state"] == "warn"
    scenes.incident("escalated")
    (found,) = doctor()["hand-over"]
    assert (found["state"], "1 wait" in found["detail"]) == ("fail", True)
    assert "BYTEPORT_PIGEON_LOFT" in found["fix"]


def test_doctor_tries_each_channel_that_is_set_up(pigeon):
    assert doctor()["Pigeon"][0] == {"name": "Pigeon", "state": "ok", "detail": "answers"}

    def ill():
        raise Permanent("the loft is empty")

    pigeon.check = ill
    assert doctor()["Pigeon"][0]["state"] == "fail"


@pytest.mark.parametrize(
    ("setup", "ids"),
    [
        (UNSET, []),
        (Setup(given=True), []),
        (Setup(given=True, missing=("BYTEPORT_PIGEON_NAME",)), ["byteport.W030"]),
        (Setup(given=True, faults=("BYTEPORT_PIGEON_LOFT is no loft.",)), ["byteport.W031"]),
    ],
)
def test_a_channel_that_is_half_set_up_is_pointed_out(pigeon, setup, ids):
    pigeon.state = setup
    messages = [message for message in run_checks() if message.id.startswith("byteport.W03")]
    assert [message.id for message in messages] == ids
    assert all(message.hint for message in messages)


# --- it does not get through


def test_what_failed_stands_on_every_page_with_the_remedy(operator, pigeon):
    event = scenes.incident("escalated")
    scenes.delivery(event, "pigeon", Told.FAILED, error="The pigeon is ill.", remedy="Feed it.")
    for path in ("/", "/agent/"):
        shown = page(operator, path)
        assert "Pigeon does not get through." in shown
        assert "The pigeon is ill. → Feed it." in shown
        assert f'href="/incidents/{event.pk}/"' in shown
    assert doctor()["hand-over"][0]["fix"] == "Feed it."


@pytest.mark.parametrize(("minutes", "shown"), [(5, False), (20, True)])
def test_a_long_outage_stands_on_every_page_and_a_short_one_does_not(operator, pigeon, minutes, shown):
    event = scenes.incident("escalated")
    scenes.delivery(event, "pigeon", Told.SENDING, error="502", failing_since=now() - timedelta(minutes=minutes))
    assert ("Pigeon does not get through." in page(operator, "/")) is shown
    assert ("hand-over" in doctor()) is shown


def test_an_incident_shows_each_delivery_and_what_it_said(operator, pigeon):
    event = scenes.incident("escalated")
    scenes.delivery(
        event, "pigeon", Told.SENT, sent_at=now(), url="https://pigeon.example/5", title="Coo", body="It is **bad**"
    )
    shown = page(operator, f"/incidents/{event.pk}/")
    assert "Arrived" in shown
    assert 'href="https://pigeon.example/5"' in shown
    assert "What was said: Coo" in " ".join(shown.split())
    assert "It is <strong>bad</strong>" in shown
    assert "Send again" not in shown


def test_an_incident_shows_what_would_be_said_and_why_it_is_not(operator, pigeon):
    event = scenes.incident("escalated")
    scenes.delivery(event, "pigeon", Told.HELD, error="The agent is in dry-run: nobody is told.")
    shown = " ".join(page(operator, f"/incidents/{event.pk}/").split())
    assert "Not sent" in shown
    assert "The agent is in dry-run: nobody is told." in shown
    assert "What would be said: Disk pressure of /var on web-1" in shown
    assert f"Incident {event.pk}: <strong>escalated</strong>" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_somebody_elses_becomes_markup_in_what_would_be_said(operator, text):
    """With the real channels, none of which is set up."""

    def told(each: str) -> list[str]:
        each = each.replace("\0", "")  # which PostgreSQL does not take
        event = scenes.incident("escalated", ResourceRef("host", each, "mount", each), reason=each, detail=each)
        for channel in ("github", "postmark"):
            scenes.delivery(event, channel, Told.HELD, error=each)
        shown = page(operator, f"/incidents/{event.pk}/")
        part = shown[shown.index('id="h-handed"') : shown.index('id="h-trend"')]
        return [re.sub(r"\d+", "", tag) for tag in re.findall(r"<[a-z/][^>]*>", part)]

    foreign, plain = told(text), told("plain")
    assert [tag for tag in foreign if "aria-label" not in tag] == [tag for tag in plain if "aria-label" not in tag]


def test_an_operator_sends_again_what_failed(operator, pigeon):
    event = scenes.incident("escalated")
    row = scenes.delivery(event, "pigeon", Told.FAILED, error="ill")
    path = f"/incidents/{event.pk}/deliveries/{row.pk}/again/"
    assert path in page(operator, f"/incidents/{event.pk}/")
    answer = operator.post(path, follow=True)
    assert "tried again within seconds" in answer.content.decode()
    row.refresh_from_db()
    assert row.status == Told.WAITING
    assert QueuedTask.objects.filter(dedup_key=f"deliver:{row.pk}").exists()
    assert AuditEntry.objects.get().actor == "ada"
    assert "nothing to send again" in operator.post(path, follow=True).content.decode()


def test_who_is_no_operator_sends_nothing_again(client, pigeon):
    client.force_login(User.objects.create_user("guest"))
    event = scenes.incident("escalated")
    row = scenes.delivery(event, "pigeon", Told.FAILED, error="ill")
    assert client.post(f"/incidents/{event.pk}/deliveries/{row.pk}/again/").status_code == 403
    assert "Send again" not in page(client, f"/incidents/{event.pk}/")
