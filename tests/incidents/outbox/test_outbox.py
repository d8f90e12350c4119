"""What people are told, and how often. Real: PostgreSQL, the queue's table, the loop's own conclusions.

Not real: the channel, whose far end is a list (tests/incidents/farend.py); time is moved by hand.
"""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import time_machine
from django.db import transaction
from django.utils.module_loading import import_string
from django_q.signing import SignedPackage

from byteport import tasks
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from byteport.models import QueuedTask
from incidents import conclude
from incidents.escalation.channel import Kind, Limited, Setup, Undeliverable
from incidents.models import Delivery, Told
from incidents.outbox import delivery, rounds
from incidents.outbox.rounds import CONFIRM
from incidents.outbox.write import DELIVER
from runbooks.models import AgentSettings
from runbooks.stage import Move
from signals.ingest import ingest
from signals.models import ResolvedBy, SignalEvent, Status
from signals.reading import Reading, State
from tests.incidents import scenes
from tests.incidents.farend import StandInChannel, channels

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DRILL = ResourceRef("host", "web-1", "drill", "d1")


@pytest.fixture(autouse=True)
def _live(db):
    AgentSettings.objects.create(dry_run=False)


@pytest.fixture
def clock():
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture
def far(clock):
    far = StandInChannel()
    with channels(far):
        yield far


@transaction.atomic
def escalate(event: SignalEvent, why: str = "It cannot be fixed.") -> SignalEvent:
    conclude.escalate(event, Move(to=Status.ESCALATED, reason=why), at=datetime.now(UTC), token=None)
    return event


@transaction.atomic
def resolve(event: SignalEvent, by: ResolvedBy = ResolvedBy.PERSON) -> None:
    fields = {"resolved_by": by}
    move = Move(to=Status.RESOLVED, reason="The signal cleared.", fields=fields)
    conclude.resolve(event, move, at=datetime.now(UTC), token=None)


def handed_over(**fields) -> SignalEvent:
    return escalate(scenes.incident("detected", detected_at=datetime.now(UTC), **fields))


def run_due() -> None:
    """Runs the queue's tasks of the outbox whose delivery is due, as a worker would, until none is."""
    while task := next(filter(is_due, QueuedTask.objects.order_by("pk")), None):
        task.delete()
        name, args = opened(task)
        getattr(tasks, name)(*args)


def opened(task: QueuedTask) -> tuple[str, tuple[int, ...]]:
    package = SignedPackage.loads(task.payload)
    return package["func"].rpartition(".")[2], package["args"]


def is_due(task: QueuedTask) -> bool:
    """By the test's clock: the queue goes by PostgreSQL's."""
    name, args = opened(task)
    column = {"deliver": "due_at", "confirm": "confirm_at"}.get(name)
    return column is not None and Delivery.objects.filter(pk=args[0], **{f"{column}__lte": datetime.now(UTC)}).exists()


def the(kind: Kind = Kind.ESCALATED, channel: str = "standin") -> Delivery:
    return Delivery.objects.filter(kind=kind, channel=channel).latest("pk")


# --- what is written, and when


def test_an_escalation_is_told_once_in_every_channel_that_is_set_up(clock):
    one, two = StandInChannel("one"), StandInChannel("two")
    unset = StandInChannel("unset")
    unset.state = Setup()
    with channels(one, two, unset):
        event = handed_over()
        run_due()
    assert [note.record.id for note in (*one.arrived, *two.arrived)] == [event.pk, event.pk]
    assert set(Delivery.objects.values_list("channel", "status")) == {("one", "sent"), ("two", "sent")}


def test_what_is_rolled_back_is_told_to_nobody(far):
    event = scenes.incident("detected")
    with transaction.atomic():
        escalate(event)
        transaction.set_rollback(True)
    run_due()
    assert (far.arrived, Delivery.objects.count()) == ([], 0)


def test_looking_at_an_escalated_event_again_tells_nothing_more(far):
    handed_over()
    for _ in range(5):
        run_due()
        rounds.sweep()
    assert len(far.arrived) == 1


