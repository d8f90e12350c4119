"""`GET /incidents/<id>/postmortem` through Django's test client: every layer of the web process, a real PostgreSQL."""

import re
from datetime import timedelta

import pytest
from django.urls import reverse

from byteport.core.resource import ResourceRef
from incidents.postmortem import render
from incidents.trend import NO_SAMPLES
from signals.models import Sample, SignalEvent, TimelineEntry
from tests.incidents import scenes

pytestmark = pytest.mark.django_db
HOSTILE = ResourceRef("host", "web-1", "mount", "/<script>alert(1)</script>`|\n[x](javascript:alert(1))\u202e@everyone")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture
def event() -> SignalEvent:
    event = scenes.planned("resolved")
    for seconds, value in ((-60, 84.0), (0, 91.0), (60, 70.0)):
        at = event.detected_at + timedelta(seconds=seconds)
        Sample.objects.create(fingerprint=event.fingerprint, at=at, value=value)
    event.postmortem_md, event.postmortem_final = render(event), True
    event.save(update_fields=["postmortem_md", "postmortem_final"])
    return event


@pytest.fixture
def reader(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("ann", password="x"))
    return client


def address(event: SignalEvent | int) -> str:
    return reverse("postmortem", args=[event if isinstance(event, int) else event.pk])


# ------------------------------------------------------------------------------------------ which form


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (BROWSER, "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("", "text/html; charset=utf-8"),
        ("text/*", "text/html; charset=utf-8"),
        ("text/markdown", "text/markdown; charset=utf-8"),
        ("text/markdown;charset=UTF-8", "text/markdown; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("text/html;q=0.5, text/markdown", "text/markdown; charset=utf-8"),
        ("text/html;q=0.5, text/markdown;q=0.6, application/json;q=0.7", "application/json"),
        ("text/html;q=0, */*", "text/markdown; charset=utf-8"),
        ("text/*;q=0, */*;q=0.1", "application/json"),
        ("text/html;q=0.1, text/*", "text/markdown; charset=utf-8"),
        ("image/png, application/json;q=0.1", "application/json"),
        ("nonsense, application/json", "application/json"),
    ],
)
def test_it_comes_in_the_form_that_the_client_likes_best(reader, event, accept, content_type):
    answer = reader.get(address(event), headers={"accept": accept})
    assert answer.status_code == 200
    assert answer["Content-Type"] == content_type
    assert "Accept" in answer["Vary"]


