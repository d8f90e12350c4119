"""Every foreign sender's format: what fires, resolves and is unknown, and what is hostile. Pure: payloads as the
senders' documents show them, through the source's own parse. How they are let in: test_foreign_webhooks.py.
"""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from byteport.core.resource import ResourceRef
from signals.reading import Reading, State
from signals.source import SOURCES, Call, Ending, SourceConfig, WebhookSource
from signals.untrusted import MalformedError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-central-1:123456789012:alarms"
OPTIONS = {
    "cloudevents": {"firing": ["com.example.*.full"], "resolved": ["com.example.*.ok"]},
    "sns": {"topics": [TOPIC]},
}


def grafana(status: str = "firing", **labels: str) -> dict:
    """Grafana 11's webhook contact point."""
    labels = labels or {"alertname": "HostOutOfDiskSpace", "instance": "web-1:9100", "mountpoint": "/var"}
    return {
        "receiver": "byteport", "status": status, "orgId": 1, "version": "1", "groupKey": "{}:{}", "truncatedAlerts": 0,
        "title": "[FIRING:1]", "state": "alerting", "message": "…", "externalURL": "http://grafana/",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {},
        "alerts": [
            {
                "status": status, "labels": labels, "annotations": {"summary": "Disk full"},
                "startsAt": "2026-03-01T11:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "values": {"A": 97},
                "generatorURL": "http://grafana/x", "fingerprint": "57c6d9296de2ad39", "silenceURL": "http://grafana/s",
                "dashboardURL": "", "panelURL": "",
            }
        ],
    }  # fmt: skip


def legacy_grafana(state: str = "alerting") -> dict:
    return {
        "dashboardId": 1, "evalMatches": [{"value": 97, "metric": "used", "tags": {"host": "web-1"}}],
        "message": "full", "orgId": 0, "panelId": 2, "ruleId": 7, "ruleName": "Disk of web-1", "state": state,
        "tags": {"team": "ops"}, "title": "[Alerting]",
    }  # fmt: skip


def datadog(transition: str = "Triggered", **fields: str) -> dict:
    """The payload of BytePort's snippet, as Datadog fills it in."""
    return {
        "transition": transition, "alert_id": "9876", "cycle_key": "4711", "scope": "device:/var,host:web-1",
        "title": "Disk of {{host}}", "metric": "system.disk.in_use", "hostname": "web-1", "tags": "env:prod,host:web-1",
        "priority": "P1", "date": "1772366100000", "link": "https://app.datadoghq.com/monitors/9876", **fields,
    }  # fmt: skip


def gcp(state: str = "open", **fields: object) -> dict:
    """Google's documented webhook payload, version 1.2."""
    return {
        "version": "1.2",
        "incident": {
            "incident_id": "0.opqiw61fsv7p", "scoping_project_id": "internal", "url": "https://console.cloud.google.com/",
            "started_at": 1772366100, "ended_at": 1772366160 if state == "closed" else None, "state": state,
            "summary": "Disk full", "policy_name": "Disk usage", "condition_name": "VM disk", "severity": "Critical",
            "resource": {"type": "gce_instance", "labels": {"instance_id": "1234567890", "zone": "europe-west1-b"}},
            "metric": {
                "type": "agent.googleapis.com/disk/percent_used", "displayName": "Disk utilization",
                "labels": {"device": "sda1", "state": "used"},
            },
            "policy_user_labels": {"team": "ops"}, **fields,
        },
    }  # fmt: skip


def sns(state: str = "ALARM", **message: object) -> dict:
    """A CloudWatch alarm's change as SNS wraps it."""
    change = {
        "AlarmName": "disk-web-1", "AlarmDescription": "Disk full", "AWSAccountId": "123456789012",
        "NewStateValue": state, "NewStateReason": "Threshold Crossed", "OldStateValue": "OK", "Region": "EU",
        "StateChangeTime": "2026-03-01T11:55:00.000+0000",
        "AlarmArn": "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:disk-web-1",
        "Trigger": {
            "MetricName": "disk_used_percent", "Namespace": "CWAgent", "Statistic": "AVERAGE", "Unit": None,
            "Dimensions": [
                {"value": "i-0abc", "name": "InstanceId"}, {"value": "/var", "name": "path"},
                {"value": "ext4", "name": "fstype"},
            ],
            "Period": 60, "EvaluationPeriods": 1, "ComparisonOperator": "GreaterThanThreshold", "Threshold": 85.0,
        },
        **message,
    }  # fmt: skip
    return {
        "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324", "TopicArn": TOPIC,
        "Subject": "ALARM", "Message": json.dumps(change), "Timestamp": "2026-03-01T11:55:01.000Z",
        "SignatureVersion": "2", "Signature": "c2ln", "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?x",
        "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
    }  # fmt: skip


