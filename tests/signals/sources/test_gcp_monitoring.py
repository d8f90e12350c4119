"""The source of Google Cloud Monitoring. Real: google-cloud-monitoring and google-auth over gRPC with TLS, PostgreSQL,
the ingest. Google is a gRPC server in this process that speaks the service's own messages (tests/gcp.py)."""

import json
from datetime import timedelta
from functools import cache

import grpc
import pytest
from django.forms import modelform_factory
from google.cloud.monitoring_v3 import ListTimeSeriesResponse

from byteport.clients import gcp as credentials
from byteport.clients import gcp_monitoring as client
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals.admin import SourceForm
from signals.models import Sample, SignalEvent, Source
from signals.polling import poll_once
from signals.source import Progress, SourceConfig
from signals.sources import gcp_monitoring as module
from signals.sources.gcp_monitoring import GcpMonitoringSource
from tests import gcp

pytestmark = pytest.mark.django_db
DISK, MEMORY = "agent.googleapis.com/disk/percent_used", "agent.googleapis.com/memory/percent_used"
CPU = "compute.googleapis.com/instance/cpu/utilization"
USED = {"name": DISK, "signal": "disk_pressure", "labels": {"state": "used"}}
OPTIONS = {"project": gcp.PROJECT, "metrics": [USED]}
INSTANCE = "4520031799277581759"
SDA1 = ResourceRef("host", INSTANCE, "mount", "/dev/sda1")


@pytest.fixture
def far(tmp_path):
    with gcp.monitoring(tmp_path) as monitoring:
        yield monitoring


@pytest.fixture
def source(monkeypatch):
    """A source that remembers nothing of another test."""
    monkeypatch.setattr(module.SOURCE, "_given", GcpMonitoringSource()._given)
    return module.SOURCE


@pytest.fixture
def row(source):
    return Source.objects.create(slug="gcp", kind="gcp_monitoring", options=OPTIONS)


@cache
def today():
    """The time of a test, which is one and the same however long it takes."""
    return now()


@pytest.fixture(autouse=True)
def _afresh():
    today.cache_clear()


def minute(ago=0):
    return today().replace(second=0, microsecond=0) - timedelta(minutes=ago)


def config(options=OPTIONS, **fields):
    return SourceConfig("gcp", options, progress=Progress(**fields))


def look(source, options=OPTIONS, at=None):
    return source.poll(config(options), at or today())


def disk(far, *values, at=None, device="/dev/sda1", **fields):
    far.add(DISK, *values, at=at or minute(1), device=device, **{"state": "used", **fields})


# --- what becomes of a series


def test_a_disk_of_an_instance_becomes_its_resource(source, far):
    disk(far, 91.5)
    (reading,) = look(source)
    assert (reading.signal, reading.resource, reading.value) == ("disk_pressure", SDA1, 91.5)
    assert (reading.at, reading.period_s, reading.source) == (minute(1), 60, "gcp")
    assert reading.labels == {
        "metric": DISK, "project_id": gcp.PROJECT, "zone": "europe-west3-a", "instance_id": INSTANCE,
        "device": "/dev/sda1", "state": "used",
    }  # fmt: skip


def test_all_names_are_known_by_default_and_only_what_is_used_counts(source, far):
    for state, percent in {"used": 91, "free": 99, "reserved": 98}.items():
        disk(far, percent, state=state)
    for state, percent in {"used": 92, "cached": 97, "free": 96}.items():
        far.add(MEMORY, percent, at=minute(1), state=state)
    far.add(CPU, 0.93, at=minute(1), unit="10^2.%", instance_name="web-1")
    found = {(r.signal, r.resource.label, round(r.value, 1)) for r in look(source, {"project": gcp.PROJECT})}
    assert found == {
        ("disk_pressure", f"/dev/sda1 on {INSTANCE}", 91), ("memory_pressure", f"memory on {INSTANCE}", 92),
        ("cpu_saturation", f"cpu on {INSTANCE}", 93),
    }  # fmt: skip


