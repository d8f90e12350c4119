"""docs/settings.md tells every setting, and none that is not there. Real: the code as it is parsed, and the page."""

import ast
import re

import pytest
from django.conf import settings

from byteport.settings import names_or_all

PAGE = (settings.BASE_DIR / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? *\| (.+) \|$", PAGE, re.MULTILINE)
READERS = re.compile(r"env\.\w+|secret|os\.environ\.get|os\.getenv")
# Read, but no setting of BytePort's own: which settings module Django loads, and where the system has its programs.
FOREIGN = {"DJANGO_SETTINGS_MODULE", "PATH"}


def reads():
    """Every name that some code reads from the environment, with its default where the code says one."""
    for folder in ("byteport", "signals", "runbooks", "incidents"):
        for path in (settings.BASE_DIR / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if is_reading(node):
                    default = node.args[1] if len(node.args) > 1 else None
                    yield node.args[0].value, default.value if isinstance(default, ast.Constant) else default


def is_reading(node):
    """`env.int("NAME", …)`, `secret("NAME")`, `os.environ.get("NAME")`, not with a name that is put together."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    return READERS.fullmatch(ast.unparse(node.func)) is not None


FOUND = {name.removesuffix("_FILE"): default for name, default in reads() if name not in FOREIGN}


def test_the_search_finds_settings_at_all():
    assert {"DATABASE_URL", "BYTEPORT_WORKERS", "BYTEPORT_STATE_DIR"} <= set(FOUND)


def test_every_setting_is_told():
    assert set(FOUND) - {name for name, _, _ in ROWS} == set()


def test_nothing_is_told_that_is_not_there():
    assert {name for name, _, _ in ROWS} - set(FOUND) == set()


@pytest.mark.parametrize("name", [name for name, default in FOUND.items() if isinstance(default, str | bool | int)])
def test_the_default_that_is_told_is_the_one_in_the_code(name):
    told = {row[0]: row[1] for row in ROWS}[name]
    default = FOUND[name]
    assert told == (str(default).lower() if isinstance(default, bool) else str(default))


@pytest.mark.parametrize(
    ("name", "meaning"), [(name, meaning) for name, _, meaning in ROWS], ids=lambda text: text[:30]
)
def test_a_time_says_its_unit(name, meaning):
    assert len(meaning) > 20
    assert not name.endswith("_S") or meaning.startswith("Seconds")


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, None), ([], set()), (["none"], set()), (["a", " b", ""], {"a", "b"})],
)
def test_a_list_of_names_tells_nothing_from_everything(given, names):
    assert names_or_all(given) == names
