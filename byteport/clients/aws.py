"""AWS: clients of boto3 with bounded waits, and BytePort's own errors for what goes wrong there.

Credentials are those of boto3's own chain (environment, instance profile, web identity), or a role assumed with them.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15
THROTTLED_DELAY_S = 20.0
ROLE_SESSION_S = 3600
NO_CREDENTIALS = (
    "AWS: no credentials are found. On EKS give BytePort's service accounts a role (IRSA, Pod Identity), on EC2 an"
    " instance profile; elsewhere set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
)
RENEW_BEFORE = timedelta(minutes=5)

THROTTLED = frozenset(
    {
        "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
        "RequestLimitExceeded", "TooManyRequestsException", "SlowDown", "PriorRequestNotComplete",
        "EC2ThrottledException",
    }
)  # fmt: skip
PASSING = (
    HTTPClientError, NoConnectionError, IncompleteReadError, CredentialRetrievalError, MetadataRetrievalError
)  # fmt: skip
CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT_S,
    read_timeout=READ_TIMEOUT_S,
    retries={"mode": "standard", "max_attempts": 3},
    user_agent_extra="byteport",
)


class _Kept(msgspec.Struct, frozen=True):
    client: Any
    until: datetime | None  # when its assumed role ends; None: it renews its credentials itself


_clients: dict[tuple[str, str, str], _Kept] = {}
_lock = threading.Lock()


def client(service: str, region: str = "", role_arn: str = "") -> Any:
    """A client, kept for the next time: to make one takes half a second. Raises Temporary or Permanent."""
    with _lock:
        kept = _clients.get((service, region, role_arn))
        if kept is None or (kept.until is not None and kept.until < now() + RENEW_BEFORE):
            with own_errors(f"{service} client"):
                kept = _made(service, region, role_arn)
            _clients[service, region, role_arn] = kept
        return kept.client


def _made(service: str, region: str, role_arn: str) -> _Kept:
    session = boto3.Session(region_name=region or None)
    if not role_arn:
        return _Kept(session.client(service, config=CONFIG), None)  # type: ignore[call-overload]
    assumed = session.client("sts", config=CONFIG).assume_role(
        RoleArn=role_arn, RoleSessionName="byteport", DurationSeconds=ROLE_SESSION_S
    )["Credentials"]
    own = boto3.Session(
        aws_access_key_id=assumed["AccessKeyId"],
        aws_secret_access_key=assumed["SecretAccessKey"],
        aws_session_token=assumed["SessionToken"],
        region_name=session.region_name,
    )
    return _Kept(own.client(service, config=CONFIG), assumed["Expiration"])  # type: ignore[call-overload]


def identity(region: str, role_arn: str = "") -> str:
    """Where the credentials come from, and the role that is assumed with them. Raises Temporary or Permanent."""
    with own_errors("credentials"):
        found = boto3.Session(region_name=region or None).get_credentials()
        if found is None or not found.get_frozen_credentials().access_key:
            raise Permanent(NO_CREDENTIALS)
    if role_arn:
        client("sts", region, role_arn)
    return f"by boto3's {found.method}" + (f", assuming {role_arn}" if role_arn else "")


def forget() -> None:
    """Has every client made anew, with what the environment says then."""
    global _lock  # noqa: PLW0603 (after a fork, the parent's may be held by a thread that is not there)
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=forget)  # connections must not be shared with the parent


@contextmanager
def own_errors(what: str) -> Iterator[None]:
    """Turns boto3's errors into Temporary and Permanent. `what` says what was tried."""
    try:
        yield
    except ClientError as error:
        raise _refusal(what, error) from error
    except PASSING as error:
        raise Temporary(f"AWS, {what}: {error}") from error
    except BotoCoreError as error:  # no credentials, no region, a parameter that is none
        raise Permanent(f"AWS, {what}: {error}") from error


def _refusal(what: str, error: ClientError) -> Temporary | Permanent:
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))[:500]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"AWS, {what}: {code}: {message}"
    if code in THROTTLED:
        return Temporary(text, delay_s=THROTTLED_DELAY_S)
    return Temporary(text) if status >= 500 else Permanent(text)


def code_of(error: ClientError) -> str:
    """AWS' own name of the error, e.g. "AccessDeniedException"."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))
