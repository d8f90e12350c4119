"""`POST /hooks/<slug>`: how a webhook's call becomes readings.

It is answered after commit: 202, or a problem document (RFC 9457), and then nothing was changed. The body is bounded
before it is read, the sender proved before the body is looked into, and all of it lands in one transaction.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import structlog
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.problem import ProblemError
from signals import health, limits
from signals.alert import clean
from signals.ingest import Ingested
from signals.intake import INTAKE, Delivery, ReplayError, SourceGoneError
from signals.models import Source
from signals.reading import Reading
from signals.source import (
    SOURCES,
    Answering,
    Call,
    Confirming,
    Ending,
    Preflighted,
    SourceConfig,
    WebhookSource,
)
from signals.sources import pagerduty
from signals.untrusted import OWN_SIGNALS, MalformedError, UnauthenticatedError, is_secret

log = structlog.get_logger()

LIMIT_BYTES = 1_048_576
DRAIN_BYTES = 8_388_608  # of a body that is too large: read and dropped, or its sender would see no answer
CHUNK_BYTES = 65_536
RETRY_AFTER_S = 5
DETAIL_CHARS = 500
MOST_KEYS = 100  # sources among which a routing key is looked for
NOT_NOTED = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.CONFLICT)

_SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_JSON = re.compile(r"(?:application|text)/(?:[\w.+-]+\+)?json\b", re.IGNORECASE)


class _Webhook(NamedTuple):
    """A source, and itself once more as what else it speaks."""

    source: WebhookSource
    confirming: Confirming | None
    answering: Answering | None


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


@csrf_exempt
def receive(request: HttpRequest, slug: str) -> HttpResponse:
    """Takes one call of a webhook."""
    return _answered(slug, lambda: _preflight(request, slug) or _accepted(_take(request, slug)))


@csrf_exempt
def enqueue_event(request: HttpRequest) -> HttpResponse:
    """`POST /v2/enqueue`, as at PagerDuty: the routing key in the body says which source is called."""
    return _answered("v2/enqueue", lambda: _accepted(_take_event(request)))


def _accepted(answer: dict[str, Any]) -> HttpResponse:
    status = HTTPStatus.ACCEPTED.value
    return HttpResponse(msgspec.json.encode(answer), status=status, content_type="application/json")


def _answered(slug: str, work: Callable[[], HttpResponse]) -> HttpResponse:
    try:
        return work()
    except ProblemError as problem:
        refusal = problem
        _note(slug, problem)
    except (DatabaseError, InterfaceError) as error:
        refusal = _unavailable(error)
    log.warning(
        "webhook refused",
        source=slug[:64],
        status=refusal.status.value,
        reason=refusal.reason[:DETAIL_CHARS],
        instance=refusal.instance,
    )
    return refusal.response()


def _note(slug: str, refusal: ProblemError) -> None:
    """What a source's operator has to know. Not what is no call at all, nor what has been dealt with before."""
    if _SLUG.fullmatch(slug) and refusal.status not in NOT_NOTED:
        why = f"A call was refused with {refusal.status.value}: {refusal.reason}"
        health.refused(slug, at=now(), why=clean(why, DETAIL_CHARS))


def _take(request: HttpRequest, slug: str) -> dict[str, Any]:
    _require_post(request)
    body = _body(request)
    try:
        return _taken(request, *_source(slug), body)
    except SourceGoneError:
        health.forget()
    except ProblemError as problem:
        if problem.status is not HTTPStatus.UNAUTHORIZED or not health.has_changed(slug):
            raise
    try:  # the source was remembered a moment too long
        return _taken(request, *_source(slug), body)
    except SourceGoneError as error:
        raise _no_webhook() from error


