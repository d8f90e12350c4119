"""What follows from which fact. Pure: records are plain data, nothing stands in for anything."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from incidents.followups import follow_ups
from incidents.record import Earlier, Gate, Look
from incidents.trend import Point, Points
from runbooks.runbook import Diagnosis
from tests.incidents.examples import CLEANUP_LOGS, START, at, deed

NOTHING_TO_DO = replace(CLEANUP_LOGS, earlier=(), earlier_count=0, deeds=CLEANUP_LOGS.deeds[:2], trend=Points())


def said(**changes: object) -> str:
    return "\n".join(follow_ups(replace(NOTHING_TO_DO, **changes)))


def refusal(gate: str, reason: str, *, in_round: int = 1) -> Gate:
    return Gate(in_round, gate, False, reason, START)


def test_an_ordinary_fix_asks_for_nothing():
    assert follow_ups(NOTHING_TO_DO) == []


def test_a_recurring_trouble_is_counted_and_linked():
    earlier = tuple(Earlier(number, at(-number * 3600), "byteport") for number in (9, 8, 7, 6, 5))
    text = said(earlier=earlier, earlier_count=14)
    assert "14 times in the 30 days before" in text
    assert "[9](https://byteport.example.com/incidents/9/postmortem)" in text
    assert text.count("/postmortem)") == 5


def test_a_failed_action_is_to_be_looked_into():
    text = said(deeds=(deed("Vacuum the journal", "host.journal_vacuum", 1, 2, "failed", "Read-only file system"),))
    assert "“Vacuum the journal” failed (Read-only file system)" in text


def test_a_missing_tool_is_to_be_installed():
    text = said(deeds=(deed("Prune", "host.container_prune", 1, 2, "skipped", "docker is not installed here"),))
    assert "docker is not installed here" in text
    assert "Install it" in text


def test_a_step_that_had_nothing_to_do_asks_for_nothing():
    deeds = (deed("Prune", "host.container_prune", 1, 2, "skipped", "containers are not on the drill's volume"),)
    assert said(deeds=deeds) == ""


def test_an_action_of_unknown_end_is_to_be_checked_by_hand():
    assert "Check by hand" in said(deeds=(deed("Prune", "host.container_prune", 1, 2, "unknown", "Cut off."),))


def test_a_missing_opt_in_comes_with_its_remedy():
    reason = (
        "Not opted in to `disk` (web-1: no such file). To opt in: as root on web-1, put the line `x: disk` into /e."
    )
    text = said(gates=(refusal("opt_in", reason),))
    assert "To opt in: as root on web-1, put the line" in text


@pytest.mark.parametrize("reason", ["The agent is in dry-run.", "This runbook's policy is in dry-run."])
def test_dry_run_says_how_to_switch_it_off(reason):
    text = said(gates=(refusal("dry_run", reason),))
    assert reason in text
    assert "`manage.py agent dry-run off`" in text
    assert "`manage.py policy set cleanup_logs dry_run=false`" in text


def test_a_hostile_runbook_name_gets_into_no_command():
    text = said(runbook="x` <b>", gates=(refusal("dry_run", "The agent is in dry-run."),))
    assert "<b>" not in text
    assert "policy set" not in text


def test_what_was_refused_once_and_allowed_later_asks_for_nothing():
    allowed = Gate(2, "paused", True, "BytePort is not paused.", START)
    assert said(gates=(refusal("paused", "BytePort is paused: moving house."), allowed)) == ""


def test_a_blind_verification_names_the_source_as_the_trouble():
    looks = (Look(at(40), None, "inconclusive", "no data"), Look(at(50), 71.0, "good", ""))
    assert "1 of 2 looks" in said(looks=looks)


def test_a_value_that_is_still_too_high_is_said_to_be():
    assert "still not below 80.0 %" in said(value_last=84.0)
    assert said(value_last=79.9) == ""


def test_a_value_that_nobody_judges_by_is_not_compared():
    assert said(value_last=84.0, judged_by_value=False) == ""


def test_a_signal_without_a_runbook_is_said_to_have_none():
    assert "no runbook for disk_pressure" in said(escalated_at=at(3), runbook="", has_runbook=False)


def growing(per_hour: float) -> Points:
    points = (Point(at(30 * n), 70 + per_hour * n / 120, 0, 0) for n in range(-60, 1))
    return Points(tuple(points), "%")


def test_a_growing_disk_gets_an_estimate_that_is_called_one():
    text = said(trend=growing(per_hour=1.2), value_last=76.0)
    assert text.startswith("Rough estimate, by a straight line through 61 samples of the 30 min before anything")
    assert "28.8 percentage points (11.5 GB) a day" in text
    assert "From 76.0 % on it would be full on 2026-03-01 23:12 UTC." in text


def uneven(first: float, second: float) -> Points:
    """An hour, at another pace in either half of it (percentage points an hour)."""
    values = [first * min(n, 60) / 120 + second * max(n - 60, 0) / 120 for n in range(121)]
    return Points(tuple(Point(at(30 * (n - 120)), 70 + value, 0, 0) for n, value in enumerate(values)), "%")


def test_what_grows_unevenly_is_full_some_time_between():
    text = said(trend=uneven(2.0, 4.0), value_last=76.0)
    assert "of the 1 h before" in text
    assert "full between 2026-03-01 09:12 and 2026-03-01 15:12 UTC" in text


def test_what_hardly_grew_in_one_half_has_no_latest_time():
    text = said(trend=uneven(0.1, 4.0), value_last=76.0)
    assert text == "" or "at the soonest: it does not grow evenly" in text
    assert "at the soonest" in said(trend=uneven(0.4, 2.0), value_last=76.0)


def test_a_day_is_rather_gone_by_than_half_an_hour():
    day = Points(tuple(Point(at(360 * n), 70 + n / 240, 0, 0) for n in range(-240, 1)), "%")
    text = said(history=day, trend=growing(per_hour=9.0), value_last=76.0)
    assert "241 samples of the 1 d before" in text
    assert "1.0 percentage points (400.0 MB) a day" in text
    assert "full on 2026-03-25 03:12 UTC" in text


def test_where_the_day_is_no_line_the_last_half_hour_counts():
    saw = Points(tuple(Point(at(360 * n), 70 + n % 20, 0, 0) for n in range(-240, 1)), "%")
    assert "61 samples of the 30 min" in said(history=saw, trend=growing(per_hour=2.0), value_last=76.0)


def test_what_half_an_hour_cannot_tell_is_not_told():
    assert said(trend=growing(per_hour=0.5), value_last=76.0) == ""


@pytest.mark.parametrize("value", [100.1, 250.0])
def test_what_is_full_is_not_said_to_be_some_day(value):
    assert "would be full on" not in said(trend=growing(per_hour=1.2), value_last=value, clear=300)


def test_without_a_known_size_the_growth_is_told_in_points_alone():
    text = said(trend=growing(per_hour=1.2), value_last=76.0, diagnosis=None)
    assert "28.8 percentage points a day" in text


@pytest.mark.parametrize("per_hour", [-1.0, 0.0, 1e-4])
def test_a_disk_that_does_not_grow_to_speak_of_gets_no_estimate(per_hour):
    assert said(trend=growing(per_hour), value_last=76.0) == ""


def test_only_a_disk_gets_one():
    assert said(signal="memory_pressure", trend=growing(per_hour=1.0), value_last=76.0) == ""


def test_the_estimate_rests_on_the_time_before_the_action():
    emptied = Points((*growing(per_hour=9.0).points, Point(at(60), 20.0, 20.0, 20.0)), "%")
    assert "216.0 percentage points" in said(trend=emptied, value_last=20.0, acted_at=START + timedelta(seconds=2))


def out_of_memory(noted: str, reason: str = "OOMKilled") -> Diagnosis:
    container = {"name": "ca|rt", "limits": {"now": "512Mi", "noted": noted}, "ended": {"reason": reason}}
    return Diagnosis(evidence=(), inference="", facts={"container": container})


def test_a_limit_that_was_raised_and_was_too_low_again_is_told():
    text = said(signal="pod_crashloop", diagnosis=out_of_memory("256Mi"))
    assert "container ca&#124;rt was raised before (from 256Mi at first to 512Mi), and was too low again" in text


@pytest.mark.parametrize("diagnosis", [out_of_memory(""), out_of_memory("256Mi", "Error"), None])
def test_a_limit_that_was_never_raised_or_did_no_harm_is_not(diagnosis):
    assert said(signal="pod_crashloop", diagnosis=diagnosis) == ""


@pytest.mark.parametrize("odd", [{"container": "x"}, {"container": {"limits": 3, "ended": []}}])
def test_odd_facts_are_left_out(odd):
    assert said(signal="pod_crashloop", diagnosis=Diagnosis(evidence=(), inference="", facts=odd)) == ""
