"""Alertmanager's webhook, pure: notifications in, readings out. How it is let in: tests/signals/test_webhook.py."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteport.core.resource import ResourceRef
from signals.alert import SEVERITIES
from signals.mapping import host_of
from signals.reading import State
from signals.source import Call, SourceConfig, WebhookSource
from signals.sources.alertmanager import SOURCE
from signals.standard_alerts import STANDARD_RULES
from signals.untrusted import MalformedError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOUNT = {
    "alertname": "NodeFilesystemAlmostOutOfSpace",
    "instance": "web-1:9100",
    "mountpoint": "/var",
    "fstype": "ext4",
}
POD = {"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "cart-7d", "container": "app"}


def alert(status: str = "firing", /, annotations: dict | None = None, **labels: str) -> dict:
    """As Alertmanager 0.27 sends it."""
    return {
        "status": status,
        "labels": labels,
        "annotations": annotations or {},
        "startsAt": "2026-03-01T11:00:00.000Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph?g0.expr=up",
        "fingerprint": "c2f9b1d6a1f2e3d4",
    }


def parse(*alerts: dict, options: dict | None = None, **envelope):
    notification = {
        "version": "4",
        "groupKey": '{}:{alertname="x"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "byteport",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": list(alerts),
        **envelope,
    }
    return SOURCE.parse(SourceConfig("alerts", options or {}), Call({}, json.dumps(notification).encode()), NOW)


def one(*arguments, **labels: str):
    return parse(alert(*arguments, **labels))[0]


def about(**labels: str) -> tuple[str, str, str]:
    reading = one(**labels)
    return reading.signal, str(reading.resource), reading.detail


def test_it_is_a_webhook():
    assert isinstance(SOURCE, WebhookSource)


# --- state


def test_each_alert_is_judged_by_its_own_status_and_not_the_groups():
    readings = parse(alert("resolved", **MOUNT), alert("firing", **POD), status="firing")
    assert {reading.signal: reading.state for reading in readings} == {
        "disk_pressure": State.RESOLVED,
        "pod_crashloop": State.FIRING,
    }


@pytest.mark.parametrize("status", ["suppressed", "", "FIRING", "ok"])
def test_a_status_that_alertmanager_does_not_have_is_unknown(status):
    assert one(status, **MOUNT).state is State.UNKNOWN


def test_the_time_is_that_of_the_delivery_since_alertmanager_repeats_itself():
    assert (one(**MOUNT).at - NOW).total_seconds() < 1
    assert (one("resolved", **MOUNT).at - NOW).total_seconds() < 1


def test_of_several_alerts_about_one_thing_the_most_severe_that_fires_comes_last():
    readings = parse(
        alert("firing", **MOUNT, severity="critical"),
        alert("resolved", **MOUNT, severity="critical"),
        alert("firing", **MOUNT, severity="warning"),
    )
    assert len({reading.fingerprint for reading in readings}) == 1
    latest = max(readings, key=lambda reading: reading.at)
    assert len({reading.at for reading in readings}) == 3
    assert (latest.state, latest.labels["severity"]) == (State.FIRING, "critical")


def test_what_fires_by_design_is_no_trouble():
    assert parse(alert(alertname="Watchdog", severity="none"), alert(**MOUNT))[0].signal == "disk_pressure"


# --- meaning


def test_known_disk_alerts_are_disk_pressure_of_the_mount():
    for name in ("NodeFilesystemSpaceFillingUp", "NodeFilesystemAlmostOutOfSpace", "HostOutOfDiskSpace"):
        assert about(**{**MOUNT, "alertname": name}) == ("disk_pressure", "host/web-1/mount/%2Fvar", "")


def test_known_memory_alerts_are_memory_pressure_of_the_host():
    for name in ("NodeMemoryHighUtilization", "HostOutOfMemory"):
        assert about(alertname=name, instance="web-1:9100") == ("memory_pressure", "host/web-1/memory/memory", "")


def test_a_crash_loop_is_told_by_pod_and_container():
    assert about(**POD) == ("pod_crashloop", "kubernetes/default/shop/pod/cart-7d", "app")
    assert about(**POD, cluster="prod")[1] == "kubernetes/prod/shop/pod/cart-7d"


def test_a_stuck_rollout_is_a_failed_deployment():
    labels = {"alertname": "KubeDeploymentRolloutStuck", "namespace": "shop", "deployment": "cart"}
    assert about(**labels) == ("deployment_failed", "kubernetes/default/shop/deployment/cart", "")


def test_a_certificate_is_in_its_own_namespace_not_cert_managers():
    labels = {"alertname": "CertManagerCertExpirySoon", "namespace": "cert-manager", "name": "shop-tls"}
    resource = "kubernetes/default/shop/certificate/shop-tls"
    assert about(**labels, exported_namespace="shop") == ("certificate_expiry", resource, "")


def test_a_known_alert_is_the_same_series_as_byteports_own_reading():
    assert one(**MOUNT).resource == ResourceRef("host", "web-1", "mount", "/var")


@pytest.mark.parametrize(
    "labels",
    [
        {**MOUNT, "fstype": "tmpfs"},
        {**MOUNT, "mountpoint": ""},
        {"alertname": "HostOutOfDiskSpace", "instance": "web-1:9100"},
        {**MOUNT, "mountpoint": "/" + "é" * 400},
    ],
)
def test_a_known_alert_that_does_not_fit_keeps_its_own_name(labels):
    signal, resource, _ = about(**labels)
    assert signal == f"alert:{labels['alertname']}"
    assert resource == "host/web-1/host/web-1"


def test_throttling_is_not_saturation():
    assert about(**{**POD, "alertname": "CPUThrottlingHigh"})[0] == "alert:CPUThrottlingHigh"


@pytest.mark.parametrize(
    ("labels", "resource"),
    [
        ({"namespace": "shop", "pod": "cart-7d"}, "kubernetes/default/shop/pod/cart-7d"),
        ({"namespace": "shop", "pod": "ksm-1", "deployment": "cart"}, "kubernetes/default/shop/deployment/cart"),
        ({"namespace": "shop", "job_name": "backup"}, "kubernetes/default/shop/job/backup"),
        ({"namespace": "shop"}, "kubernetes/default/namespace/shop"),
        ({"node": "n1"}, "kubernetes/default/node/n1"),
        ({"instance": "db-1:9187"}, "host/db-1/host/db-1"),
        ({"instance": "n1:9100", "job": "node-exporter", "namespace": "monitoring"}, "host/n1/host/n1"),
        ({}, "alertmanager/alerts/alert/Odd"),
        ({"instance": ""}, "alertmanager/alerts/alert/Odd"),
        ({"instance": "x" * 2000}, "alertmanager/alerts/alert/Odd"),
        ({"instance": "a\x00b"}, "alertmanager/alerts/alert/Odd"),
    ],
)
def test_an_alert_that_byteport_does_not_know_is_kept_with_what_its_labels_point_at(labels, resource):
    assert about(alertname="Odd", **labels)[:2] == ("alert:Odd", resource)


def test_two_unknown_alerts_about_one_thing_stay_two():
    first, second = alert(alertname="Odd", instance="a"), alert(alertname="Odd", instance="a", disk="sdb")
    readings = parse(first, {**second, "fingerprint": "another"})
    assert len({reading.fingerprint for reading in readings}) == 2


def test_explicit_labels_win():
    explicit = {"byteport_signal": "disk_pressure", "byteport_resource": "host/db-1/mount/%2Fdata"}
    assert about(**POD, **explicit) == ("disk_pressure", "host/db-1/mount/%2Fdata", "")
    assert about(**POD, byteport_signal="my_signal")[:2] == ("my_signal", "kubernetes/default/shop/pod/cart-7d")
    assert about(**MOUNT, byteport_resource="host/real-name/mount/%2Fvar")[1] == "host/real-name/mount/%2Fvar"


@pytest.mark.parametrize("text", ["nonsense", "host/web-1/drill/d1", "host/a/mount/%00", "host/a/mount/" + "x" * 1100])
def test_an_explicit_resource_that_is_none_is_ignored(text):
    assert about(**MOUNT, byteport_resource=text)[1] == "host/web-1/mount/%2Fvar"


@pytest.mark.parametrize(
    ("instance", "host"),
    [
        ("web-1:9100", "web-1"), ("web-1", "web-1"), ("10.0.0.5:9100", "10.0.0.5"), ("[::1]:9100", "::1"),
        ("[fe80::1]", "fe80::1"), ("fe80::1", "fe80::1"), ("https://shop.example/", "https://shop.example/"), ("", ""),
    ],
)  # fmt: skip
def test_the_host_is_the_instance_without_its_port(instance, host):
    assert host_of(instance) == host


def test_the_documentation_names_every_alert_and_severity_that_is_known():
    text = (Path(__file__).parents[3] / "docs/webhooks.md").read_text(encoding="utf-8")
    names = [name for rule in STANDARD_RULES.rules for name in rule.alert.split("|") if name != "*"]
    assert [name for name in (*names, *SEVERITIES) if f"`{name}`" not in text] == []


def test_the_snippet_quotes_what_it_is_given():
    snippet = SOURCE.snippet("https://byteport.example.com/hooks/alerts", 'a"b: #c')
    assert 'url: "https://byteport.example.com/hooks/alerts"' in snippet
    assert 'credentials: "a\\"b: #c"' in snippet
    assert "send_resolved: true" in snippet


# --- labels


@pytest.mark.parametrize(
    ("said", "kept"),
    [("critical", "critical"), ("page", "critical"), ("Warning", "warning"), ("info", "info"), ("p3", "p3")],
)
def test_the_severity_is_put_into_byteports_words(said, kept):
    assert one(**MOUNT, severity=said).labels["severity"] == kept


def test_it_says_that_it_reports_the_end_unless_the_operator_says_otherwise():
    assert one(**MOUNT).labels["byteport.reports_end"] == "true"
    silent = parse(alert(**MOUNT), options={"reports_end": False})[0]
    assert "byteport.reports_end" not in silent.labels


def test_an_alerts_labels_cannot_speak_for_byteport():
    reading = parse(alert(**MOUNT, **{"byteport.reports_end": "true"}), options={"reports_end": False})[0]
    assert "byteport.reports_end" not in reading.labels


def test_the_incident_of_the_alert_is_kept():
    assert one(**MOUNT).labels["byteport.incident"] == "c2f9b1d6a1f2e3d4@2026-03-01T11:00:00.000Z"


def test_alerts_that_were_left_out_are_noted(caplog):
    reading = parse(alert(**MOUNT), truncatedAlerts=7)[0]
    assert reading.labels["byteport.truncated_alerts"] == "7"
    assert "left alerts out" in caplog.text


def test_the_summary_is_kept_beside_the_labels():
    said = {"summary": "Disk full", "description": "VALUE = 97\n", "runbook_url": "http://x"}
    labels = one("firing", said, **MOUNT).labels
    assert (labels["summary"], labels["description"]) == ("Disk full", "VALUE = 97\n")
    assert "runbook_url" not in labels


def test_what_cannot_be_kept_is_shortened_since_a_refused_notification_is_lost():
    labels = one(**MOUNT, long="x" * 5000, odd="a\x00b", **{f"l{n}": "" for n in range(100)}).labels
    assert len(labels["long"]) == 4096
    assert labels["odd"] == "a\ufffdb"
    assert len(labels) < 70


# --- what is refused


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"null", b'{"alerts": 1}', b'{"alerts": [{}]}', b'{"alerts": [{"status": "firing"}]}',
        b'{"alerts": [{"status": 1, "labels": {}}]}', b'{"alerts": [{"status": "firing", "labels": {"a": 1}}]}',
        b'{"alerts": [], "version": "3"}', b'{"alerts": [], "x": ' + b"[" * 200_000, b'{"alerts": "\xff"}',
        b'{"alerts": [{"status": "firing", "labels": {"a": "\\ud800"}}]}', b'{"alerts": [], "truncatedAlerts": "1"}',
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_notification_is_malformed(body):
    with pytest.raises(MalformedError):
        SOURCE.parse(SourceConfig("alerts"), Call({}, body), NOW)


NAMES = ("alertname", "instance", "mountpoint", "namespace", "pod", "container", "node", "job", "severity", "cluster")
label_names = st.sampled_from([*NAMES, "deployment", "byteport_signal", "byteport_resource"]) | st.text(max_size=5)
label_sets = st.dictionaries(label_names, st.sampled_from([*MOUNT.values(), *POD.values()]) | st.text(max_size=12))


@given(label_sets, st.sampled_from(["firing", "resolved"]))
def test_any_labels_make_a_reading_that_postgresql_can_keep(labels, status):
    for reading in parse(alert(status, **labels)):
        assert ResourceRef.parse(str(reading.resource)) == reading.resource
        assert len(str(reading.resource)) <= 1024
        assert reading.signal.isprintable()
        assert "\x00" not in "".join([*reading.labels, *reading.labels.values(), reading.detail])