def test_without_an_accept_header_it_is_a_page(reader, event):
    assert reader.get(address(event))["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("accept", ["image/png", "application/pdf, text/plain", "*/*;q=0", "text/html;q=0, image/*"])
def test_a_client_that_takes_none_of_them_is_told_which_there_are(reader, event, accept):
    answer = reader.get(address(event), headers={"accept": accept})
    assert answer.status_code == 406
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 406
    assert "text/markdown" in answer.json()["detail"]
    assert "Accept" in answer["Vary"]


@pytest.mark.parametrize(
    ("form", "content_type"), [("md", "text/markdown"), ("json", "application/json"), ("html", "text/html")]
)
def test_the_form_can_be_named_in_the_address(reader, event, form, content_type):
    answer = reader.get(f"{address(event)}?format={form}", headers={"accept": "image/png"})
    assert answer["Content-Type"].startswith(content_type)


def test_markdown_by_its_address_is_a_download(reader, event):
    answer = reader.get(f"{address(event)}?format=md")
    assert answer["Content-Disposition"] == f'attachment; filename="postmortem-{event.pk}.md"'
    assert "Content-Disposition" not in reader.get(address(event), headers={"accept": "text/markdown"})


def test_an_unknown_form_is_none(reader, event):
    assert reader.get(f"{address(event)}?format=pdf").status_code == 406


# ------------------------------------------------------------------------------------------ what is in it


def test_markdown_is_the_stored_text(reader, event):
    assert reader.get(f"{address(event)}?format=md").content.decode() == event.postmortem_md


def test_json_holds_facts_text_and_trend(reader, event):
    document = reader.get(f"{address(event)}?format=json").json()
    assert document["event_id"] == event.pk
    assert (document["status"], document["resolved_by"], document["final"]) == ("resolved", "byteport", True)
    assert document["markdown"] == event.postmortem_md
    assert [value for _, value in document["trend"]["points"]] == [84.0, 91.0, 70.0]
    assert (document["trend"]["threshold"], document["trend"]["clear"], document["trend"]["unit"]) == (85.0, 80.0, "%")


def test_the_page_shows_the_text_and_the_picture_in_the_place_of_the_trend(reader, event):
    page = reader.get(address(event)).content.decode()
    assert page.count('<svg class="trend"') == 1
    assert page.index("<h2>Verification</h2>") < page.index("<h2>Trend</h2>") < page.index('<svg class="trend"')
    assert page.index('<svg class="trend"') < page.index("<h2>Follow-ups</h2>")
    assert "<table>" in page


def test_the_page_has_no_empty_picture_where_no_samples_were_kept(reader):
    page = reader.get(address(scenes.planned("escalated"))).content.decode()
    assert page.count(NO_SAMPLES) == 1
    assert "postmortem-trend" not in page


def test_a_final_postmortem_is_never_rendered_again(reader, event):
    TimelineEntry.objects.create(event=event, at=event.detected_at, actor="ann", kind="note", message="written later")
    assert "written later" not in reader.get(f"{address(event)}?format=md").content.decode()


def test_the_draft_of_an_open_incident_is_as_fresh_as_its_record(reader):
    event = scenes.planned("escalated", postmortem_md="stale")
    first = reader.get(f"{address(event)}?format=md").content.decode()
    assert first.startswith("# Draft postmortem")
    TimelineEntry.objects.create(event=event, at=event.detected_at, actor="ann", kind="note", message="looked at it")
    assert "looked at it" in reader.get(f"{address(event)}?format=md").content.decode()


def test_hostile_names_labels_and_reasons_are_shown_and_do_nothing(reader):
    event = scenes.planned("escalated", HOSTILE, reason=HOSTILE.name, labels={HOSTILE.name: HOSTILE.name})
    TimelineEntry.objects.create(
        event=event, at=event.detected_at, actor=HOSTILE.name, kind="note", message=HOSTILE.name
    )
    page = reader.get(address(event)).content.decode()
    article = page[page.index("<article") : page.index("</article>")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in article
    assert not re.search(
        r"<script|<[^>]*javascript:|@everyone|\u202e", re.sub(r"<pre>.*?</pre>", "", article, flags=re.S)
    )
    assert "<script" not in article


# ------------------------------------------------------------------------------------------ who, and which


def test_a_browser_that_is_not_signed_in_is_taken_to_the_login(client, event):
    answer = client.get(address(event), headers={"accept": BROWSER})
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("login"))
    assert address(event) in answer["Location"]


@pytest.mark.parametrize("accept", ["application/json", "text/markdown", "image/png"])
def test_a_program_that_is_not_signed_in_gets_a_problem_and_no_redirect(client, event, accept):
    answer = client.get(address(event), headers={"accept": accept})
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.has_header("WWW-Authenticate")
    assert event.resource not in answer.content.decode()


def test_whoever_is_not_signed_in_does_not_learn_which_incidents_there_are(client, event):
    there, not_there = (
        client.get(address(pk), headers={"accept": "application/json"}).status_code for pk in (event.pk, 999_999)
    )
    assert there == not_there == 401


@pytest.mark.parametrize("pk", [999_999, 10**30])
def test_an_incident_that_there_is_not_is_not_found_in_the_form_asked_for(reader, pk):
    page = reader.get(address(pk), headers={"accept": BROWSER})
    assert (page.status_code, page["Content-Type"]) == (404, "text/html; charset=utf-8")
    document = reader.get(address(pk), headers={"accept": "application/json"})
    assert (document.status_code, document["Content-Type"]) == (404, "application/problem+json")
    assert document.json()["title"] == "Not Found"


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_it_can_only_be_read(reader, event, method):
    assert getattr(reader, method)(address(event)).status_code == 405


# ------------------------------------------------------------------------------------------ asked again


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_what_has_not_changed_is_not_sent_again(reader, event, form):
    first = reader.get(f"{address(event)}?format={form}")
    again = reader.get(f"{address(event)}?format={form}", headers={"if-none-match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again["ETag"] == first["ETag"]
    assert "Accept" in again["Vary"]
    assert "no-cache" in again["Cache-Control"]


def test_each_form_has_a_tag_of_its_own(reader, event):
    tags = {reader.get(f"{address(event)}?format={form}")["ETag"] for form in ("html", "md", "json")}
    assert len(tags) == 3


def test_a_draft_that_has_changed_is_sent_again(reader):
    event = scenes.planned("escalated")
    tag = reader.get(f"{address(event)}?format=md")["ETag"]
    TimelineEntry.objects.create(event=event, at=event.detected_at, actor="ann", kind="note", message="looked at it")
    assert reader.get(f"{address(event)}?format=md", headers={"if-none-match": tag}).status_code == 200


def test_a_page_of_an_earlier_session_is_sent_again(reader, event, django_user_model):
    tag = reader.get(address(event))["ETag"]
    reader.force_login(django_user_model.objects.create_user("ben", password="x"))
    assert reader.get(address(event), headers={"if-none-match": tag}).status_code == 200


def test_head_gives_the_headers_alone(reader, event):
    answer = reader.head(f"{address(event)}?format=md")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.has_header("ETag")
