"""docs/outgoing.md is true. Real: a call over HTTP, checked by the page's own code in Python and in Node.

Skipped without Node: its half.
"""

import json
import re
import shutil
import subprocess

import pytest
from django.conf import settings

from byteport import tasks
from incidents.outgoing import courier
from incidents.outgoing.body import Action, Body, Incident
from signals.happening import Happening
from tests.incidents.outgoing.receiver import SECRET, receiver, webhook

PAGE = (settings.BASE_DIR / "docs" / "outgoing.md").read_text(encoding="utf-8")
NODE = shutil.which("node") or ""
JUDGE = """
const [secret, headers, body] = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
process.stdout.write(String(isBytePorts(secret, lower, Buffer.from(body))));
"""


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture
def asked(db):
    """One real call."""
    with receiver() as far:
        courier.send_test(webhook(far.base))
        tasks.send_events()
    return far.got[0]


def test_the_pages_check_in_python_is_right(asked):
    given: dict = {}
    exec(block("python"), given)
    is_byteports = given["is_byteports"]
    assert is_byteports(SECRET, asked.headers, asked.raw)
    assert not is_byteports("another", asked.headers, asked.raw)
    assert not is_byteports(SECRET, asked.headers, asked.raw + b" ")
    assert not is_byteports(SECRET, {**asked.headers, "X-BytePort-Timestamp": "1767225600"}, asked.raw)


@pytest.mark.skipif(not NODE, reason="Node is not installed (apt-get install nodejs)")
def test_the_pages_check_in_node_is_right(asked):
    def judged(secret: str, body: str) -> str:
        said = json.dumps([secret, dict(asked.headers), body])
        program = [NODE, "-e", block("js") + JUDGE]
        return subprocess.run(program, input=said, capture_output=True, text=True, check=True, timeout=60).stdout

    assert judged(SECRET, asked.raw.decode()) == "true"
    assert judged("another", asked.raw.decode()) == "false"
    assert judged(SECRET, asked.raw.decode() + " ") == "false"


def test_the_pages_example_has_the_keys_that_are_sent():
    example = json.loads(block("json"))
    assert tuple(example) == Body.__struct_fields__
    assert tuple(example["incident"]) == Incident.__struct_fields__
    assert tuple(example["action"]) == Action.__struct_fields__


def test_the_page_tells_every_event():
    told = re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.MULTILINE)
    assert sorted(told) == sorted(kind.value for kind in Happening)
