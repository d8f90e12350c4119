"""The signature of webhooks, against what openssl says of the same bytes."""

from byteport.core.signature import signed_headers

# printf '1767225600.{}' | openssl dgst -sha256 -hmac secret -r
KNOWN = "fa7eaa06bf97d7815f3f456e97cde70c9e50cb005f01660c8d10b10c21964887"


def test_it_is_hmac_sha256_of_timestamp_dot_body():
    assert signed_headers("secret", 1767225600, b"{}") == {
        "X-BytePort-Timestamp": "1767225600",
        "X-BytePort-Signature": f"sha256={KNOWN}",
    }
