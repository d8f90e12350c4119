"""How each foreign sender proves itself, over Django's client. Real: PostgreSQL, ingest, SNS' signatures (RSA keys and
certificates made here). AWS is the one thing not there: what would be fetched from it comes from the test."""

import base64
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from byteport.core.errors import Temporary
from byteport.sealing import seal
from signals.models import AlertMapping, Sample, Series, SignalEvent, Source, Status
from signals.source import SOURCES
from signals.sources.sns import CERTIFICATE_PATH, SnsSource, is_aws
from tests.signals.sources.test_foreign_formats import TOPIC, cloudevent, datadog, gcp, grafana, pagerduty, sns

pytestmark = pytest.mark.django_db
SECRET = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {SECRET}"}
BASIC = {"Authorization": "Basic " + base64.b64encode(f"anyone:{SECRET}".encode()).decode()}
CERTIFICATE_URL = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"


@pytest.fixture
def source_of(db):
    def make(kind: str, **options: object) -> Source:
        return Source.objects.create(slug="sender", kind=kind, sealed_secret=seal(SECRET), options=options)

    return make


def post(client, body, headers=None, *, to="/hooks/sender", content_type="application/json"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.generic("POST", to, raw, content_type=content_type, headers=headers or {})


def assert_refused(response, status: int) -> None:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert not any(model.objects.exists() for model in (SignalEvent, Series, Sample))


# --- secrets in headers

PLAIN = [("grafana", grafana()), ("datadog_monitor", datadog()), ("gcp_incident", gcp()), ("cloudevents", cloudevent())]


@pytest.mark.parametrize(("kind", "body"), PLAIN)
def test_the_secret_lets_in_as_bearer_token_or_basic_password_and_nothing_else_does(client, source_of, kind, body):
    source_of(kind, firing=["*"])
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}, {"X-Secret": SECRET}):
        assert_refused(post(client, body, headers), 401)
    assert post(client, body, BEARER).status_code == 202
    assert post(client, body, BASIC).status_code == 202
    assert SignalEvent.objects.count() == 1


@pytest.mark.parametrize(("kind", "body"), [*PLAIN, ("pagerduty", pagerduty())])
def test_a_source_without_a_secret_lets_nobody_in(client, source_of, kind, body):
    Source.objects.filter(pk=source_of(kind).pk).update(sealed_secret="")
    assert_refused(post(client, {**body, "routing_key": ""}, {"Authorization": "Bearer "}), 401)


def test_google_may_carry_the_token_in_the_address(client, source_of):
    source_of("gcp_incident")
    assert_refused(post(client, gcp(), to="/hooks/sender?token=wrong"), 401)
    assert post(client, gcp(), to=f"/hooks/sender?token={SECRET.replace(' ', '+')}").status_code == 202


# --- Grafana's signature


def signed(body: bytes, *, age_s: float = 0, secret: str = SECRET, timestamped: bool = True) -> dict[str, str]:
    timestamp = str(int(time.time() - age_s))
    over = timestamp.encode() + b":" + body if timestamped else body
    headers = {"X-Grafana-Alerting-Signature": hmac.new(secret.encode(), over, sha256).hexdigest()}
    return {**headers, "X-Grafana-Alerting-Timestamp": timestamp} if timestamped else headers


def test_grafanas_signature_is_over_timestamp_and_body_or_the_body_alone(client, source_of):
    source_of("grafana")
    body = json.dumps(grafana()).encode()
    assert post(client, body, signed(body)).status_code == 202
    assert post(client, body, signed(body, timestamped=False)).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        signed(json.dumps(grafana()).encode(), secret="another"),
        signed(json.dumps(grafana("resolved")).encode()),
        signed(json.dumps(grafana()).encode(), age_s=400),
        {**signed(json.dumps(grafana()).encode()), "X-Grafana-Alerting-Timestamp": "soon"},
        {**signed(json.dumps(grafana()).encode()), "X-Grafana-Alerting-Signature": ""},
        {**signed(json.dumps(grafana()).encode(), secret="another"), **BEARER},
    ],
    ids=["wrong secret", "another body", "old", "no number", "missing", "wrong, with the right bearer"],
)
def test_a_signature_that_is_not_right_is_refused(client, source_of, headers):
    source_of("grafana")
    assert_refused(post(client, grafana(), headers), 401)


# --- PagerDuty's address


