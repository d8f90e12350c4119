"""How the gates read a host's opt-in. Real: the judging; the annotations are given here. Reading them is tested with
each transport, in tests/byteport/clients/hosts."""

import pytest

from byteport.clients.hosts.annotations import file_remedy
from byteport.clients.hosts.protocol import Annotations
from runbooks.host_opt_in import opt_in_of


def found(*words, present=True):
    return Annotations(words, present, "/etc/byteport/annotations of web-1")


@pytest.mark.parametrize(
    ("words", "given"), [(("disk",), True), (("memory", "disk"), True), (("disks",), False), ((), False)]
)
def test_the_opt_in_needs_its_very_word(words, given):
    assert opt_in_of(found(*words), "disk", "").given is given


def test_it_says_what_stood_there():
    assert opt_in_of(found("memory", "disk"), "disk", "").found == "memory, disk"
    assert opt_in_of(found(), "disk", "").found == "no word"
    assert opt_in_of(found(present=False), "disk", "").found == "no such annotation"


def test_the_remedy_of_a_file_is_its_very_line():
    assert "`byteport.io/auto-remediate: memory,disk`" in file_remedy("web-1", "memory,disk")
