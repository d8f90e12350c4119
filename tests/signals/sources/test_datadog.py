"""The Datadog source. Real: datadog-api-client over HTTP, PostgreSQL, the ingest. Datadog is an HTTP server in this
process (tests/datadog.py)."""

from datetime import timedelta

import pytest

from byteport.clients import datadog as client
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from signals.models import Sample, SignalEvent, Source
from signals.polling import poll_once
from signals.source import Progress, SourceConfig
from signals.sources import datadog as module
from signals.sources.datadog import DatadogSource
from tests.datadog import SITE, minute, standing

pytestmark = pytest.mark.django_db
DISK = {"site": SITE, "metrics": [{"name": "system.disk.in_use", "signal": "disk_pressure", "unit": "fraction"}]}
VAR = ResourceRef("host", "web-1", "mount", "/var")


@pytest.fixture
def datadog(monkeypatch):
    with standing(monkeypatch) as far:
        yield far


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setattr(module.SOURCE, "_given", DatadogSource()._given)
    return module.SOURCE


@pytest.fixture
def row(source):
    return Source.objects.create(slug="dog", kind="datadog", options=DISK)


def look(source, options=DISK):
    return source.poll(SourceConfig("dog", options), now())


def test_each_default_metric_becomes_percent_used(source, datadog):
    datadog.measure("system.disk.in_use", 0.915, host="web-1", device="/var")
    datadog.measure("system.mem.pct_usable", 0.07, host="web-1")
    datadog.measure("system.mem.used_pct", 0.95, host="web-2")
    datadog.measure("system.cpu.idle", 2.0, unit="percent", host="web-1")
    found = {(r.signal, r.resource.label, round(r.value, 1)) for r in look(source, {"site": SITE})}
    assert found == {
        ("disk_pressure", "/var on web-1", 91.5), ("memory_pressure", "memory on web-1", 93.0),
        ("memory_pressure", "memory on web-2", 95.0), ("cpu_saturation", "cpu on web-1", 98.0),
    }  # fmt: skip


def test_it_asks_with_the_keys_and_once_a_metric(source, datadog):
    config = SourceConfig("dog", {"site": SITE})
    source.poll(config, now())
    assert config.progress.calls == len(datadog.asked) == 4
    query = "avg:system.disk.in_use{*} by {host,device}.rollup(avg, 60)"
    path, asked, *keys = datadog.asked[0]
    assert (path, asked["query"], keys) == ("/api/v1/query", query, ["api", "app"])


def test_keys_may_stand_in_files(source, datadog, monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("DD_API_KEY_FILE", str(tmp_path / "key"))
    look(source)
    assert datadog.asked[0].api_key == "from-file"


def test_without_keys_it_says_which_are_missing_and_asks_nothing(source, datadog, monkeypatch):
    monkeypatch.delenv("DD_APP_KEY")
    with pytest.raises(Permanent, match="DD_APP_KEY"):
        look(source)
    assert datadog.asked == []


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 91.5, -0.5])
def test_what_is_no_fraction_is_left_out(source, datadog, value):
    datadog.measure("system.disk.in_use", value, host="web-1", device="/var")
    assert look(source) == []


@pytest.mark.parametrize(
    ("unit", "tags"),
    [
        ("byte", {"host": "web-1", "device": "/var"}),
        ("fraction", {"host": "web-1"}),
        ("fraction", {"device": "/var"}),
        ("fraction", {"host": "web-1", "device": "tmpfs"}),
        ("fraction", {"host": "web-1", "device": "/dev/shm"}),
        ("fraction", {"host": "x" * 254, "device": "/var"}),
        ("fraction", {"host": "evil\x1b[2J", "device": "/var"}),
    ],
)
def test_another_unit_and_what_is_no_hosts_disk_are_left_out(source, datadog, unit, tags):
    datadog.measure("system.disk.in_use", 0.99, unit=unit, **tags)
    assert look(source) == []


@pytest.mark.parametrize(
    ("status", "headers", "error", "told"),
    [
        (429, {"X-RateLimit-Reset": "47"}, Temporary, "429"),
        (503, {}, Temporary, "503"),
        (403, {}, Permanent, "timeseries_query"),
        (400, {}, Permanent, "400"),
    ],
)
def test_a_refusal_is_told_in_our_own_words(source, datadog, status, headers, error, told):
    datadog.refuse(status, b'{"errors": ["no"]}', headers)
    with pytest.raises(error, match=told) as raised:
        look(source)
    if status == 429:
        assert raised.value.delay_s == 47


@pytest.mark.parametrize(
    "raw", [b'{"series": 5}', b'{"series": ["x"]}', b'{"series": [{"pointlist": "x"}]}', b'{"error": "bad query"}']
)
def test_an_answer_that_is_none_is_never_taken_for_no_data(source, datadog, raw):
    datadog.refuse(200, raw)
    config = SourceConfig("dog", DISK)
    with pytest.raises(Permanent):
        source.poll(config, now())
    assert config.progress.read_until is None


def test_nobody_at_the_other_end_is_temporary(source, datadog, monkeypatch):
    monkeypatch.setitem(client.SITES, SITE, "http://127.0.0.1:1")
    with pytest.raises(Temporary, match=r"^Datadog cannot be reached: Failed to establish .* refused$"):
        look(source)


