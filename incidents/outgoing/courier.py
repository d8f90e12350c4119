"""Sends what is due: one worker at a time, to all webhooks at once, each of them one call at a time.

An attempt is committed before it is made. When its worker dies, the same is sent again later, under the same id.
A webhook that does not answer is left alone for as long as it has failed so far; an event that does not arrive is tried
again after as long as it has waited, and given up after a day.
"""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import structlog
from django.db import connection, transaction
from django.db.models import F, Min, Q
from django.db.models.functions import Coalesce, Greatest

from byteport.core.backoff import as_long_again_s
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Temporary
from byteport.queue import enqueue
from byteport.sealing import unseal
from incidents.escalation.channel import Limited
from incidents.outbox.note import why_silent
from incidents.outgoing.body import body_of
from incidents.outgoing.post import Call, post
from runbooks.models import AgentAction
from signals.happening import Happening
from signals.models import OutgoingEvent, OutgoingWebhook
from signals.outgoing import SEND

log = structlog.get_logger()

State = OutgoingEvent.State
MOST_WEBHOOKS = 20  # each has a thread; of more, the last by name might never have their turn
MOST_WAITING = 10_000  # events of one webhook
KEPT = timedelta(days=30)
GIVEN_UP_AFTER = timedelta(hours=24)
ROUND = timedelta(seconds=20)  # then the worker goes back to the queue
LOOK_S = 0.5  # between two looks at what else is due, while a call is under way
LEFT_ALONE = timedelta(hours=1)  # for so long, what is too old to be sent may still be sent again for a person
SENDING = timedelta(seconds=120)  # longer than a call can take: after it, an attempt that was begun is over
DELAY_S = (10.0, 900.0)  # until an event is tried again: at least, at most
PAUSE_S = (10.0, 300.0)  # for which a far end is left alone
SWEPT = 1000
ONE_WAITS = "send_events"


def send_events() -> None:
    """Sends what is due, if no other worker is at it; and has the rest sent when it is due."""
    with _alone() as alone:
        if alone:
            _send_until(now() + ROUND)
    due_at = _next_at() if alone else now() + timedelta(seconds=1)
    if due_at is not None:
        delay_s = max((due_at - now()).total_seconds(), 0.0)
        enqueue(SEND, delay_s=delay_s, dedup_key=ONE_WAITS)


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether this is the one worker that sends. PostgreSQL frees the place of one that dies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended('byteport.outgoing', 0))")
        alone = bool(cursor.fetchone()[0])
    try:
        yield alone
    finally:
        if alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended('byteport.outgoing', 0))")


