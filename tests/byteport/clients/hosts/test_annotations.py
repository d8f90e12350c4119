"""The opt-in as the platforms write it. Pure."""

import pytest

from byteport.clients.hosts.annotations import gce_opt_in_words, opt_in_words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("disk", ("disk",)),
        (" Disk , memory,,", ("disk", "memory")),
        ("disk_memory", ("disk_memory",)),
        ("", ()),
        ("disk, off", ()),
        ("OFF", ()),
    ],
)
def test_words_are_separated_by_commas_and_off_ends_them_all(value, words):
    assert opt_in_words(value) == words


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"byteport-io_auto-remediate": "disk_memory"}, ("disk", "memory")),
        ({"byteport-io_auto-remediate": "disk_off"}, ()),
        ({"byteport-io_auto-remediate": ""}, ()),
        ({"byteport.io/auto-remediate": "disk"}, ()),  # no GCE label can be called that
        ({}, ()),
    ],
)
def test_a_gce_label_joins_its_words_by_an_underscore(labels, words):
    assert gce_opt_in_words(labels) == words