def test_after_an_outage_of_an_hour_nothing_is_missing_and_nothing_there_twice(row, datadog):
    start = minute(90)
    datadog.measure("system.disk.in_use", *([0.5] * 90), 0.9, at=minute(1), host="web-1", device="/var")
    poll_once(row, start + timedelta(minutes=20))
    row.refresh_from_db()
    datadog.refuse(503)
    with pytest.raises(Temporary):
        poll_once(row, start + timedelta(minutes=50))
    datadog.relent()
    for _ in range(2):
        row.refresh_from_db()
        poll_once(row, start + timedelta(minutes=90))
    row.refresh_from_db()
    times = list(Sample.objects.order_by("at").values_list("at", flat=True))
    assert times == [start + timedelta(minutes=n) for n in range(10, 90)]
    assert (row.readings_total, row.calls_today + row.calls_yesterday) == (80, 4)


def test_a_full_disk_opens_an_incident(row, datadog):
    datadog.measure("system.disk.in_use", 0.9, 0.91, host="web-1", device="/var")
    poll_once(row, now())
    assert SignalEvent.objects.get().resource == str(VAR)


def test_verification_asks_for_that_host_alone_and_a_name_cannot_change_the_query(source, datadog):
    datadog.measure("system.disk.in_use", 0.9, 0.7, host="web-1", device="/var")
    config = SourceConfig("dog", DISK, progress=Progress())
    assert source.reread(config, "disk_pressure", VAR, now()).value == 70
    source.reread(config, "disk_pressure", ResourceRef("host", "a} by {x", "mount", "/"), now())
    assert [asked.query["query"].partition(" by")[0] for asked in datadog.asked] == [
        "avg:system.disk.in_use{host:web-1}", "avg:system.disk.in_use{*}",
    ]  # fmt: skip


# --- workloads

CLUSTERS = {"site": SITE, "clusters": {"dd-prod": "prod"}}
CART = ResourceRef("kubernetes", "prod", "deployment", "cart", "shop")
USED, REQUESTED = "kubernetes.cpu.usage.total", "kubernetes.cpu.requests"


def container(datadog, name, used, requested, at=None, units=("nanocore", "core"), **tags):
    """Adds what a container uses (in millicores, minute by minute) and asks for."""
    tags = {
        "kube_cluster_name": "dd-prod", "kube_namespace": "shop", "kube_deployment": "cart",
        "kube_container_name": name, **tags,
    }  # fmt: skip
    datadog.measure(USED, *(value * 1e6 for value in used), unit=units[0], at=at, **tags)
    if requested is not None:
        datadog.measure(REQUESTED, *[requested / 1000] * len(used), unit=units[1], at=at, **tags)


def test_a_deployments_cpu_is_percent_of_what_its_containers_ask_for(source, datadog):
    container(datadog, "app", [450], 500)
    container(datadog, "proxy", [50], 100)
    container(datadog, "without-a-request", [4000], None)
    (reading,) = look(source, CLUSTERS)
    assert (reading.signal, reading.resource) == ("cpu_saturation", CART)
    assert reading.value == pytest.approx(500 / 600 * 100)
    assert (reading.labels["used"], reading.labels["requested"], reading.period_s) == ("500m", "600m", 60)


def test_only_what_both_are_measured_in_the_same_minute_is_compared(source, datadog):
    container(datadog, "app", [400, 450], 500)
    datadog.series[REQUESTED][0][2].pop(0)
    assert [round(each.value) for each in look(source, CLUSTERS)] == [90]


@pytest.mark.parametrize(
    "spoiled",
    [
        {"kube_cluster_name": "another"}, {"kube_cluster_name": "N/A"}, {"kube_deployment": "N/A"},
        {"kube_deployment": ""}, {"kube_container_name": "N/A"}, {"kube_deployment": "evil\x1b[2J"},
        {"units": ("percent", "core")}, {"units": ("nanocore", "byte")}, {"units": ("", "core")}, {"requested": 0},
        {"used": [float("nan")]}, {"used": [float("inf")]}, {"used": [-1]},
    ],
)  # fmt: skip
def test_what_is_no_share_of_a_known_clusters_deployment_is_left_out(source, datadog, spoiled):
    container(datadog, **{"name": "app", "used": [450], "requested": 500, **spoiled})
    assert look(source, CLUSTERS) == []


def test_workloads_are_asked_for_only_where_clusters_are_named_and_a_deployment_by_itself(source, datadog):
    look(source, {"site": SITE})
    assert not any("kubernetes" in asked.query["query"] for asked in datadog.asked)
    datadog.asked.clear()
    container(datadog, "app", [450, 300], 500)
    config = SourceConfig("dog", CLUSTERS)
    assert source.reread(config, "cpu_saturation", CART, now()).value == pytest.approx(60)
    source.reread(config, "cpu_saturation", ResourceRef("kubernetes", "prod", "deployment", "a}", "shop"), now())
    where = [asked.query["query"].partition("{")[2].partition("}")[0] for asked in datadog.asked]
    assert where == ["kube_namespace:shop,kube_deployment:cart"] * 2 + ["*"] * 2


def test_a_saturated_deployment_opens_an_incident(row, datadog):
    Source.objects.update(options=CLUSTERS)
    row.refresh_from_db()
    container(datadog, "app", [450, 460, 470, 455], 500)
    poll_once(row, now())
    assert SignalEvent.objects.get().resource == "kubernetes/prod/shop/deployment/cart"


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"site": "evil.example.com"}, "site"), ({"clusters": {"a b": "c"}}, "clusters"),
     ({"metrics": [{"name": "a", "of": "b", "signal": "disk_pressure"}]}, "of: only for cpu_saturation"),
     ({"api_key": "x"}, "api_key"),
     ({"metrics": [{"name": "a{*}", "signal": "disk_pressure"}]}, "name")],
)  # fmt: skip
def test_options_that_are_none_are_refused(source, options, fault):
    assert fault in source.fault(options)