def test_what_pages_pagerduty_can_point_here_unchanged(client, source_of):
    source_of("pagerduty")
    answer = post(client, {**pagerduty(), "routing_key": SECRET}, to="/v2/enqueue")
    assert answer.status_code == 202
    assert answer.json() == {"status": "success", "message": "Event processed", "dedup_key": "disk/web-1"}
    event = SignalEvent.objects.get()
    assert (event.signal, event.source) == ("alert:disk", "sender")
    over = {"routing_key": SECRET, "event_action": "resolve", "dedup_key": "disk/web-1"}
    assert post(client, over, to="/v2/enqueue").status_code == 202
    assert SignalEvent.objects.get().cleared_at is not None


def test_a_key_that_ends_nothing_is_taken_and_changes_nothing(client, source_of):
    source_of("pagerduty")
    over = {"routing_key": SECRET, "event_action": "resolve", "dedup_key": "never heard of"}
    assert post(client, over, to="/v2/enqueue").status_code == 202
    assert not Series.objects.exists()


def test_one_sources_key_does_not_end_anothers_incident(client, source_of):
    source_of("pagerduty")
    post(client, {**pagerduty(), "routing_key": SECRET})
    Source.objects.create(slug="other", kind="pagerduty", sealed_secret=seal("other"))
    over = {"routing_key": "other", "event_action": "resolve", "dedup_key": "disk/web-1"}
    assert post(client, over, to="/v2/enqueue").status_code == 202
    assert SignalEvent.objects.get().cleared_at is None


@pytest.mark.parametrize("key", ["wrong", "", None, 7])
def test_a_routing_key_that_no_source_has_is_refused(client, source_of, key):
    source_of("pagerduty")
    assert_refused(post(client, {**pagerduty(), "routing_key": key}, to="/v2/enqueue"), 401)


def test_a_source_that_is_switched_off_has_no_routing_key(client, source_of):
    Source.objects.filter(pk=source_of("pagerduty").pk).update(enabled=False)
    assert_refused(post(client, {**pagerduty(), "routing_key": SECRET}, to="/v2/enqueue"), 401)


# --- CloudEvents' handshake


def test_the_handshake_allows_the_origins_on_the_list_and_no_others(client, source_of):
    source_of("cloudevents", origins=["events.example.com"])
    yes = client.options("/hooks/sender", headers={"WebHook-Request-Origin": "events.example.com"})
    assert yes["WebHook-Allowed-Origin"] == "events.example.com"
    assert int(yes["WebHook-Allowed-Rate"]) > 0
    no = client.options("/hooks/sender", headers={"WebHook-Request-Origin": "evil.example.com"})
    assert no.status_code == 405
    assert "WebHook-Allowed-Origin" not in no


def test_the_handshake_is_no_authentication(client, source_of):
    source_of("cloudevents", origins=["*"], firing=["*"])
    client.options("/hooks/sender", headers={"WebHook-Request-Origin": "x"})
    assert_refused(post(client, cloudevent(), {"WebHook-Request-Origin": "x"}), 401)


# --- SNS