def test_names_units_labels_and_periods_can_be_set(source, far):
    name = "workload.googleapis.com/system.filesystem.utilization"
    far.add(name, *([0.2] * 5), *([0.4] * 5), at=minute(1), unit="1", mountpoint="/srv", device="/dev/sdb", type="xfs")
    metric = {"name": name, "signal": "disk_pressure", "unit": "fraction", "period_s": 300}
    at = minute().replace(minute=minute().minute // 5 * 5)
    readings = look(source, {"project": gcp.PROJECT, "metrics": [metric]}, at=at)
    assert {r.resource.name for r in readings} == {"/srv"}
    assert all(r.at.minute % 5 == 0 and r.period_s == 300 and 20 <= round(r.value) <= 40 for r in readings)


@pytest.mark.parametrize(
    "fields",
    [
        {"device": ""},
        {"device": "tmpfs"},
        {"device": "/dev/loop3"},
        {"device": "/dev/shm"},
        {"device": "/dev/sda1", "mountpoint": "/run", "type": "tmpfs"},
        {"device": "/dev/sda1", "type": "squashfs"},
        {"instance_id": ""},
        {"instance_id": "x" * 254},
        {"instance_id": "evil\x1b[2J"},
        {"resource": "aws_ec2_instance"},
    ],
)
def test_what_is_about_no_instances_disk_is_left_out(source, far, fields):
    disk(far, 99, **fields)
    assert look(source) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -20, 102])
def test_a_value_that_is_no_percentage_is_not_taken_for_one(source, far, value):
    disk(far, value)
    assert look(source) == []


def test_a_metric_in_another_unit_is_refused_by_name(source, far):
    disk(far, 8e9, unit="By")
    with pytest.raises(Permanent, match="in the unit By"):
        look(source)


def test_of_two_series_that_tell_the_same_none_is_chosen_by_chance(source, far):
    for part in "ab":
        far.add("custom.googleapis.com/mem", 99, at=minute(1), part=part)
    metric = {"name": "custom.googleapis.com/mem", "signal": "memory_pressure"}
    with pytest.raises(Permanent, match="several series of memory on"):
        look(source, {**OPTIONS, "metrics": [metric]})
    metric["labels"] = {"part": "b"}
    assert len(look(source, {**OPTIONS, "metrics": [metric]})) == 1


def test_of_two_metrics_that_tell_the_same_the_first_one_counts(source, far):
    far.add(MEMORY, 91, at=minute(1), state="used")
    far.add("custom.googleapis.com/mem", 40, at=minute(1))
    first = {"name": MEMORY, "signal": "memory_pressure", "labels": {"state": "used"}}
    second = {"name": "custom.googleapis.com/mem", "signal": "memory_pressure"}
    assert [r.value for r in look(source, {**OPTIONS, "metrics": [first, second]})] == [91]
    assert [r.value for r in look(source, {**OPTIONS, "metrics": [second, first]})] == [40]


def test_an_instance_that_was_renamed_meanwhile_stays_one_host(source, far):
    far.add(CPU, 0.5, at=minute(2), unit="10^2.%", instance_name="web-1")
    far.add(CPU, 0.6, at=minute(1), unit="10^2.%", instance_name="web-one")
    metric = {"name": CPU, "signal": "cpu_saturation", "unit": "fraction"}
    assert sorted(round(r.value) for r in look(source, {**OPTIONS, "metrics": [metric]})) == [50, 60]


# --- how it reads


def test_it_asks_as_the_account_for_no_more_than_it_needs(source, far):
    disk(far, 50)
    look(source)
    (asked,) = far.asked
    assert asked.name == f"projects/{gcp.PROJECT}"
    assert asked.filter == (
        f'metric.type = "{DISK}" AND resource.type = "gce_instance" AND metric.labels.state = "used"'
    )
    assert asked.interval.end_time - asked.interval.start_time <= timedelta(minutes=11)
    told = gcp.claims(far.tokens[0])
    assert (told["iss"], told["scope"]) == (gcp.ACCOUNT, "https://www.googleapis.com/auth/monitoring.read")


