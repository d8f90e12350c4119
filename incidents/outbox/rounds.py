"""What comes round by itself, once a minute and after a delivery was taken; and what a person does about one."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from byteport.core.clock import now
from byteport.core.errors import BytePortError
from byteport.queue import enqueue_many
from incidents.escalation.channel import CHANNELS, Kind, Undeliverable
from incidents.models import Delivery, Told
from incidents.outbox.delivery import WELL, free_at
from incidents.outbox.note import DRILLS, note_of
from incidents.outbox.write import DELIVER, enqueue_delivery, write
from runbooks.policy import agent_settings
from signals.lifecycle import note
from signals.models import SignalEvent, Status

log = structlog.get_logger()

CONFIRM = "byteport.tasks.confirm"
LEFT_LYING = timedelta(seconds=10)
STILL_ASKED_AFTER = timedelta(hours=2)
SWEPT = 500  # rows of one kind in one round


def sweep() -> None:
    """Takes up what was left lying, what is not held any more, and what is due to be said or asked again."""
    at = now()
    _take_up(at)
    _release(at)
    _tell_worse(at)
    _remind(at)
    to_confirm = Delivery.objects.filter(confirm_at__lte=at).order_by("confirm_at")
    enqueue_many(CONFIRM, to_confirm.values_list("pk", flat=True)[:SWEPT], dedup_prefix="confirm:")


def _take_up(at: datetime) -> None:
    overdue = Delivery.objects.filter(free_at(at), status__in=Delivery.PENDING, due_at__lt=at - LEFT_LYING)
    ids = overdue.order_by("due_at").values_list("pk", flat=True)[:SWEPT]
    enqueue_many(DELIVER, ids, dedup_prefix="deliver:")


def _release(at: datetime) -> None:
    """What was held goes on its way when the reason is gone, and what failed when a setting has changed.

    As long as it is still worth telling.
    """
    worth = Q(kind=Kind.CLEARED) | Q(event__status=Status.ESCALATED)
    for name, channel in CHANNELS.items():
        setup = channel.setup()
        if setup.ready:
            theirs = Delivery.objects.filter(worth, channel=name).select_related("event").order_by("pk")
            for row in theirs.filter(_held_no_more() | (Q(status=Told.FAILED) & ~Q(setup=setup.version)))[:SWEPT]:
                _start(row, at)


def _held_no_more() -> Q:
    """As `why_held` has it, in one condition: so that what stays held does not stand before what need not."""
    held = Q(status=Told.HELD)
    if settings.TELL_IN_DRY_RUN:
        return held
    return Q(pk__in=()) if agent_settings().dry_run else held & ~Q(event__fleet=DRILLS)


@transaction.atomic
def _start(row: Delivery, at: datetime) -> bool:
    """Has it tried now, from where it stands. What was taken and then lost goes out anew."""
    anew = {"uid": uuid4(), "began_at": None, "sent_at": None} if row.sent_at is not None else {}
    fields: dict[str, Any] = {**WELL, **anew, "status": Told.WAITING, "due_at": at}
    moved = Delivery.objects.filter(pk=row.pk, status=row.status).update(**fields)
    if moved:
        enqueue_delivery(row.pk)
    return bool(moved)


def send_again(delivery_id: int) -> bool:
    """Tries once more what has failed; False when it has not."""
    row = Delivery.objects.filter(pk=delivery_id, status=Told.FAILED).first()
    return row is not None and _start(row, now())


# ------------------------------------------------------------------------------------------- what grew worse


def _tell_worse(at: datetime) -> None:
    """What has grown worse while people have it: they were told of a lower severity. A severity never falls."""
    able = [name for name, channel in CHANNELS.items() if Kind.WORSENED in channel.kinds]
    said = Delivery.objects.filter(event__status=Status.ESCALATED, event__cleared_at=None, channel__in=able)
    latest = said.order_by("event_id", "channel", "-pk").distinct("event_id", "channel").values("pk")
    behind = Delivery.objects.filter(pk__in=latest).exclude(severity=F("event__severity"))
    for event_id in dict.fromkeys(behind.order_by("event_id").values_list("event_id", flat=True)[:SWEPT]):
        _tell_worse_of(event_id, able, at)


@transaction.atomic
def _tell_worse_of(event_id: int, able: Sequence[str], at: datetime) -> None:
    """In every channel that has it; what none has begun to say yet is put right where it stands."""
    event = SignalEvent.objects.select_for_update().get(pk=event_id)
    said = Delivery.objects.filter(event=event, channel__in=able)
    latest = said.order_by("channel", "-pk").distinct("channel")
    behind = [row for row in latest if row.severity != event.severity and event.status == Status.ESCALATED]
    unsaid = Delivery.objects.filter(free_at(at), began_at=None)
    news = [row for row in behind if not unsaid.filter(pk=row.pk).update(severity=event.severity)]
    if news:
        grown = f"It has grown worse while people have it: {event.severity}, and was told as {news[0].severity}."
        note(event, kind="note", actor="byteport", message=grown, at=at)
    for row in news:
        write(event, row.channel, Kind.WORSENED, at, row.ordinal + 1)


# ------------------------------------------------------------------------------------------------ reminders


def _remind(at: datetime) -> None:
    """One more word of what is still open, where that is asked for."""
    if settings.REMINDER_S <= 0:
        return
    for name, channel in CHANNELS.items():
        if Kind.REMINDER in channel.kinds and channel.setup().ready:
            for row in _last_words(name, at - timedelta(seconds=settings.REMINDER_S)):
                _remind_after(row, at)


def _last_words(channel: str, before: datetime) -> Sequence[Delivery]:
    """The latest word of each event that is still handed over, where it was said before then."""
    said = Delivery.objects.filter(event__status=Status.ESCALATED, channel=channel)
    latest = said.order_by("event_id", "-pk").distinct("event_id").values("pk")
    return list(Delivery.objects.filter(pk__in=latest, status=Told.SENT, sent_at__lt=before)[:SWEPT])


@transaction.atomic
def _remind_after(row: Delivery, at: datetime) -> None:
    event = SignalEvent.objects.select_for_update().get(pk=row.event_id)
    reminders = Delivery.objects.filter(event=event, channel=row.channel, kind=Kind.REMINDER)
    if event.status == Status.ESCALATED and not reminders.filter(ordinal=row.ordinal + 1).exists():
        write(event, row.channel, Kind.REMINDER, at, row.ordinal + 1)


# --------------------------------------------------------------------------------------------- confirmation


def confirm(delivery_id: int) -> None:
    """Asks whether what was taken has reached anybody; again after a while, for half a day."""
    at = now()
    row = Delivery.objects.select_related("event").filter(pk=delivery_id, confirm_at__lte=at).first()
    if row is not None:
        fields = {"confirm_at": _ask_again_at(row, at), **_news(row, at)}
        Delivery.objects.filter(pk=row.pk, status=Told.SENT).update(**fields)


def _news(row: Delivery, at: datetime) -> dict[str, Any]:
    """The columns to set when it has not reached everybody; none when it has, or when nobody can tell."""
    channel = CHANNELS.get(row.channel)
    try:
        amiss = channel.confirm(note_of(row, at)) if channel is not None and channel.setup().ready else ""
        return {"error": amiss} if amiss else {}
    except Undeliverable as error:
        log.warning("delivery did not reach anybody", delivery=row.pk, error=str(error))
        failed = {"status": Told.FAILED, "setup": channel.setup().version if channel is not None else ""}
        return {**failed, "confirm_at": None, "error": str(error), "remedy": error.remedy}
    except BytePortError as error:
        log.warning("delivery not confirmed", delivery=row.pk, error=str(error))
    return {}


def _ask_again_at(row: Delivery, at: datetime) -> datetime | None:
    """Twelve times as long after it was sent as it is now."""
    age = at - (row.sent_at or at)
    return at + 11 * age if age < STILL_ASKED_AFTER else None