def _taken(request: HttpRequest, row: Source, webhook: _Webhook, body: bytes) -> dict[str, Any]:
    """Proves the sender, understands what it says, keeps it. Raises ProblemError, and then nothing was changed."""
    source, config, at = webhook.source, _config(row), now()
    call = Call(request.headers, body, request.GET.dict())
    delivery_id = _authenticate(source, config, call, at)
    _require_json(request, body)
    if webhook.confirming:
        _confirm(webhook.confirming, config, call)
    said = _parse(source, config, call, at)
    _require_room(config, len(said))
    ingested = _keep(row, delivery_id, said)
    latest = min(max(one.at for one in said), at) if said else None  # no clock is trusted beyond now
    health.called(row.slug, at=at, readings=len(said), latest=latest)
    if webhook.answering:
        return dict(webhook.answering.answer(call))
    return {
        "accepted": len(said),
        "opened": ingested.opened,
        "cleared": ingested.cleared,
        "why": ingested.why,
    }


def _take_event(request: HttpRequest) -> dict[str, Any]:
    _require_post(request)
    body = _body(request)
    key = pagerduty.routing_key(body).encode("utf-8", "surrogatepass")
    for row in Source.objects.filter(kind=pagerduty.SOURCE.name, enabled=True).order_by("pk")[:MOST_KEYS]:
        if is_secret(key, _config(row).secret):
            return _event_of(request, row, body)
    raise _unproven("no source has this routing_key")


def _event_of(request: HttpRequest, row: Source, body: bytes) -> dict[str, Any]:
    try:
        return _taken(request, row, _Webhook(pagerduty.SOURCE, None, pagerduty.SOURCE), body)
    except ProblemError as problem:
        _note(row.slug, problem)
        raise


def _preflight(request: HttpRequest, slug: str) -> HttpResponse | None:
    """The answer to a sender that asks with OPTIONS whether it may call; None for any other request."""
    if request.method != "OPTIONS":
        return None
    row, (source, *_) = _source(slug)
    headers = source.preflight(_config(row), request.headers) if isinstance(source, Preflighted) else {}
    return HttpResponse(status=HTTPStatus.OK, headers=dict(headers)) if headers else None


def _require_post(request: HttpRequest) -> None:
    if request.method != "POST":
        detail = "A webhook is called with POST; this address has nothing to read. See docs/webhooks.md."
        raise ProblemError(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers={"Allow": "POST"})


def _body(request: HttpRequest) -> bytes:
    """The raw body, whether its length was announced or it comes in chunks; with neither there is none."""
    _require_plain(request)
    announced = request.META.get("CONTENT_LENGTH") or "0"
    if not _LENGTH.fullmatch(announced):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number of bytes.")
    stream = _chunked(request) or request
    try:
        body = _read(stream, LIMIT_BYTES + 1) if int(announced) <= LIMIT_BYTES else None
        if body is None or len(body) > LIMIT_BYTES:
            _drain(stream)
            detail = f"The body may have {LIMIT_BYTES:,} bytes at most. Send it in parts."
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    except OSError as error:
        detail = "The body could not be read to its end."
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason=f"{detail} {type(error).__name__}") from error
    if len(body) < int(announced):  # cut off, or too slow: senders repeat what is not taken now, and no other refusal
        raise _not_kept(f"of the body's {int(announced):,} bytes {len(body):,} came in")
    return body


