"""Search over postmortems: real PostgreSQL, the console through Django's test client, the command in this process.

Not real: the incidents are rows of `tests.incidents.scenes`; only a few texts are those of a whole postmortem.
"""

import json
import math
from html import escape
from io import StringIO
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client

from incidents import search
from incidents.postmortem import render_record
from incidents.search import Cursor, Piece, cursor_of, pieces_of
from signals.models import SignalEvent
from tests.incidents import scenes
from tests.incidents.examples import example_of
from tests.incidents.test_postmortem import HOSTILE, everywhere

pytestmark = pytest.mark.django_db
ODD = ["'", "((", "!!", ":*", "a & | b", "\\", "%s", "%(id)s", '"', "-", "or", "the", "\0", "a" * 3000, "\u202e", "<b>"]


def kept(text: str, **fields: object) -> SignalEvent:
    return scenes.incident("resolved", postmortem_md=text, postmortem_final=True, **fields)


def found(query: str, after: Cursor | None = None) -> list[int]:
    return [hit.event.pk for hit in search.search(query, after).hits]


def shown(query: str) -> str:
    """The best match's snippet, what was asked for in brackets."""
    pieces = search.search(query).hits[0].pieces
    return "".join(f"[{piece.text}]" if piece.hit else piece.text for piece in pieces).strip()


@pytest.fixture
def reader(client: Client) -> Client:
    client.force_login(User.objects.create_user("guest"))
    return client


def page(client: Client, **query: str) -> str:
    answer = client.get("/postmortems/", query)
    assert answer.status_code == 200
    return answer.content.decode()


def command(*args: str) -> dict[str, object]:
    out = StringIO()
    call_command("postmortems", *args, "--json", stdout=out)
    return json.loads(out.getvalue())


# --- what is found


@pytest.mark.parametrize(
    "query",
    ["cart", "shop/cart", "Restarting", '"memory limit"', "limit -disk", "nothing or OOMKilled", "access.log", "4.1"],
)
def test_it_is_found_by(query):
    event = kept("It was restarted: shop/cart:4.1.0 was OOMKilled at its memory limit; see /srv/access.log.3.gz.")
    kept("Another one of which nobody asked: a disk.", resource=scenes.VAR)
    assert found(query) == [event.pk]


@pytest.mark.parametrize("query", ["cart disk", '"limit memory"', "cart -memory", "the"])
def test_it_is_not_found_by(query):
    kept("The cart was at its memory limit.")
    assert found(query) == []


def test_a_whole_postmortem_is_found_by_what_is_in_it():
    ids = {name: kept(render_record(example_of(name))).pk for name in ("cleanup_logs", "rollback_deployment")}
    assert found("shop/cart revision") == [ids["rollback_deployment"]]
    assert found("journal vacuum web-1") == [ids["cleanup_logs"]]
    assert "shop/[cart]:4.2.0 → shop/[cart]:4.1.0" in shown("cart rollout")


def test_a_draft_is_found_and_an_incident_without_a_text_is_not():
    draft = scenes.incident("escalated", postmortem_md="# Draft of a cart")
    scenes.incident("detected")
    assert found("cart") == found("") == [draft.pk]


def test_the_better_match_comes_first_and_of_equals_the_newer():
    often, once, newer = kept("cart cart cart"), kept("a cart beside much else here"), kept("cart cart cart")
    assert found("cart") == [newer.pk, often.pk, once.pk]


# --- pages


@pytest.mark.parametrize("query", ["cart", ""])
def test_the_pages_hold_everything_once(query):
    ids = {kept(f"cart {'cart ' * (number % 3)}").pk for number in range(2 * search.PAGE + 5)}
    seen, after = [], None
    while (part := search.search(query, after)).hits:
        seen += [hit.event.pk for hit in part.hits]
        after = cursor_of(str(part.after))
        if after is None:
            break
    assert len(seen) == len(ids)
    assert set(seen) == ids


def test_of_very_many_matches_the_latest_are_ranked_and_that_is_said(monkeypatch):
    monkeypatch.setattr(search, "RANKED", 2)
    monkeypatch.setattr(search, "FIND", search.FIND.replace("LIMIT 2000", "LIMIT 2"))
    kept("cart cart cart")
    later = [kept("cart").pk, kept("cart").pk]
    result = search.search("cart")
    assert ([hit.event.pk for hit in result.hits], result.cut) == (later[::-1], True)


@pytest.mark.parametrize("text", ["", "x", "1_", "_1", "nan_1", "1_-1", "1_9999999999999999999", "1_1_1", "1_١"])
def test_what_is_no_cursor_is_none(text):
    assert cursor_of(text) is None


@pytest.mark.parametrize("cursor", [Cursor(0.06079271, 12), Cursor(math.inf, 1)])
def test_a_cursor_survives_an_address(cursor):
    assert cursor_of(str(cursor)) == cursor


