"""CloudWatch alarms, delivered by Amazon SNS over HTTPS.

There is no shared secret: SNS signs with a certificate of its own, which is fetched from an AWS host and from nowhere
else, and only topics on the source's allow-list count (options: `{"topics": ["arn:aws:sns:…"]}`). A subscription is
confirmed only after all of that has been checked, again at an AWS host and nowhere else: anything less would have a
stranger make BytePort call where he likes.
https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
import urllib3
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from byteport.core.errors import Temporary
from signals.alert import Alert, flat_texts, reading_of, text_time
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import MalformedError, UnauthenticatedError
from signals.webhook_options import WebhookOptions, fault_of

log = structlog.get_logger()

STATES = {"ALARM": State.FIRING, "OK": State.RESOLVED}  # INSUFFICIENT_DATA is not resolved: it is unknown
AWS_HOST = re.compile(r"sns\.[a-z]{2}(?:-[a-z]+)+-[0-9]+\.amazonaws\.com(?:\.cn)?")
CERTIFICATE_PATH = re.compile(r"/SimpleNotificationService-[0-9a-f]{8,64}\.pem")
OLDEST = timedelta(hours=6)  # SNS retries for an hour; what is older is a replay
TIMEOUT_S = 5.0
ANSWER_BYTES = 65_536
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
HASHES = {"1": SHA1, "2": SHA256}

Fetch = Callable[[str], bytes]


class Options(WebhookOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ARNs of the topics that count; without any, none does."""

    topics: list[str] = []


class Envelope(msgspec.Struct, frozen=True, rename="pascal"):
    """What SNS posts, whatever it carries."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature: str
    signing_cert_url: str = msgspec.field(name="SigningCertURL", default="")
    signature_version: str = "1"
    subject: str | None = None
    token: str | None = None
    subscribe_url: str | None = msgspec.field(name="SubscribeURL", default=None)

    def signed_text(self) -> bytes:
        """The fields that are signed, by name, each name and value on a line; an absent one is left out."""
        values = {**msgspec.to_builtins(self)}
        lines = (f"{name}\n{values[name]}\n" for name in SIGNED[self.type] if values.get(name) is not None)
        return "".join(lines).encode("utf-8", "surrogatepass")


class Trigger(msgspec.Struct, frozen=True, rename="pascal"):
    """The alarm's metric; a metric-math alarm has none of its own."""

    metric_name: str | None = None
    namespace: str | None = None
    dimensions: list[dict[str, str]] | None = None


class AlarmChange(msgspec.Struct, frozen=True, rename="pascal"):
    """An alarm's change of state."""

    alarm_name: str
    new_state_value: str
    state_change_time: str = ""
    alarm_description: str | None = None
    new_state_reason: str = ""
    alarm_arn: str = ""
    region: str = ""
    account: str = msgspec.field(name="AWSAccountId", default="")
    trigger: Trigger = Trigger()


def fetched(url: str) -> bytes:
    """What an AWS host answers; no redirect is followed, and nothing large is read. Raises Temporary."""
    try:
        reply = urllib3.request("GET", url, redirect=False, retries=False, timeout=TIMEOUT_S, preload_content=False)
        body = reply.read(ANSWER_BYTES)
        reply.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise Temporary(f"SNS cannot be asked: {type(error).__name__}") from error
    if reply.status != 200:
        raise Temporary(f"SNS answered {reply.status}")
    return body


