"""Pauses after faults. Pure."""

from datetime import timedelta

import pytest

from byteport.core.backoff import as_long_again_s, backoff_s


@pytest.mark.parametrize(("faults", "about_s"), [(0, 2), (1, 4), (4, 32), (5, 60), (100_000, 60)])
def test_it_doubles_up_to_the_longest_pause_however_long_the_trouble_lasts(faults, about_s):
    pauses = {backoff_s(faults, 2.0, 60.0) for _ in range(50)}
    assert all(0.8 * about_s <= pause <= 1.2 * about_s for pause in pauses)
    assert len(pauses) > 1, "no two march in step"


@pytest.mark.parametrize(("so_far_s", "about_s"), [(0, 10), (9, 10), (40, 40), (900, 900), (86_400, 900)])
def test_it_waits_for_as_long_again_as_it_has_failed_so_far_within_bounds(so_far_s, about_s):
    pauses = {as_long_again_s(timedelta(seconds=so_far_s), 10.0, 900.0) for _ in range(50)}
    assert all(0.8 * about_s <= pause <= 1.2 * about_s for pause in pauses)
    assert len(pauses) > 1, "no two march in step"
