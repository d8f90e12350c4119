"""Who leaks, by growth over the looks. Pure: courses are made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks.leaks import Verdict, growth_of

GB = 1e9
TOTAL = 64 * GB


def course(*values: float, every_s: float = 60.0) -> list[tuple[float, float]]:
    return [(number * every_s, value * GB) for number, value in enumerate(values)]


def verdict(*values: float, every_s: float = 60.0) -> Verdict:
    return growth_of(course(*values, every_s=every_s), TOTAL).verdict


def test_steady_growth_over_many_looks_is_a_leak():
    growth = growth_of(course(*(10 + n * 0.2 for n in range(20))), TOTAL)
    assert growth.verdict is Verdict.LEAKING
    assert growth.bytes == pytest.approx(3.8 * GB)
    assert (growth.looks, growth.span_s) == (20, 19 * 60)


def test_a_leak_may_breathe():
    assert verdict(*(10 + n * 0.2 - (0.1 if n % 4 == 3 else 0) for n in range(20))) is Verdict.LEAKING


@pytest.mark.parametrize("values", [(10, 11, 12), (10, 10, 10.5, 12), tuple(10 + n * 0.5 for n in range(9))])
def test_growth_over_few_looks_is_a_guess(values):
    assert verdict(*values) is Verdict.SUSPECTED


def test_growth_within_minutes_is_a_guess_however_many_looks_there_were():
    assert verdict(*(10 + n * 0.2 for n in range(50)), every_s=10) is Verdict.SUSPECTED


@pytest.mark.parametrize("values", [(), (60,), (10, 60)])
def test_fewer_than_three_looks_say_nothing(values):
    assert verdict(*values) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "values",
    [
        (60,) * 20,
        (60, 60.01, 60.02, 60.03),
        tuple(60 - n * 0.5 for n in range(20)),
        (10, 30, 10, 30, 10, 30, 12),
        (10, 20, 30, 20, 12),
        (5, *(n % 3 * 8 + 6 for n in range(20))),
        (10, *(30 for _ in range(20))),
        (10, 12, 15, 19, 24, *(30 + n * 0.001 for n in range(20))),
    ],
    ids=["big", "tiny", "falls", "saw", "gives back", "jumps", "filled up at once", "filled up by and by"],
)
def test_size_alone_noise_and_what_fills_up_or_gives_back_are_no_leak(values):
    assert verdict(*values) is Verdict.STEADY


def test_what_is_little_on_a_large_host_is_much_on_a_small_one():
    values = course(0.1, 0.12, 0.14)
    assert growth_of(values, 64 * GB).verdict is Verdict.STEADY
    assert growth_of(values, 1 * GB).verdict is Verdict.SUSPECTED


@given(st.lists(st.floats(0, 1e12), max_size=40), st.floats(1, 1e13))
def test_who_does_not_hold_more_than_before_never_leaks(values, total):
    looks = [(float(number), value) for number, value in enumerate(values)]
    growth = growth_of(looks, total)
    assert not (growth.leaks and growth.last_bytes <= growth.first_bytes)
    assert growth.verdict is not Verdict.LEAKING or len(values) >= 10