def _send_until(until: datetime) -> None:
    """The database is this thread's alone; the others only wait for far ends.

    While one is still waited for when the time is over, the others go on.
    """
    running: dict[Future[str], OutgoingEvent] = {}
    waited_for: set[int] = set()
    with ThreadPoolExecutor(MOST_WEBHOOKS, thread_name_prefix="outgoing") as threads:
        while True:
            busy, in_time = _webhooks(running), now() < until
            waited_for &= busy
            if in_time or waited_for:
                running |= {threads.submit(post, call): row for row, call in _begun(busy)}
            if in_time:
                waited_for = _webhooks(running)
            if not running:
                return
            over, _ = wait(running, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for future in over:
                _settle(running.pop(future), future)


def _webhooks(running: dict[Future[str], OutgoingEvent]) -> set[int]:
    return {row.webhook_id for row in running.values()}


def _begun(busy: set[int]) -> Iterator[tuple[OutgoingEvent, Call]]:
    """One call for each webhook that has something due and is not at one."""
    at = now()
    free = OutgoingWebhook.objects.filter(Q(paused_until=None) | Q(paused_until__lte=at), enabled=True)
    for webhook in free.exclude(pk__in=busy)[:MOST_WEBHOOKS]:
        due = webhook.events.filter(due_at__lte=at).select_related("incident").order_by("due_at", "pk")
        while (row := due.first()) is not None:
            call = _begin(row, webhook, at)
            if call is not None:
                yield row, call
                break


def _begin(row: OutgoingEvent, webhook: OutgoingWebhook, at: datetime) -> Call | None:
    """Commits the attempt; None where it is not to be made."""
    row.webhook = webhook
    why = why_silent(row.incident) if row.incident else ""
    if why:
        _write(row, status=State.HELD, due_at=None, answer=why)
        return None
    try:
        body, secret = row.body or body_of(row, _action(row)), unseal(webhook.sealed_secret)
    except (BytePortError, ValueError, LookupError, TypeError, AttributeError) as error:
        _failed(row, f"It cannot be told: {error}", at)
        return None
    began = {"status": State.SENDING, "due_at": at + SENDING, "body": body, "attempts": row.attempts + 1}
    if not _write(row, **began):
        return None
    row.attempts += 1
    headers = {"X-BytePort-Event": row.kind, "X-BytePort-Delivery": str(row.uid)}
    return Call(webhook.url, webhook.private, secret, headers, body.encode())


def _action(row: OutgoingEvent) -> AgentAction | None:
    return AgentAction.objects.get(pk=row.action_id) if row.action_id else None


def _write(row: OutgoingEvent, **fields: Any) -> bool:
    """False when somebody else has been at it since it was read."""
    same = OutgoingEvent.objects.filter(pk=row.pk, attempts=row.attempts, status__in=OutgoingEvent.PENDING)
    return bool(same.update(**fields))


# ----------------------------------------------------------------------------------------------- what came of it


def _settle(row: OutgoingEvent, future: Future[str]) -> None:
    at = now()
    try:
        answer = future.result()
    except Temporary as error:
        _again(row, error, at)
    except BytePortError as error:
        _failed(row, str(error), at)
    except Exception as error:
        log.exception("webhook failed")
        _again(row, Temporary(f"An internal error: {type(error).__name__}: {error}"), at)
    else:
        _sent(row, answer, at)


@transaction.atomic
def _sent(row: OutgoingEvent, answer: str, at: datetime) -> None:
    _say(row, last_success_at=at, failing_since=None, paused_until=None)
    _write(row, status=State.SENT, due_at=None, sent_at=at, answer=answer)


@transaction.atomic
def _failed(row: OutgoingEvent, why: str, at: datetime) -> None:
    _say(row, last_error_at=at, last_error=why)
    _write(row, status=State.FAILED, due_at=None, answer=why)
    log.warning("event not delivered", webhook=row.webhook.name, kind=row.kind, incident=row.incident_id, why=why)


def _again(row: OutgoingEvent, error: Temporary, at: datetime) -> None:
    if at >= row.at + GIVEN_UP_AFTER:
        _failed(row, f"Given up after a day. {error}", at)
        return
    failing_since = row.webhook.failing_since or at
    pause_s = as_long_again_s(at - failing_since, *PAUSE_S)
    if isinstance(error, Limited):
        pause_s = max(pause_s, error.delay_s)
    paused_until = at + timedelta(seconds=pause_s)
    due_at = max(at + timedelta(seconds=as_long_again_s(at - row.at, *DELAY_S)), paused_until)
    with transaction.atomic():
        fields = {"failing_since": failing_since, "paused_until": paused_until}
        _say(row, last_error_at=at, last_error=str(error), **fields)
        _write(row, status=State.WAITING, due_at=due_at, answer=str(error))


def _say(row: OutgoingEvent, **fields: Any) -> None:
    """Before the event's own row, as whoever deletes a webhook has it: else two would wait for each other."""
    OutgoingWebhook.objects.filter(pk=row.webhook_id).update(**fields)


def _next_at() -> datetime | None:
    """When something is due next; None when nothing waits."""
    free_at = Greatest("due_at", Coalesce("webhook__paused_until", "due_at"))
    waiting = OutgoingEvent.objects.filter(due_at__isnull=False, webhook__enabled=True)
    due_at: datetime | None = waiting.order_by().aggregate(at=Min(free_at))["at"]
    return due_at


# -------------------------------------------------------------------------------------- what comes round by itself


def sweep() -> None:
    """Gives up what is too old or too much, drops what is over for long, takes up what was left lying."""
    at = now()
    waiting = OutgoingEvent.objects.filter(status=State.WAITING, due_at__isnull=False)  # as the index has it
    _give_up(waiting.filter(at__lt=at - GIVEN_UP_AFTER, due_at__lt=at - LEFT_ALONE), "Given up after a day.")
    for webhook in OutgoingWebhook.objects.all():
        kept = waiting.filter(webhook=webhook).order_by("-pk").values("pk")[MOST_WAITING : MOST_WAITING + 1]
        _give_up(waiting.filter(webhook=webhook, pk__lte=kept[:1]), f"Given up: {MOST_WAITING:,} later ones wait.")
    old = OutgoingEvent.objects.filter(at__lt=at - KEPT, due_at=None).order_by("at").values("pk")[:SWEPT]
    OutgoingEvent.objects.filter(pk__in=old).delete()
    if OutgoingEvent.objects.filter(due_at__lte=at, webhook__enabled=True).exists():
        enqueue(SEND, dedup_key=ONE_WAITS)


def _give_up(rows: Any, why: str) -> None:
    rows.update(status=State.FAILED, due_at=None, answer=why)


# ------------------------------------------------------------------------------------------- what a person asks for


def has_room() -> bool:
    """Whether there may be one webhook more. Who asks next waits for the end of this transaction, and counts it too."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('byteport.outgoing.room', 0))")
    return OutgoingWebhook.objects.count() < MOST_WEBHOOKS


@transaction.atomic
def send_again(webhook: OutgoingWebhook) -> int:
    """Has sent once more what has failed; how many events."""
    fields = {"status": State.WAITING, "due_at": now(), "attempts": F("attempts") + 1}
    _call_now(webhook)
    return webhook.events.filter(status=State.FAILED).update(**fields)


@transaction.atomic
def send_test(webhook: OutgoingWebhook) -> OutgoingEvent:
    """Has a test event sent, in dry-run too, for a person has asked for it."""
    at = now()
    row = OutgoingEvent.objects.create(
        webhook=webhook, uid=uuid4(), happening=uuid4(), kind=Happening.TEST, at=at, due_at=at
    )
    _call_now(webhook)
    return row


def _call_now(webhook: OutgoingWebhook) -> None:
    OutgoingWebhook.objects.filter(pk=webhook.pk).update(paused_until=None)
    enqueue(SEND)