def test_the_index_is_used():
    SignalEvent.objects.bulk_create(
        SignalEvent(
            fingerprint=scenes.fingerprint("disk_pressure", scenes.VAR, str(number)), signal="disk_pressure",
            resource=str(scenes.VAR), severity="warning", status="resolved", resolved_by="itself",
            detected_at=scenes.now(), last_seen_at=scenes.now(), resolved_at=scenes.now(),
            postmortem_md=f"A disk of number{number} was cleaned up. " * 20,
        )
        for number in range(800)
    )  # fmt: skip
    with connection.cursor() as cursor:
        # As autovacuum leaves it: a GIN index with thousands of words still pending is dearer than the table.
        cursor.execute("SELECT gin_clean_pending_list('events_postmortem_words')")
        cursor.execute("ANALYZE signal_events")
        values = {"query": "number77 disk", "rank": math.inf, "id": 2**62}
        cursor.execute(f"EXPLAIN {search.FIND}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    for told in (plan, search.matching(SignalEvent.objects.order_by("-pk"), "number77 disk").explain()):
        assert "Bitmap Index Scan on events_postmortem_words" in told
        assert "Seq Scan" not in told


# --- what others wrote


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_shows_as_it_is_and_is_no_markup(reader, text):
    kept(render_record(everywhere(f"needle {text}")))
    html = page(reader, q="needle")
    assert "<mark>needle</mark>" in html
    for part in ("<script>alert", "<img", "<!-- ", '<a href="javascript', "</article>", "\u202e"):
        assert part not in html.partition('<ol class="hits">')[2]


@pytest.mark.parametrize("query", ODD)
def test_no_query_is_too_odd(reader, query):
    kept("a cart")
    html = page(reader, q=query)
    assert f'value="{escape(query.replace(chr(0), "").strip()[:200])}"' in html


def test_the_markup_of_a_postmortem_is_not_shown_and_what_it_escapes_is():
    headline = "| **a** | `b` \x02cart\x03 \\[x\\] &#124; snake\\_case\\_ &#64;\u200dann |\n| --- | --- |"
    assert list(pieces_of(headline)) == [Piece(" a b "), Piece("cart", hit=True), Piece(" [x] | snake_case_ @ann ")]


def test_no_word_is_too_long_and_no_text_has_too_many():
    event = kept(
        "needle " + " ".join(chr(0x1F300 + number % 500) + str(number) for number in range(40_000)) + "x" * 9999
    )
    assert found("needle") == [event.pk]


# --- console and command


def test_the_console_says_what_to_do_where_there_is_nothing(reader):
    assert "No postmortem yet." in page(reader)
    kept("a cart")
    assert "No postmortem matches." in page(reader, q="weather")
    assert "There are no more." in page(reader, q="cart", after="0.0_1")


def test_the_console_leads_on_to_the_next_page(reader):
    for _ in range(search.PAGE + 1):
        kept("cart")
    first = page(reader, q="cart")
    following = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert reader.get(f"/postmortems/{following}").content.decode().count('class="hit"') == 1
    assert page(reader, q="cart", after="nonsense").count('class="hit"') == search.PAGE


def test_the_command_finds_the_same():
    event = kept("The cart")
    assert command("cart")["postmortems"][0] | {"detected_at": 0, "resolved_at": 0} == {
        "id": event.pk, "signal": "disk_pressure", "resource": str(scenes.VAR), "label": "/var on web-1",
        "status": "resolved", "resolved_by": "byteport", "final": True, "detected_at": 0, "resolved_at": 0,
        "snippet": "«cart»",
    }  # fmt: skip
    assert command("weather") == {"postmortems": [], "after": "", "cut": False}


def test_the_command_pages_and_refuses_what_is_no_cursor(capsys):
    for _ in range(search.PAGE + 1):
        kept("cart")
    after = command("cart")["after"]
    assert len(command("cart", "--after", after)["postmortems"]) == 1
    with pytest.raises(SystemExit):
        call_command("postmortems", "--after", "x")


# --- the API


def listed(client: Client, **query: str) -> list[int]:
    """All pages, one row each."""
    seen, address = [], f"/api/v1/postmortems/?{urlencode({'page_size': 1, **query})}"
    while address:
        page = client.get(address).json()
        seen += [row["event_id"] for row in page["results"]]
        address = page["next"]
    return seen


@pytest.mark.parametrize("query", ["cart", '"memory limit"', "limit -disk", "nothing or OOMKilled", "  cart  "])
def test_the_api_filters_by_the_same_words_and_pages_the_newest_first(reader, query):
    text = "shop/cart was OOMKilled at its memory limit"
    found_ids = [kept(f"{text}, cart cart").pk, kept(text).pk, kept(text).pk]
    kept("Another one: a disk.")
    assert listed(reader, q=query) == found_ids[::-1]


def test_the_apis_other_filters_narrow_a_search_further(reader):
    kept("a cart", signal="memory_pressure")
    event = kept("a cart")
    scenes.incident("escalated", postmortem_md="a cart")
    assert listed(reader, q="cart", signal="disk_pressure", postmortem_final="true") == [event.pk]


@pytest.mark.parametrize("query", ODD)
def test_no_query_is_too_odd_for_the_api(reader, query):
    event = kept("a cart")
    answer = reader.get("/api/v1/postmortems/", {"q": query})
    if len(query) > search.QUERY_CHARS or "\0" in query:
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
        assert answer.json()["detail"].startswith("q: ")
    else:
        assert answer.status_code == 200
        assert {row["event_id"] for row in answer.json()["results"]} <= {event.pk}


def test_without_a_query_the_api_lists_them_all(reader):
    ids = {kept("a cart").pk, kept("a disk").pk}
    assert set(listed(reader, q="")) == ids == set(listed(reader))