def test_the_timeline_says_where_people_were_told(far):
    event = handed_over()
    run_due()
    told = event.timeline.get(kind="note")
    assert (told.actor, told.message) == ("byteport", "Standin was told.")
    assert told.data["url"] == f"https://standin.example/place-{event.pk}"


def test_what_was_sent_is_kept_as_it_was(far):
    event = handed_over()
    run_due()
    assert (the().title, the().body) == ("Disk pressure of /var on web-1", f"Incident {event.pk}: **escalated**")


def test_what_is_put_into_the_queue_is_there_to_be_called():
    assert import_string(DELIVER) is tasks.deliver
    assert import_string(CONFIRM) is tasks.confirm


# --- when it is over


def test_whoever_was_told_hears_that_it_is_over(far):
    event = handed_over()
    run_due()
    resolve(event)
    run_due()
    assert [note.kind for note in far.arrived] == [Kind.ESCALATED, Kind.CLEARED]
    assert far.arrived[1].earlier.target == f"place-{event.pk}"


def test_in_an_outage_the_end_waits_behind_the_beginning(far):
    def away(note):
        raise Temporary("502")

    far.on_send = away
    event = handed_over()
    run_due()
    resolve(event)
    run_due()
    assert far.arrived == []
    far.on_send = lambda note: None
    with time_machine.travel(START + timedelta(minutes=5), tick=False):
        run_due()
    assert [note.kind for note in far.arrived] == [Kind.ESCALATED, Kind.CLEARED]


def test_what_was_told_to_nobody_need_not_be_told_when_it_is_over(far):
    far.state = Setup()
    event = handed_over()
    run_due()
    resolve(event)
    run_due()
    assert far.arrived == []
    assert list(Delivery.objects.values_list("kind", "status")) == [("escalated", "withdrawn")]


def test_what_byteport_fixed_itself_is_told_to_nobody(far):
    event = scenes.planned("verifying")
    resolve(event, ResolvedBy.BYTEPORT)
    run_due()
    assert (far.arrived, Delivery.objects.count()) == ([], 0)


def test_a_fix_of_the_same_trouble_is_told_where_people_have_it(far):
    fingerprint = uuid4()
    first = handed_over()
    SignalEvent.objects.filter(pk=first.pk).update(fingerprint=fingerprint)
    Delivery.objects.update(fingerprint=fingerprint)
    run_due()
    first.refresh_from_db()
    resolve(first)
    again = scenes.planned("verifying")
    SignalEvent.objects.filter(pk=again.pk).update(fingerprint=fingerprint)
    again.refresh_from_db()
    resolve(again, ResolvedBy.BYTEPORT)
    run_due()
    assert [note.kind for note in far.arrived] == [Kind.ESCALATED, Kind.CLEARED, Kind.CLEARED]
    assert far.arrived[2].record.id == again.pk


# --- the far end fails


def test_a_failure_that_may_pass_is_tried_again_ever_less_often_and_never_given_up(far):
    def away(note):
        raise Temporary("502 Bad Gateway")

    far.on_send = away
    handed_over()
    delays = []
    moment = START
    for _ in range(12):
        with time_machine.travel(moment, tick=False):
            run_due()
        due_at = the().due_at
        delays.append((due_at - moment).total_seconds())
        moment = due_at + timedelta(seconds=1)
    assert 0.8 * 10 <= delays[0] <= 1.2 * 10
    assert sum(delays) > 3600, "a dozen attempts are enough for an hour and more"
    assert 0.8 * 900 <= delays[-1] <= 1.2 * 900
    assert (the().status, the().error, the().attempts) == (Told.SENDING, "502 Bad Gateway", 12)
    far.on_send = lambda note: None
    with time_machine.travel(moment, tick=False):
        run_due()
    assert (len(far.arrived), the().status, the().error, the().failing_since) == (1, Told.SENT, "", None)


