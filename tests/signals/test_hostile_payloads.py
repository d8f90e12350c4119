"""Payloads that are damaged anywhere, or are anything at all, at every webhook there is. Real: PostgreSQL, Django's
middleware, each sender's own proof (also SNS' signatures, with a key made here), the ingest, the loop's first stage.

A few hundred each time; `make test ARGS="--hypothesis-profile=thorough tests/signals/test_hostile_payloads.py"` tries
100,000.
"""

import json
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from byteport import loop
from byteport.sealing import seal
from runbooks.models import AgentSettings
from signals.models import SignalEvent, Source
from signals.source import SOURCES, WebhookSource
from signals.sources.sns import SnsSource
from tests.signals.sources.test_alertmanager import MOUNT, POD, alert
from tests.signals.sources.test_foreign_formats import EXAMPLES, OPTIONS, sns
from tests.signals.test_foreign_webhooks import AWS, now_text

pytestmark = [pytest.mark.proof, pytest.mark.django_db]
SECRET = "correct horse"
KINDS = sorted(name for name, source in SOURCES.items() if isinstance(source, WebhookSource))
PAYLOADS: dict[str, Callable[[], object]] = {
    **EXAMPLES,
    "alertmanager": lambda: {"version": "4", "alerts": [alert(**MOUNT), alert("resolved", **POD)]},
    "generic": lambda: [
        {"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "value": 91.5, "at": "2026-03-01T12:00:00Z"},
        {"signal": "odd", "resource": {"platform": "host", "place": "a", "kind": "b", "name": "c"}, "status": "firing",
         "labels": {"a": "b"}, "severity": "critical", "detail": "x"},
    ],
    "sns": lambda: json.loads(sns()["Message"]),  # the alarm's change itself: what is around it is signed afterwards
}  # fmt: skip

# Of what a refused or an accepted payload may leave behind, in one look.
LEFT = """
    SELECT (SELECT count(*) FROM signal_events), (SELECT count(*) FROM timeline_entries WHERE kind = 'detected'),
           (SELECT count(*) FROM series), (SELECT count(*) FROM samples), (SELECT count(*) FROM queued_tasks),
           (SELECT count(*) FROM webhook_deliveries), (SELECT count(*) FROM agent_actions)"""

one_in_ten = st.integers(0, 9).map(lambda n: n == 9)  # the loop takes far longer than the payload
odd_texts = st.sampled_from(["", "\x00", "a\nb", "\ud800", "\u202e", "💥", "x" * 5000, "byteport.x", "a/b/c/d"])
odd_numbers = st.sampled_from([float("nan"), float("inf"), -0.0, 1e308, 2**63, -(2**70), 10**400])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | odd_texts | odd_numbers
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | odd_texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, payload: object) -> object:
    """The payload with one to three of its parts replaced, dropped or doubled."""
    body = json.loads(json.dumps(payload))
    for _ in range(draw(st.integers(1, 3))):
        holder = body
        while isinstance(holder, dict | list) and holder:
            key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
                holder = holder[key]
                continue
            match draw(st.integers(0, 3)):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[draw(st.text(max_size=8))] = holder[key]
                case _:
                    holder[key] = draw(values)
            break
    return body


def bytes_of(payload: object) -> bytes:
    """As JSON; where it has texts that JSON cannot, as escapes that it should not have."""
    return json.dumps(payload).encode()


def bodies(payload: object) -> st.SearchStrategy[bytes]:
    whole = bytes_of(payload)
    cut = st.integers(0, len(whole) - 1)
    broken = st.tuples(cut, st.binary(max_size=4), st.integers(0, 4)).map(
        lambda hit: whole[: hit[0]] + hit[1] + whole[hit[0] + hit[2] :]
    )
    return damaged(payload).map(bytes_of) | broken | values.map(bytes_of) | st.binary(max_size=80)


@pytest.fixture(autouse=True)
def senders() -> Iterator[None]:
    """A source of every kind, named after it; BytePort may act; SNS' certificate comes from the test."""
    AgentSettings.objects.create(dry_run=False)
    for kind in KINDS:
        Source.objects.create(slug=kind, kind=kind, sealed_secret=seal(SECRET), options=OPTIONS.get(kind, {}))
    found, original = vars(SOURCES)["_found"], SOURCES["sns"]
    found["sns"] = SnsSource(AWS.fetch)
    yield
    found["sns"] = original


def test_every_webhook_has_a_payload_here():
    assert sorted(PAYLOADS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_malformed_payload_is_a_500_leads_to_an_action_or_is_kept_by_half(client, kind, data):
    body = proven(kind, data.draw(bodies(PAYLOADS[kind]())))
    with transaction.atomic():
        answer = client.generic(
            "POST", f"/hooks/{kind}", body, content_type="application/json",
            headers={"Authorization": f"Bearer {SECRET}"},
        )  # fmt: skip
        if answer.status_code == 202:
            assert_kept_as_a_whole()
            if data.draw(one_in_ten):
                assert_leads_to_no_action()
        else:
            assert answer.status_code in (400, 401), (answer.status_code, answer.content)
            assert answer["Content-Type"] == "application/problem+json"
            assert left() == (0,) * 7
        transaction.set_rollback(True)


def proven(kind: str, body: bytes) -> bytes:
    """The body as the sender itself would send it, where the proof is within: whoever is not proven gets no further."""
    if kind == "pagerduty":
        return body.replace(b'"routing_key": "secret"', f'"routing_key": "{SECRET}"'.encode())
    if kind != "sns":
        return body
    message = body.decode("utf-8", "replace").replace("\x00", "\ufffd")
    return json.dumps(AWS.signed({**sns(), "Message": message, "Timestamp": now_text()})).encode()


def left() -> tuple[int, ...]:
    with connection.cursor() as cursor:
        cursor.execute(LEFT)
        return tuple(cursor.fetchone())


def assert_kept_as_a_whole() -> None:
    """Each event with the line that says why, the series that it is of, and the task that goes on with it."""
    events, lines, series, _, tasks, _, actions = left()
    assert events == lines <= series
    assert events <= tasks
    assert actions == 0
    orphans = SignalEvent.objects.extra(where=["fingerprint NOT IN (SELECT fingerprint FROM series)"])
    assert not orphans.exists()


def assert_leads_to_no_action() -> None:
    """Nobody has opted in to anything here, and nothing that a payload says can stand for that."""
    for pk in SignalEvent.objects.values_list("pk", flat=True):
        loop.advance(pk)
    assert not SignalEvent.objects.filter(status__in=("acting", "verifying")).exists()
    assert left()[-1] == 0
