"""The source of Datadog's monitors. Real: datadog-api-client over HTTP, PostgreSQL, the mapping, the ingest. Datadog is
an HTTP server in this process (tests/datadog.py)."""

import json
from datetime import timedelta

import pytest

from byteport import loop
from byteport.clients import datadog_monitors
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from runbooks.models import AgentSettings
from signals.ingest import ingest
from signals.models import AlertMapping, Series, SignalEvent, Source
from signals.polling import poll_once
from signals.reading import Reading, State
from signals.source import SOURCES, Call, Credentialed, SourceConfig
from signals.sources.datadog_monitor_states import SOURCE
from tests.datadog import DISK_MONITOR, SITE, standing
from tests.standin import Platform, installed

pytestmark = pytest.mark.django_db
OPTIONS = {"site": SITE}
VAR = ResourceRef("host", "web-1", "mount", "/var")


@pytest.fixture
def datadog(monkeypatch):
    with standing(monkeypatch) as far:
        yield far


@pytest.fixture
def row():
    return Source.objects.create(slug="dog", kind="datadog_monitor_states", options=OPTIONS)


def look(**options):
    return SOURCE.poll(SourceConfig("dog", {**OPTIONS, **options}), now())


def told(title, **fields):
    """The same alert as the webhook brings it."""
    given = {
        "transition": "Triggered", "alert_id": "9876", "cycle_key": "47", "title": title,
        "hostname": "web-1", "metric": "system.disk.in_use", "tags": "env:prod,monitor", "date": "", **fields,
    }  # fmt: skip
    call = Call({}, json.dumps(given).encode())
    (reading,) = SOURCES["datadog_monitor"].parse(SourceConfig("hook"), call, now())
    return reading


@pytest.mark.parametrize(
    ("status", "state", "severity"),
    [("Alert", State.FIRING, "critical"), ("Warn", State.FIRING, "warning"), ("OK", State.RESOLVED, None)],
)
def test_a_groups_state_is_a_signal_of_what_its_tags_name(datadog, status, state, severity):
    datadog.watch({"device:/var,host:web-1": status})
    (reading,) = look()
    assert (reading.signal, reading.resource, reading.state) == ("disk_pressure", VAR, state)
    assert reading.labels.get("severity") == severity
    assert reading.labels["env"] == "prod"


@pytest.mark.parametrize("status", ["No Data", "Unknown", "Ignored", "Skipped", "Something new"])
def test_any_other_state_neither_opens_nor_closes(row, datadog, status):
    monitor = datadog.watch({"device:/var,host:web-1": "Alert"})
    poll_once(row, now())
    datadog.turn(monitor, "device:/var,host:web-1", status)
    assert look() == []
    poll_once(row, now())
    event = SignalEvent.objects.get()
    assert event.cleared_at is None


def test_that_a_state_is_old_is_no_lag_of_the_source(row, datadog):
    datadog.watch({"device:/var,host:web-1": "Alert"})
    poll_once(row, now())
    row.refresh_from_db()
    assert row.readings_total == 1
    assert row.last_reading_at is None


def test_each_group_opens_and_ends_an_incident_of_its_own(row, datadog):
    monitor = datadog.watch(
        {"device:/var,host:web-1": "Alert", "device:/,host:web-2": "Alert", "device:/,host:c": "OK"}
    )
    poll_once(row, now())
    assert sorted(SignalEvent.objects.values_list("resource", flat=True)) == [
        "host/web-1/mount/%2Fvar", "host/web-2/mount/%2F",
    ]  # fmt: skip
    datadog.turn(monitor, "device:/var,host:web-1", "OK")
    poll_once(row, now())
    assert [event.ref.place for event in SignalEvent.objects.exclude(cleared_at=None)] == ["web-1"]


