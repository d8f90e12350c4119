"""The record of an incident, from rows in a real PostgreSQL that are as the loop writes them, or odder."""

from datetime import timedelta
from uuid import uuid4

import pytest

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from incidents.postmortem import render
from incidents.record import EARLIER_SHOWN, ENDS, clear_threshold, record_of
from runbooks.models import AgentAction, Approval, GateVerdict, VerificationSample
from signals.models import Sample, SignalEvent, SignalPolicy, TimelineEntry
from signals.policy import forget
from tests.incidents import scenes

pytestmark = pytest.mark.django_db
HOSTILE = ResourceRef("host", "web-1", "mount", "/<script>alert(1)</script>`|\n\u202e@everyone")


def act(event: SignalEvent, step: str, **fields: object) -> AgentAction:
    at = event.detected_at
    return AgentAction.objects.create(
        **{
            "event": event, "uid": uuid4(), "plan_hash": event.plan_hash, "step": step, "action": "host.clear_tmp",
            "target": event.resource, "summary": f"Step {step}", "dry_run": False, "status": "done",
            "started_at": at, "finished_at": at + timedelta(seconds=3), **fields,
        }
    )  # fmt: skip


def everything() -> SignalEvent:
    event = scenes.planned("escalated")
    at = event.detected_at
    act(event, "one")
    act(event, "two", dry_run=True, status="simulated")
    GateVerdict.objects.create(event=event, round=1, ordinal=0, gate="paused", allowed=True, reason="No.", at=at)
    VerificationSample.objects.create(event=event, at=at + timedelta(seconds=40), value=84.0, look="bad", message="m")
    Approval.objects.create(
        event=event, plan_hash="x", requested_at=at, expires_at=at, approved=False, decided_by="ann"
    )
    Sample.objects.create(fingerprint=event.fingerprint, at=at, value=90.5)
    return event


def test_it_holds_what_is_stored():
    record = record_of(everything())
    assert (record.label, record.status, record.runbook) == ("/var on web-1", "escalated", "cleanup_logs")
    assert [(deed.summary, deed.dry_run, deed.status) for deed in record.deeds] == [
        ("Step one", False, "done"),
        ("Step two", True, "simulated"),
    ]
    assert [(gate.name, gate.allowed) for gate in record.gates] == [("paused", True)]
    assert [(look.value, look.look) for look in record.looks] == [(84.0, "bad")]
    assert [(word.approved, word.by) for word in record.approvals] == [(False, "ann")]
    assert [entry.kind for entry in record.timeline] == ["detected", "escalated"]
    assert record.diagnosis == scenes.DIAGNOSIS
    assert (record.value_then, record.value_last, record.clear) == (91.0, 84.0, 80.0)
    assert len(record.advice) == 3


def test_it_takes_a_fixed_handful_of_queries(django_assert_max_num_queries):
    event = everything()
    for number in range(20):
        act(event, f"more-{number}")
        TimelineEntry.objects.create(event=event, at=now(), actor="byteport", kind="note", message="m")
    with django_assert_max_num_queries(10):
        record_of(event)


def test_a_long_timeline_is_cut_in_its_middle_with_a_count():
    event = scenes.incident("escalated")
    lines = (
        TimelineEntry(event=event, at=event.detected_at, actor="byteport", kind="note", message=f"note {number}")
        for number in range(3000)
    )
    TimelineEntry.objects.bulk_create(lines)
    record = record_of(event)
    assert len(record.timeline) == 2 * ENDS
    assert (record.timeline_cut.left_out, record.timeline_cut.after) == (3002 - 2 * ENDS, ENDS)
    assert (record.timeline[0].kind, record.timeline[-1].message) == ("detected", "note 2999")
    assert "2,882 more are on record" in render(event)


def test_a_timeline_that_just_fits_is_whole():
    event = scenes.incident("escalated")
    lines = (
        TimelineEntry(event=event, at=event.detected_at, actor="byteport", kind="note", message="m")
        for _ in range(2 * ENDS - 2)
    )
    TimelineEntry.objects.bulk_create(lines)
    record = record_of(event)
    assert (len(record.timeline), record.timeline_cut.left_out) == (2 * ENDS, 0)


