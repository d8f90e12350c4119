"""BytePort's own webhook, for scripts and for senders that can be told what to send. docs/webhooks.md describes it.

A call is signed, `X-BytePort-Signature: sha256=<hex>` being the HMAC-SHA256 of `<X-BytePort-Timestamp>.<body>`, or
bears the secret itself (`Authorization: Bearer`), for senders that can do no better.
"""

import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from shlex import quote
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from byteport.core.resource import ResourceRef
from byteport.core.signature import PREFIX, SIGNATURE_HEADER, TIMESTAMP_HEADER, signature
from signals.alert import REPORTS_END
from signals.catalog import CATALOG
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import (
    CONTROL,
    LABEL_KEY_CHARS,
    LABEL_VALUE_CHARS,
    LABELS,
    RESOURCE_CHARS,
    SIGNAL_CHARS,
    MalformedError,
    UnauthenticatedError,
    bearer_token,
    checked_resource,
    foreign_labels,
    header_bytes,
    is_secret,
    require_fresh,
)
from signals.webhook_options import fault_of

OLDEST = timedelta(days=30)  # samples are dropped not much later
MESSAGES = 1000

STATES = {state.value: state for state in (State.FIRING, State.RESOLVED, State.MEASURED)}

Name = Annotated[str, Meta(min_length=1, max_length=253)]
LabelKey = Annotated[str, Meta(min_length=1, max_length=LABEL_KEY_CHARS)]
LabelValue = Annotated[str, Meta(max_length=LABEL_VALUE_CHARS)]


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A resource reference in its parts."""

    platform: Name
    place: Name
    kind: Name
    name: Annotated[str, Meta(min_length=1, max_length=RESOURCE_CHARS)]
    namespace: Annotated[str, Meta(max_length=253)] = ""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of one signal of one resource."""

    signal: Annotated[str, Meta(min_length=1, max_length=SIGNAL_CHARS)]
    resource: Annotated[str, Meta(max_length=RESOURCE_CHARS)] | Resource
    value: float | None = None
    status: Annotated[str, Meta(max_length=64)] = ""
    at: Annotated[datetime, Meta(tz=True)] | float | None = None
    detail: Annotated[str, Meta(max_length=256)] = ""
    labels: Annotated[dict[LabelKey, LabelValue], Meta(max_length=LABELS)] = {}
    severity: Literal["info", "warning", "critical"] | None = None


_DECODER = msgspec.json.Decoder(Message | Annotated[list[Message], Meta(max_length=MESSAGES)])


class GenericSource:
    """Signed or bearing its secret; a message or a list of them."""

    name = "generic"
    title = "Webhook: BytePort's own format"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        if SIGNATURE_HEADER in call.headers:
            return _signed_delivery(config.secret, call, now)
        if not is_secret(bearer_token(call.headers.get("Authorization", "")), config.secret):
            raise UnauthenticatedError("neither a signature nor the right bearer token")
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        messages = _decoded(call.body)
        readings = []
        for index, message in enumerate(messages):
            try:
                readings.append(_reading(message, config, now + timedelta(microseconds=index)))
            except ValueError as error:
                raise MalformedError(f"Message {index + 1} of {len(messages)}: {error}.") from error
        return readings

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options)

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(
            url=quote(url), secret=quote(secret), timestamp_header=TIMESTAMP_HEADER, signature_header=SIGNATURE_HEADER
        )


SNIPPET = """\
secret={secret}
body='{{"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "value": 91.5}}'
timestamp=$(date +%s)
signature=$(printf '%s.%s' "$timestamp" "$body" | openssl dgst -sha256 -hmac "$secret" -r | cut -d' ' -f1)
curl --fail-with-body {url} \\
  -H 'Content-Type: application/json' \\
  -H "{timestamp_header}: $timestamp" \\
  -H "{signature_header}: sha256=$signature" \\
  --data-raw "$body"
"""


def _signed_delivery(secret: str, call: Call, now: datetime) -> str:
    """Checks signature, then time. Returns the delivery's id, the same however the signature was spelled."""
    if not secret:
        raise UnauthenticatedError("the source has no secret")
    timestamp = call.headers.get(TIMESTAMP_HEADER, "")
    expected = signature(secret, header_bytes(timestamp), call.body)
    given = header_bytes(call.headers.get(SIGNATURE_HEADER, "")).lower()
    if not hmac.compare_digest(given, f"{PREFIX}{expected}".encode()):
        raise UnauthenticatedError("the signature is not the one of this body and timestamp")
    require_fresh(timestamp, now)
    return sha256(expected.encode()).hexdigest()


def _decoded(body: bytes) -> list[Message]:
    try:
        decoded = _DECODER.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not in the format: {error}.") from error
    return decoded if isinstance(decoded, list) else [decoded]


def _reading(message: Message, config: SourceConfig, arrived: datetime) -> Reading:
    """Raises ValueError with what is wrong. Without a time of their own, the messages of a call are in its order."""
    _require_plain(message)
    return Reading(
        signal=message.signal,
        resource=_resource(message.resource),
        at=_time(message.at, arrived),
        value=message.value,
        state=_state(message),
        detail=message.detail,
        source=config.slug,
        labels=_labels(message, config),
    )


def _require_plain(message: Message) -> None:
    for field in ("signal", "status", "detail"):
        if not getattr(message, field).isprintable():
            raise ValueError(f"{field} may not have control characters")
    for key, value in message.labels.items():
        if not key.isprintable() or CONTROL.search(value):
            raise ValueError("labels may not have control characters (but tabs and line breaks in their values)")


def _resource(given: str | Resource) -> ResourceRef:
    if isinstance(given, str):
        return checked_resource(ResourceRef.parse(given))
    return checked_resource(ResourceRef(given.platform, given.place, given.kind, given.name, given.namespace))


def _time(given: datetime | float | None, arrived: datetime) -> datetime:
    """In UTC. What is too far in the future the router refuses, by name."""
    if given is None:
        return arrived
    try:
        at = given.astimezone(UTC) if isinstance(given, datetime) else datetime.fromtimestamp(given, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("at is out of range; give RFC 3339, or unix seconds") from error
    if at < arrived - OLDEST:
        raise ValueError(f"at is more than {OLDEST.days} days ago")
    return at


def _state(message: Message) -> State:
    """A status that BytePort does not know is UNKNOWN, whatever the value. A measurement needs a value to judge, and
    a threshold to judge it by."""
    state = STATES.get(message.status.lower(), State.UNKNOWN) if message.status else State.MEASURED
    if state is State.MEASURED:
        if message.value is None:
            raise ValueError("it has neither a status (firing, resolved) nor a value")
        if message.signal not in CATALOG:
            known = ", ".join(CATALOG)
            raise ValueError(
                f"BytePort has no threshold for this signal, so say firing or resolved; it has for {known}"
            )
    return state


def _labels(message: Message, config: SourceConfig) -> dict[str, str]:
    labels = foreign_labels(message.labels)
    if message.severity:
        labels["severity"] = message.severity
    if config.options.get("reports_end") is True:
        labels[REPORTS_END] = "true"
    return labels


SOURCE = GenericSource()