def test_pages_are_all_read_also_where_one_ends_within_a_series(source, far):
    far.points_a_page = 3
    for n in range(4):
        disk(far, 50, 51, device=f"/dev/sd{n}")
    asked = config()
    assert len(source.poll(asked, today())) == 8
    assert asked.progress.calls == len(far.asked) == 3


def test_a_period_that_has_not_ended_is_read_later(source, far):
    disk(far, 90, at=minute())
    assert look(source, at=minute() + timedelta(seconds=59)) == []
    assert len(look(source, at=minute() + timedelta(seconds=60))) == 1


def test_a_metric_that_the_project_does_not_have_leaves_the_others(source, far):
    far.add(CPU, 0.93, at=minute(1), unit="10^2.%")
    assert [r.signal for r in look(source, {"project": gcp.PROJECT})] == ["cpu_saturation"]


def test_a_project_that_has_none_of_the_metrics_is_not_taken_for_well(source, far):
    with pytest.raises(Permanent, match="Is the Ops Agent installed"):
        look(source, {"project": gcp.PROJECT})


def test_throttling_is_temporary_for_as_long_as_google_asks(source, far):
    far.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for quota metric 'Time series queries'", retry_s=47)
    with pytest.raises(Temporary, match="Quota exceeded") as raised:
        look(source)
    assert raised.value.delay_s == 47
    far.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded")
    with pytest.raises(Temporary) as raised:
        look(source)
    assert raised.value.delay_s == 60


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (grpc.StatusCode.UNAVAILABLE, Temporary, "503"),
        (grpc.StatusCode.INTERNAL, Temporary, "500"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Temporary, "504"),
        (
            grpc.StatusCode.PERMISSION_DENIED,
            Permanent,
            r"[^.]\. BytePort's account needs the role roles/monitoring.viewer in the project shop",
        ),
        (grpc.StatusCode.UNAUTHENTICATED, Permanent, "401"),
        (grpc.StatusCode.INVALID_ARGUMENT, Permanent, "400"),
    ],
)
def test_a_refusal_is_told_in_our_own_words_and_asked_once(source, far, code, error, told):
    far.refuse(code, "no")
    with pytest.raises(error, match=told):
        look(source)
    assert len(far.asked) == 1


def test_half_an_answer_is_none(source, far):
    far.raw = ListTimeSeriesResponse(execution_errors=[{"code": 14, "message": "a shard did not answer"}])
    asked = config()
    with pytest.raises(Temporary, match="a shard did not answer"):
        source.poll(asked, today())
    assert asked.progress.read_until is None


def test_nobody_at_the_other_end_is_temporary(source, far, monkeypatch):
    monkeypatch.setattr(client, "ENDPOINT", "localhost:1")
    with pytest.raises(Temporary, match="503"):
        look(source)


