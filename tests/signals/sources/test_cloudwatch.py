"""The CloudWatch source. Real: boto3 over HTTP, PostgreSQL, the ingest. AWS is moto's server; where it has to refuse or
to have no answer, moto is told to. The clock is moved, since moto keeps what it is given under its own times."""

import json
from datetime import datetime, timedelta
from functools import cache

import boto3
import pytest
from botocore.config import Config
from django.forms import modelform_factory
from moto.cloudwatch import responses
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult

from byteport.clients import aws as client
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals.admin import SourceForm
from signals.metrics import MOST_AT_ONCE, Span
from signals.models import Sample, Series, SignalEvent, Source
from signals.polling import poll_once
from signals.source import Progress, SourceConfig
from signals.sources import cloudwatch as module
from signals.sources.cloudwatch import CloudWatchSource
from tests import aws

pytestmark = pytest.mark.django_db
INSTANCE = "i-0123456789abcdef0"
OPTIONS = {"region": aws.REGION, "metrics": [{"name": "disk_used_percent", "signal": "disk_pressure"}]}
VAR = ResourceRef("host", INSTANCE, "mount", "/var")


@pytest.fixture(scope="module", autouse=True)
def _moto():
    with aws.server():
        yield
    publisher.cache_clear()


@pytest.fixture(autouse=True)
def _empty():
    aws.reset()
    stubborn = client.CONFIG.merge(Config(retries={"mode": "standard", "max_attempts": 1}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(client, "CONFIG", stubborn)  # boto3 would pause by itself before each of its tries
        yield


@cache
def publisher(session=None):
    return (session or boto3).client("cloudwatch", region_name=aws.REGION)


@pytest.fixture
def source(monkeypatch):
    """A source that remembers nothing of another test."""
    made = CloudWatchSource()
    monkeypatch.setattr(module.SOURCE, "_given", made._given)
    monkeypatch.setattr(module.SOURCE, "_listed", made._listed)
    return module.SOURCE


@pytest.fixture
def row(source):
    return Source.objects.create(slug="aws", kind="cloudwatch", options=OPTIONS)


def minute(ago: float = 0) -> datetime:
    return now().replace(second=0, microsecond=0) - timedelta(minutes=ago)


def put(*values, name="disk_used_percent", namespace="CWAgent", at=None, session=None, **dimensions):
    """`values`: the points of one series, a minute each, the last one `at`. moto takes another order of dimensions for
    another series."""
    dimensions = dimensions or {"InstanceId": INSTANCE, "path": "/var", "device": "nvme0n1p1", "fstype": "ext4"}
    at = at or minute(1)
    data = [
        {
            "MetricName": name, "Value": value, "Timestamp": at - timedelta(minutes=len(values) - 1 - n),
            "Dimensions": [{"Name": key, "Value": value} for key, value in sorted(dimensions.items())],
        }
        for n, value in enumerate(values)
    ]  # fmt: skip
    publisher(session).put_metric_data(Namespace=namespace, MetricData=data)


def look(source, options=OPTIONS, at=None):
    return source.poll(SourceConfig("aws", options), at or now())


def config(**fields):
    return SourceConfig("aws", OPTIONS, progress=Progress(**fields))


# --- what becomes of a series


def test_a_mount_of_an_instance_becomes_its_resource(source):
    put(91.5)
    (reading,) = look(source)
    assert (reading.signal, reading.resource, reading.value) == ("disk_pressure", VAR, 91.5)
    assert (reading.at, reading.period_s, reading.source) == (minute(1), 60, "aws")
    assert reading.labels == {
        "metric": "disk_used_percent", "InstanceId": INSTANCE, "path": "/var", "device": "nvme0n1p1", "fstype": "ext4",
    }  # fmt: skip


def test_all_names_are_known_by_default(source):
    put(1, name="disk_used_percent", InstanceId="i-1", path="/", fstype="xfs")
    put(2, name="disk.percent", InstanceId="i-2", path="/", fstype="xfs")
    put(3, name="mem_used_percent", InstanceId="i-1")
    put(4, name="mem/used", host="web-2")
    put(5, name="CPUUtilization", namespace="AWS/EC2", InstanceId="i-1", at=minute(8))
    found = {(r.signal, r.resource.label, r.value) for r in look(source, {"region": aws.REGION})}
    assert found == {
        ("disk_pressure", "/ on i-1", 1), ("disk_pressure", "/ on i-2", 2), ("memory_pressure", "memory on i-1", 3),
        ("memory_pressure", "memory on web-2", 4), ("cpu_saturation", "cpu on i-1", 5),
    }  # fmt: skip


def test_names_units_and_periods_can_be_set(source):
    put(0.25, name="free", namespace="Own", host="web-1", path="/")
    metric = {"name": "free", "namespace": "Own", "signal": "disk_pressure", "unit": "fraction_free"}
    assert [r.value for r in look(source, {**OPTIONS, "metrics": [metric]})] == [75]


@pytest.mark.parametrize("fstype", ["tmpfs", "devtmpfs", "ramfs", "squashfs"])
def test_file_systems_in_memory_are_left_out_also_where_a_sum_names_no_kind(source, fstype):
    put(99, InstanceId=INSTANCE, path="/scratch", device="x", fstype=fstype)
    put(99, InstanceId=INSTANCE, path="/scratch")
    put(99, InstanceId=INSTANCE, path="/dev/shm")
    assert look(source) == []


def test_of_two_series_of_one_mount_the_more_exact_one_counts(source):
    put(50, InstanceId=INSTANCE, path="/var")
    put(90)
    assert [r.value for r in look(source)] == [90]


@pytest.mark.parametrize(
    "dimensions",
    [
        {"AutoScalingGroupName": "web", "path": "/"},  # an average of many hosts
        {"InstanceId": INSTANCE},  # of no mount
        {"InstanceId": "x" * 254, "path": "/"},
        {"InstanceId": "evil\x1b[2J", "path": "/"},
        {"InstanceId": INSTANCE, "path": "/" + "%" * 500},  # longer than a resource's text may be
    ],
)
def test_what_is_about_no_host_or_mount_is_left_out(source, dimensions):
    put(99, **dimensions)
    assert look(source) == []


def test_a_hostile_path_stays_one_name(source):
    put(91, InstanceId=INSTANCE, path="/a/../b; rm -rf /", fstype="ext4")
    (reading,) = look(source)
    assert ResourceRef.parse(str(reading.resource)) == reading.resource
    assert reading.resource.name == "/a/../b; rm -rf /"


@pytest.mark.parametrize("value", [8_000_000_000, -20, 102])
def test_a_value_that_is_no_percentage_is_not_taken_for_one(source, value):
    put(value)
    assert look(source) == []


# --- how it reads


def test_more_series_than_a_page_or_a_call_holds_are_all_read(source):
    data = [
        {
            "MetricName": "disk_used_percent", "Value": 50, "Timestamp": minute(1),
            "Dimensions": [{"Name": "InstanceId", "Value": f"i-{n:08x}"}, {"Name": "path", "Value": "/"}],
        }
        for n in range(501)
    ]  # fmt: skip
    publisher().put_metric_data(Namespace="CWAgent", MetricData=data)
    asked = config()
    readings = source.poll(asked, now())
    assert len({reading.resource for reading in readings}) == 501
    assert asked.progress.calls == 4  # two pages, two batches
    source.poll(asked, now())
    assert asked.progress.calls == 6  # the list is kept for a while


def test_a_period_that_has_not_ended_is_read_later(source):
    put(90, at=minute())
    assert look(source, at=minute() + timedelta(seconds=59)) == []
    assert len(look(source, at=minute() + timedelta(seconds=60))) == 1


def test_another_accounts_series_are_read_by_an_assumed_role(source):
    role = "arn:aws:iam::210987654321:role/byteport"
    assumed = boto3.client("sts", region_name=aws.REGION).assume_role(RoleArn=role, RoleSessionName="test")
    keys = assumed["Credentials"]
    there = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    put(91, session=there)
    assert look(source) == []
    assert [r.value for r in look(source, {**OPTIONS, "role_arn": role})] == [91]


def test_the_role_that_is_assumed_is_named_with_where_its_credentials_come_from(source):
    role = "arn:aws:iam::210987654321:role/byteport"
    told = source.credentials({**OPTIONS, "role_arn": role})
    assert told == f"AWS', by boto3's env, assuming {role}, for {aws.REGION}"


class Throttled(ServiceException):
    code = "Throttling"
    message = "Rate exceeded"


class Denied(ServiceException):
    code = "AccessDenied"
    message = "not authorized to perform: cloudwatch:ListMetrics"


def failing(monkeypatch, method, error):
    def fail(response):
        raise error

    monkeypatch.setattr(responses.CloudWatchResponse, method, fail)


def test_throttling_is_temporary_and_asks_for_a_pause(source, monkeypatch):
    failing(monkeypatch, "list_metrics", Throttled())
    with pytest.raises(Temporary, match="Throttling: Rate exceeded") as raised:
        look(source)
    assert raised.value.delay_s >= 20


def test_a_missing_right_is_permanent_and_named(source, monkeypatch):
    failing(monkeypatch, "list_metrics", Denied())
    with pytest.raises(Permanent, match="cloudwatch:ListMetrics"):
        look(source)


def test_half_an_answer_is_none(source, monkeypatch):
    put(90)

    def half(response):
        result = {"Id": "q0", "Label": "x", "Timestamps": [], "Values": [], "StatusCode": "InternalError"}
        return ActionResult({"MetricDataResults": [result]})

    monkeypatch.setattr(responses.CloudWatchResponse, "get_metric_data", half)
    with pytest.raises(Temporary, match="InternalError"):
        look(source)


# --- over time


def test_a_full_disk_opens_an_incident_and_each_measurement_is_kept_once(row):
    put(90, 91, 92, at=minute(2))
    poll_once(row, now())
    assert SignalEvent.objects.get().value == 92
    row.refresh_from_db()
    assert (row.readings_total, row.calls_today, row.last_error) == (3, 2, "")
    assert row.last_reading_at == minute(2)
    put(93, at=minute(1))
    poll_once(row, now())
    row.refresh_from_db()
    assert (row.readings_total, row.calls_today) == (4, 3)
    assert list(Sample.objects.order_by("at").values_list("value", flat=True)) == [90, 91, 92, 93]


def test_after_an_outage_it_goes_on_where_it_stopped_without_gaps_or_doubles(row, monkeypatch):
    start = minute(100)
    put(*([50] * 100), at=minute(1))
    poll_once(row, start + timedelta(minutes=20))
    row.refresh_from_db()
    with monkeypatch.context() as away:
        failing(away, "get_metric_data", Throttled())
        with pytest.raises(Temporary):
            poll_once(row, start + timedelta(minutes=50))
    row.refresh_from_db()
    assert row.read_until == start + timedelta(minutes=20)
    assert "Throttling" in row.last_error
    for _ in range(2):  # an hour at a time
        poll_once(row, start + timedelta(minutes=100))
        row.refresh_from_db()
    times = list(Sample.objects.order_by("at").values_list("at", flat=True))
    assert times == [start + timedelta(minutes=n) for n in range(10, 100)]
    assert row.readings_total == 90


def test_what_comes_late_is_kept_and_changes_nothing_that_was_judged(row):
    put(50, at=minute(1))
    poll_once(row, now())
    row.refresh_from_db()
    put(99, at=minute(5))
    poll_once(row, now())
    assert [s.value for s in Sample.objects.order_by("at")] == [99, 50]
    assert Series.objects.get().last_value == 50
    assert not SignalEvent.objects.exists()


def test_a_process_that_takes_over_doubles_nothing(row, source):
    put(50, 51, at=minute(1))
    poll_once(row, now())
    source._given.clear()
    row.refresh_from_db()
    poll_once(row, now())
    assert Sample.objects.count() == 2


def test_it_never_reads_more_than_an_hour_at_once(source, monkeypatch):
    spans = []
    monkeypatch.setattr(source, "look", lambda config, options, span, only=None: spans.append(span) or [])
    source.poll(config(read_until=now() - timedelta(days=30)), now())
    (span,) = spans
    assert isinstance(span, Span)
    assert span.end - span.start <= MOST_AT_ONCE + timedelta(minutes=11)
    assert now() - span.start < timedelta(hours=24, minutes=12)


def test_verification_reads_the_newest_measurement_of_that_mount_again(source):
    put(90, 70, at=minute(1))
    put(99, InstanceId=INSTANCE, path="/", fstype="ext4")
    asked = config()
    reading = source.reread(asked, "disk_pressure", VAR, now())
    assert (reading.value, reading.at) == (70, minute(1))
    assert asked.progress.calls == 3
    assert source.reread(config(), "disk_pressure", ResourceRef("host", "i-gone", "mount", "/"), now()) is None


# --- options


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "region"),
        ({"region": "mars"}, "region"),
        ({"region": aws.REGION, "role_arn": "admin"}, "role_arn"),
        ({"region": aws.REGION, "secret_key": "x"}, "secret_key"),
        ({"region": aws.REGION, "metrics": [{"name": "x", "signal": "pod_crashloop"}]}, "pod_crashloop"),
        ({"region": aws.REGION, "metrics": [{"name": "x", "signal": "disk_pressure", "period_s": 7}]}, "period_s"),
        ({"region": aws.REGION, "every_s": 1}, "every_s"),
    ],
)
def test_options_that_are_none_are_refused_with_what_is_wrong(source, options, fault):
    with pytest.raises(Permanent, match=fault):
        look(source, options)
    assert fault in source.fault(options)


def test_the_admin_says_what_is_wrong_with_the_options():
    form_class = modelform_factory(Source, SourceForm, fields=["slug", "kind", "enabled", "options"])
    given = {"slug": "aws", "kind": "cloudwatch", "enabled": True}
    form = form_class({**given, "options": '{"region": "mars"}'})
    assert not form.is_valid()
    assert "region" in form.errors["options"][0]
    assert form_class({**given, "options": json.dumps(OPTIONS)}).is_valid()