@pytest.mark.parametrize(
    ("query", "scope", "title", "fields"),
    [
        (DISK_MONITOR, "device:/var,host:web-1", "[Triggered on {host:web-1,device:/var}] Disk of web-1",
         {"scope": "host:web-1, device:/var"}),
        ("avg(last_5m):avg:shop.queue{*} by {host} > 5", "host:web-1", "[P1] [Re-Triggered] Disk of web-1",
         {"metric": "shop.queue"}),
        ("avg(last_5m):avg:shop.queue{*} > 5", "*", "[Warn] Disk of {{host.name}}",
         {"metric": "shop.queue", "hostname": ""}),
    ],
)  # fmt: skip
def test_the_webhook_of_the_same_monitor_makes_no_second_incident(row, datadog, query, scope, title, fields):
    monitor = datadog.watch({scope: "Alert"}, query=query)
    poll_once(row, now())
    ingest([told(title, **{"scope": scope, **fields})])
    event = SignalEvent.objects.get()
    datadog.turn(monitor, scope, "OK")
    poll_once(row, now())
    event.refresh_from_db()
    assert event.cleared_at is not None


def test_a_monitor_that_is_laxer_or_slower_than_byteports_own_measurements_has_no_say_against_them(row, datadog):
    monitor = datadog.watch({"device:/var,host:web-1": "OK"})
    datadog.turn(monitor, "device:/var,host:web-1", "OK")
    start = now()
    ingest([measured(90.0, start + timedelta(seconds=each)) for each in (0, 60)])
    poll_once(row, now())
    assert SignalEvent.objects.get().cleared_at is None, "it is OK by the monitor, which fires only later"
    datadog.turn(monitor, "device:/var,host:web-1", "Alert")
    ingest([measured(10.0, start + timedelta(seconds=each)) for each in (120, 180)])
    SignalEvent.objects.update(status="resolved", resolved_by="byteport", resolved_at=now())
    poll_once(row, now())
    assert SignalEvent.objects.count() == 1, "it still fires by the monitor, which looks at the last five minutes"


def test_an_end_without_a_time_ends_what_the_monitor_has_opened_and_nothing_else(row, datadog):
    monitor = datadog.watch({"device:/var,host:web-1": "Alert"})
    poll_once(row, now())
    monitor["state"]["groups"]["device:/var,host:web-1"]["status"] = "OK"
    poll_once(row, now())
    assert SignalEvent.objects.get().cleared_at is not None
    SignalEvent.objects.update(status="resolved", resolved_by="byteport", resolved_at=now())
    for each in (-60, -30, 0):
        ingest([measured(90.0, now() + timedelta(seconds=each))])
        poll_once(row, now())
    assert SignalEvent.objects.exclude(status="resolved").get().cleared_at is None


def measured(percent, at):
    return Reading(signal="disk_pressure", resource=VAR, at=at, value=percent, source="host")


def test_what_no_rule_describes_is_kept_under_the_monitors_name_unless_it_is_not_wanted(datadog):
    datadog.watch(
        {"host:web-1": "Alert"}, query="avg(last_5m):avg:shop.queue{*} by {host} > 5", name="Queue", priority=4
    )
    (reading,) = look()
    assert (reading.signal, str(reading.resource)) == ("alert:Queue", "host/web-1/host/web-1")
    assert reading.labels["severity"] == "info"
    assert look(others=False) == []


def test_an_operators_mapping_goes_first(row, datadog):
    AlertMapping.objects.create(
        name="queues", alert="Queue*", signal="cpu_saturation", resource="kubernetes/prod/shop/deployment/{service}"
    )
    datadog.watch({"service:cart": "Alert"}, query="avg(last_5m):avg:shop.queue{*} by {service} > 5", name="Queue")
    poll_once(row, now())
    assert SignalEvent.objects.get().resource == "kubernetes/prod/shop/deployment/cart"


@pytest.mark.parametrize(
    ("query", "resource"),
    [
        ("avg(last_5m):avg:system.mem.pct_usable{host:web-1,env:prod} < 0.1", "host/web-1/memory/memory"),
        ("avg(last_5m):avg:system.mem.pct_usable{env:prod AND host:web-1} < 0.1", "host/web-1/memory/memory"),
        ("avg(last_5m):avg:system.mem.pct_usable{host:web-*} < 0.1", None),
        ("avg(last_5m):avg:system.mem.pct_usable{!host:web-1} < 0.1", None),
        ("avg(last_5m):avg:system.mem.pct_usable{host:web-1 OR host:web-2} < 0.1", None),
        ("avg(last_5m):avg:system.mem.used{host:web-1} / avg:system.mem.total{host:web-1} > 0.9", None),
    ],
)
def test_a_monitor_without_groups_is_about_the_host_that_its_query_fixes_if_it_fixes_one(datadog, query, resource):
    datadog.watch({"*": "Alert"}, query=query, multi=False)
    (reading,) = look()
    assert (str(reading.resource) if reading.signal == "memory_pressure" else None) == resource


