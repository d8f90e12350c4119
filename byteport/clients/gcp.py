"""Google Cloud: credentials, and BytePort's own errors for what goes wrong there.

Credentials are those that Google's own library finds: the file that GOOGLE_APPLICATION_CREDENTIALS names (a service
account's key, or a federation's configuration), gcloud's, or the platform's (workload identity, a VM's account).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import google.auth
from google.api_core.exceptions import (
    Aborted,
    Cancelled,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import Request
from google.oauth2 import service_account
from google.rpc.error_details_pb2 import RetryInfo

from byteport.core.errors import Permanent, Temporary

TOKEN_TIMEOUT_S = 10.0
THROTTLED_DELAY_S = 60.0  # quotas are by the minute
LONGEST_DELAY_S = 3600.0
TEXT_CHARS = 500
PASSING = (ServerError, Aborted, Cancelled)
NO_CREDENTIALS = (
    "Google Cloud: no credentials are found. On GKE give BytePort's service account a workload identity, on a VM attach"
    " a service account to it; elsewhere name the file of a key or of a federation in GOOGLE_APPLICATION_CREDENTIALS."
)


class AbsentError(Permanent):
    """Google Cloud says that there is no such thing."""


_kept: dict[str, Credentials] = {}  # by scope
_lock = threading.Lock()


def credentials(scope: str) -> Credentials:
    """Those of the environment, kept, with a token that is valid now. Raises Temporary or Permanent."""
    with _lock, own_errors("credentials"):
        found = _kept.get(scope) or _found(scope)
        if not found.valid:
            found.refresh(partial(Request(), timeout=TOKEN_TIMEOUT_S))
        _kept[scope] = found
        return found


def identity(scope: str) -> str:
    """Whose credentials they are, which can be used right now. Raises Temporary or Permanent."""
    found = credentials(scope)
    email = getattr(found, "service_account_email", "")
    return f"Google Cloud's, of {email or 'a ' + type(found).__module__.rpartition('.')[2].replace('_', ' ')}"


def _found(scope: str) -> Credentials:
    found: Credentials = google.auth.default(scopes=[scope])[0]
    if isinstance(found, service_account.Credentials):  # a key signs its tokens itself, and need ask nobody
        found = found.with_always_use_jwt_access(True)
    return found


def forget() -> None:
    """Has credentials looked for anew, with what the environment and its files say then."""
    global _lock  # noqa: PLW0603 (after a fork, the parent's may be held by a thread that is not there)
    _lock = threading.Lock()
    _kept.clear()


os.register_at_fork(after_in_child=forget)


@contextmanager
def own_errors(what: str, remedy: str = "") -> Iterator[None]:
    """Turns the errors of Google's libraries into Temporary and Permanent.

    `what` says what was tried, `remedy` what an account needs that is refused.
    """
    try:
        yield
    except GoogleAPICallError as error:
        if isinstance(error, Unauthorized):
            _kept.clear()  # the file may hold another key by now
        raise _refusal(what, remedy, error) from error
    except DefaultCredentialsError as error:
        raise Permanent(f"{NO_CREDENTIALS} ({str(error)[:TEXT_CHARS]})") from error
    except GoogleAuthError as error:
        _kept.clear()
        raise _no_token(what, error) from error


def _refusal(what: str, remedy: str, error: GoogleAPICallError) -> Temporary | Permanent:
    text = f"Google Cloud, {what}: {error.code or ''} {str(error.message)[:TEXT_CHARS]}"
    if isinstance(error, TooManyRequests):
        return Temporary(text, delay_s=_pause_s(error))
    if isinstance(error, PASSING):
        return Temporary(text)
    if isinstance(error, (Forbidden, Unauthorized)):
        return Permanent(f"{text.rstrip('.')}. {remedy}".rstrip())
    return AbsentError(text) if isinstance(error, NotFound) else Permanent(text)


def _pause_s(error: GoogleAPICallError) -> float:
    """What Google asks for, where it does."""
    asked = (detail.retry_delay for detail in error.details or () if isinstance(detail, RetryInfo))
    return next((min(delay.seconds + delay.nanos / 1e9, LONGEST_DELAY_S) for delay in asked), THROTTLED_DELAY_S)


def _no_token(what: str, error: GoogleAuthError) -> Temporary | Permanent:
    """Where only the way to who gives tokens is cut, the library says so in the error's cause."""
    text = f"Google Cloud, {what}: {str(error)[:TEXT_CHARS]}"
    cut = isinstance(error, TransportError) or isinstance(error.__cause__, TransportError)
    return Temporary(text) if cut or error.retryable else Permanent(text)
