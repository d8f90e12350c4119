"""The loop from event to end. Real: PostgreSQL, the queue's table, every stage and gate. The far end of the wire, a
host, is the stand-in of tests/standin.py. Time is moved by hand."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext

from byteport import loop
from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry, QueuedTask
from incidents import operate
from runbooks.action import Probe, ProbeState
from runbooks.models import AgentAction, AgentSettings, GateVerdict, MaintenanceWindow, RunbookPolicy
from runbooks.runbook import StepKind
from signals.ingest import ingest
from signals.lifecycle import transition
from signals.models import SignalEvent, Status
from signals.reading import Reading, State
from tests.standin import RESOURCE, Platform, installed

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


ONE_LOOK = {"good_samples": 1}


@pytest.fixture
def platform():
    with installed(Platform()) as platform:
        yield platform


@pytest.fixture
def clock():
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture(autouse=True)
def _live(db):
    AgentSettings.objects.create(dry_run=False)


def fire(resource: ResourceRef = RESOURCE, *, at: datetime = START, **labels: str) -> SignalEvent:
    ingest(
        [
            Reading(
                signal="disk_pressure",
                resource=resource,
                at=at,
                value=90.0,
                state=State.FIRING,
                labels=labels,
            )
        ]
    )
    return SignalEvent.objects.filter(resource=str(resource)).latest("pk")


def clear(resource: ResourceRef = RESOURCE, *, at: datetime) -> None:
    ingest([Reading(signal="disk_pressure", resource=resource, at=at, value=10.0, state=State.RESOLVED)])


def advance(event: SignalEvent) -> str:
    loop.advance(event.pk)
    event.refresh_from_db()
    return event.status


def run_until(event: SignalEvent, clock: time_machine.Traveller, *statuses: str, most: int = 80) -> SignalEvent:
    """Advances the event, moving the time on to whenever its next stage is due."""
    for _ in range(most):
        event.refresh_from_db()
        if event.status in statuses:
            return event
        if event.due_at and event.due_at > datetime.now(UTC):
            clock.move_to(event.due_at)
        advance(event)
    raise AssertionError(f"still {event.status}: {event.reason}")


def test_a_fix_that_is_verified_ends_resolved_by_byteport(platform, clock):
    event = run_until(fire(), clock, "resolved", "escalated")
    assert (event.status, event.resolved_by) == ("resolved", "byteport")
    assert [row.status for row in event.actions.all()] == ["done", "done"]
    assert [sample.look for sample in event.samples.all()] == ["good"] * 3
    assert event.postmortem_final
    assert event.postmortem_md


def test_every_stage_is_gone_through_in_order(platform, clock):
    event = run_until(fire(), clock, "resolved")
    kinds = [line.kind for line in event.timeline.all()]
    assert kinds == ["detected", "diagnosed", "acting", "verifying", "resolved"]


def test_nothing_is_looked_at_before_the_verification_delay(platform, clock):
    event = run_until(fire(), clock, "verifying")
    assert event.due_at - datetime.now(UTC) == timedelta(seconds=30)
    loop.advance(event.pk)
    assert event.samples.count() == 0


def test_a_fix_that_does_not_help_is_escalated_at_the_deadline(platform, clock):
    platform.heals = False
    event = run_until(fire(), clock, "resolved", "escalated")
    assert event.status == "escalated"
    assert "did not help" in event.reason
    assert {sample.look for sample in event.samples.all()} == {"bad"}


def test_no_data_is_never_taken_for_good(platform, clock):
    event = run_until(fire(), clock, "verifying")
    platform.value = None
    event = run_until(event, clock, "resolved", "escalated")
    assert event.status == "escalated"
    assert "Could not verify" in event.reason


def test_one_bad_look_starts_the_count_again(platform, clock):
    event = run_until(fire(), clock, "verifying")
    clock.move_to(event.due_at)
    for value in (10.0, 10.0, 90.0, 10.0, 10.0):
        platform.value = value
        assert advance(event) == "verifying"
        clock.move_to(event.due_at)
    assert advance(event) == "resolved"
    assert event.samples.count() == 6


def test_a_hopeless_look_escalates_at_once(platform, clock):
    platform.heals = False
    platform.value = 96.0
    event = run_until(fire(), clock, "escalated")
    assert event.samples.count() == 1


def test_a_signal_without_a_runbook_is_handed_over(clock):
    ingest([Reading(signal="alert:Odd", resource=RESOURCE, at=START, state=State.FIRING)])
    event = SignalEvent.objects.get()
    assert advance(event) == "escalated"
    assert "no runbook" in event.reason


def test_without_the_opt_in_nothing_is_done_and_the_remedy_is_named(platform, clock):
    platform.opted_in = False
    event = run_until(fire(), clock, "escalated")
    assert "opt_in" in event.reason
    assert "To opt in" in event.reason
    assert event.actions.count() == 0
    assert event.acted_at is None


def test_the_opt_in_taken_back_between_two_steps_stops_the_plan(platform, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    platform.opted_in = False
    assert advance(event) == "escalated"
    assert len(platform.done) == 1
    assert "Stopped between two steps" in event.reason


def test_a_change_by_somebody_else_stops_the_plan(platform, clock):
    platform.override = "kubectl edited it"
    event = run_until(fire(), clock, "escalated")
    assert platform.done == []
    assert "kubectl edited it" in event.reason


def test_dry_run_goes_through_every_gate_says_what_it_would_do_and_does_nothing(platform, clock):
    AgentSettings.objects.update(dry_run=True)
    event = run_until(fire(), clock, "simulated", "escalated")
    assert event.status == "simulated"
    assert platform.done == []
    assert [(row.status, row.dry_run) for row in event.actions.all()] == [("simulated", True)] * 2
    assert GateVerdict.objects.filter(event=event).count() == 11


def test_switching_dry_run_off_has_what_still_lasts_looked_at_afresh(platform, clock):
    AgentSettings.objects.update(dry_run=True)
    event = run_until(fire(), clock, "simulated")
    operate.set_dry_run(False, actor="ada")
    event = run_until(event, clock, "resolved")
    assert event.resolved_by == "byteport"
    assert event.actions.filter(dry_run=True).count() == 2
    assert event.actions.filter(dry_run=False).count() == 2
    assert AuditEntry.objects.get().actor == "ada"


def test_however_many_dry_run_has_held_its_end_wakes_them_with_the_same_few_statements(platform, clock):
    AgentSettings.objects.update(dry_run=True, storm_minimum=1000)
    counts = []
    for number in (3, 12):
        held = [fire(ResourceRef("host", f"web-{number}-{n}", "mount", "/srv")) for n in range(number)]
        for event in held:
            run_until(event, clock, "simulated")
        with CaptureQueriesContext(connection) as seen:
            operate.set_dry_run(False, actor="ada")
        counts.append(len(seen))
        assert SignalEvent.objects.filter(pk__in=[event.pk for event in held], due_at__isnull=False).count() == number
        operate.set_dry_run(True, actor="ada")
    assert counts[0] == counts[1]


def test_a_deployment_that_forces_dry_run_outweighs_the_operators_switch(platform, clock, settings):
    settings.FORCE_DRY_RUN = True
    event = run_until(fire(), clock, "simulated", "escalated")
    assert (event.status, platform.done) == ("simulated", [])
    assert "BYTEPORT_FORCE_DRY_RUN" in GateVerdict.objects.get(event=event, allowed=False).reason
    with pytest.raises(Refused, match="BYTEPORT_FORCE_DRY_RUN"):
        operate.set_dry_run(False, actor="ada")
    loop.sweep()
    assert advance(event) == "simulated"


def test_what_a_forced_dry_run_held_goes_on_when_the_next_deployment_ends_it(platform, clock, settings):
    settings.FORCE_DRY_RUN = True
    event = run_until(fire(), clock, "simulated")
    settings.FORCE_DRY_RUN = False
    loop.sweep()
    assert run_until(event, clock, "resolved").resolved_by == "byteport"


def test_the_sweep_leaves_alone_what_its_own_policy_keeps_in_dry_run(platform, clock):
    RunbookPolicy.objects.update_or_create(
        runbook="standin", defaults={"dry_run": True, "cooldown_s": 600, "verify_deadline_s": 120}
    )
    event = run_until(fire(), clock, "simulated")
    loop.sweep()
    event.refresh_from_db()
    assert event.due_at is None


def test_what_this_deployment_has_switched_off_is_not_even_looked_at(platform, clock, settings):
    settings.RUNBOOKS_ON = frozenset({"another"})
    event = run_until(fire(), clock, "escalated", "simulated")
    assert "BYTEPORT_RUNBOOKS" in event.reason
    assert (event.runbook, event.diagnosis, event.actions.count()) == ("standin", None, 0)


def test_a_plan_made_before_its_runbook_was_switched_off_is_not_begun(platform, clock, settings):
    event = run_until(fire(), clock, "diagnosed")
    settings.RUNBOOKS_ON = frozenset()
    event = run_until(event, clock, "escalated", "acting")
    assert platform.done == []
    assert "BYTEPORT_RUNBOOKS" in event.reason


def test_a_simulated_event_that_clears_has_resolved_itself(platform, clock):
    AgentSettings.objects.update(dry_run=True)
    event = run_until(fire(), clock, "simulated")
    clear(at=START + timedelta(minutes=5))
    assert advance(event) == "resolved"
    assert event.resolved_by == "itself"
    assert event.postmortem_final


def test_an_escalated_event_that_clears_was_resolved_by_a_person(platform, clock):
    platform.opted_in = False
    event = run_until(fire(), clock, "escalated")
    assert not event.postmortem_final
    clear(at=START + timedelta(minutes=5))
    assert advance(event) == "resolved"
    assert event.resolved_by == "person"
    assert event.postmortem_final


@pytest.mark.parametrize(("dry_run", "rests", "by"), [(False, "escalated", "person"), (True, "simulated", "itself")])
def test_a_signal_that_clears_while_the_last_stage_runs_is_not_overlooked(platform, clock, dry_run, rests, by):
    AgentSettings.objects.update(dry_run=dry_run)
    platform.opted_in = dry_run
    event = run_until(fire(), clock, "diagnosed")
    claimed = loop.claim(event.pk, datetime.now(UTC))
    move = loop.run_stage(claimed, datetime.now(UTC))
    clear(at=START + timedelta(seconds=1))
    loop.settle(claimed, move)
    event.refresh_from_db()
    assert event.status == rests
    assert advance(event) == "resolved"
    assert event.resolved_by == by


def test_a_signal_that_clears_before_its_fix_is_given_up_leaves_nothing_open(platform, clock):
    platform.heals = False
    event = run_until(fire(), clock, "verifying")
    clear(at=START + timedelta(minutes=1))
    event = run_until(event, clock, "escalated")
    assert advance(event) == "resolved"
    assert (event.resolved_by, event.reason) == ("person", "The signal cleared while people had it.")


@pytest.mark.parametrize("stage", ["detected", "verifying"])
def test_what_fires_while_its_incident_is_about_to_end_is_not_lost_with_it(platform, clock, stage):
    """Its sender may say so once: it must not be folded into an incident that ends the moment after."""
    event = run_until(fire(), clock, stage)
    if stage == "detected":
        clear(at=START + timedelta(seconds=5))
    else:
        SignalEvent.objects.filter(pk=event.pk).update(plan=event.plan | {"timing": event.plan["timing"] | ONE_LOOK})
    clock.shift(60)
    claimed = loop.claim(event.pk, datetime.now(UTC))
    move = loop.run_stage(claimed, datetime.now(UTC))
    assert move.to == "resolved"
    fire(at=datetime.now(UTC))
    loop.settle(claimed, move)
    event.refresh_from_db()
    assert event.status == stage
    assert event.lease_token is None
    assert event.due_at is not None
    assert run_until(event, clock, "resolved").resolved_by == "byteport"


def test_a_signal_that_fires_again_after_it_cleared_stays_with_people(platform, clock):
    platform.heals = False
    event = run_until(fire(), clock, "verifying")
    clear(at=START + timedelta(minutes=1))
    fire(at=START + timedelta(minutes=2))
    event = run_until(event, clock, "escalated")
    assert advance(event) == "escalated"


def test_resolved_by_its_sender_never_acts(platform, clock):
    event = fire()
    clear(at=START + timedelta(seconds=1))
    assert advance(event) == "resolved"
    assert platform.done == []


def test_a_pause_holds_everything_and_its_end_lets_it_go_on(platform, clock):
    operate.pause(actor="ada", why="a deploy")
    event = fire()
    assert advance(event) == "diagnosed"
    for _ in range(5):
        clock.move_to(event.due_at)
        assert advance(event) == "diagnosed"
    assert "a deploy" in event.reason
    assert event.timeline.filter(kind="note").count() == 1, "the same reason is told once"
    operate.resume(actor="ada")
    assert run_until(event, clock, "resolved").resolved_by == "byteport"


def test_a_maintenance_window_holds_what_it_covers_and_nothing_else(platform, clock):
    MaintenanceWindow.objects.create(
        name="upgrade", starts_at=START, ends_at=START + timedelta(hours=1), resources="host/web-1/*"
    )
    assert advance(held := fire()) == "diagnosed"
    assert advance(held) == "diagnosed"
    other = fire(ResourceRef("host", "web-2", "mount", "/srv"))
    assert run_until(other, clock, "resolved").resolved_by == "byteport"


def test_a_maintenance_window_holds_also_what_the_plan_would_change_where_the_event_is_about_something_in_it(
    platform, clock
):
    """An alert about a pod; and people are at work on its Deployment."""
    platform.target = ResourceRef("kubernetes", "prod", "deployment", "cart", "shop")
    MaintenanceWindow.objects.create(
        name="release",
        starts_at=START,
        ends_at=START + timedelta(hours=1),
        resources="kubernetes/prod/shop/deployment/*",
    )
    event = fire(ResourceRef("kubernetes", "prod", "pod", "cart-1", "shop"))
    assert advance(event) == "diagnosed"
    assert advance(event) == "diagnosed"
    assert "maintenance window “release”" in event.reason


def test_the_same_resource_is_left_alone_within_the_cooldown(platform, clock):
    run_until(fire(), clock, "resolved")
    again = fire(at=datetime.now(UTC) + timedelta(seconds=1))
    clock.shift(2)
    assert advance(again) == "diagnosed"
    assert advance(again) == "diagnosed"
    assert "may run again at" in again.reason
    clock.shift(600)
    assert run_until(again, clock, "resolved").resolved_by == "byteport"


def test_a_runbook_that_backs_off_is_held_for_longer_after_each_run(platform, clock):
    for _ in range(2):
        run_until(fire(at=datetime.now(UTC)), clock, "resolved")
        clock.shift(601)
    again = fire(at=datetime.now(UTC))
    clock.shift(400)  # 600 s are over, twice as much is not
    assert advance(again) == "diagnosed"
    assert advance(again) == "diagnosed"
    assert "may run again at" in again.reason


def test_after_three_fixes_that_did_not_last_a_person_is_told(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=0, verify_deadline_s=120)
    AgentSettings.objects.update(max_per_neighbourhood_hour=100)
    for _ in range(3):
        run_until(fire(at=datetime.now(UTC)), clock, "resolved")
        clock.shift(60)
    event = run_until(fire(at=datetime.now(UTC)), clock, "resolved", "escalated")
    assert event.status == "escalated"
    assert "ineffective_loop" in event.reason
    assert len(platform.done) == 6


def test_the_budget_of_a_host_is_kept(platform, clock):
    for number in range(3):
        run_until(fire(ResourceRef("host", "web-1", "mount", f"/data{number}")), clock, "resolved")
    event = run_until(fire(ResourceRef("host", "web-1", "mount", "/data3")), clock, "escalated")
    assert "budget" in event.reason


def test_a_run_that_goes_on_for_hours_keeps_its_place_in_the_budget(platform, clock):
    AgentSettings.objects.update(max_concurrent=1)
    run_until(fire(), clock, "acting")
    clock.shift(2 * 3600)
    other = fire(ResourceRef("host", "web-2", "mount", "/srv"), at=datetime.now(UTC))
    assert advance(other) == "diagnosed"
    assert advance(other) == "diagnosed"
    assert "most that may run at once" in other.reason


def test_a_storm_is_not_treated_by_its_symptoms(platform, clock):
    events = [fire(ResourceRef("host", f"web-{n}", "mount", "/srv")) for n in range(5)]
    assert run_until(events[0], clock, "escalated").reason.count("fail at once")
    assert platform.done == []


def test_a_plan_that_needs_approval_waits_for_it_and_runs_with_it(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    assert platform.done == []
    clock.shift(10)
    operate.approve(event.pk, actor="ada", plan_hash=event.plan_hash)
    assert run_until(event, clock, "resolved").resolved_by == "byteport"
    assert "Approved by ada." in [line.message for line in event.timeline.all()]


def test_a_refused_plan_goes_to_people_with_the_reason(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    operate.refuse(event.pk, actor="ada", why="not tonight")
    event = run_until(event, clock, "escalated")
    assert "not tonight" in event.reason
    assert platform.done == []


def test_an_approval_lapses(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    clock.shift(3601)
    with pytest.raises(Refused, match="lapsed"):
        operate.approve(event.pk, actor="ada")
    assert run_until(event, clock, "escalated").reason.count("lapsed")


def test_a_yes_holds_for_as_long_as_the_request_did_and_then_a_person_is_told(platform, clock):
    """BytePort was paused right after it, over the weekend."""
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    operate.approve(event.pk, actor="ada", plan_hash=event.plan_hash)
    operate.pause(actor="ada", why="weekend")
    assert advance(event) == "diagnosed"
    assert advance(event) == "diagnosed"
    clock.shift(timedelta(days=2))
    operate.resume(actor="ada")
    event = run_until(event, clock, "escalated", "resolved")
    assert event.status == "escalated"
    assert "approved at 2026-03-01" in event.reason
    assert not platform.done


def test_an_approved_plan_that_has_begun_is_not_cut_off_by_the_age_of_its_approval(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    operate.approve(event.pk, actor="ada", plan_hash=event.plan_hash)
    event = run_until(event, clock, "acting")
    advance(event)
    clock.shift(timedelta(days=2))
    assert run_until(event, clock, "escalated", "resolved").status == "resolved"
    assert len(platform.done) == 2


def test_an_approval_of_another_plan_is_none(platform, clock):
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=600, verify_deadline_s=120, needs_approval=True)
    event = run_until(fire(), clock, "awaiting_approval")
    with pytest.raises(Refused, match="changed"):
        operate.approve(event.pk, actor="ada", plan_hash="0" * 16)


def test_a_policy_edited_in_mid_incident_does_not_change_the_frozen_plan(platform, clock):
    event = run_until(fire(), clock, "acting")
    RunbookPolicy.objects.create(runbook="standin", cooldown_s=0, verify_deadline_s=1, verify_delay_s=1, good_samples=1)
    event = run_until(event, clock, "resolved")
    assert event.samples.count() == 3


def test_a_fault_that_passes_is_tried_again_and_nothing_is_done_twice(platform, clock):
    failures = iter([Temporary("no route to host"), Temporary("no route to host")])

    def flaky(call):
        error = next(failures, None)
        if error:
            raise error

    platform.on_execute = flaky
    run_until(fire(), clock, "resolved")
    assert len(platform.done) == len(set(platform.done)) == 2


def cut_off_before_anything_happened(platform, clock) -> SignalEvent:
    """Its first step is begun, and the far end has never heard of it."""
    platform.on_execute = lambda call: (_ for _ in ()).throw(Temporary("no route to host"))
    event = run_until(fire(), clock, "acting")
    advance(event)
    platform.on_execute = lambda call: None
    assert [row.status for row in event.actions.all()] == ["started"]
    clock.move_to(event.due_at)
    return event


def test_a_step_that_was_cut_off_is_not_carried_out_after_the_kill_switch(platform, clock):
    event = cut_off_before_anything_happened(platform, clock)
    operate.pause(actor="ada", why="look at it")
    for _ in range(3):
        assert advance(event) == "acting"
        clock.move_to(event.due_at)
    assert platform.done == []
    operate.resume(actor="ada")
    assert run_until(event, clock, "resolved").actions.filter(status="done").count() == 2


def withdraw(platform):
    platform.opted_in = False


def lay_hands_on(platform):
    platform.override = "ada edited it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (withdraw, "Not opted in"),
        (lay_hands_on, "ada edited it"),
        (lambda platform: AgentSettings.objects.update(dry_run=True), "The agent is in dry-run"),
    ],
)
def test_a_step_that_was_cut_off_asks_every_gate_again_before_it_is_carried_out(platform, clock, change, said):
    event = cut_off_before_anything_happened(platform, clock)
    change(platform)
    assert advance(event) == "escalated"
    assert said in event.reason
    assert platform.done == []
    assert [(row.status, said in row.message) for row in event.actions.all()] == [("refused", True)]


def test_a_step_that_was_cut_off_waits_for_the_end_of_a_maintenance_window(platform, clock):
    event = cut_off_before_anything_happened(platform, clock)
    now = datetime.now(UTC)
    MaintenanceWindow.objects.create(name="move", starts_at=now, ends_at=now + timedelta(minutes=5))
    assert advance(event) == "acting"
    assert platform.done == []
    assert run_until(event, clock, "resolved").status == "resolved"


def test_a_step_that_may_have_happened_is_never_repeated(platform, clock):
    def cut_off(call):
        platform.done.append(call.id)
        raise Temporary("the connection was cut")

    platform.on_execute = cut_off
    platform.probe = Probe(ProbeState.UNKNOWN)
    platform.value = 10.0
    event = run_until(fire(), clock, "resolved")
    assert len(platform.done) == 2
    assert [row.status for row in event.actions.all()] == ["unknown", "unknown"]


def test_a_step_found_finished_is_completed_with_what_it_did(platform, clock):
    platform.on_execute = lambda call: (_ for _ in ()).throw(Temporary("cut"))
    platform.probe = Probe(ProbeState.FINISHED, "", ActionOutcome(Result.DONE, "it had gone through"))
    platform.value = 10.0
    event = run_until(fire(), clock, "resolved")
    assert [row.message for row in event.actions.all()] == ["it had gone through"] * 2
    assert platform.done == []


def test_a_fault_that_stays_ends_with_a_person(platform, clock):
    platform.on_execute = lambda call: (_ for _ in ()).throw(Temporary("no route to host"))
    event = run_until(fire(), clock, "escalated", "resolved")
    assert event.status == "escalated"
    assert "no route to host" in event.reason
    assert not event.actions.filter(status="started").exists()


def test_steps_that_all_fail_are_handed_over_with_their_reasons(platform, clock):
    platform.on_execute = lambda call: (_ for _ in ()).throw(Permanent("read-only file system"))
    event = run_until(fire(), clock, "escalated")
    assert "read-only file system" in event.reason
    assert [row.status for row in event.actions.all()] == ["failed", "failed"]


def test_what_the_fence_refuses_is_escalated(platform, clock):
    platform.on_execute = lambda call: (_ for _ in ()).throw(Refused("not declared"))
    event = run_until(fire(), clock, "escalated")
    assert "fence" in event.reason
    assert [row.status for row in event.actions.all()] == ["refused"]


def test_a_defect_of_byteports_own_ends_with_a_person_and_is_named(platform, clock):
    platform.on_execute = lambda call: 1 / 0
    event = run_until(fire(), clock, "escalated")
    assert "ZeroDivisionError" in event.reason


@pytest.mark.parametrize("status", ["diagnosed", "acting", "verifying"])
def test_a_plan_that_this_version_cannot_read_ends_with_a_person(platform, clock, status):
    """Another version has made it, and was replaced in the midst of the incident."""
    event = run_until(fire(), clock, status)
    SignalEvent.objects.filter(pk=event.pk).update(plan={"of": "another version"})
    event = run_until(event, clock, "escalated", most=20)
    assert event.postmortem_md


def test_what_an_unforeseen_error_quotes_is_masked_before_people_read_it(platform, clock):
    def fail(call):
        raise RuntimeError("GET https://byteport:hunter2@proxy/ failed, token=hunter2")

    platform.on_execute = fail
    event = run_until(fire(), clock, "escalated")
    assert "GET https://***@proxy/ failed" in event.reason
    told = event.reason + event.postmortem_md + "".join(event.timeline.values_list("message", flat=True))
    assert "hunter2" not in told


def test_what_the_database_does_not_take_ends_with_a_person_and_not_with_the_same_again(platform, clock):
    """A NUL in what a stranger wrote, say. What nobody could write down must not hold the incident for ever."""
    platform.opt_in_found = "nothing\x00"
    platform.opted_in = False
    event = run_until(fire(), clock, "escalated", most=4)
    assert "cannot be kept" in event.reason
    assert event.lease_token is None


def test_what_is_for_information_only_is_kept_and_shown_and_calls_nobody_until_it_is_more(platform, clock):
    def tell(severity: str) -> SignalEvent:
        state, labels = State.FIRING, {"severity": severity}
        ingest([Reading(signal="alert:x", resource=RESOURCE, at=datetime.now(UTC), state=state, labels=labels)])
        return SignalEvent.objects.get()

    event = tell("info")
    assert advance(event) == "detected"
    assert "information only" in event.reason
    clock.shift(timedelta(minutes=11))
    event = tell("warning")
    assert advance(event) == "escalated"


def test_an_event_that_is_held_is_not_touched_by_another_worker(platform, clock):
    event = fire()
    assert loop.claim(event.pk, datetime.now(UTC)) is not None
    assert advance(event) == "detected"


def test_a_task_that_finds_its_event_leased_comes_back_when_the_lease_ends(platform, clock):
    event = fire()
    assert loop.claim(event.pk, datetime.now(UTC)) is not None  # and its worker is killed
    QueuedTask.objects.all().delete()
    loop.advance(event.pk)
    event.refresh_from_db()
    with connection.cursor() as cursor:  # the queue's clock is PostgreSQL's, the lease's is held still here
        cursor.execute("SELECT extract(epoch FROM visible_at - enqueued_at) FROM queued_tasks")
        delay_s = float(cursor.fetchone()[0])
    assert delay_s == pytest.approx(loop.LEASE.total_seconds(), abs=1)


def test_an_outlived_lease_is_taken_over_and_its_late_answer_is_void(platform, clock):
    event = fire()
    slow = loop.claim(event.pk, datetime.now(UTC))
    answer = loop.run_stage(slow, datetime.now(UTC))
    clock.shift(loop.LEASE + timedelta(seconds=1))
    assert advance(event) == "diagnosed"
    with pytest.raises(loop.LostClaimError):
        loop.settle(slow, answer)
    assert event.timeline.filter(kind="diagnosed").count() == 1


def test_the_sweep_finds_what_was_left_lying(platform, clock):
    fire()
    QueuedTask.objects.all().delete()
    assert loop.sweep() == 0
    clock.shift(11)
    assert loop.sweep() == 1
    assert QueuedTask.objects.get().dedup_key


def test_a_finished_action_can_be_neither_changed_nor_deleted(platform, clock):
    event = run_until(fire(), clock, "resolved")
    row = event.actions.first()
    for harm in (
        lambda: AgentAction.objects.filter(pk=row.pk).update(message="nothing happened"),
        lambda: AgentAction.objects.filter(pk=row.pk).delete(),
    ):
        with pytest.raises(ProgrammingError, match="agent_actions"), transaction.atomic():
            harm()


def test_transition_refuses_an_arrow_that_is_not_on_the_map(platform, clock):
    with pytest.raises(ValueError, match="no way"):
        transition(fire(), Status.ACTING, actor="ada", reason="", at=START)


# ------------------------------------------------------------------------------------- what has to be put back


@pytest.fixture
def three_steps():
    """A preparation, the fix, and what puts the preparation back."""
    platform = Platform()
    platform.kinds = {0: StepKind.PREPARE, 2: StepKind.PUT_BACK}
    with installed(platform, steps=3):
        yield platform


def statuses(event: SignalEvent) -> dict[str, str]:
    return dict(event.actions.values_list("step", "status"))


def test_a_plan_that_runs_through_puts_back_what_it_changed(three_steps, clock):
    event = run_until(fire(), clock, "resolved")
    assert statuses(event) == {"step-0": "done", "step-1": "done", "step-2": "done"}
    assert event.due_at is None


def test_a_plan_that_is_stopped_hands_over_at_once_and_then_puts_back(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.opted_in = False
    assert advance(event) == "escalated"
    assert statuses(event) == {"step-0": "done"}
    assert advance(event) == "escalated"
    assert statuses(event) == {"step-0": "done", "step-2": "done"}, "the opt-in is for new changes"
    advance(event)
    assert (event.due_at, len(three_steps.done)) == (None, 2)
    assert "opt_in" in event.reason


def test_what_was_not_begun_is_not_put_back(three_steps, clock):
    three_steps.opted_in = False
    event = run_until(fire(), clock, "escalated")
    assert event.due_at is None
    assert statuses(event) == {}


def test_a_gate_that_closes_after_the_fix_does_not_keep_it_from_being_put_back_and_verified(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    advance(event)
    three_steps.opted_in = False
    event = run_until(event, clock, "resolved", "escalated")
    assert event.status == "resolved"
    assert statuses(event)["step-2"] == "done"


def test_the_kill_switch_holds_also_what_would_be_put_back(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.opted_in = False
    advance(event)
    operate.pause(actor="ada", why="look at it")
    for _ in range(3):
        clock.move_to(event.due_at)
        assert advance(event) == "escalated"
    assert statuses(event) == {"step-0": "done"}
    operate.resume(actor="ada")
    clock.move_to(event.due_at)
    advance(event)
    assert statuses(event)["step-2"] == "done"


def test_the_kill_switch_holds_also_what_was_cut_off_when_it_was_put_back(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.opted_in = False
    advance(event)
    three_steps.on_execute = lambda call: (_ for _ in ()).throw(Temporary("no route to host"))
    advance(event)
    three_steps.on_execute = lambda call: None
    operate.pause(actor="ada", why="look at it")
    clock.move_to(event.due_at)
    advance(event)
    assert statuses(event) == {"step-0": "done", "step-2": "started"}
    operate.resume(actor="ada")
    clock.move_to(event.due_at)
    advance(event)
    assert statuses(event)["step-2"] == "done"


def test_a_host_that_is_away_gets_it_put_back_when_it_is_there_again(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.on_execute = lambda call: (_ for _ in ()).throw(Temporary("no route to host"))
    event = run_until(event, clock, "escalated")
    assert statuses(event)["step-1"] == "unknown"
    for _ in range(10):
        clock.move_to(event.due_at)
        advance(event)
    assert statuses(event)["step-2"] == "started"
    three_steps.on_execute = lambda call: None
    clock.move_to(event.due_at)
    advance(event)
    assert statuses(event)["step-2"] == "done"
    assert event.due_at is None


def test_a_host_that_never_comes_back_is_given_up_after_a_day(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.on_execute = lambda call: (_ for _ in ()).throw(Temporary("no route to host"))
    event = run_until(event, clock, "escalated")
    for _ in range(2):
        clock.move_to(event.due_at)
        advance(event)
    clock.shift(timedelta(days=1, minutes=2))
    advance(event)
    assert statuses(event)["step-2"] == "unknown"
    clock.shift(120)
    advance(event)
    assert event.due_at is None


def test_an_incident_that_clears_meanwhile_ends_only_when_everything_is_put_back(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.opted_in = False
    advance(event)
    clear(at=START + timedelta(minutes=5))
    assert advance(event) == "escalated"
    assert statuses(event)["step-2"] == "done"
    event = run_until(event, clock, "resolved")
    assert (event.resolved_by, len(three_steps.done)) == ("person", 2)


def test_without_a_fix_there_is_nothing_to_verify(three_steps, clock):
    """The preparation alone heals nothing."""
    calls = iter([None, Permanent("it does not carry the label"), None])

    def second_fails(call):
        error = next(calls)
        if error:
            raise error

    three_steps.on_execute = second_fails
    event = run_until(fire(), clock, "escalated", "resolved")
    assert event.status == "escalated"
    assert "does not carry the label" in event.reason
    assert statuses(event) == {"step-0": "done", "step-1": "failed", "step-2": "done"}
    assert event.samples.count() == 0


def test_a_worker_that_died_while_it_put_back_is_found_out_about(three_steps, clock):
    event = run_until(fire(), clock, "acting")
    advance(event)
    three_steps.opted_in = False
    advance(event)
    three_steps.on_execute = lambda call: (_ for _ in ()).throw(Temporary("cut"))
    advance(event)
    three_steps.probe = Probe(ProbeState.FINISHED, "", ActionOutcome(Result.DONE, "it had gone through"))
    clock.move_to(event.due_at)
    advance(event)
    assert event.actions.get(step="step-2").message == "it had gone through"
    assert len(three_steps.done) == 1
