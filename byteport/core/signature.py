"""How a webhook proves who sent it, in both directions: what calls BytePort, and what BytePort calls.

`X-BytePort-Signature: sha256=<hex>` is the HMAC-SHA256 of `<X-BytePort-Timestamp>.<body>`; the timestamp is in unix
seconds. docs/webhooks.md and docs/outgoing.md describe it to both sides.
"""

import hmac
from hashlib import sha256

TIMESTAMP_HEADER = "X-BytePort-Timestamp"
SIGNATURE_HEADER = "X-BytePort-Signature"
PREFIX = "sha256="


def signature(secret: str, timestamp: bytes, body: bytes) -> str:
    """In lower-case hex, without the prefix."""
    return hmac.new(secret.encode(), timestamp + b"." + body, sha256).hexdigest()


def signed_headers(secret: str, unix_s: int, body: bytes) -> dict[str, str]:
    """The headers that prove a call of BytePort's own."""
    return {
        TIMESTAMP_HEADER: str(unix_s),
        SIGNATURE_HEADER: f"{PREFIX}{signature(secret, str(unix_s).encode(), body)}",
    }
