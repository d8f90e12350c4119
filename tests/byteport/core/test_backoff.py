"""Pauses after faults. Pure."""

import pytest

from byteport.core.backoff import backoff_s


@pytest.mark.parametrize(("faults", "about_s"), [(0, 2), (1, 4), (4, 32), (5, 60), (100_000, 60)])
def test_it_doubles_up_to_the_longest_pause_however_long_the_trouble_lasts(faults, about_s):
    pauses = {backoff_s(faults, 2.0, 60.0) for _ in range(50)}
    assert all(0.8 * about_s <= pause <= 1.2 * about_s for pause in pauses)
    assert len(pauses) > 1, "no two march in step"