def test_a_monitor_without_groups_may_have_its_state_by_itself(datadog):
    datadog.watch({}, query="avg(last_5m):avg:system.mem.pct_usable{host:web-1} < 0.1", multi=False)
    assert [each.state for each in look()] == [State.FIRING]


@pytest.mark.parametrize("came", ["2026-03-01T12:00:00.250000+00:00", 1772366400])
def test_a_state_by_itself_is_of_when_it_was_modified_and_no_news_after_that(datadog, came):
    query = "avg(last_5m):avg:system.mem.pct_usable{host:web-1} < 0.1"
    monitor = datadog.watch({}, query=query, multi=False, overall_state="OK", overall_state_modified=came)
    (reading,) = look()
    assert (reading.state, int(reading.at.timestamp())) == (State.RESOLVED, 1772366400)
    monitor["overall_state_modified"] = None
    assert look() == [], "it has never been judged"


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ({"matching_downtimes": [{"id": 1, "scope": ["host:web-1"], "start": 1}]}, False),
        ({"matching_downtimes": [{"id": 1, "scope": ["host:web-*"], "start": 1}]}, False),
        ({"matching_downtimes": [{"id": 1, "scope": ["env:staging OR env:prod"], "start": 1}]}, False),
        ({"matching_downtimes": [{"id": 1, "scope": ["*"], "start": 1}]}, False),
        ({"matching_downtimes": [{"id": 1, "scope": ["host:web-2"], "start": 1}]}, True),
        ({"options": {"silenced": {"*": None}}}, False),
        ({"options": {"silenced": {"host:web-1": 4_000_000_000}}}, False),
        ({"options": {"silenced": {"host:web-1": 1_000_000_000}}}, True),
        ({"draft_status": "draft"}, False),
        ({"draft_status": "published"}, True),
    ],
)
def test_what_is_muted_or_a_draft_tells_nobody(datadog, more, is_told):
    datadog.watch({"device:/var,host:web-1": "Alert"}, **more)
    assert bool(look()) is is_told


def test_a_thing_is_well_only_when_none_of_its_monitors_fires(datadog):
    for statuses in (("OK", "Warn"), ("Warn", "OK"), ("OK", "Alert", "Warn")):
        datadog.monitors.clear()
        for status in statuses:
            datadog.watch({"device:/var,host:web-1": status})
        (reading,) = look()
        assert reading.state is State.FIRING
        assert reading.labels["severity"] == ("critical" if "Alert" in statuses else "warning")


@pytest.mark.parametrize("never", [0, None])
def test_a_group_that_has_never_fired_has_nothing_to_resolve(row, datadog, never):
    monitor = datadog.watch({"device:/var,host:web-1": "OK"})
    monitor["state"]["groups"]["device:/var,host:web-1"]["last_triggered_ts"] = never
    poll_once(row, now())
    assert not Series.objects.exists()


def test_a_monitor_of_a_kind_that_is_new_is_read_and_one_that_is_none_fails_no_other(datadog, caplog):
    datadog.watch({"device:/var,host:web-1": "Alert"}, type="a new kind", knows=False)
    datadog.watch({"device:/,host:web-2": "Alert"}, id="no number", knows=False)
    datadog.monitors.append({"id": 3, "type": "query alert", "query": 7})
    assert [each.resource.place for each in look()] == ["web-1"]
    assert "monitors could not be read" in caplog.text


def test_it_reads_page_by_page_and_counts_each(datadog, monkeypatch):
    monkeypatch.setattr(datadog_monitors, "PAGE", 2)
    for number in range(5):
        datadog.watch({f"device:/var,host:web-{number}": "Alert"})
    config = SourceConfig("dog", {**OPTIONS, "monitor_tags": ["team:shop", "byteport"]})
    assert len(SOURCE.poll(config, now())) == 5
    assert config.progress.calls == len(datadog.asked) == 3
    assert {asked.query["monitor_tags"] for asked in datadog.asked} == {"team:shop,byteport"}


