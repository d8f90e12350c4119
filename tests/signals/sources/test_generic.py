"""BytePort's own webhook format, pure: bytes in, readings out. Who is let in: tests/signals/test_webhook.py."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from byteport.core.resource import ResourceRef
from signals.reading import State
from signals.source import Call, SourceConfig, WebhookSource
from signals.sources.generic import SOURCE
from signals.untrusted import MalformedError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL = {"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "value": 91.5}


def parse(*messages: dict, as_list: bool = True, **options):
    body = json.dumps(list(messages) if as_list else messages[0]).encode()
    return SOURCE.parse(SourceConfig("checks", options), Call({}, body), NOW)


def one(**fields):
    return parse({**FULL, **fields})[0]


def test_it_is_a_webhook():
    assert isinstance(SOURCE, WebhookSource)


def test_a_message_alone_is_a_list_of_one():
    assert parse(FULL, as_list=False) == parse(FULL)


def test_no_messages_are_no_readings():
    assert parse() == []


def test_a_resource_is_named_by_its_text_or_by_its_parts():
    parts = {"platform": "kubernetes", "place": "prod", "namespace": "shop", "kind": "deployment", "name": "cart"}
    assert one().resource == ResourceRef("host", "web-1", "mount", "/var")
    assert one(resource=parts).resource == one(resource="kubernetes/prod/shop/deployment/cart").resource


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, State.MEASURED),
        ({"status": "measured"}, State.MEASURED),
        ({"status": "firing"}, State.FIRING),
        ({"status": "FIRING", "value": None}, State.FIRING),
        ({"status": "resolved"}, State.RESOLVED),
        ({"status": "ok"}, State.UNKNOWN),
        ({"status": "unknown"}, State.UNKNOWN),
        ({"status": " "}, State.UNKNOWN),
    ],
)
def test_the_status_says_who_has_judged(fields, state):
    assert one(**fields).state is state


@pytest.mark.parametrize("fields", [{"value": None}, {"value": None, "status": "measured"}])
def test_a_measurement_without_a_value_is_malformed(fields):
    with pytest.raises(MalformedError, match="neither a status"):
        one(**fields)


def test_a_value_of_a_signal_without_a_threshold_needs_a_status_and_says_so():
    with pytest.raises(MalformedError, match="no threshold"):
        one(signal="queue_depth")
    assert one(signal="queue_depth", status="firing").value == 91.5


@pytest.mark.parametrize("at", ["2026-03-01T11:59:00Z", "2026-03-01T12:59:00+01:00", 1772366340, 1772366340.0])
def test_a_time_is_rfc_3339_or_unix_seconds(at):
    assert one(at=at).at == NOW - timedelta(minutes=1)
    assert one(at=at).at.tzinfo is UTC


def test_without_a_time_of_their_own_the_messages_of_a_call_are_in_its_order():
    first, second = parse({**FULL, "status": "firing"}, {**FULL, "status": "resolved"})
    assert NOW <= first.at < second.at < NOW + timedelta(seconds=1)


def test_a_time_long_past_is_malformed():
    with pytest.raises(MalformedError, match="days ago"):
        one(at="2026-01-01T00:00:00Z")


def test_labels_from_outside_cannot_speak_for_byteport():
    labels = {"byteport.reports_end": "true", "BytePort.x": "1", "team": "shop", "byteport_signal": "kept"}
    assert one(labels=labels).labels == {"team": "shop", "byteport_signal": "kept"}


def test_only_the_operator_can_say_that_the_sender_reports_the_end():
    assert parse(FULL, reports_end=True)[0].labels == {"byteport.reports_end": "true"}
    assert parse(FULL, reports_end="yes")[0].labels == {}


def test_the_severity_goes_along_as_a_label():
    assert one(severity="critical", status="firing").labels == {"severity": "critical"}


def test_line_breaks_may_stay_in_a_label():
    assert one(labels={"log": "a\n\tb"}).labels["log"] == "a\n\tb"


def test_the_complaint_names_the_message_and_the_field():
    with pytest.raises(MalformedError, match=r"Message 2 of 2: not a resource reference"):
        parse(FULL, {**FULL, "resource": "web-1"})
    with pytest.raises(MalformedError, match=r"\$\[1\]\.value"):
        parse(FULL, {**FULL, "value": "91"})


def test_every_reading_bears_the_name_of_its_source():
    assert one(detail="c1").source == "checks"
    assert one(detail="c1").detail == "c1"
