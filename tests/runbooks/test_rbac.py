"""Which rights each part of BytePort needs, as the code adds them up, and `manage.py rbac`.

Real: the command, the registries, a copy of the chart. Where rights overlap, the runbooks and actions are stand-ins.
"""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace

import pytest
import yaml
from django.conf import settings
from django.core.management import call_command

from byteport.core.errors import Permanent
from byteport.core.permissions import Permission
from runbooks import chart, rbac
from runbooks.action import ACTIONS
from runbooks.runbook import RUNBOOKS
from signals.source import SOURCES


@contextmanager
def registered(reads=(), **permissions):
    """One source, which reads this; and runbooks by name, each as (its own reads, the rights of its one action)."""
    runbooks = {
        name: SimpleNamespace(title=name, permissions=own, actions=(f"{name}.act",))
        for name, (own, _) in permissions.items()
    }
    actions = {f"{name}.act": SimpleNamespace(permissions=acts) for name, (_, acts) in permissions.items()}
    sources = {"pods": SimpleNamespace(title="Pods", permissions=reads)}
    with entries(SOURCES, sources), entries(RUNBOOKS, runbooks), entries(ACTIONS, actions):
        yield


@contextmanager
def entries(registry, found):
    before = dict(registry)
    vars(registry)["_found"] = found
    try:
        yield
    finally:
        vars(registry)["_found"] = before


@pytest.fixture
def overlapping():
    with registered(
        ("pods: watch, get",),
        restart=(("pods: list", "apps/deployments: get"), ("apps/deployments: get, patch",)),
        scale=(("apps/deployments: get", "autoscaling/horizontalpodautoscalers: list"), ("apps/deployments: patch",)),
        clean=((), ("host: clear_tmp",)),
    ):
        yield


def run(*args):
    out, err = StringIO(), StringIO()
    try:
        call_command("rbac", *args, stdout=out, stderr=err)
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_a_runbook_needs_what_it_reads_and_what_its_actions_need(overlapping):
    assert rbac.of_runbooks(["restart"])[0].permissions == (
        Permission("", "pods", ("list",)),
        Permission("apps", "deployments", ("get", "patch")),
    )


def test_what_is_about_other_platforms_is_no_right_in_a_cluster(overlapping):
    assert rbac.of_runbooks(["clean"])[0].permissions == ()


def test_what_two_need_stands_in_their_union_once(overlapping):
    assert rbac.rules(rbac.union(rbac.of_runbooks())) == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list"]},
    ]


@pytest.mark.parametrize(
    ("args", "rights"),
    [
        ((), {"pods": "get, list, watch", "deployments": "get, patch", "horizontalpodautoscalers": "list"}),
        (("--runbooks", "restart, clean"), {"pods": "get, list, watch", "deployments": "get, patch"}),
        (("--runbooks", "none"), {"pods": "get, watch"}),
    ],
)
def test_the_rules_are_printed_for_the_sources_and_for_the_runbooks_that_are_asked_for(overlapping, args, rights):
    told = json.loads(run(*args, "--json")[1])
    assert yaml.safe_load(run(*args)[1]) == told
    assert {rule["resources"][0]: ", ".join(rule["verbs"]) for rule in told["rules"]} == rights


def test_a_runbook_that_is_none_is_named_beside_those_that_are(overlapping):
    code, out, err = run("--runbooks", "restart,reboot")
    assert (code, out) == (1, "")
    assert err.startswith("There is no runbook reboot. There are: restart, scale, clean.")


# --- the chart


@pytest.fixture
def root(tmp_path):
    """A copy of what follows the code."""
    for kept in chart.FILES:
        (tmp_path / kept.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(settings.BASE_DIR / kept.path, tmp_path / kept.path)
    return tmp_path


def test_the_chart_is_as_the_code_and_the_check_of_that_needs_no_database():
    env = {"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgres://nowhere.invalid/x", "BYTEPORT_SECRET_KEY": "x" * 40}
    argv = [sys.executable, str(settings.BASE_DIR / "manage.py"), "rbac", "--check"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kept", chart.FILES, ids=lambda kept: kept.path)
def test_a_difference_is_shown_with_what_to_do_and_mended(root, settings, kept):
    settings.BASE_DIR = root
    file = root / kept.path
    right = file.read_text()
    name = chart.built_in()[0]
    wrong = right.replace(name, "x", 1).replace(chart.switch_of(name), "x", 1)  # the first is what was written there
    assert wrong != right
    file.write_text(wrong)
    code, _, err = run("--check")
    assert code == 1
    assert f"--- {kept.path} (is)" in err
    assert "manage.py rbac --write" in err
    assert run("--write") == (0, f"wrote {kept.path}\n", "")
    assert file.read_text() == right
    assert run("--check")[0] == 0


def test_a_verb_more_is_a_difference(root):
    file = root / chart.FILES[0].path
    data = yaml.safe_load(file.read_text())
    next(iter(data["runbooks"].values()))["permissions"].append({"group": "", "resource": "secrets", "verbs": ["get"]})
    file.write_text(chart.HEADER + yaml.safe_dump(data, sort_keys=False, width=120))
    [stale] = chart.stale(root)
    assert any(line.startswith("-") and "secrets" in line for line in stale.diff)


def test_what_an_operator_has_written_around_the_marks_stays(root):
    file = root / f"{chart.CHART}/values.yaml"
    file.write_text(file.read_text().replace("dryRun: true", "dryRun: true  # as we agreed"))
    assert chart.stale(root) == []


@pytest.mark.parametrize("harm", [lambda text: text.replace(chart.END, "the end"), lambda text: text + text])
def test_a_file_without_its_marks_is_not_touched(root, harm):
    file = root / "docs" / "install.md"
    file.write_text(harm(file.read_text()))
    before = file.read_text()
    with pytest.raises(Permanent, match="have to be there once"):
        chart.write(root)
    assert file.read_text() == before


def test_where_there_is_no_chart_that_is_said(tmp_path, settings):
    settings.BASE_DIR = tmp_path
    code, _, err = run("--check")
    assert code == 1
    assert "the chart lies beside the source only" in err


@pytest.mark.parametrize(("name", "switch"), [("cleanup_logs", "cleanupLogs"), ("scale_up", "scaleUp"), ("a", "a")])
def test_a_switch_is_named_as_values_are(name, switch):
    assert chart.switch_of(name) == switch


def test_what_another_package_brings_is_not_of_the_chart():
    with registered(theirs=((), ())):
        assert chart.built_in() == []
