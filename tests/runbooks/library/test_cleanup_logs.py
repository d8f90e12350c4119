"""cleanup_logs' decisions, which are pure; what it does to a real file system is in tests/runbooks/test_hostctl*.py
and tests/crash, and the whole of it in tests/byteport/test_drill.py."""

from datetime import UTC, datetime
from typing import Any

import pytest

from byteport.core.resource import ResourceRef
from runbooks.library.cleanup_logs import RUNBOOK
from runbooks.runbook import CannotPlan, Diagnosis, EventView, Look, Plan, Timing
from signals.reading import Reading
from signals.sources.host import mount_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=80)
SURVEY: dict[str, Any] = {
    "journal": {"bytes": 900_000_000, "reason": ""},
    "rotated_logs": {"would_delete": {"files": 12, "bytes": 3_000_000_000}},
    "tmp": {"would_delete": {"files": 2, "bytes": 5_000_000}},
    "biggest_files": [{"path": "app.log", "bytes": 7_000_000}],
    "deleted_open": {"files": 0, "bytes": 0, "by_mount": {}, "top": []},
    "lies_on": {"journal": "/var", "rotated_logs": "/var", "containers": "/var/lib/docker", "tmp": "/"},
    "runtime": "docker",
    "runtime_folder": "/var/lib/docker",
}


def event(mount: str = "/var") -> EventView:
    return EventView(
        id=1, signal="disk_pressure", resource=ResourceRef("host", "web-1", "mount", mount), detail="",
        severity="warning", value=91.0, threshold=85.0, detected_at=NOW, source="host",
    )  # fmt: skip


def facts(mount: str = "/var", **survey: Any) -> dict[str, Any]:
    line = {
        "mount": mount, "device": "/dev/sda2", "fstype": "ext4", "percent": 91.0, "total_bytes": 10**10,
        "used_bytes": 9_100_000_000,
    }  # fmt: skip
    return {"mount": line, "survey": {**SURVEY, **survey}}


def diagnosed(**more: Any) -> Diagnosis:
    return RUNBOOK.diagnose(event(), facts(**more))


def plan_for(mount: str, **lies_on: str | None) -> Plan | CannotPlan:
    survey = {"lies_on": lies_on} if lies_on else {}
    return RUNBOOK.plan(event(mount), RUNBOOK.diagnose(event(mount), facts(mount, **survey)), TIMING)


def test_all_four_steps_are_planned_where_everything_lies_on_one_mount():
    plan = plan_for("/", journal="/", rotated_logs="/", containers="/", tmp="/")
    assert isinstance(plan, Plan)
    assert [step.key for step in plan.steps] == ["journal", "rotated_logs", "containers", "tmp"]
    assert {step.action for step in plan.steps} <= set(RUNBOOK.actions)


def test_only_what_frees_space_on_the_full_mount_is_planned():
    plan = plan_for("/var")
    assert isinstance(plan, Plan)
    assert [step.key for step in plan.steps] == ["journal", "rotated_logs"]


def test_a_mount_that_holds_nothing_it_may_clean_is_handed_over():
    plan = plan_for("/srv")
    assert isinstance(plan, CannotPlan)
    assert "/srv on web-1" in plan.reason


@pytest.mark.parametrize("device", ["/dev/sda2", "sda2"])
def test_a_disk_that_an_agent_names_by_its_device_is_treated_where_it_is_mounted(device):
    lines = [{"mount": "/", "device": "/dev/sda1"}, facts("/var")["mount"]]
    found = mount_of(event(device).resource, lines)
    diagnosis = RUNBOOK.diagnose(event(device), {**facts(), "mount": found})
    plan = RUNBOOK.plan(event(device), diagnosis, TIMING)
    assert isinstance(plan, Plan)
    assert {step.target for step in plan.steps} == {"host/web-1/mount/%2Fvar"}
    assert [step.key for step in plan.steps] == ["journal", "rotated_logs"]
    assert "mounted at /var" in diagnosis.evidence[0]
    assert all("-- /var" in step.command for step in RUNBOOK.advise(event(device), diagnosis))