def test_without_credentials_it_says_how_to_give_some_and_asks_nothing(source, far, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    credentials.forget()
    with pytest.raises(Permanent, match=r"no credentials are found.*workload identity.*GOOGLE_APPLICATION_CREDENTIALS"):
        look(source)
    assert far.asked == []


def test_a_key_that_google_refuses_is_read_anew_from_its_file(source, far, tmp_path):
    disk(far, 50)
    look(source)
    far.refuse(grpc.StatusCode.UNAUTHENTICATED, "the key was deleted")
    with pytest.raises(Permanent, match="the key was deleted"):
        look(source)
    path = tmp_path / "key.json"
    path.write_text(path.read_text().replace("byteport@", "renewed@"))
    far.refusal = None
    look(source)
    assert gcp.claims(far.tokens[-1])["iss"].startswith("renewed@")


def test_a_federation_that_gives_no_token_is_told_as_such(source, far, monkeypatch, tmp_path):
    """Workload identity federation, whose token service nobody answers at."""
    subject = tmp_path / "token"
    subject.write_text("jwt")
    federation = {
        "type": "external_account", "audience": "//iam.googleapis.com/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "http://127.0.0.1:1/v1/token", "credential_source": {"file": str(subject)},
    }  # fmt: skip
    path = tmp_path / "federation.json"
    path.write_text(json.dumps(federation))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    credentials.forget()
    with pytest.raises(Temporary, match="Google Cloud, credentials"):
        look(source)
    assert far.asked == []


# --- over time


def test_a_full_disk_opens_an_incident_and_each_measurement_is_kept_once(row, far):
    disk(far, 90, 91, 92, at=minute(2))
    poll_once(row, today())
    event = SignalEvent.objects.get()
    assert (event.resource, event.value) == (str(SDA1), 92)
    row.refresh_from_db()
    assert (row.readings_total, row.calls_today, row.last_error) == (3, 1, "")
    assert row.last_reading_at == minute(2)
    disk(far, 93, at=minute(1))
    poll_once(row, today())
    row.refresh_from_db()
    assert (row.readings_total, row.calls_today) == (4, 2)
    assert list(Sample.objects.order_by("at").values_list("value", flat=True)) == [90, 91, 92, 93]


def test_after_an_outage_nothing_is_missing_and_nothing_there_twice(row, far):
    start = minute(100)
    disk(far, *([50] * 100))
    poll_once(row, start + timedelta(minutes=20))
    row.refresh_from_db()
    far.refuse(grpc.StatusCode.UNAVAILABLE, "down")
    with pytest.raises(Temporary):
        poll_once(row, start + timedelta(minutes=50))
    row.refresh_from_db()
    assert row.read_until == start + timedelta(minutes=20)
    assert "down" in row.last_error
    far.refusal = None
    for _ in range(2):  # an hour at a time
        poll_once(row, start + timedelta(minutes=100))
        row.refresh_from_db()
    times = list(Sample.objects.order_by("at").values_list("at", flat=True))
    assert times == [start + timedelta(minutes=n) for n in range(10, 100)]
    assert row.readings_total == 90


def test_what_comes_late_is_kept_and_opens_nothing(row, far):
    disk(far, 50)
    poll_once(row, today())
    row.refresh_from_db()
    disk(far, 99, at=minute(5))
    poll_once(row, today())
    assert [sample.value for sample in Sample.objects.order_by("at")] == [99, 50]
    assert not SignalEvent.objects.exists()


def test_verification_reads_the_newest_measurement_of_that_disk_again(source, far):
    disk(far, 90, 70)
    disk(far, 99, device="/dev/sdb")
    disk(far, 98, instance_id="1")
    asked = config()
    reading = source.reread(asked, "disk_pressure", SDA1, today())
    assert (reading.value, reading.at, asked.progress.calls) == (70, minute(1), 1)
    assert far.asked[0].filter.endswith(f'resource.labels.instance_id = "{INSTANCE}"')
    assert source.reread(config(), "disk_pressure", ResourceRef("host", "gone", "mount", "/dev/sda1"), today()) is None


def test_a_hosts_name_cannot_change_the_query(source, far):
    disk(far, 90)
    source.reread(config(), "disk_pressure", ResourceRef("host", '" OR metric.type = "x', "mount", "/"), today())
    assert "OR" not in far.asked[0].filter


# --- options


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "project"),
        ({"project": "../x"}, "project"),
        ({"project": gcp.PROJECT, "private_key": "x"}, "private_key"),
        ({"project": gcp.PROJECT, "metrics": [{"name": 'a" OR "b', "signal": "disk_pressure"}]}, "name"),
        ({"project": gcp.PROJECT, "metrics": [{**USED, "labels": {"state": 'used" OR "x'}}]}, "labels"),
        ({"project": gcp.PROJECT, "metrics": [{"name": DISK, "signal": "disk_pressure"}]}, "state"),
        ({"project": gcp.PROJECT, "every_s": 1}, "every_s"),
    ],
)
def test_options_that_are_none_are_refused_with_what_is_wrong(source, options, fault):
    assert fault in source.fault(options)
    form_class = modelform_factory(Source, SourceForm, fields=["slug", "kind", "enabled", "options"])
    given = {"slug": "gcp", "kind": "gcp_monitoring", "enabled": True, "options": json.dumps(options)}
    assert fault in form_class(given).errors["options"][0]