@pytest.mark.parametrize(("most", "told"), [("MOST_PAGES", "monitors"), ("MOST_GROUPS", "groups")])
def test_more_than_can_be_read_is_refused_with_what_to_do_about_it(datadog, monkeypatch, most, told):
    monkeypatch.setattr(datadog_monitors, "PAGE", 1)
    monkeypatch.setattr(datadog_monitors, most, 2)
    for _ in range(3):
        datadog.watch({"device:/var,host:web-1": "Alert", "device:/,host:web-1": "OK"})
    with pytest.raises(Permanent, match=f"{told}. Narrow them by the option monitor_tags"):
        look()


@pytest.mark.parametrize(
    ("refusal", "error", "told"),
    [
        ((403, b'{"errors": ["Forbidden"]}'), Permanent, "monitors_read"),
        ((429, b'{"errors": ["slow down"]}'), Temporary, "429"),
        ((503, b"{}"), Temporary, "503"),
        ((200, b'{"errors": ["no list"]}'), Permanent, "not as expected"),
        ((200, b'"text"'), Permanent, "not as expected"),
        ((200, b'["text"]'), Permanent, "not as expected"),
    ],
)
def test_a_refusal_is_told_in_our_own_words_and_closes_nothing(row, datadog, refusal, error, told):
    datadog.watch({"device:/var,host:web-1": "Alert"})
    poll_once(row, now())
    datadog.refuse(*refusal)
    with pytest.raises(error, match=told):
        poll_once(row, now())
    row.refresh_from_db()
    assert told in row.last_error
    assert SignalEvent.objects.get().cleared_at is None


def test_doctor_is_told_whether_the_keys_are_found(monkeypatch):
    assert isinstance(SOURCE, Credentialed)
    monkeypatch.setenv("DD_API_KEY", "secret")
    monkeypatch.delenv("DD_APP_KEY", raising=False)
    with pytest.raises(Permanent, match="DD_APP_KEY"):
        SOURCE.credentials(OPTIONS)
    monkeypatch.setenv("DD_APP_KEY", "secret")
    assert SOURCE.credentials(OPTIONS) == f"an API key and an application key of Datadog's, for {SITE}"


def test_verification_takes_the_worst_that_any_monitor_says_and_no_data_for_no_answer(datadog):
    first = datadog.watch({"device:/var,host:web-1": "OK"})
    second = datadog.watch({"device:/var,host:web-1": "Alert", "device:/,host:web-1": "Alert"})
    config = SourceConfig("dog", OPTIONS)
    assert SOURCE.reread(config, "disk_pressure", VAR, now()).state is State.FIRING
    datadog.turn(second, "device:/var,host:web-1", "No Data")
    assert SOURCE.reread(config, "disk_pressure", VAR, now()).state is State.UNKNOWN
    datadog.turn(second, "device:/var,host:web-1", "OK")
    assert SOURCE.reread(config, "disk_pressure", VAR, now()).state is State.RESOLVED
    datadog.monitors = [first]
    assert SOURCE.reread(config, "disk_pressure", ResourceRef("host", "web-9", "mount", "/"), now()) is None


@pytest.mark.parametrize(("status", "judged"), [("OK", "good"), ("Alert", "bad"), ("No Data", "inconclusive")])
def test_a_fix_is_judged_by_what_the_monitor_says_after_it(row, datadog, status, judged):
    monitor = datadog.watch({"device:/var,host:web-1": "Alert"})
    AgentSettings.objects.create(dry_run=False)
    poll_once(row, now())
    event = SignalEvent.objects.get()
    datadog.turn(monitor, "device:/var,host:web-1", status)
    with installed(Platform()):
        for _ in range(10):
            SignalEvent.objects.update(due_at=now())
            loop.advance(event.pk)
    assert {sample.look for sample in event.samples.all()} == {judged}


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"site": "evil.example.com"}, "site"), ({"api_key": "x"}, "api_key"), ({"monitor_tags": ["a,b"]}, "monitor_tags"),
     ({"every_s": 1}, "every_s")],
)  # fmt: skip
def test_options_that_are_none_are_refused(options, fault):
    assert fault in SOURCE.fault(options)
    assert SOURCE.fault({"site": SITE, "monitor_tags": ["team:shop"], "others": False, "every_s": 120}) == ""