def test_a_device_that_is_mounted_in_two_ways_or_not_at_all_is_no_mount():
    twice = [{"mount": "/a", "device": "/dev/sda2"}, {"mount": "/b", "device": "/dev/sda2"}]
    assert mount_of(event("/dev/sda2").resource, twice) is None
    assert mount_of(event("/dev/sdb").resource, twice) is None
    assert mount_of(event("/a").resource, twice) == twice[0]


def test_a_persons_shell_finds_out_where_a_device_is_mounted():
    known = [{}, {"mount": None}, {"mount": {"percent": 91.0}}]
    diagnoses = [Diagnosis(evidence=(), inference="", confident=False, facts=facts) for facts in known]
    for diagnosis in (None, *diagnoses):
        step, _, _ = RUNBOOK.advise(event("/dev/sdb"), diagnosis)
        assert '-- "$(findmnt -nfo TARGET -S /dev/sdb)"' in step.command


def test_a_mount_that_is_gone_is_handed_over():
    gone = {**facts(), "mount": None}
    assert isinstance(RUNBOOK.plan(event(), RUNBOOK.diagnose(event(), gone), TIMING), CannotPlan)


def test_the_evidence_says_what_was_seen_and_the_inference_is_called_a_guess():
    diagnosis = diagnosed()
    text = " ".join(diagnosis.evidence)
    for fact in ("91.0 % full", "12 rotated logs", "3.0 GB", "900.0 MB", "app.log"):
        assert fact in text
    assert not diagnosis.confident


def held(mount: str) -> dict[str, Any]:
    one = {"pid": 7, "comm": "java", "path": f"{mount}/x", "bytes": 8_000_000_000, "mount": mount}
    return {"files": 1, "bytes": one["bytes"], "by_mount": {mount: one["bytes"]}, "top": [one]}


def test_deleted_files_that_are_held_open_are_named_as_the_likely_cause():
    diagnosis = diagnosed(deleted_open=held("/var"))
    assert "held open" in diagnosis.inference
    assert "ends no process" in diagnosis.inference
    assert "java (7)" in " ".join(diagnosis.evidence)


def test_deleted_files_on_another_mount_are_no_cause_of_this_ones_trouble():
    diagnosis = diagnosed(deleted_open=held("/srv"))
    assert "held open" not in diagnosis.inference
    assert "java" not in " ".join(diagnosis.evidence)


def test_where_nothing_is_known_to_lie_on_the_mount_nothing_is_planned():
    """A diagnosis of an older version, or a host that could not say."""
    assert isinstance(plan_for("/var", journal=None, rotated_logs=None), CannotPlan)


def test_the_images_folder_is_the_runtimes_own():
    lies_on = {"journal": "/", "rotated_logs": "/", "containers": "/data", "tmp": "/"}
    more = {"lies_on": lies_on, "runtime": "crictl", "runtime_folder": "/data/containerd"}
    diagnosis = RUNBOOK.diagnose(event("/data"), facts("/data", **more))
    plan = RUNBOOK.plan(event("/data"), diagnosis, TIMING)
    assert isinstance(plan, Plan)
    assert [step.action for step in plan.steps] == ["host.container_prune"]
    assert "Container images are crictl's, in /data/containerd." in diagnosis.evidence


@pytest.mark.parametrize(
    ("value", "look", "hopeless"),
    [(79.9, Look.GOOD, False), (80.0, Look.BAD, False), (94.9, Look.BAD, False), (95.0, Look.BAD, True)],
)
def test_a_look_is_good_below_80_and_hopeless_from_95_on(value, look, hopeless):
    reading = Reading(signal="disk_pressure", resource=event().resource, at=NOW, value=value)
    judged = RUNBOOK.judge(event(), reading, TIMING)
    assert (judged.look, judged.hopeless) == (look, hopeless)


def test_no_reading_is_inconclusive():
    assert RUNBOOK.judge(event(), None, TIMING).look is Look.INCONCLUSIVE


def test_the_manual_steps_quote_hostile_names():
    steps = RUNBOOK.advise(event("/x; rm -rf ~"), None)
    assert len(steps) == 3
    assert all("'/x; rm -rf ~'" in step.command for step in steps)