def test_an_answer_that_got_lost_leads_to_no_second_message(far):
    def lost(note):
        raise Temporary("timed out")

    far.after_send = lost
    handed_over()
    run_due()
    assert the().status == Told.SENDING
    with time_machine.travel(START + timedelta(minutes=1), tick=False):
        run_due()
    assert (len(far.arrived), the().status) == (1, Told.SENT)
    assert far.asked == ["aim", "send", "probe"]


def test_a_worker_that_died_in_the_middle_is_followed_by_one_that_looks_first(far):
    def die(note):
        raise KeyboardInterrupt

    far.after_send = die
    handed_over()
    with pytest.raises(KeyboardInterrupt):
        run_due()
    with time_machine.travel(START + delivery.LEASE + timedelta(minutes=1), tick=False):
        rounds.sweep()
        run_due()
    assert (len(far.arrived), the().status) == (1, Told.SENT)


def test_where_it_goes_is_kept_before_it_is_sent(far):
    seen = []
    far.on_send = lambda note: seen.append(Delivery.objects.values_list("status", "target", "attempts").get())
    event = handed_over()
    run_due()
    assert seen == [("sending", f"place-{event.pk}", 1)]


def test_a_pause_that_the_far_end_asks_for_holds_for_the_whole_channel(far):
    def limited(note):
        raise Limited("slow down", delay_s=600)

    far.on_send = limited
    handed_over()
    handed_over()
    run_due()
    assert far.asked.count("send") == 1
    far.on_send = lambda note: None
    with time_machine.travel(START + timedelta(seconds=590), tick=False):
        run_due()
        assert far.arrived == []
    with time_machine.travel(START + timedelta(seconds=620), tick=False):
        run_due()
    assert len(far.arrived) == 2


def test_what_no_retry_would_change_fails_at_once_with_the_remedy(far):
    def refused(note):
        raise Undeliverable("401 Bad credentials", remedy="Set a new token.")

    far.on_send = refused
    handed_over()
    run_due()
    assert (the().status, the().error, the().remedy) == (Told.FAILED, "401 Bad credentials", "Set a new token.")
    assert the().due_at is None


def test_a_fault_of_the_program_is_no_reason_to_lose_it(far):
    def broken(note):
        raise ZeroDivisionError("oops")

    far.on_send = broken
    handed_over()
    run_due()
    assert the().status == Told.SENDING
    assert "ZeroDivisionError" in the().error


def test_two_workers_at_once_send_it_once(far):
    handed_over()
    assert delivery.claim(the().pk, START) is not None
    delivery.deliver(the().pk)
    assert far.asked == []


def test_a_failed_one_can_be_sent_again_and_is_looked_for_first(far):
    def refused(note):
        raise Permanent("no")

    far.after_send = refused
    handed_over()
    run_due()
    far.after_send = lambda note: None
    assert rounds.send_again(the().pk)
    run_due()
    assert (len(far.arrived), the().status) == (1, Told.SENT)
    assert not rounds.send_again(the().pk)


def test_what_failed_is_tried_again_once_a_setting_has_changed(far):
    def refused(note):
        raise Undeliverable("401", remedy="Set a new token.")

    far.on_send = refused
    far.state = Setup(given=True, version="old")
    handed_over()
    over = handed_over()
    run_due()
    resolve(over)
    rounds.sweep()
    run_due()
    assert far.asked.count("send") == 2
    far.state, far.on_send = Setup(given=True, version="new"), lambda note: None
    rounds.sweep()
    run_due()
    assert [note.record.id for note in far.arrived] == [over.pk - 1]


# --- one after the other


def test_a_second_escalation_of_the_same_trouble_waits_for_the_first(far):
    def away(note):
        raise Temporary("502")

    far.on_send = away
    fingerprint = uuid4()
    for _ in range(2):
        event = handed_over()
        SignalEvent.objects.filter(pk=event.pk).update(fingerprint=fingerprint, status="resolved", resolved_by="person",
                                                       resolved_at=START)  # fmt: skip
        Delivery.objects.filter(event=event).update(fingerprint=fingerprint)
    run_due()
    assert far.asked.count("send") == 1
    far.on_send = lambda note: None
    with time_machine.travel(START + timedelta(minutes=1), tick=False):
        run_due()
    first, second = far.arrived
    assert first.record.id < second.record.id
    assert second.earlier.target == first.target