class Aws:
    """What SNS has: a key, a certificate, and the addresses that were visited."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(self.key, SHA256())
        ).public_bytes(Encoding.PEM)  # fmt: skip
        self.visited: list[str] = []
        self.away = False

    def fetch(self, url: str) -> bytes:
        if self.away:
            raise Temporary("SNS answered 503")
        self.visited.append(url)
        return self.certificate if url.endswith(".pem") else b"<ConfirmSubscriptionResponse/>"

    def signed(self, message: dict, version: str = "2") -> dict:
        message = {**message, "SignatureVersion": version}
        names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
        kind = {"1": SHA1, "2": SHA256}[version]()
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), kind)
        return {**message, "Signature": base64.b64encode(signature).decode()}


AWS = Aws()


@pytest.fixture
def aws(source_of):
    """The SNS source as it is, with AWS at its far end played here."""
    source_of("sns", topics=[TOPIC])
    AWS.visited, AWS.away = [], False
    found, original = vars(SOURCES)["_found"], SOURCES["sns"]
    found["sns"] = SnsSource(AWS.fetch)
    yield AWS
    found["sns"] = original


def now_text(age: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def notification(age: timedelta = timedelta(), **fields: object) -> dict:
    return {**sns(), "Timestamp": now_text(age), **fields}


def confirmation(**fields: object) -> dict:
    return {
        "Type": "SubscriptionConfirmation", "MessageId": "165545c9", "Token": "2336412f37", "TopicArn": TOPIC,
        "Message": "You have chosen to subscribe …", "Timestamp": now_text(), "SigningCertURL": CERTIFICATE_URL,
        "SubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37", **fields,
    }  # fmt: skip


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_alarm_that_sns_has_signed_is_taken(client, aws, version):
    sent = post(client, aws.signed(notification(), version), content_type="text/plain; charset=UTF-8")
    assert sent.status_code == 202
    assert SignalEvent.objects.get().resource == "host/i-0abc/mount/%2Fvar"
    assert aws.visited == [CERTIFICATE_URL]


def test_a_redelivery_is_taken_and_changes_nothing(client, aws):
    message = aws.signed(notification())
    assert post(client, message).status_code == 202
    assert post(client, message).json()["opened"] == []
    assert aws.visited == [CERTIFICATE_URL], "the certificate is kept"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: {**message, "Message": message["Message"].replace("i-0abc", "i-evil")},
        lambda message: {**message, "Signature": ""},
        lambda message: {**message, "Signature": "!"},
        lambda message: {**message, "SignatureVersion": "3"},
        lambda message: {key: value for key, value in message.items() if key != "Signature"},
        lambda message: {**message, "TopicArn": TOPIC + "-evil"},
        lambda message: {**message, "Type": "Anything"},
    ],
    ids=["another body", "empty", "no base64", "unknown version", "missing", "another topic", "another type"],
)
def test_what_sns_has_not_signed_is_refused(client, aws, spoil):
    assert_refused(post(client, spoil(aws.signed(notification()))), 401)


def test_a_rightly_signed_message_of_a_topic_that_is_not_listed_is_refused_before_anything_is_fetched(client, aws):
    assert_refused(post(client, aws.signed(notification(TopicArn="arn:aws:sns:eu-central-1:666:evil"))), 401)
    assert aws.visited == []


def test_a_message_of_yesterday_is_a_replay(client, aws):
    assert_refused(post(client, aws.signed(notification(timedelta(days=1)))), 401)


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com.evil.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://evil.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com@evil.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://evil.com#sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com:8443/SimpleNotificationService-0123456789abcdef.pem",
        "https://s3.amazonaws.com/sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://bucket.s3.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com/../SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com/other.pem", "https://169.254.169.254/latest/meta-data", "", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_a_certificate_elsewhere_than_at_sns_is_never_fetched(client, aws, url):
    assert not is_aws(url, CERTIFICATE_PATH)
    assert_refused(post(client, aws.signed(notification(SigningCertURL=url))), 401)
    assert aws.visited == []


def test_a_subscription_is_confirmed_once_its_signature_is_checked(client, aws):
    assert post(client, aws.signed(confirmation())).status_code == 202
    assert aws.visited == [CERTIFICATE_URL, confirmation()["SubscribeURL"]]
    assert not Series.objects.exists()


def test_an_unsigned_confirmation_has_byteport_visit_nothing(client, aws):
    assert_refused(post(client, {**confirmation(), "Signature": "c2ln"}), 401)
    assert aws.visited == [CERTIFICATE_URL]


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "https://evil.com/?Action=ConfirmSubscription", "http://localhost/"]
)
def test_even_a_signed_confirmation_does_not_lead_elsewhere_than_to_sns(client, aws, url):
    assert_refused(post(client, aws.signed(confirmation(SubscribeURL=url))), 401)
    assert url not in aws.visited


def test_when_sns_cannot_be_asked_the_sender_is_told_to_come_again(client, aws):
    aws.away = True
    response = post(client, aws.signed(notification()))
    assert_refused(response, 503)
    assert response["Retry-After"]


# --- the mapping


def test_an_operators_rule_goes_before_the_standard_ones(client, source_of):
    row = source_of("grafana")
    AlertMapping.objects.create(
        name="our disks", source=row, alert="HostOutOfDiskSpace", labels={"mountpoint": "/var*"},
        signal="disk_pressure", resource="host/{instance:host}/mount/{mountpoint}", detail="ours",
    )  # fmt: skip
    post(client, grafana(), BEARER)
    assert SignalEvent.objects.get().detail == "ours"


def test_an_alert_that_maps_to_no_runbook_is_kept_and_told(client, source_of):
    source_of("grafana")
    post(client, grafana(alertname="Odd", severity="critical"), BEARER)
    event = SignalEvent.objects.get()
    assert (event.signal, event.severity, event.status) == ("alert:Odd", "critical", Status.DETECTED)