class SnsSource:
    """SNS delivers at least once; what is repeated is late, and changes nothing."""

    name = "sns"
    title = "Webhook: CloudWatch alarms by Amazon SNS"
    permissions: tuple[str, ...] = ()
    needs_secret = False  # it signs with a key of its own

    def __init__(self, fetch: Fetch = fetched) -> None:
        self._fetch = fetch
        self._certificate = lru_cache(maxsize=32)(fetch)

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        try:
            envelope = _envelope(call.body)
        except MalformedError as error:
            raise UnauthenticatedError(f"it is not signed by SNS: {error}") from error
        if envelope.type not in SIGNED or envelope.topic_arn not in _topics(config):
            raise UnauthenticatedError(f"the topic {envelope.topic_arn[:200]!r} is not among the source's topics")
        if not is_aws(envelope.signing_cert_url, CERTIFICATE_PATH):
            raise UnauthenticatedError("the certificate is not at SNS")
        _require_signature(envelope, self._certificate(envelope.signing_cert_url))
        if abs(text_time(envelope.timestamp, now) - now) > OLDEST:
            raise UnauthenticatedError("the message is too old, or of the future")
        return None

    def confirm(self, config: SourceConfig, call: Call) -> None:
        """Visits the SubscribeURL of an authentic confirmation. It has to be one of SNS, whoever signed."""
        envelope = _envelope(call.body)
        if envelope.type != "SubscriptionConfirmation":
            return
        if not envelope.subscribe_url or not is_aws(envelope.subscribe_url, re.compile("/")):
            raise UnauthenticatedError("the SubscribeURL is not at SNS")
        self._fetch(envelope.subscribe_url)
        log.info("subscription confirmed", source=config.slug, topic=envelope.topic_arn)

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        envelope = _envelope(call.body)
        if envelope.type != "Notification":
            return []
        try:
            change = msgspec.json.decode(envelope.message.encode("utf-8", "surrogatepass"), type=AlarmChange)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"The message is not a CloudWatch alarm's change of state: {error}.") from error
        return [reading_of(_alert(change, now), config, kind=self.name)]

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options, Options)

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(url=url)


SNIPPET = """\
# There is no secret here: SNS signs. Put the topic's ARN into this source's options first:
#   {{"topics": ["arn:aws:sns:eu-central-1:123456789012:alarms"]}}
aws sns subscribe --protocol https --notification-endpoint {url} \\
  --topic-arn arn:aws:sns:eu-central-1:123456789012:alarms
aws sns set-topic-attributes --attribute-name SignatureVersion --attribute-value 2 \\
  --topic-arn arn:aws:sns:eu-central-1:123456789012:alarms
# The alarms need OK actions as well as alarm actions, so that their end is reported.
"""


def is_aws(url: str, path: re.Pattern[str]) -> bool:
    """Whether it is at SNS itself: https, a host of SNS, no other port, no credentials, the expected path."""
    try:
        parts = urlsplit(url)
        plain = parts.port in (None, 443) and parts.username is None and parts.password is None
    except ValueError:
        return False
    at_sns = bool(AWS_HOST.fullmatch(parts.netloc.removesuffix(":443")))
    return parts.scheme == "https" and plain and at_sns and bool(path.fullmatch(parts.path)) and url.isascii()


def _envelope(body: bytes) -> Envelope:
    try:
        return msgspec.json.decode(body, type=Envelope)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not a message of SNS: {error}.") from error


def _topics(config: SourceConfig) -> Sequence[Any]:
    topics = config.options.get("topics", [])
    return topics if isinstance(topics, list) else []


def _require_signature(envelope: Envelope, certificate: bytes) -> None:
    kind = HASHES.get(envelope.signature_version)
    if kind is None:
        raise UnauthenticatedError("the signature is of an unknown version")
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
        signature = base64.b64decode(envelope.signature, validate=True)
    except (ValueError, binascii.Error) as error:
        raise UnauthenticatedError("the signature or its certificate cannot be read") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise UnauthenticatedError("the certificate has no RSA key")
    try:
        key.verify(signature, envelope.signed_text(), padding.PKCS1v15(), kind())
    except InvalidSignature as error:
        raise UnauthenticatedError("the signature is not the one of this message") from error


def _alert(change: AlarmChange, now: datetime) -> Alert:
    dimensions = {
        one["name"]: one["value"] for one in change.trigger.dimensions or () if {"name", "value"} <= one.keys()
    }
    trigger = {"MetricName": change.trigger.metric_name, "Namespace": change.trigger.namespace}
    about = {**trigger, "AlarmName": change.alarm_name, "Region": change.region, "AccountId": change.account}
    return Alert(
        name=change.alarm_name,
        state=STATES.get(change.new_state_value, State.UNKNOWN),
        at=min(text_time(change.state_change_time, now), now),
        labels={**flat_texts(about), **dimensions},
        notes={"summary": change.alarm_description or "", "description": change.new_state_reason},
        key=change.alarm_arn,
        incident=f"{change.alarm_arn or change.alarm_name}",
    )


SOURCE = SnsSource()