def pagerduty(action: str = "trigger", **payload: object) -> dict:
    return {
        "routing_key": "secret", "event_action": action, "dedup_key": "disk/web-1",
        "payload": {
            "summary": "Disk of web-1 is full", "source": "web-1", "severity": "error", "component": "/var",
            "class": "disk", "custom_details": {"free": 3, "team": "ops", "nested": {"a": 1}}, **payload,
        },
        "client": "monitoring",
    }  # fmt: skip


def cloudevent(kind: str = "com.example.disk.full", **attributes: object) -> dict:
    return {
        "specversion": "1.0", "id": "A234", "source": "/checks/web-1", "type": kind, "time": "2026-03-01T11:55:00Z",
        "datacontenttype": "application/json", "data": {"host": "web-1", "severity": "critical", "n": 1}, **attributes,
    }  # fmt: skip


def parse(kind: str, body: object, headers: dict | None = None, **options: object) -> list[Reading | Ending]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    config = SourceConfig("sender", {**OPTIONS.get(kind, {}), **options})
    return list(SOURCES[kind].parse(config, Call(headers or {}, raw), NOW))


def one(kind: str, body: object, **options: object) -> Reading:
    (reading,) = parse(kind, body, **options)
    assert isinstance(reading, Reading)
    return reading


FIRING = [
    ("grafana", grafana(), "disk_pressure", "host/web-1/mount/%2Fvar", "warning"),
    ("grafana", legacy_grafana(), "alert:Disk of web-1", "host/web-1/host/web-1", None),
    ("datadog_monitor", datadog(), "disk_pressure", "host/web-1/mount/%2Fvar", "critical"),
    ("datadog_monitor", datadog("Warn", priority=""), "disk_pressure", "host/web-1/mount/%2Fvar", "warning"),
    ("gcp_incident", gcp(), "disk_pressure", "host/1234567890/mount/sda1", "critical"),
    ("gcp_incident", gcp("OPEN"), "disk_pressure", "host/1234567890/mount/sda1", "critical"),
    ("sns", sns(), "disk_pressure", "host/i-0abc/mount/%2Fvar", None),
    ("pagerduty", pagerduty(), "alert:disk", "host/web-1/host/web-1", "critical"),
    ("cloudevents", cloudevent(), "alert:com.example.disk.full", "host/web-1/host/web-1", "critical"),
]


@pytest.mark.parametrize(("kind", "body", "signal", "resource", "severity"), FIRING)
def test_what_fires_becomes_a_firing_reading_of_its_resource(kind, body, signal, resource, severity):
    reading = one(kind, body)
    assert (reading.state, reading.signal, str(reading.resource)) == (State.FIRING, signal, resource)
    if severity != "warning":
        assert reading.labels.get("severity") == severity
    assert reading.at <= NOW
    assert reading.labels["byteport.incident"]


@pytest.mark.parametrize(
    ("kind", "firing", "over"),
    [
        ("grafana", grafana(), grafana("resolved")),
        ("grafana", legacy_grafana(), legacy_grafana("ok")),
        ("datadog_monitor", datadog(), datadog("Recovered")),
        ("gcp_incident", gcp(), gcp("closed")),
        ("sns", sns(), sns("OK")),
        ("cloudevents", cloudevent(), cloudevent("com.example.disk.ok")),
    ],
)
def test_what_is_over_resolves_the_same_thing(kind, firing, over):
    assert one(kind, over).state is State.RESOLVED
    assert one(kind, over).fingerprint == one(kind, firing).fingerprint


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("grafana", grafana("suppressed")), ("grafana", legacy_grafana("no_data")),
        ("grafana", legacy_grafana("paused")),
        ("datadog_monitor", datadog("No Data")), ("datadog_monitor", datadog("")), ("gcp_incident", gcp("reopened?")),
        ("sns", sns("INSUFFICIENT_DATA")), ("cloudevents", cloudevent("com.example.else")),
    ],
)  # fmt: skip
def test_a_status_that_byteport_does_not_know_is_unknown(kind, body):
    assert one(kind, body).state is State.UNKNOWN


def listed(*alerts: dict[str, str]) -> str:
    """As Alertmanager 0.25 lists alerts in an event for PagerDuty."""
    labels = ("".join(f" - {key} = {value}\n" for key, value in alert.items()) for alert in alerts)
    return "".join(f"Labels:\n{each}Annotations:\n - summary = 97 % used\nSource: \n" for each in labels)