def test_a_channel_that_links_to_another_waits_for_it_a_little_while_and_no_longer(clock):
    first, second = StandInChannel("first"), StandInChannel("second", follows=("first",))

    def away(note):
        raise Temporary("502")

    first.on_send = away
    with channels(second, first):
        handed_over()
        run_due()
        assert second.arrived == []
        clock.move_to(START + timedelta(minutes=3))
        rounds.sweep()
        run_due()
        assert [note.links for note in second.arrived] == [()]
        first.on_send = lambda note: None
        event = handed_over()
        run_due()
    assert second.arrived[-1].links[0].url == f"https://first.example/place-{event.pk}"


# --- when nothing may be sent


def test_with_no_channel_set_up_it_is_kept_for_the_first_that_will_be(far):
    far.state = Setup()
    event = handed_over()
    run_due()
    assert (the().status, the().error) == (Told.HELD, "Standin is not set up.")
    rounds.sweep()
    run_due()
    assert the().status == Told.HELD
    far.state = Setup(given=True)
    rounds.sweep()
    run_due()
    assert [note.record.id for note in far.arrived] == [event.pk]


def test_in_dry_run_nothing_is_sent_until_it_is_off(far):
    AgentSettings.objects.update(dry_run=True)
    handed_over()
    over = handed_over()
    run_due()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"held"}
    resolve(over)
    AgentSettings.objects.update(dry_run=False)
    rounds.sweep()
    run_due()
    assert [note.record.id for note in far.arrived] == [over.pk - 1]


def test_a_setting_has_it_sent_in_dry_run_too(far, settings):
    settings.TELL_IN_DRY_RUN = True
    AgentSettings.objects.update(dry_run=True)
    handed_over()
    run_due()
    assert len(far.arrived) == 1


def test_nobody_is_told_of_a_drill_unless_that_setting_is_on(far, settings):
    event = handed_over(resource=DRILL)
    run_due()
    assert (far.arrived, the().status) == ([], Told.HELD)
    settings.TELL_IN_DRY_RUN = True
    rounds.sweep()
    run_due()
    assert [note.record.id for note in far.arrived] == [event.pk]


def test_what_was_begun_and_then_held_is_looked_for_first(far):
    def lost(note):
        raise Temporary("timed out")

    far.after_send = lost
    handed_over()
    run_due()
    AgentSettings.objects.update(dry_run=True)
    with time_machine.travel(START + timedelta(minutes=1), tick=False):
        run_due()
        assert the().status == Told.HELD
        AgentSettings.objects.update(dry_run=False)
        rounds.sweep()
        run_due()
    assert (len(far.arrived), the().status) == (1, Told.SENT)


# --- what grows worse


def worse(event: SignalEvent) -> None:
    SignalEvent.objects.filter(pk=event.pk).update(severity="critical")


def sweep_thrice() -> None:
    for _ in range(3):
        rounds.sweep()
        run_due()


def test_what_grows_worse_while_people_have_it_is_told_once_more_and_no_oftener(far):
    event = handed_over()
    run_due()
    worse(event)
    sweep_thrice()
    assert [(note.kind, note.severity) for note in far.arrived] == [
        (Kind.ESCALATED, "warning"),
        (Kind.WORSENED, "critical"),
    ]
    assert far.arrived[1].earlier.target == f"place-{event.pk}"
    grown = event.timeline.filter(message__startswith="It has grown worse")
    assert [line.message for line in grown] == [
        "It has grown worse while people have it: critical, and was told as warning."
    ]


