"""The gates, pure: facts in, verdicts out. Everything here is the real code."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks.guards import CAUTION, GATES, Budget, Facts, Then, decide, evaluate
from runbooks.runbook import OptIn

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROOM = Budget(
    running=0, max_running=5, last_hour=0, max_last_hour=20, neighbourhood_last_hour=0,
    max_neighbourhood_last_hour=3, failing=1, known=1, storm_percent=30, storm_minimum=4,
)  # fmt: skip
CLEAR = Facts(
    now=NOW, opt_in=OptIn(True, "/etc/byteport/annotations on web-1", "disk"), opt_in_word="disk", budget=ROOM
)


def facts(**changes: object) -> Facts:
    return msgspec.structs.replace(CLEAR, **changes)


def budget(**changes: object) -> Facts:
    return facts(budget=msgspec.structs.replace(ROOM, **changes))


def test_a_plan_runs_when_every_gate_allows():
    assert decide(evaluate(CLEAR)) is None


REFUSALS = [
    ("paused", facts(paused=True, paused_reason="deploy"), Then.WAIT),
    ("never", facts(prohibitions=("It would delete a volume.",)), Then.ESCALATE),
    ("never", facts(enabled=False), Then.ESCALATE),
    ("never", facts(switched_on=False), Then.ESCALATE),
    ("verifiable", facts(verifiable=False), Then.ESCALATE),
    ("opt_in", facts(opt_in=OptIn(False, "the file", "nothing", "do this")), Then.ESCALATE),
    ("human_override", facts(override="kubectl edited it"), Then.ESCALATE),
    ("dry_run", facts(dry_run=True), Then.SIMULATE),
    ("dry_run", facts(dry_run_is_forced=True), Then.SIMULATE),
    ("dry_run", facts(runbook_dry_run=True), Then.SIMULATE),
    ("maintenance_window", facts(maintenance="upgrade", maintenance_until=NOW), Then.WAIT),
    ("cooldown", facts(cooldown_until=NOW + timedelta(seconds=1)), Then.WAIT),
    ("ineffective_loop", facts(ineffective=3), Then.ESCALATE),
    ("budget", budget(running=5), Then.WAIT),
    ("budget", budget(last_hour=20), Then.ESCALATE),
    ("budget", budget(neighbourhood_last_hour=3), Then.ESCALATE),
    ("budget", budget(failing=4, known=10), Then.ESCALATE),
    ("approval", facts(needs_approval=True), Then.ASK),
]


@pytest.mark.parametrize(("gate", "given_facts", "then"), REFUSALS)
def test_each_gate_refuses_for_its_own_reason_and_says_it(gate, given_facts, then):
    refused = [verdict for verdict in evaluate(given_facts) if not verdict.allowed]
    assert [(verdict.gate, verdict.then) for verdict in refused] == [(gate, then)]
    assert len(refused[0].reason) > 20


def test_every_gate_is_asked_even_when_the_first_refuses():
    verdicts = evaluate(facts(paused=True, dry_run=True, ineffective=9))
    assert len(verdicts) == len(GATES)
    assert {verdict.gate for verdict in verdicts if not verdict.allowed} == {
        "paused",
        "dry_run",
        "ineffective_loop",
    }


def test_the_most_cautious_refusal_is_what_happens():
    counts = decide(evaluate(facts(paused=True, dry_run=True, needs_approval=True, prohibitions=("No.",))))
    assert counts is not None
    assert counts.gate == "never"


def test_the_storm_brake_holds_more_than_the_share_and_not_the_share_itself():
    assert decide(evaluate(budget(failing=6, known=20))) is None
    assert decide(evaluate(budget(failing=7, known=20))) is not None


def test_a_single_host_that_fails_alone_is_no_storm():
    assert decide(evaluate(budget(failing=1, known=1))) is None


def test_a_drill_runs_in_dry_run_and_asks_nobody_but_stops_for_pause_and_missing_opt_in():
    drill = facts(is_drill=True, dry_run=True, runbook_dry_run=True, needs_approval=True)
    assert decide(evaluate(drill)) is None
    assert decide(evaluate(msgspec.structs.replace(drill, budget=budget(last_hour=99, failing=9).budget))) is None
    assert decide(evaluate(facts(is_drill=True, paused=True))) is not None
    assert decide(evaluate(facts(is_drill=True, opt_in=OptIn(False, "", "")))) is not None


def test_a_plan_that_has_begun_is_still_stopped_by_a_lost_opt_in_a_pause_or_an_override():
    for stopped in (
        facts(opt_in=OptIn(False, "", "")),
        facts(paused=True),
        facts(override="x"),
        facts(dry_run=True),
    ):
        assert decide(evaluate(msgspec.structs.replace(stopped, resuming=True))) is not None


def test_a_plan_that_has_begun_is_not_stopped_by_its_own_budget_or_cooldown():
    begun = msgspec.structs.replace(
        budget(running=5, last_hour=20), cooldown_until=NOW + timedelta(hours=1), resuming=True
    )
    assert decide(evaluate(begun)) is None


any_facts = st.builds(
    Facts,
    now=st.just(NOW),
    paused=st.booleans(),
    enabled=st.booleans(),
    prohibitions=st.sampled_from([(), ("No.",)]),
    verifiable=st.booleans(),
    opt_in=st.builds(OptIn, st.booleans(), st.just("there"), st.just("this")),
    opt_in_word=st.just("disk"),
    override=st.sampled_from(["", "somebody"]),
    is_drill=st.booleans(),
    dry_run=st.booleans(),
    runbook_dry_run=st.booleans(),
    maintenance=st.sampled_from(["", "window"]),
    cooldown_until=st.sampled_from([None, NOW - timedelta(hours=1), NOW + timedelta(hours=1)]),
    ineffective=st.integers(0, 5),
    budget=st.builds(
        Budget, running=st.integers(0, 7), max_running=st.just(5), last_hour=st.integers(0, 25),
        max_last_hour=st.just(20), neighbourhood_last_hour=st.integers(0, 5),
        max_neighbourhood_last_hour=st.just(3), failing=st.integers(0, 20), known=st.integers(0, 20),
        storm_percent=st.just(30), storm_minimum=st.just(4),
    ),
    needs_approval=st.booleans(),
    approved_by=st.sampled_from(["", "ada"]),
    resuming=st.booleans(),
)  # fmt: skip


@given(any_facts)
def test_nothing_runs_while_any_gate_refuses(given_facts):
    verdicts = evaluate(given_facts)
    assert (decide(verdicts) is None) == all(verdict.allowed for verdict in verdicts)


@given(any_facts)
def test_dry_run_never_lets_a_plan_through_unless_it_is_a_drill(given_facts):
    if (given_facts.dry_run or given_facts.runbook_dry_run) and not given_facts.is_drill:
        assert decide(evaluate(given_facts)) is not None


@given(any_facts)
def test_no_opt_in_no_pause_no_prohibition_is_ever_outvoted(given_facts):
    if not given_facts.opt_in.given or given_facts.paused or given_facts.prohibitions:
        assert decide(evaluate(given_facts)) is not None


@given(any_facts)
def test_every_refusal_says_what_follows_from_it(given_facts):
    assert all(verdict.then in CAUTION for verdict in evaluate(given_facts) if not verdict.allowed)