def paged(*alerts: dict[str, str]) -> dict:
    """What Alertmanager's `pagerduty_configs` sends unless it is told otherwise."""
    custom = {"firing": listed(*alerts), "num_firing": str(len(alerts)), "num_resolved": "0", "resolved": ""}
    event = pagerduty(source="Alertmanager", component="", custom_details=custom)
    return {**event, "payload": {**event["payload"], "class": ""}, "client": "Alertmanager"}


FULL = {
    "alertname": "NodeFilesystemAlmostOutOfSpace", "fstype": "ext4", "instance": "web-1:9100", "mountpoint": "/var",
    "severity": "warning",
}  # fmt: skip


def test_what_alertmanager_pages_is_about_what_its_alerts_labels_say():
    reading = one("pagerduty", paged(FULL))
    assert (reading.signal, str(reading.resource)) == ("disk_pressure", "host/web-1/mount/%2Fvar")
    assert reading.labels["severity"] == "warning"
    assert reading.fingerprint == one("pagerduty", paged(FULL, {**FULL, "device": "/dev/sda1"})).fingerprint


def test_alerts_of_several_things_that_alertmanager_pages_at_once_are_about_none_of_them_nor_a_host_of_its_name():
    reading = one("pagerduty", paged(FULL, {"alertname": "Odd", "instance": "web-2:9100", "severity": "info"}))
    assert (reading.signal, str(reading.resource)) == ("alert:pagerduty", "pagerduty/sender/alert/pagerduty")
    assert reading.labels["severity"] == "critical"


def test_pagerdutys_resolve_names_its_key_and_nothing_else():
    body = {"routing_key": "secret", "event_action": "resolve", "dedup_key": "disk/web-1"}
    assert parse("pagerduty", body) == [Ending("disk/web-1", NOW)]
    assert one("pagerduty", pagerduty()).labels["byteport.incident"] == "disk/web-1"


def test_what_a_client_writes_as_null_is_as_if_it_were_left_out():
    event = {**pagerduty(component=None, group=None, custom_details=None, **{"class": None}), "client": None}
    assert one("pagerduty", {**event, "dedup_key": None}).signal == "alert:pagerduty"
    told = gcp()
    told["incident"].update(dict.fromkeys(("summary", "condition_name", "severity", "url")))
    assert str(one("gcp_incident", told).resource) == "host/1234567890/mount/sda1"


def test_an_action_that_pagerduty_does_not_know_is_malformed():
    with pytest.raises(MalformedError, match="trigger, acknowledge, resolve"):
        parse("pagerduty", pagerduty("triggered"))


def test_pagerdutys_acknowledge_changes_nothing():
    assert parse("pagerduty", pagerduty("acknowledge")) == []


def test_a_trigger_without_a_key_gets_one_that_its_repeats_share():
    without = {**pagerduty(), "dedup_key": ""}
    call = Call({}, json.dumps(without).encode())
    answer = SOURCES["pagerduty"].answer(call)
    assert answer == SOURCES["pagerduty"].answer(call)
    assert (answer["status"], len(answer["dedup_key"])) == ("success", 32)
    assert one("pagerduty", without).labels["byteport.incident"] == answer["dedup_key"]


@pytest.mark.parametrize("before", ["[Recovered on {host:web-1}] ", "[P2] [Re-Triggered] ", "[No Data] ", ""])
def test_what_datadog_puts_before_a_monitors_name_makes_no_other_alert_of_it(before):
    odd = {"metric": "shop.queue", "scope": "host:web-1"}
    first = one("datadog_monitor", datadog(title="[Triggered on {host:web-1}] [shop] Queue", **odd))
    assert first.signal == "alert:[shop] Queue"
    assert one("datadog_monitor", datadog(title=f"{before}[shop] Queue", **odd)).fingerprint == first.fingerprint