def test_earlier_incidents_of_the_same_signal_and_resource_are_counted():
    at = now()
    for days in (31, 29, 20, 15, 10, 5, 3):
        scenes.incident("resolved", detected_at=at - timedelta(days=days))
    scenes.incident("resolved", ResourceRef("host", "web-2", "mount", "/var"))
    scenes.incident("resolved", signal="memory_pressure")
    event = scenes.incident("escalated", detected_at=at)
    scenes.incident("detected", detected_at=at)  # a later one
    record = record_of(event)
    assert record.earlier_count == 6
    assert len(record.earlier) == EARLIER_SHOWN
    assert record.earlier[0].detected_at == at - timedelta(days=3)


def test_the_value_at_detection_is_the_sample_of_that_moment_once_it_has_moved_on():
    event = scenes.incident("escalated", value=97.0, repeats=4)
    assert record_of(event).value_then is None
    Sample.objects.create(fingerprint=event.fingerprint, at=event.detected_at, value=86.0)
    assert record_of(event).value_then == 86.0


def test_the_value_at_the_end_is_not_that_of_the_beginning():
    event = scenes.incident("resolved")
    assert record_of(event).value_last is None
    Sample.objects.create(fingerprint=event.fingerprint, at=event.detected_at, value=91.0)
    assert record_of(event).value_last is None
    Sample.objects.create(fingerprint=event.fingerprint, at=event.detected_at + timedelta(seconds=60), value=70.0)
    assert record_of(event).value_last == 70.0


def test_the_latest_value_of_an_open_incident_is_what_was_reported_last():
    assert record_of(scenes.incident("escalated", value=97.0)).value_last == 97.0


def test_the_clear_threshold_is_the_frozen_plans_or_else_the_policys():
    SignalPolicy.objects.filter(pk="disk_pressure").delete()
    SignalPolicy.objects.create(signal="disk_pressure", threshold=85, critical=95, clear=70, sustain_s=60, max_gap_s=90)
    forget()
    assert clear_threshold(scenes.incident("escalated")) == 70
    assert clear_threshold(scenes.planned("escalated")) == 80
    forget()


def test_only_what_was_escalated_gets_manual_steps():
    assert record_of(scenes.planned("verifying")).advice == ()
    assert len(record_of(scenes.incident("escalated")).advice) == 3


@pytest.mark.parametrize(
    "odd",
    [
        {"diagnosis": None, "plan": None},
        {"diagnosis": {"evidence": 7}, "plan": {"steps": "x"}},
        {"diagnosis": [], "plan": "text"},
        {"diagnosis": {"evidence": [], "inference": "", "facts": {"mount": 3}}},
        {"runbook": "removed_since"},
        {"signal": "of_a_sender"},
        {"signal": "<b>", "runbook": "`x`", "source": "@everyone"},
        {"value": None, "threshold": None},
        {"value": float("nan"), "threshold": float("inf")},
        {"value": 1e308, "threshold": -1e308},
        {"labels": {"a": "b"}, "reason": "x" * 100_000},
    ],
)
def test_odd_data_never_keeps_an_incident_from_ending(odd):
    for status in ("detected", "escalated", "resolved"):
        event = scenes.planned(status, HOSTILE)
        SignalEvent.objects.filter(pk=event.pk).update(**odd)
        assert render(SignalEvent.objects.get(pk=event.pk)).encode()
        SignalEvent.objects.filter(pk=event.pk).update(status="resolved", resolved_by="itself", resolved_at=now())


def test_a_resource_that_is_no_reference_is_shown_as_it_is():
    event = scenes.incident("escalated")
    SignalEvent.objects.filter(pk=event.pk).update(resource="no reference")
    event.refresh_from_db()
    record = record_of(event)
    assert (record.label, record.advice) == ("no reference", ())


@pytest.mark.parametrize(
    "result",
    [
        {"bytes": 10**400, "freed_bytes": 1e300},
        {"left": {"a": {"b": [1, 2]}}, "list": [{"a": 1}, [2], None], "none": None, "yes": True},
        {"x" * 5000: "y" * 100_000},
        {"found": {str(number): number for number in range(5000)}},
    ],
)
def test_odd_results_never_keep_an_incident_from_ending(result):
    event = scenes.planned("escalated")
    act(event, "one", result=result)
    assert len(render(event)) < 20_000


def test_the_same_rows_give_the_same_text():
    event = everything()
    assert render(event) == render(SignalEvent.objects.get(pk=event.pk))
