"""Reading JSON Patches for the fence, pure. The same patches applied by the library `jsonpatch` are the yardstick."""

import json
from copy import deepcopy

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks.actions.json_patch import ABSENT, PatchError, applied, changes, parse, pointer, same

WEB = {
    "metadata": {"annotations": {"a/b": "1", "t~": "2"}},
    "spec": {"replicas": 1, "containers": [{"name": "app"}, {"name": "side"}]},
}


def patch(*operations: tuple) -> list:
    return parse(msgspec.json.encode([{"op": op, "path": path, "value": value} for op, path, value in operations]))


PATCHES = [
    [("replace", "/spec/replicas", 3)],
    [("test", "/metadata/annotations/a~1b", "1"), ("add", "/metadata/annotations/t~0", "3")],
    [("add", "/spec/containers/-", {"name": "new"})],
    [("replace", "/spec/containers/1/name", "other")],
    [("add", "/spec/empty", {})],
    [("replace", "/spec", {"replicas": 2})],
    [("test", "/spec/replicas", 2)],
    [("test", "/spec/nothing", None)],
    [("replace", "/spec/nothing", 1)],
    [("add", "/nowhere/at/all", 1)],
    [("replace", "/spec/containers/7/name", "x")],
]


@pytest.mark.parametrize("operations", PATCHES)
def test_a_patch_does_what_the_library_says_it_does(operations):
    plain = [{"op": op, "path": path, "value": value} for op, path, value in operations]
    try:
        expected = jsonpatch.apply_patch(deepcopy(WEB), plain)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException):
        with pytest.raises(PatchError):
            applied(patch(*operations), WEB)
    else:
        assert applied(patch(*operations), WEB) == expected


def test_the_object_that_was_read_stays_as_it_was():
    before = deepcopy(WEB)
    applied(patch(("add", "/spec/containers/-", {"name": "new"})), WEB)
    assert before == WEB


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'[{"op":"remove","path":"/spec"}]',
        b'[{"op":"move","from":"/a","path":"/b"}]',
        b'[{"op":"copy","from":"/a","path":"/b"}]',
        b'[{"op":"add","path":"/a"}]',
        b'[{"op":"add","path":"/a","value":1,"from":"/b"}]',
        b'[{"op":"test","op":"replace","path":"/a","value":1}]',
        b'[{"op":"test","path":"/a","value":{"x":1,"x":2}}]',
        b'[{"op":"test","path":"/\\u0061","value":1}]',
        b'[{"op": "test","path":"/a","value":1}]',
        b'[{"op":"test","path":"/a","value":NaN}]',
        b"[" * 100_000,
        b'[{"op":"test","path":"/a","value":"' + b"x" * 1024 * 1024 + b'"}]',
        msgspec.json.encode([{"op": "test", "path": "/a", "value": 1}] * 17),
        b'\xff[{"op":"test","path":"/a","value":1}]',
    ],
)
def test_what_could_be_read_in_two_ways_or_does_more_is_refused(body):
    with pytest.raises(PatchError):
        parse(body)


@pytest.mark.parametrize("path", ["/spec/containers/-1/name", "/spec/containers/01/name", "/spec/containers/1e0/name"])
def test_an_index_has_one_form(path):
    with pytest.raises(PatchError):
        applied(patch(("replace", path, "x")), WEB)


def test_an_insertion_into_a_list_is_not_known():
    with pytest.raises(PatchError):
        applied(patch(("add", "/spec/containers/0", {"name": "x"})), WEB)


@pytest.mark.parametrize("path", ["", "spec"])
def test_the_whole_object_cannot_be_set(path):
    with pytest.raises(PatchError):
        pointer(path)


def test_true_is_not_one():
    assert not same(1, True)
    assert [change.after for change in changes({"n": 1}, {"n": True})] == [True]


def test_an_empty_object_that_comes_new_is_a_change():
    assert [(change.at, change.before) for change in changes({}, {"emptyDir": {}})] == [(("emptyDir",), ABSENT)]


def test_what_goes_away_is_a_change():
    assert [(change.at, change.after) for change in changes({"a": {"b": 1}}, {"a": {}})] == [(("a", "b"), ABSENT)]


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/~", max_size=2),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), part, max_size=3),
    max_leaves=10,
)


@given(trees, trees)
def test_no_difference_goes_unseen(before, after):
    found = list(changes(before, after))
    assert bool(found) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))