def test_that_it_is_worse_is_seen_by_the_readings_themselves(far):
    said = {"signal": "custom", "resource": scenes.VAR, "state": State.FIRING}
    (pk,) = ingest([Reading(at=START, labels={"severity": "warning"}, **said)]).opened
    escalate(SignalEvent.objects.get(pk=pk))
    run_due()
    ingest([Reading(at=START + timedelta(seconds=30), labels={"severity": "critical"}, **said)])
    ingest([Reading(at=START + timedelta(seconds=60), labels={"severity": "warning"}, **said)])
    sweep_thrice()
    assert [note.severity for note in far.arrived] == ["warning", "critical"]


def test_what_nobody_was_told_of_yet_is_told_once_as_bad_as_it_is(far):
    AgentSettings.objects.update(dry_run=True)
    event = handed_over()
    run_due()
    worse(event)
    sweep_thrice()
    AgentSettings.objects.update(dry_run=False)
    sweep_thrice()
    assert [(note.kind, note.severity) for note in far.arrived] == [(Kind.ESCALATED, "critical")]
    assert not event.timeline.filter(message__startswith="It has grown worse").exists()


def test_in_an_outage_that_it_is_worse_waits_behind_the_first_word(far):
    def away(note):
        raise Temporary("502")

    far.on_send = away
    event = handed_over()
    run_due()
    worse(event)
    sweep_thrice()
    far.on_send = lambda note: None
    with time_machine.travel(START + timedelta(minutes=5), tick=False):
        sweep_thrice()
    assert [note.kind for note in far.arrived] == [Kind.ESCALATED, Kind.WORSENED]


@pytest.mark.parametrize("over", ["cleared", "resolved"])
def test_what_is_over_cannot_grow_worse(far, over):
    event = handed_over()
    run_due()
    if over == "cleared":
        SignalEvent.objects.update(cleared_at=START)
    else:
        resolve(event)
    worse(event)
    sweep_thrice()
    assert Kind.WORSENED not in {note.kind for note in far.arrived}


def test_reminders_go_on_after_it_has_grown_worse(far, settings):
    settings.REMINDER_S = 3600
    event = handed_over()
    run_due()
    for hours in (2, 4, 6, 8):
        with time_machine.travel(START + timedelta(hours=hours), tick=False):
            if hours == 6:
                worse(event)
            sweep_thrice()
    told = [note.kind for note in far.arrived]
    assert told == [Kind.ESCALATED, Kind.REMINDER, Kind.REMINDER, Kind.WORSENED, Kind.REMINDER]


# --- reminders and confirmations


def test_there_is_no_reminder_unless_it_is_asked_for(far, settings):
    handed_over()
    run_due()
    with time_machine.travel(START + timedelta(days=3), tick=False):
        rounds.sweep()
        run_due()
        assert len(far.arrived) == 1
        settings.REMINDER_S = 3600
        for _ in range(2):
            rounds.sweep()
            run_due()
    assert [note.kind for note in far.arrived] == [Kind.ESCALATED, Kind.REMINDER]
    with time_machine.travel(START + timedelta(days=3, hours=2), tick=False):
        rounds.sweep()
        run_due()
    assert [note.kind for note in far.arrived].count(Kind.REMINDER) == 2


def test_what_was_taken_and_reached_nobody_is_a_failure_later_on(far):
    far.confirm_s = 300.0
    handed_over()
    run_due()

    def bounced(note):
        raise Undeliverable("it bounced", remedy="Look at the address.")

    for minutes in (6, 80):
        with time_machine.travel(START + timedelta(minutes=minutes), tick=False):
            rounds.sweep()
            run_due()
        assert the().status == Told.SENT
        assert the().error == ("" if minutes == 6 else "half of it bounced")
        far.on_confirm = bounced
        if minutes == 6:
            far.on_confirm = lambda note: "half of it bounced"
    far.on_confirm = bounced
    with time_machine.travel(START + timedelta(hours=20), tick=False):
        rounds.sweep()
        run_due()
        assert (the().status, the().remedy, the().confirm_at) == (Told.FAILED, "Look at the address.", None)
        uid = the().uid
        assert rounds.send_again(the().pk)
        run_due()
    assert len(far.arrived) == 2
    assert far.arrived[1].id != uid