def test_cloudevents_come_in_batches_and_in_binary_mode():
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    assert len(parse("cloudevents", [cloudevent(), cloudevent(id="B")], batch)) == 2
    event = cloudevent()
    binary = {f"Ce-{name.title()}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    (reading,) = parse("cloudevents", event["data"], {**binary, "Content-Type": "application/json"})
    assert reading == one("cloudevents", event)


@pytest.mark.parametrize(
    ("firing", "resolved", "begun", "over"),
    [
        (["disk.full", "cpu.hot"], ["disk.ok", "cpu.cool"], "cpu.hot", "cpu.cool"),
        (["*.full", "*.hot"], ["*.ok", "*.cool"], "cpu.hot", "cpu.cool"),
        (["de.*.disk.*.full"], ["de.*.disk.*.ok"], "de.shop.disk.var.full", "de.shop.disk.var.ok"),
    ],
)
def test_the_patterns_of_cloudevents_are_pairs(firing, resolved, begun, over):
    options = {"firing": firing, "resolved": resolved}
    first, last = (one("cloudevents", cloudevent(kind), **options) for kind in (begun, over))
    assert (first.state, last.state) == (State.FIRING, State.RESOLVED)
    assert first.fingerprint == last.fingerprint


@pytest.mark.parametrize(
    ("firing", "resolved"),
    [(["*.full"], ["disk.ok"]), (["*.hot"], ["*.ok"]), ([], ["*.ok"]), (["disk.ful?"], ["disk.o?"]), ([1], ["*.ok"])],
)
def test_what_is_no_pair_ends_nothing_else(firing, resolved):
    options = {"firing": firing, "resolved": resolved}
    over = one("cloudevents", cloudevent("disk.ok"), **options)
    assert over.state is State.RESOLVED
    assert over.fingerprint != one("cloudevents", cloudevent("disk.full"), **options).fingerprint


def test_cloudevents_report_no_end_unless_the_operator_says_so():
    assert "byteport.reports_end" not in one("cloudevents", cloudevent()).labels
    assert one("cloudevents", cloudevent(), reports_end=True).labels["byteport.reports_end"] == "true"


def test_a_time_of_the_future_is_now():
    ahead = NOW + timedelta(days=400)
    assert one("datadog_monitor", datadog(date=str(int(ahead.timestamp() * 1000)))).at == NOW
    assert one("cloudevents", cloudevent(time=ahead.isoformat())).at == NOW
    assert one("gcp_incident", gcp(started_at=int(ahead.timestamp()))).at == NOW


def test_a_metric_in_ram_is_no_disk_pressure():
    dimensions = [
        {"name": "InstanceId", "value": "i-1"},
        {"name": "path", "value": "/run"},
        {"name": "fstype", "value": "tmpfs"},
    ]
    trigger = {"MetricName": "disk_used_percent", "Namespace": "CWAgent", "Dimensions": dimensions}
    assert one("sns", sns(Trigger=trigger)).signal == "alert:disk-web-1"


def test_memory_metrics_are_memory_pressure():
    trigger = {"MetricName": "mem_used_percent", "Dimensions": [{"name": "InstanceId", "value": "i-1"}]}
    metric = {"type": "agent.googleapis.com/memory/percent_used", "labels": {"state": "used"}}
    for reading in (
        one("sns", sns(Trigger=trigger)),
        one("gcp_incident", gcp(metric=metric)),
        one("datadog_monitor", datadog(metric="avg:system.mem.pct_usable{*}")),
    ):
        assert (reading.signal, reading.resource.kind) == ("memory_pressure", "memory")


# --- hostile payloads

FOREIGN = sorted(
    name
    for name, source in SOURCES.items()
    if isinstance(source, WebhookSource) and name not in ("generic", "alertmanager")
)
EXAMPLES = {"grafana": grafana, "datadog_monitor": datadog, "gcp_incident": gcp, "sns": sns, "pagerduty": pagerduty,
            "cloudevents": cloudevent}  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_every_foreign_format_has_examples_here():
    assert sorted(EXAMPLES) == FOREIGN


@pytest.mark.parametrize("kind", FOREIGN)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_payload_with_anything_anywhere_is_read_or_refused_in_words(kind, data):
    body = json.loads(json.dumps(EXAMPLES[kind]()))
    for _ in range(data.draw(st.integers(1, 3))):
        holder = body
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
                holder = holder[key]
            else:
                holder[key] = data.draw(json_values)
                break
    assert_read_or_refused(kind, json.dumps(body).encode())


@pytest.mark.parametrize("kind", FOREIGN)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused_in_words(kind, body):
    assert_read_or_refused(kind, body)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_payload_nested_beyond_reason_is_refused(kind):
    assert_read_or_refused(kind, b'{"a": ' + b"[" * 200_000)


def assert_read_or_refused(kind: str, body: bytes) -> None:
    try:
        said = parse(kind, body)
    except MalformedError:
        return
    for reading in said:
        if isinstance(reading, Reading):
            assert ResourceRef.parse(str(reading.resource)) == reading.resource
            assert "\x00" not in str(reading.labels)
            assert reading.at.tzinfo is not None