def _require_plain(request: HttpRequest) -> None:
    """A compressed body would have to be unpacked before anybody has proved who sent it."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        detail = f"Send the body as it is, not compressed: its Content-Encoding is {clean(coding, 32)}."
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Encoding": "identity"})


def _chunked(request: HttpRequest) -> _Stream | None:
    """What to read a chunked body from, since Django itself reads none without a length. None where it has one."""
    if "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
        return None
    if not request.META.get("wsgi.input_terminated"):  # the server would not say where it ends
        raise ProblemError(HTTPStatus.LENGTH_REQUIRED, "Say how long the body is, with Content-Length.")
    stream: _Stream = request.META["wsgi.input"]
    return stream


def _read(stream: _Stream, most: int) -> bytes:
    parts: list[bytes] = []
    while most > 0 and (part := stream.read(min(CHUNK_BYTES, most))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _drain(stream: _Stream) -> None:
    left = DRAIN_BYTES
    while left > 0 and (part := stream.read(CHUNK_BYTES)):
        left -= len(part)


def _source(slug: str) -> tuple[Source, _Webhook]:
    row = health.enabled_source(slug) if _SLUG.fullmatch(slug) else None
    webhook = _webhook(cast("Hashable", SOURCES.get(row.kind))) if row else None
    if row is None or webhook is None:
        raise _no_webhook()
    return row, webhook


@lru_cache(maxsize=256)  # to see whether an object speaks a protocol takes longer than to understand a call
def _webhook(source: Hashable) -> _Webhook | None:
    if not isinstance(source, WebhookSource):
        return None
    return _Webhook(
        source,
        confirming=source if isinstance(source, Confirming) else None,
        answering=source if isinstance(source, Answering) else None,
    )


def _no_webhook() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no webhook at this address, or it is switched off.")


def _config(row: Source) -> SourceConfig:
    try:
        return health.config_of(row)
    except Permanent as error:
        raise _not_kept(str(error)) from error


def _authenticate(source: WebhookSource, config: SourceConfig, call: Call, at: datetime) -> str | None:
    try:
        return source.authenticate(config, call, at)
    except UnauthenticatedError as error:
        raise _unproven(str(error)) from error
    except Temporary as error:
        raise _not_kept(str(error)) from error


def _unproven(reason: str) -> ProblemError:
    detail = (
        "The call does not prove who sent it. Check the secret, that the signature is over the timestamp and the"
        " very bytes of the body, and the sender's clock. BytePort's log has the reason."
    )
    challenge = {"WWW-Authenticate": 'Bearer realm="webhook"'}
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, reason=reason, headers=challenge)


def _confirm(source: Confirming, config: SourceConfig, call: Call) -> None:
    try:
        source.confirm(config, call)
    except UnauthenticatedError as error:
        raise _unproven(str(error)) from error
    except Temporary as error:
        raise _not_kept(str(error)) from error


def _require_json(request: HttpRequest, body: bytes) -> None:
    """A wrong Content-Type on what looks like JSON is forgiven: `curl -d` sends one."""
    if not _JSON.match(request.content_type or "application/json") and body.lstrip()[:1] not in (b"{", b"["):
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON, with Content-Type: application/json.")


def _parse(source: WebhookSource, config: SourceConfig, call: Call, at: datetime) -> Sequence[Reading | Ending]:
    try:
        said = source.parse(config, call, at)
    except MalformedError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, str(error)[:DETAIL_CHARS] + _remedy(call.body)) from error
    if any(isinstance(one, Reading) and one.signal.startswith(OWN_SIGNALS) for one in said):
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"Signals that begin with {OWN_SIGNALS} are BytePort's own.")
    return said


def _remedy(body: bytes) -> str:
    """For what a parser can only call malformed: JSON is in UTF-8, and has no byte order mark (RFC 8259)."""
    if body.startswith(BOM_UTF8):
        return " Send it without the byte order mark before it."
    try:
        body.decode()
    except UnicodeDecodeError:
        return " Send it in UTF-8."
    return ""


def _require_room(config: SourceConfig, count: int) -> None:
    rate = limits.rate_of(config.options)
    wait_s = limits.wait_s(config.slug, count, rate)
    if wait_s > 0:
        detail = "The source sends more than it may. Nothing of this call was kept; send it again."
        reason = f"it sends more than {rate:,g} signals a second. The option max_per_second sets another rate."
        headers = {"Retry-After": str(ceil(wait_s))}
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, reason=reason, headers=headers)


def _keep(row: Source, delivery_id: str | None, said: Sequence[Reading | Ending]) -> Ingested:
    """All of it, or nothing: a delivery that could not be ingested can be sent again."""
    try:
        return INTAKE.keep(Delivery(row.pk, row.slug, delivery_id, said))
    except ReplayError as error:
        detail = "This very call was received before and has been dealt with. To repeat it, sign it afresh."
        raise ProblemError(HTTPStatus.CONFLICT, detail) from error


def _unavailable(error: DatabaseError | InterfaceError) -> ProblemError:
    if not isinstance(error, OperationalError | InterfaceError):
        log.error("a webhook's readings could not be kept", exc_info=error)
    return _not_kept(" ".join(str(error).split()))


def _not_kept(reason: str) -> ProblemError:
    detail = "BytePort cannot keep it at the moment, and has kept nothing of it. Send it again."
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, reason=reason, headers=headers)
