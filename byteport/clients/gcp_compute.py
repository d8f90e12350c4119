"""Google Compute Engine: the labels of one instance. Reading only, by one GET
(https://docs.cloud.google.com/compute/docs/reference/rest/v1/instances/get)."""

from http import HTTPStatus

import msgspec
import requests
from google.api_core.exceptions import from_http_status

from byteport.clients import gcp
from byteport.core.errors import Permanent, Temporary

ENDPOINT = "https://compute.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/compute.readonly"
ROLE = "roles/compute.viewer"
CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 65_536
MOST_BYTES = 262_144  # 64 labels of 63 characters, and then some


class Instance(msgspec.Struct, frozen=True):
    """`id` is the number that metrics know it by."""

    id: str = ""
    labels: dict[str, str] = {}


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Fault


def instance(path: str, *, timeout_s: float) -> Instance:
    """The one at a path `projects/P/zones/Z/instances/I`, by name or number. Raises Temporary or Permanent."""
    headers: dict[str, str] = {}
    gcp.credentials(SCOPE).apply(headers)
    try:
        status, body = _get(f"{ENDPOINT}/compute/v1/{path}", headers, timeout_s)
    except requests.RequestException as error:
        raise Temporary(f"Google Cloud, {path}: {error}") from error
    with gcp.own_errors(path, f"BytePort's account needs the role {ROLE}, or one with compute.instances.get."):
        if status != HTTPStatus.OK:
            raise from_http_status(status, _reason(body))
    try:
        return msgspec.json.decode(body, type=Instance)
    except msgspec.DecodeError as error:
        raise Permanent(f"Google Cloud, {path}: the answer is not as expected: {error}") from error


def _get(url: str, headers: dict[str, str], timeout_s: float) -> tuple[int, bytes]:
    """Status and body, which is cut off at a limit."""
    with requests.get(
        url,
        params={"fields": "id,labels"},
        headers=headers,
        timeout=(CONNECT_TIMEOUT_S, timeout_s),
        allow_redirects=False,
        stream=True,
    ) as response:
        body = b""
        for chunk in response.iter_content(CHUNK_BYTES):
            body += chunk
            if len(body) > MOST_BYTES:
                break
        return response.status_code, body


def _reason(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.DecodeError:
        return body[:200].decode(errors="replace")
