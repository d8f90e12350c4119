"""The router, pure: no database, no clock. Everything here is the real code."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.reading import Reading, State
from signals.router import Routed, Rule, Track, Why, route

RULE = Rule(threshold=85, critical=95, clear=80, sustain_s=60, max_gap_s=90)
START = datetime(2026, 1, 1, tzinfo=UTC)
MOUNT = ResourceRef("host", "web-1", "mount", "/var")


def reading(seconds: float, value: float | None = 90.0, state: State = State.MEASURED, **labels: str) -> Reading:
    at = START + timedelta(seconds=seconds)
    return Reading(signal="disk_pressure", resource=MOUNT, at=at, value=value, state=state, labels=labels)


def run(*readings: Reading, rule: Rule = RULE) -> list[Routed]:
    track, routed = Track(), []
    for one in readings:
        routed.append(route(track, one, rule))
        track = routed[-1].track
    return routed


def whys(*readings: Reading) -> list[Why]:
    return [routed.why for routed in run(*readings)]


def test_a_value_above_the_threshold_fires_once_it_has_held_for_the_window():
    assert whys(reading(0), reading(30), reading(59)) == [Why.NOT_SUSTAINED] * 3
    assert whys(reading(0), reading(30), reading(60))[-1] is Why.FIRES


def test_a_metric_that_comes_once_in_a_period_is_not_silent_in_between():
    each_five_minutes = [structs.replace(reading(seconds), period_s=300) for seconds in (0, 300, 600)]
    assert whys(*each_five_minutes) == [Why.NOT_SUSTAINED, Why.FIRES, Why.FIRES]
    with_one_missing = [structs.replace(reading(seconds), period_s=300) for seconds in (0, 600)]
    assert whys(*with_one_missing) == [Why.NOT_SUSTAINED] * 2


def test_the_threshold_itself_does_not_fire():
    assert whys(reading(0, 85.0), reading(60, 85.0)) == [Why.BETWEEN, Why.BETWEEN]


def test_a_gap_in_the_data_starts_the_window_again():
    assert whys(reading(0), reading(30), reading(121)) == [Why.NOT_SUSTAINED] * 3
    assert whys(reading(0), reading(30), reading(120))[-1] is Why.FIRES


def test_one_value_below_the_threshold_starts_the_window_again():
    assert whys(reading(0), reading(30, 84.0), reading(60), reading(90))[-1] is Why.NOT_SUSTAINED


def test_a_late_or_duplicate_reading_changes_nothing():
    before = run(reading(0), reading(60))[-1]
    for late in (reading(60, 10.0), reading(30, 10.0)):
        after = route(before.track, late, RULE)
        assert after.why is Why.LATE
        assert after.track == before.track


def test_it_clears_only_below_the_lower_bound_and_only_for_long_enough():
    assert whys(reading(0, 82.0)) == [Why.BETWEEN]
    assert whys(reading(0, 79.0), reading(60, 79.0)) == [Why.NOT_CLEAR_FOR_LONG, Why.CLEARS]


def test_a_senders_own_word_needs_no_window():
    assert whys(reading(0, None, State.FIRING)) == [Why.FIRES]
    assert whys(reading(0, None, State.RESOLVED)) == [Why.CLEARS]


def test_an_unknown_state_is_never_taken_for_either():
    routed = run(reading(0), reading(30, 99.0, State.UNKNOWN))
    assert routed[-1].why is Why.UNKNOWN_STATE
    assert routed[-1].track == routed[0].track


def test_what_is_not_a_number_is_no_measurement():
    assert whys(reading(0, None), reading(1, float("nan"))) == [Why.NO_VALUE, Why.NO_VALUE]


def test_the_severity_is_critical_from_the_critical_threshold_on():
    assert run(reading(0, 94.9))[0].severity is Severity.WARNING
    assert run(reading(0, 95.0))[0].severity is Severity.CRITICAL


def test_a_sender_may_name_the_severity_and_a_made_up_one_is_ignored():
    assert run(reading(0, None, State.FIRING, severity="critical"))[0].severity is Severity.CRITICAL
    assert run(reading(0, None, State.FIRING, severity="apocalyptic"))[0].severity is Severity.WARNING


def test_a_signal_that_is_switched_off_neither_fires_nor_clears():
    off = Rule(enabled=False, threshold=85, critical=95, clear=80, sustain_s=0, max_gap_s=90)
    assert {r.why for r in run(reading(0), reading(1, 10.0), reading(2, None, State.FIRING), rule=off)} == {
        Why.SWITCHED_OFF
    }


timelines = st.lists(
    st.tuples(st.integers(0, 600), st.floats(0, 100) | st.none(), st.sampled_from(list(State))), max_size=40
)


@given(timelines)
def test_it_never_fires_on_values_that_did_not_hold_above_the_threshold_for_the_whole_window(timeline):
    """Against a second, simple-minded judge that looks back over all that was accepted."""
    track, accepted = Track(), []
    for seconds, value, state in timeline:
        one = reading(seconds, value, state)
        routed = route(track, one, RULE)
        if routed.why not in (Why.LATE, Why.UNKNOWN_STATE, Why.NO_VALUE):
            accepted.append(one)
        if routed.why is Why.FIRES and state is State.MEASURED:
            assert held_above(accepted)
        track = routed.track


def held_above(accepted: list[Reading]) -> bool:
    latest = accepted[-1]
    for later, earlier in zip(accepted[::-1], [*accepted[-2::-1], None], strict=True):
        high = later.state is State.FIRING or (later.value is not None and later.value > RULE.threshold)
        if not high or later.state is State.RESOLVED:
            return False
        if (latest.at - later.at).total_seconds() >= RULE.sustain_s:
            return True
        if earlier is None or (later.at - earlier.at).total_seconds() > RULE.max_gap_s:
            return False
    return False


@given(timelines)
def test_a_series_never_goes_back_in_time(timeline):
    track = Track()
    for seconds, value, state in timeline:
        moved = route(track, reading(seconds, value, state), RULE).track
        assert track.last_at is None or (moved.last_at is not None and moved.last_at >= track.last_at)
        track = moved
