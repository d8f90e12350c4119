"""What may be said to the chart, what is refused, and what comes of it. Real: Helm, with the chart's own schema."""

import json
import re
import tomllib

import helm_python
import pytest
import yaml
from django.conf import settings

from runbooks.chart import built_in, switch_of
from tests.charts.rendering import CHART, EVERYTHING, LEAST, chart, environment, one, pods, render, texts


def merged(base, over):
    return {**base, **{k: merged(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in over.items()}}


BAD = {
    "a word that is none": {"dryrun": False},
    "a runbook that is none": {"runbooks": {"restartEverything": {"enabled": True}}},
    "a runbook's name as the code writes it": {"runbooks": {"cleanup_logs": {"enabled": False}}},
    "a switch that is no switch": {"runbooks": {"cleanupLogs": {"enabled": "yes"}}},
    "dry-run as a text": {"dryRun": "false"},
    "a wildcard among verbs": {
        "extraRunbooks": {"x": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]}}
    },
    "a wildcard among resources": {
        "extraRunbooks": {"x": {"rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}]}}
    },
    "a wildcard among groups": {
        "extraRunbooks": {"x": {"rules": [{"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}]}}
    },
    "impersonation": {
        "extraRunbooks": {"x": {"rules": [{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]}}
    },
    "rules for no one": {"rbac": {"rules": []}},
    "another way around dry-run": {"env": {"BYTEPORT_FORCE_DRY_RUN": "false"}},
    "another way around the switches": {"env": {"BYTEPORT_RUNBOOKS": "cleanup_logs"}},
    "a database's password among the values": {"env": {"DATABASE_URL": "postgres://byteport:secret@db/byteport"}},
    "a key among the values": {"env": {"BYTEPORT_SECRET_KEY": "x" * 40}},
    "a setting that is no text": {"env": {"BYTEPORT_LOG_LEVEL": 3}},
    "a setting in lower case": {"env": {"log_level": "DEBUG"}},
    "a secret without its key": {"secrets": {"BYTEPORT_METRICS_TOKEN": {"secret": "metrics"}}},
    "every host name": {"allowedHosts": ["*"]},
    "an address without its scheme": {"publicUrl": "byteport.example.com"},
    "an address with a path": {"publicUrl": "https://example.com/byteport"},
    "a host with its scheme": {"ingress": {"host": "https://byteport.example.com"}},
    "whatever image is the latest": {"image": {"tag": "latest"}},
    "half a digest": {"image": {"digest": "sha256:0f0f"}},
    "a port that is none": {"database": {"port": 0}},
    "a port as a text": {"database": {"port": "5432"}},
    "a Secret's name that is none": {"database": {"existingSecret": "My Secret"}},
    "less than no replica": {"worker": {"replicas": -1}},
    "a worker without processes": {"worker": {"processes": 0}},
    "a security context": {"web": {"securityContext": {"privileged": True}}},
    "no API server": {"networkPolicy": {"apiServerPorts": []}},
    "no switch for node access": {"nodeAccess": True},
    "a pull policy that is none": {"image": {"pullPolicy": "Sometimes"}},
}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_the_schema_refuses(values):
    with pytest.raises(helm_python.HelmValuesError):
        render(merged(LEAST, values))


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["the least", "everything"])
def test_the_schema_takes_what_is_right(values):
    assert render(values)


@pytest.mark.parametrize(("left_out", "said"), [("image", "image.repository"), ("database", "database.existingSecret")])
def test_what_has_to_be_said_is_asked_for_by_its_name(left_out, said):
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(said)):
        render({left_out: {}})


def test_the_schema_has_a_word_for_every_value_and_no_other():
    def words(schema):
        schema = document["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if schema.get("additionalProperties") is False:
            return {name: words(part) for name, part in schema["properties"].items()}
        return None

    def told(values, known):
        return {
            k: told(v, known[k]) if isinstance(v, dict) and known[k] is not None else None for k, v in values.items()
        }

    document = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    known = words(document)
    known.pop("global")  # Helm's own, for charts within charts
    assert told(values, known) == told(known, known)


def test_there_is_a_switch_for_each_runbook_and_all_are_on():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values["runbooks"] == {switch_of(name): {"enabled": True} for name in built_in()}


def test_the_chart_is_of_the_programs_version():
    project = tomllib.loads((settings.BASE_DIR / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart().metadata["appVersion"] == project["version"]


def test_the_readme_tells_every_value():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    page = (CHART / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([A-Za-z]+)[.`]", page, re.MULTILINE))
    assert told == set(values)


def test_dry_run_is_forced_unless_it_is_said_otherwise():
    for given, told in (({}, "true"), ({"dryRun": True}, "true"), ({"dryRun": False}, "false")):
        objects = render(given)
        for process in ("web", "worker", "watch"):
            assert environment(pods(objects)[f"byteport-{process}"], objects)["BYTEPORT_FORCE_DRY_RUN"] == told


def test_every_setting_that_the_chart_gives_is_one():
    page = (settings.BASE_DIR / "docs" / "settings.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) | {"HOME"}
    objects = render()
    for pod in pods(objects).values():
        assert {name.removesuffix("_FILE") for name in environment(pod, objects)} <= known


@pytest.mark.parametrize(
    ("values", "url", "hosts", "proxy"),
    [
        ({}, "http://127.0.0.1:8000", [], "false"),
        ({"publicUrl": "https://ops.example.com:8443/"}, "https://ops.example.com:8443", ["ops.example.com"], "false"),
        (
            {"ingress": {"enabled": True, "host": "byteport.example.com"}},
            "https://byteport.example.com",
            ["byteport.example.com"],
            "true",
        ),
        (
            {"publicUrl": "https://a.example.com", "behindProxy": True},
            "https://a.example.com",
            ["a.example.com"],
            "true",
        ),
        ({"allowedHosts": ["b.example.com"]}, "http://127.0.0.1:8000", ["b.example.com"], "false"),
    ],
)
def test_the_console_knows_by_which_names_it_is_called(values, url, hosts, proxy):
    settings_of = one(render(values), "ConfigMap")["data"]
    assert settings_of["BYTEPORT_PUBLIC_URL"] == url
    assert settings_of["BYTEPORT_BEHIND_PROXY"] == proxy
    allowed = settings_of["BYTEPORT_ALLOWED_HOSTS"].split(",")
    assert {"localhost", "127.0.0.1", "[::1]", "byteport-web.ops.svc", *hosts} <= set(allowed)
    assert "" not in allowed


def test_the_names_fit_however_long_the_releases_is():
    for release in ("byteport", "my-byteport", "x" * 53):
        objects = render(name=release)
        assert all(len(each["metadata"]["name"]) <= 63 for each in objects if "ClusterRole" not in each["kind"])
        assert len({(each["kind"], each["metadata"]["name"]) for each in objects}) == len(objects)


def test_the_notes_say_what_to_do_next():
    notes = texts()["NOTES.txt"]
    assert "in dry-run" in notes
    assert "kubectl -n ops exec -it deploy/byteport-web -- python manage.py createsuperuser" in notes
    assert "kubectl -n ops port-forward svc/byteport-web 8000:80" in notes
    assert "--set dryRun=false" in notes
    live = texts(EVERYTHING)["NOTES.txt"]
    assert "dry-run" not in live
    assert "https://byteport.example.com" in live
    assert "Node access is on" in live
