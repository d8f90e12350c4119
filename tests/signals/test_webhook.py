"""`POST /hooks/<slug>`. Real: PostgreSQL, Django's middleware, ingest, the loop. Most calls are made with Django's test
client; where bytes on the wire or a broken database matter, over TCP to gunicorn as `manage.py up` runs it. The clock
is real, so the senders' clocks are set wrong instead."""

import gzip
import hmac
import json
import socket
import subprocess
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPConnection

import pytest
from django.db import connection

from byteport import loop
from byteport.models import QueuedTask
from byteport.sealing import seal
from runbooks.models import AgentAction
from signals import health
from signals.models import Sample, Series, SignalEvent, Source, WebhookDelivery
from signals.sources.generic import SOURCE as GENERIC
from tests.webserver import address_of_test_database, free_port, serving

pytestmark = pytest.mark.django_db

SECRET = "correct horse battery stäple"
FULL = {"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "status": "firing"}
OVER = {**FULL, "status": "resolved"}
MEMBERS = {"type", "title", "status", "detail", "instance"}


@pytest.fixture
def source(db):
    return Source.objects.create(slug="checks", kind="generic", sealed_secret=seal(SECRET))


def signature(body: bytes, timestamp: str, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, sha256).hexdigest()


def signed(body: bytes, *, age_s: float = 0, secret: str = SECRET) -> dict[str, str]:
    timestamp = str(int(time.time() - age_s))
    return {"X-BytePort-Timestamp": timestamp, "X-BytePort-Signature": signature(body, timestamp, secret)}


def bearing(secret: str = SECRET) -> dict[str, str]:
    """As WSGI would hand the bytes over."""
    return {"Authorization": f"Bearer {secret}".encode().decode("latin-1")}


def post(client, body, headers=None, *, slug="checks", content_type="application/json"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = signed(raw) if headers is None else headers
    return client.generic("POST", f"/hooks/{slug}", raw, content_type=content_type, headers=headers)


def assert_refused(response, status: int) -> None:
    """A problem document of that status, and nothing kept."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    document = json.loads(response.content)
    assert document.keys() >= MEMBERS
    assert document["status"] == status
    assert nothing_kept()


def nothing_kept() -> bool:
    return not any(model.objects.exists() for model in (SignalEvent, Series, Sample, WebhookDelivery, QueuedTask))


# --- what is taken


def test_a_signed_call_is_answered_with_what_it_led_to(client, source):
    response = post(client, FULL)
    assert response.status_code == 202
    event = SignalEvent.objects.get()
    assert response.json() == {"accepted": 1, "opened": [event.pk], "cleared": [], "why": {"fires": 1}}
    assert (event.signal, event.resource, event.source) == ("disk_pressure", FULL["resource"], "checks")
    assert QueuedTask.objects.count() == 1


def test_a_signature_may_be_spelled_in_upper_case(client, source):
    body = json.dumps(FULL).encode()
    headers = signed(body)
    shouted = {**headers, "X-BytePort-Signature": headers["X-BytePort-Signature"].upper()}
    assert post(client, body, shouted).status_code == 202
    assert post(client, body, headers).status_code == 409


def test_a_bearer_may_repeat_itself_and_opens_one_event(client, source):
    assert post(client, FULL, bearing()).json()["opened"]
    again = post(client, FULL, bearing())
    assert again.status_code == 202
    assert again.json()["opened"] == []
    assert SignalEvent.objects.count() == 1


def test_firing_twice_is_one_event(client, source):
    post(client, {**FULL, "labels": {"call": "1"}})
    post(client, {**FULL, "labels": {"call": "2"}})
    assert SignalEvent.objects.count() == 1


def test_a_value_alone_is_a_measurement_that_has_to_hold(client, source):
    response = post(client, {"signal": "disk_pressure", "resource": FULL["resource"], "value": 99})
    assert response.json()["why"] == {"above the threshold, but not yet for long enough": 1}
    assert Sample.objects.get().value == 99
    assert not SignalEvent.objects.exists()


def test_resolved_closes_and_never_acts(client, source):
    event_id = post(client, FULL).json()["opened"][0]
    response = post(client, OVER)
    assert response.json()["cleared"] == [event_id]
    assert SignalEvent.objects.get().cleared_at is not None
    loop.advance(event_id)
    event = SignalEvent.objects.get()
    assert (event.status, event.resolved_by) == ("resolved", "itself")
    assert not AgentAction.objects.exists()


def test_resolved_without_an_event_opens_none(client, source):
    assert post(client, OVER).json()["opened"] == []
    assert not SignalEvent.objects.exists()


def test_an_unknown_status_is_kept_and_leads_to_nothing(client, source):
    response = post(client, {**FULL, "status": "kaputt", "value": 99})
    assert response.status_code == 202
    assert response.json()["why"] == {"the sender's status is not one that BytePort knows": 1}
    assert Series.objects.get().resource == FULL["resource"]
    assert not SignalEvent.objects.exists()
    assert not QueuedTask.objects.exists()


def test_an_unknown_status_does_not_close_an_open_event(client, source):
    post(client, FULL)
    post(client, {**FULL, "status": "ok?"})
    assert SignalEvent.objects.get().cleared_at is None


def test_a_list_is_taken_as_a_whole_or_not_at_all(client, source):
    mounts = [{**FULL, "resource": f"host/web-1/mount/%2Fdata{n}"} for n in range(3)]
    assert_refused(post(client, [*mounts, {**FULL, "value": "much"}]), 400)
    assert len(post(client, mounts).json()["opened"]) == 3


def test_alertmanager_with_its_password_or_its_token(client):
    Source.objects.create(slug="alerts", kind="alertmanager", sealed_secret=seal(SECRET))
    labels = {"alertname": "NodeFilesystemAlmostOutOfSpace", "instance": "web-1:9100", "mountpoint": "/var"}
    body = {"version": "4", "alerts": [{"status": "firing", "labels": labels}]}
    basic = {"Authorization": f"Basic {b64encode(f'byteport:{SECRET}'.encode()).decode()}"}
    assert len(post(client, body, basic, slug="alerts").json()["opened"]) == 1
    assert post(client, body, bearing(), slug="alerts").json()["opened"] == []
    assert SignalEvent.objects.get().labels["byteport.reports_end"] == "true"


def test_a_form_type_on_what_is_json_is_forgiven(client, source):
    assert post(client, FULL, content_type="application/x-www-form-urlencoded").status_code == 202


def test_the_sources_health_is_noted_about_once_a_second(client):
    Source.objects.create(slug="busy", kind="generic", sealed_secret=seal(SECRET))
    for n in range(4):
        post(client, {**FULL, "labels": {"n": str(n)}}, slug="busy")
    row = Source.objects.get()
    assert row.last_success_at is not None
    assert row.readings_total == 1
    time.sleep(1.1)
    post(client, FULL, slug="busy")
    row.refresh_from_db()
    assert row.readings_total == 5


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (FULL, {"Authorization": "Bearer wrong"}, "refused with 401: neither a signature nor the right bearer token"),
        ({"signal": "x"}, bearing(), "refused with 400: The body is not in the format"),
        (b"x" * 1_048_577, bearing(), "refused with 413: The body may have"),
    ],
)
def test_a_source_whose_latest_call_was_refused_says_why_until_one_is_taken(client, source, body, headers, told):
    assert post(client, FULL, bearing()).status_code == 202
    assert post(client, body, headers).status_code >= 400
    source.refresh_from_db()
    assert told in source.last_error
    assert source.last_error_at > source.last_success_at
    assert post(client, FULL, bearing()).status_code == 202
    source.refresh_from_db()
    assert source.last_error == ""
    assert source.last_success_at > source.last_error_at


@pytest.mark.parametrize("control", ["\x00", "\x1b[2J"])
def test_what_a_sender_writes_into_its_refusal_is_kept_and_works_no_terminal(client, source, control):
    assert post(client, {f"{control}x": 1}, bearing()).status_code == 400
    source.refresh_from_db()
    assert "unknown field" in source.last_error
    assert source.last_error.isprintable()


def test_strangers_cannot_have_every_refusal_written_down(client, source):
    post(client, FULL, bearing("guess"))
    source.refresh_from_db()
    first = source.last_error_at
    post(client, FULL, bearing("guess again"))
    source.refresh_from_db()
    assert source.last_error_at == first


def test_a_source_of_which_now_and_then_a_call_is_taken_is_seen_to_fail_again(client, source, monkeypatch):
    monkeypatch.setattr(health, "NOTE_EVERY_S", 0)
    for headers in (bearing("guess"), bearing(), bearing("guess")):
        post(client, FULL, headers)
    source.refresh_from_db()
    assert "refused with 401" in source.last_error


def test_what_was_dealt_with_before_and_what_is_no_call_are_no_fault_of_the_source(client, source):
    headers = signed(json.dumps(FULL).encode())
    assert post(client, FULL, headers).status_code == 202
    assert post(client, FULL, headers).status_code == 409
    assert client.get("/hooks/checks").status_code == 405
    source.refresh_from_db()
    assert source.last_error == ""


# --- who is let in

BODY = json.dumps(FULL).encode()
UNPROVEN = {
    "nothing": dict,
    "signature_without_timestamp": lambda: {"X-BytePort-Signature": signed(BODY)["X-BytePort-Signature"]},
    "timestamp_without_signature": lambda: {"X-BytePort-Timestamp": str(int(time.time()))},
    "wrong_secret": lambda: signed(BODY, secret="guess"),
    "empty_secret": lambda: signed(BODY, secret=""),
    "six_minutes_old": lambda: signed(BODY, age_s=360),
    "six_minutes_ahead": lambda: signed(BODY, age_s=-360),
    "another_body": lambda: signed(b"{}"),
    "another_timestamp": lambda: {**signed(BODY), "X-BytePort-Timestamp": str(int(time.time()) + 1)},
    "no_number": lambda: {"X-BytePort-Timestamp": "now", "X-BytePort-Signature": signature(BODY, "now")},
    "a_very_long_number": lambda: {
        "X-BytePort-Timestamp": "1" * 5000,
        "X-BytePort-Signature": signature(BODY, "1" * 5000),
    },
    "no_scheme": lambda: {**signed(BODY), "X-BytePort-Signature": signed(BODY)["X-BytePort-Signature"][7:]},
    "empty_signature": lambda: {**signed(BODY), "X-BytePort-Signature": ""},
    "not_ascii": lambda: {**signed(BODY), "X-BytePort-Signature": "sha256=ÿþ\xa0é"},
    "sent_twice": lambda: {k: f"{v},{v}" for k, v in signed(BODY).items()},
    "wrong_bearer": lambda: bearing("guess"),
    "empty_bearer": lambda: {"Authorization": "Bearer "},
    "bare_secret": lambda: {"Authorization": SECRET},
    "basic": lambda: {"Authorization": f"Basic {b64encode(f'x:{SECRET}'.encode()).decode()}"},
    "bad_signature_beside_the_right_bearer": lambda: {**signed(b"{}"), **bearing()},
}


@pytest.mark.parametrize("case", UNPROVEN)
def test_who_does_not_prove_itself_is_not_let_in(client, source, case):
    response = post(client, BODY, UNPROVEN[case]())
    assert_refused(response, 401)
    assert response["WWW-Authenticate"]


@pytest.mark.parametrize("age_s", [-290, 290])
def test_a_clock_may_be_five_minutes_off(client, source, age_s):
    assert post(client, BODY, signed(BODY, age_s=age_s)).status_code == 202


@pytest.mark.parametrize(("age_s", "told"), [(3600, "s behind"), (-3600, "s ahead of")])
def test_of_a_wrong_clock_the_source_says_which_way_it_is_off(client, source, age_s, told):
    assert_refused(post(client, BODY, signed(BODY, age_s=age_s)), 401)
    source.refresh_from_db()
    assert f"{told} BytePort's clock" in source.last_error
    assert "-" not in source.last_error


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer "}, signed(BODY, secret="")])
def test_a_source_without_a_secret_lets_nobody_in(client, headers):
    Source.objects.create(slug="checks", kind="generic")
    assert_refused(post(client, BODY, headers), 401)


def test_the_answers_to_the_unproven_are_all_alike_and_the_log_has_the_reason(client, source, caplog):
    details = {post(client, BODY, make()).json()["detail"] for make in UNPROVEN.values()}
    assert len(details) == 1
    assert "behind BytePort's clock" in caplog.text
    assert "not the one of this body" in caplog.text


def test_the_log_names_the_document_and_never_a_secret(client, source, caplog):
    given = signed(BODY, secret="guess")
    instance = post(client, BODY, given).json()["instance"]
    post(client, BODY, bearing(SECRET + "!"))
    assert instance in caplog.text
    assert SECRET not in caplog.text
    assert "guess" not in caplog.text
    assert given["X-BytePort-Signature"][7:] not in caplog.text


def test_a_replayed_delivery_is_refused(client, source):
    headers = signed(BODY)
    assert post(client, BODY, headers).status_code == 202
    SignalEvent.objects.all().delete()
    response = post(client, BODY, headers)
    assert response.status_code == 409
    assert response["Content-Type"] == "application/problem+json"
    assert not SignalEvent.objects.exists()
    assert WebhookDelivery.objects.count() == 1


def test_a_delivery_that_could_not_be_kept_can_be_sent_again(client, source):
    headers = signed(BODY)
    with failing_inserts("RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'"):
        response = post(client, BODY, headers)
        assert_refused(response, 503)
        assert int(response["Retry-After"]) > 0
    assert post(client, BODY, headers).status_code == 202


def test_even_a_fault_of_byteports_own_is_no_500(client, source, caplog):
    with failing_inserts("RAISE EXCEPTION 'a constraint nobody thought of' USING ERRCODE = 'check_violation'"):
        assert_refused(post(client, FULL), 503)
    assert "could not be kept" in caplog.text


class failing_inserts:  # noqa: N801 (reads as a function)
    """Has PostgreSQL itself run `statement` whenever an event is inserted."""

    def __init__(self, statement: str) -> None:
        self.statement = statement

    def __enter__(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {self.statement}; END$$;"
                "CREATE TRIGGER test_fault BEFORE INSERT ON signal_events EXECUTE FUNCTION test_fault()"
            )

    def __exit__(self, *_) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER test_fault ON signal_events; DROP FUNCTION test_fault")


def test_a_secret_sealed_with_another_key_is_byteports_own_trouble(client, source, settings):
    settings.SECRET_KEY = "another"
    assert_refused(post(client, FULL), 503)


# --- what is refused


@pytest.mark.parametrize("slug", ["nobody", "host", "off", "checks/", "a" * 65, "%00", "%F0%9F%92%A5", "../admin", "'"])
def test_an_address_that_is_no_webhook_is_not_found(client, source, slug):
    Source.objects.create(slug="host", kind="host")
    Source.objects.create(slug="off", kind="generic", sealed_secret=seal(SECRET), enabled=False)
    assert_refused(post(client, FULL, slug=slug), 404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_answered(client, source, method):
    response = client.generic(method, "/hooks/checks")
    assert response.status_code == 405
    assert response["Allow"] == "POST"
    assert response["Content-Type"] == "application/problem+json"
    assert method == "HEAD" or "POST" in response.json()["detail"]


def test_more_than_the_limit_is_too_large_even_when_it_is_signed(client, source):
    body = json.dumps({**FULL, "detail": "x" * 1_048_576}).encode()
    assert_refused(post(client, body), 413)


def test_what_is_just_within_the_limit_is_read(client, source):
    body = BODY + b" " * (1_048_576 - len(BODY))
    assert post(client, body).status_code == 202


@pytest.mark.parametrize("length", ["abc", "-1", "+7", "1" * 5000])
def test_a_length_that_is_no_number_is_malformed(client, source, length):
    response = client.generic("POST", "/hooks/checks", BODY, headers=signed(BODY), CONTENT_LENGTH=length)
    assert_refused(response, 400)


def test_chunks_whose_end_the_server_does_not_tell_need_a_length(client, source):
    assert_refused(post(client, b"", {**bearing(), "Transfer-Encoding": "chunked"}), 411)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_compressed_body_is_refused_with_what_to_do(client, source, coding):
    body = gzip.compress(json.dumps(FULL).encode())
    response = post(client, body, {**signed(body), "Content-Encoding": coding})
    assert_refused(response, 415)
    assert f"not compressed: its Content-Encoding is {coding}" in response.json()["detail"]
    assert response["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("encoding", "remedy"),
    [("latin-1", "Send it in UTF-8."), ("utf-16", "Send it in UTF-8."), ("utf-8-sig", "order mark")],
)
def test_what_is_in_another_encoding_is_refused_with_what_to_do(client, source, encoding, remedy):
    body = json.dumps({**FULL, "labels": {"where": "Köln"}}, ensure_ascii=False).encode(encoding)
    response = post(client, body)
    assert_refused(response, 400)
    assert remedy in response.json()["detail"]


@pytest.mark.parametrize("content_type", ["text/xml", "multipart/form-data; boundary=x", "application/octet-stream"])
def test_what_is_clearly_not_json_is_an_unsupported_type(client, source, content_type):
    assert_refused(post(client, b"<alert/>", content_type=content_type), 415)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"3", b'"text"', b"{}", b"{}{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 500_000,
        b'{"signal": ' * 90_000, b'[{"a":' + b"[" * 400_000, BODY + b"]", BODY.replace(b"firing", b"\xff"),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_cannot_be_read_is_malformed(client, source, body):
    assert_refused(post(client, body), 400)


WRONG_VALUES = {
    "signal": ["", 7, None, "x" * 129, "a\x00b", "a\nb", "\x1b[31m", ["disk_pressure"]],
    "resource": [
        "", "host", "host/web-1/mount/", "host//mount/x", "a/b/c/d/e/f", "host/web-1/mount/%00", "host/w\n/mount/x",
        "host/web-1/mount/" + "x" * 1020, "host/web-1/mount/" + "é" * 400, "host/web-1/drill/d1", 5, None, {},
        {"platform": "host", "place": "web-1", "kind": "mount"},
        {"platform": "host", "place": "web-1", "kind": "mount", "name": ""},
        {"platform": "host", "place": "web-1", "kind": "drill", "name": "d1"},
        {"platform": "host", "place": "web-1", "kind": "mount", "name": "/", "owner": "me"},
        {"platform": "host", "place": "a\x00", "kind": "mount", "name": "/"},
    ],
    "value": ["91", True, [1], {"percent": 91}],
    "status": [5, None, "x" * 65, "firing\x00", {}],
    "at": ["yesterday", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", 1e300, -1, 0, True, "", 1_700_000_000_000],
    "detail": [None, 3, "x" * 257, "\x00", "a\u202eb"],
    "labels": [
        [], "a=b", {"k": 1}, {"k": None}, {"": "v"}, {"k": "\x00"}, {"k\n": "v"}, {"k" * 257: "v"}, {"k": "v" * 4097},
        {str(n): "" for n in range(65)},
    ],
    "severity": ["apocalyptic", 3, "CRITICAL"],
    "state": ["firing"],
}  # fmt: skip
CASES = [(field, value) for field, values in WRONG_VALUES.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CASES, ids=range(len(CASES)))
def test_a_field_that_is_not_in_the_format_is_malformed(client, source, field, value):
    assert_refused(post(client, {**FULL, field: value}), 400)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
@pytest.mark.parametrize("field", ["value", "at"])
def test_what_is_not_a_finite_number_is_malformed(client, source, field, number):
    body = BODY.replace(b"{", f'{{"{field}": {number}, '.encode(), 1)
    assert_refused(post(client, body), 400)


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\ud800\\u0041"])
@pytest.mark.parametrize("field", ["signal", "resource", "status", "detail"])
def test_half_a_surrogate_pair_is_malformed(client, source, field, text):
    body = json.dumps({**FULL, field: "@@"}).replace("@@", text).encode()
    assert_refused(post(client, body), 400)


def test_what_byteport_judges_by_itself_is_not_taken_from_outside(client, source):
    """Else a sender could make a service look as if it leaked."""
    forged = {**FULL, "signal": "byteport.memory_consumer", "status": "firing", "resource": "host/web-1/memory/memory"}
    assert_refused(post(client, forged), 400)
    assert nothing_kept()


def test_more_than_a_thousand_messages_are_refused_at_once(client, source):
    assert_refused(post(client, [FULL] * 1001), 400)


# --- over the wire


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        url = address_of_test_database()
    with serving(url) as port:
        yield port


@pytest.fixture
def committed(transactional_db):
    return Source.objects.create(slug="checks", kind="generic", sealed_secret=seal(SECRET))


def call(port: int, body: bytes, headers: dict[str, str], slug: str = "checks") -> tuple[int, dict]:
    wire = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        wire.request("POST", f"/hooks/{slug}", body, {"Content-Type": "application/json", **headers})
        answer = wire.getresponse()
        return answer.status, {**dict(answer.headers), **json.loads(answer.read())}
    finally:
        wire.close()


def send_raw(port: int, *parts: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
        for part in parts:
            wire.sendall(part)
        wire.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer


def head(*lines: str) -> bytes:
    start = ["POST /hooks/checks HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*start, *lines, "", ""]).encode("latin-1")


def header_lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def test_over_the_wire_a_call_is_answered_after_commit(server, committed):
    status, answer = call(server, BODY, signed(BODY))
    assert status == 202
    assert SignalEvent.objects.get().pk == answer["opened"][0]


def test_of_eight_like_calls_at_the_same_time_one_is_taken(server, committed):
    headers = signed(BODY)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: call(server, BODY, headers)[0], range(8)))
    assert sorted(statuses) == [202] + [409] * 7
    assert SignalEvent.objects.count() == 1


def test_a_body_in_chunks_is_read(server, committed):
    lines = header_lines(signed(BODY))
    status, _ = send_raw(server, head("Transfer-Encoding: chunked", *lines), chunks(BODY[:10], BODY[10:]))
    assert status == 202


def test_chunks_without_end_are_cut_off_at_the_limit(server, committed):
    body = chunks(*[b"x" * 65536] * 20)
    status, answer = send_raw(server, head("Transfer-Encoding: chunked", *header_lines(bearing())), body)
    assert status == 413
    assert b"application/problem+json" in answer


def test_chunks_that_break_off_are_malformed(server, committed):
    lines = header_lines(bearing())
    status, _ = send_raw(server, head("Transfer-Encoding: chunked", *lines), b"ff\r\n" + BODY)
    assert status == 400
    assert nothing_kept()


def test_a_body_shorter_than_announced_is_not_taken_and_can_be_sent_again(server, committed):
    for part in (BODY[:-5], BODY):
        lines = [f"Content-Length: {len(BODY) + 9}", *header_lines(signed(part))]
        status, answer = send_raw(server, head(*lines), part)
        assert (status, b"Retry-After" in answer) == (503, True)
        assert nothing_kept()


@pytest.mark.parametrize("more", [{}, {"Connection": "close"}])
def test_a_large_body_gets_its_answer_before_the_connection_ends(server, committed, more):
    assert call(server, b"x" * 8_000_000, {**bearing(), **more})[0] == 413


def test_without_a_length_there_is_no_body(server, committed):
    assert send_raw(server, head(*header_lines(signed(BODY))))[0] == 401
    assert send_raw(server, head(*header_lines(signed(b""))))[0] == 400


def test_a_header_sent_twice_proves_nothing(server, committed):
    lines = header_lines(signed(BODY))
    assert send_raw(server, head(f"Content-Length: {len(BODY)}", *lines, lines[1]), BODY)[0] == 401


def test_bytes_that_are_no_text_in_a_header_prove_nothing(server, committed):
    lines = [f"Content-Length: {len(BODY)}", "Authorization: Bearer \xff\xfe\xe9"]
    assert send_raw(server, head(*lines), BODY)[0] == 401


def test_when_postgresql_ends_the_connection_the_call_can_be_made_again(server, committed):
    headers = signed(BODY)
    with failing_inserts("PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL"):
        status, answer = call(server, BODY, headers)
    assert (status, answer["status"]) == (503, 503)
    assert int(answer["Retry-After"]) > 0
    assert nothing_kept()
    assert call(server, BODY, headers)[0] == 202


def test_a_connection_that_postgresql_has_ended_meanwhile_costs_no_call(server, committed):
    assert call(server, BODY, bearing())[0] == 202
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        assert (True,) in cursor.fetchall()
    assert call(server, BODY, bearing())[0] == 202


@pytest.fixture(scope="module")
def stranded():
    """A web process whose PostgreSQL is away: nothing listens at its port."""
    with serving(f"postgres://byteport:hidden@127.0.0.1:{free_port()}/byteport") as port:
        yield port


@pytest.mark.parametrize("slug", ["checks", "nobody"])
def test_without_postgresql_the_sender_is_told_to_try_again(stranded, slug):
    status, answer = call(stranded, BODY, signed(BODY), slug)
    assert status == 503
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.keys() >= MEMBERS
    assert int(answer["Retry-After"]) > 0
    assert "hidden" not in json.dumps(answer)


def test_without_postgresql_what_is_wrong_in_itself_is_still_said(stranded):
    assert call(stranded, b"x" * 2_000_000, signed(BODY))[0] == 413


def test_the_snippet_works_as_it_is_pasted(server, committed):
    committed.sealed_secret = seal("it's a $ecret")
    committed.save()
    snippet = GENERIC.snippet(f"http://127.0.0.1:{server}/hooks/checks", "it's a $ecret")
    ran = subprocess.run(["bash", "-euc", snippet], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["accepted"] == 1
