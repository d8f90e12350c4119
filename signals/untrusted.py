"""What webhooks need to handle what comes from outside: credentials, text, resource references. Pure."""

import hmac
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime

from byteport.core.errors import BytePortError
from byteport.core.resource import ResourceRef

SIGNAL_CHARS = 128
RESOURCE_CHARS = 1024  # of the text form; PostgreSQL's index takes no more than 2,704 bytes
LABELS = 64
LABEL_KEY_CHARS = 256
LABEL_VALUE_CHARS = 4096
SKEW_S = 300  # between a sender's clock and ours, either way
OWN_SIGNALS = "byteport."  # what BytePort keeps for its own judgement; nobody outside has a say in it
OWN_LABELS = "byteport."  # only a source sets these; from outside they are dropped

# What no text needs and PostgreSQL, a terminal or a log can choke on. Tab and line breaks may stay in a value.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class UnauthenticatedError(BytePortError):
    """A call does not prove who sent it. The text is for BytePort's log; the caller is not told which check failed."""


class MalformedError(BytePortError):
    """A call is its sender's own, and not in the format. The text is for the sender."""


def is_secret(given: bytes, secret: str) -> bool:
    """Whether `given` is the secret, compared in constant time. Nothing is equal to no secret."""
    return bool(secret) and hmac.compare_digest(given, secret.encode())


def header_bytes(value: str) -> bytes:
    """A header as it was sent: WSGI hands the bytes over as Latin-1."""
    return value.encode("latin-1", "backslashreplace")


def bearer_token(authorization: str) -> bytes:
    """The token of an Authorization header; empty when it is none of the Bearer scheme."""
    scheme, _, token = authorization.partition(" ")
    return header_bytes(token.strip()) if scheme.lower() == "bearer" else b""


def basic_password(authorization: str) -> bytes:
    """The password of an Authorization header, whoever the user; empty when it is none of the Basic scheme."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        decoded = b64decode(credentials.strip(), validate=True)
    except ValueError:
        return b""
    return decoded.partition(b":")[2]


def require_bearer_or_password(headers: Mapping[str, str], secret: str) -> None:
    """For senders that can sign nothing: the secret as Bearer token or Basic password. Raises UnauthenticatedError."""
    authorization = headers.get("Authorization", "")
    if not is_secret(bearer_token(authorization) or basic_password(authorization), secret):
        raise UnauthenticatedError("neither the right bearer token nor the right password")


def require_fresh(timestamp: str, now: datetime) -> None:
    """For what is signed with the time, in unix seconds. Raises UnauthenticatedError when it is too far from ours."""
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise UnauthenticatedError("the timestamp is not in unix seconds")
    late_s = now.timestamp() - int(timestamp)
    if abs(late_s) > SKEW_S:
        side = "behind" if late_s > 0 else "ahead of"
        raise UnauthenticatedError(f"the timestamp is {abs(late_s):.0f} s {side} BytePort's clock")


def checked_resource(ref: ResourceRef) -> ResourceRef:
    """The reference, when it is one that a sender may name. Raises ValueError.

    A drill's volume is not: the gates trust it to be BytePort's own.
    """
    if not all(part.isprintable() for part in (ref.platform, ref.place, ref.namespace, ref.kind, ref.name)):
        raise ValueError("a resource's name may not have control characters")
    if len(str(ref)) > RESOURCE_CHARS:
        raise ValueError(f"a resource's text form may have {RESOURCE_CHARS:,} characters at most")
    if ref.is_drill:
        raise ValueError("a drill's volume is BytePort's own, and nobody else may report on it")
    return ref


def foreign_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels without those that only BytePort's own sources may set."""
    return {key: value for key, value in labels.items() if not key.lower().startswith(OWN_LABELS)}
