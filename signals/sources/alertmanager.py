"""Prometheus Alertmanager's webhook, version 4. It signs nothing: the secret comes as Bearer token or Basic password.

Each alert is judged by its own status, not the group's. Alerts whose names are known become BytePort's own signals;
every other keeps its name, as `alert:<alertname>`, and is shown and handed to people.
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

import msgspec
import structlog

from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.reading import Reading, State
from signals.source import MalformedError, SourceConfig, UnauthenticatedError
from signals.untrusted import (
    CONTROL,
    LABEL_KEY_CHARS,
    LABEL_VALUE_CHARS,
    LABELS,
    SIGNAL_CHARS,
    basic_password,
    bearer_token,
    checked_resource,
    foreign_labels,
    is_secret,
)

log = structlog.get_logger()

Labels = Mapping[str, str]

VERSION = "4"
STATES = {"firing": State.FIRING, "resolved": State.RESOLVED}
SEVERITIES = {
    **dict.fromkeys(("critical", "page", "emergency", "fatal", "high", "error"), Severity.CRITICAL),
    **dict.fromkeys(("warning", "warn", "medium", "ticket"), Severity.WARNING),
    **dict.fromkeys(("info", "informational", "notice", "low"), Severity.INFO),
}
NOT_A_PROBLEM = "none"  # the severity of alerts that fire by design: kube-prometheus' Watchdog and InfoInhibitor
RAM_FILE_SYSTEMS = frozenset({"tmpfs", "devtmpfs", "ramfs", "rootfs"})


class Alert(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification; what BytePort does not use is not listed."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = ""
    fingerprint: str = ""


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    """What Alertmanager posts: the alerts of one group."""

    alerts: list[Alert]
    version: str = VERSION
    truncated_alerts: int = 0


class Meaning(msgspec.Struct, frozen=True):
    """What an alert is about, in BytePort's terms."""

    signal: str
    resource: ResourceRef
    detail: str = ""


_DECODER = msgspec.json.Decoder(Notification)


class AlertmanagerSource:
    """Repeats itself by design, so that nothing is refused as a replay."""

    name = "alertmanager"
    title = "Webhook: Prometheus Alertmanager"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, headers: Mapping[str, str], body: bytes, now: datetime) -> str | None:
        authorization = headers.get("Authorization", "")
        given = bearer_token(authorization) or basic_password(authorization)
        if not is_secret(given, config.secret):
            raise UnauthenticatedError("neither the right bearer token nor the right password")
        return None

    def parse(self, config: SourceConfig, body: bytes, now: datetime) -> Sequence[Reading]:
        """The alerts as of now, since Alertmanager repeats what goes on. What cannot be kept as it is, is shortened:
        Alertmanager would not send a refused notification again."""
        notification = _decoded(body)
        if notification.truncated_alerts > 0:
            log.warning("alertmanager left alerts out", source=config.slug, alerts=notification.truncated_alerts)
        alerts = [alert for alert in notification.alerts if alert.labels.get("severity") != NOT_A_PROBLEM]
        return [
            _reading(alert, notification, config, now + timedelta(microseconds=index))
            for index, alert in enumerate(sorted(alerts, key=_weight))
        ]

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(url=json.dumps(url), secret=json.dumps(secret))


SNIPPET = """\
# alertmanager.yml
route:
  routes:
    - receiver: byteport
      continue: true
      group_by: [cluster, namespace, instance, pod]
receivers:
  - name: byteport
    webhook_configs:
      - url: {url}
        send_resolved: true
        max_alerts: 500
        http_config:
          authorization:
            type: Bearer
            credentials: {secret}
"""


def _decoded(body: bytes) -> Notification:
    try:
        notification = _DECODER.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not a notification of Alertmanager: {error}.") from error
    if notification.version != VERSION:
        raise MalformedError(f"BytePort reads version {VERSION} of Alertmanager's webhook.")
    return notification


def _weight(alert: Alert) -> tuple[bool, int]:
    """Several alerts can be about one thing and the last reading counts: the most severe of those that fire."""
    severity = _severity(alert.labels)
    return alert.status == "firing", severity.rank if severity else Severity.WARNING.rank


def _reading(alert: Alert, notification: Notification, config: SourceConfig, at: datetime) -> Reading:
    meaning = _meaning(alert, config)
    return Reading(
        signal=meaning.signal,
        resource=meaning.resource,
        at=at,
        state=STATES.get(alert.status, State.UNKNOWN),
        detail=meaning.detail,
        source=config.slug,
        labels=_labels(alert, notification, config),
    )


# --- what is kept of an alert's labels


def _labels(alert: Alert, notification: Notification, config: SourceConfig) -> dict[str, str]:
    said = {**_picked(alert.annotations, "summary", "description"), **foreign_labels(alert.labels)}
    labels = {_clean(key, LABEL_KEY_CHARS): _clean(said[key], LABEL_VALUE_CHARS) for key in islice(said, LABELS)}
    severity = _severity(alert.labels)
    if severity:
        labels["severity"] = severity.value
    labels["byteport.incident"] = _clean(f"{alert.fingerprint}@{alert.starts_at}", LABEL_VALUE_CHARS)
    if config.options.get("reports_end", True) is True:
        labels["byteport.reports_end"] = "true"
    if notification.truncated_alerts > 0:
        labels["byteport.truncated_alerts"] = str(notification.truncated_alerts)
    return labels


def _severity(labels: Labels) -> Severity | None:
    return SEVERITIES.get(labels.get("severity", "").lower())


def _picked(texts: Labels, *keys: str) -> dict[str, str]:
    return {key: texts[key] for key in keys if key in texts}


def _clean(text: str, most: int) -> str:
    return CONTROL.sub("\ufffd", text[:most])


# --- what an alert is about


def _meaning(alert: Alert, config: SourceConfig) -> Meaning:
    """The explicit labels win; then the alert's name; then whatever its labels point at."""
    known = _known(alert.labels) or _unlisted(alert, config)
    resource = _explicit_resource(alert.labels, config) or known.resource
    signal = _name(alert.labels.get("byteport_signal", ""))
    return Meaning(signal, resource) if signal else Meaning(known.signal, resource, known.detail)


def _explicit_resource(labels: Labels, config: SourceConfig) -> ResourceRef | None:
    text = labels.get("byteport_resource")
    if not text:
        return None
    try:
        return checked_resource(ResourceRef.parse(text))
    except ValueError as error:
        log.warning("byteport_resource ignored", source=config.slug, why=str(error))
        return None


def _known(labels: Labels) -> Meaning | None:
    """None when the alert's name says nothing to BytePort, or it lacks the labels that such an alert has."""
    meaning = KNOWN_ALERTS.get(labels.get("alertname", ""))
    try:
        found = meaning(labels) if meaning else None
        return found if found and checked_resource(found.resource) else None
    except (KeyError, ValueError):
        return None


def _mount(labels: Labels) -> Meaning | None:
    if labels.get("fstype") in RAM_FILE_SYSTEMS:
        return None
    return Meaning("disk_pressure", _required("host", host_of(labels["instance"]), "mount", labels["mountpoint"]))


def _memory(labels: Labels) -> Meaning:
    return Meaning("memory_pressure", _required("host", host_of(labels["instance"]), "memory", "memory"))


def _pod(labels: Labels) -> Meaning:
    pod = _required("kubernetes", _cluster(labels), "pod", labels["pod"], labels["namespace"])
    return Meaning("pod_crashloop", pod, _name(labels.get("container", "")))


def _deployment(labels: Labels) -> Meaning:
    names = labels["deployment"], labels["namespace"]
    return Meaning("deployment_failed", _required("kubernetes", _cluster(labels), "deployment", *names))


def _certificate(labels: Labels) -> Meaning:
    """`namespace` is cert-manager's own where Prometheus has renamed the certificate's to `exported_namespace`."""
    namespace = labels.get("exported_namespace") or labels["namespace"]
    certificate = _required("kubernetes", _cluster(labels), "certificate", labels["name"], namespace)
    return Meaning("certificate_expiry", certificate)


# Names from kubernetes-mixin, node-mixin, cert-manager-mixin and awesome-prometheus-alerts. Only those that say the
# same as the signal: throttling is not saturation, and a file system out of inodes is not full.
KNOWN_ALERTS: Mapping[str, Callable[[Labels], Meaning | None]] = {
    "NodeFilesystemSpaceFillingUp": _mount,
    "NodeFilesystemAlmostOutOfSpace": _mount,
    "HostOutOfDiskSpace": _mount,
    "HostDiskWillFillIn24Hours": _mount,
    "HostDiskMayFillIn24Hours": _mount,
    "NodeMemoryHighUtilization": _memory,
    "HostOutOfMemory": _memory,
    "KubePodCrashLooping": _pod,
    "KubernetesPodCrashLooping": _pod,
    "KubeDeploymentRolloutStuck": _deployment,
    "CertManagerCertExpirySoon": _certificate,
}

# What a Kubernetes alert can be about, the most telling label first.
KUBERNETES_KINDS = (
    "persistentvolumeclaim", "horizontalpodautoscaler", "cronjob", "job_name", "deployment", "statefulset",
    "daemonset", "pod",
)  # fmt: skip


def _unlisted(alert: Alert, config: SourceConfig) -> Meaning:
    """An alert under its own name. Its fingerprint keeps it apart from others of that name on the same thing."""
    name = _name(alert.labels.get("alertname", "")) or "unnamed"
    try:
        resource = checked_resource(_pointed_at(alert.labels))
    except (KeyError, ValueError):
        resource = ResourceRef("alertmanager", config.slug, "alert", name[:64])
    return Meaning(f"alert:{name}"[:SIGNAL_CHARS], resource, _name(alert.fingerprint))


def _pointed_at(labels: Labels) -> ResourceRef:
    """Raises KeyError when the labels point at nothing. Alerts of node-exporter also carry its own pod's labels."""
    of_a_host = labels.get("job") == "node-exporter" or labels.get("alertname", "").startswith(("Node", "Host"))
    if labels.get("namespace") and not (of_a_host and labels.get("instance")):
        return _in_namespace(labels)
    if labels.get("node") and not of_a_host:
        return _required("kubernetes", _cluster(labels), "node", labels["node"])
    host = host_of(labels["instance"])
    return _required("host", host, "host", host)


def _in_namespace(labels: Labels) -> ResourceRef:
    cluster, namespace = _cluster(labels), labels["namespace"]
    for key in KUBERNETES_KINDS:
        if labels.get(key):
            return ResourceRef("kubernetes", cluster, key.removesuffix("_name"), labels[key], namespace)
    return ResourceRef("kubernetes", cluster, "namespace", namespace)


def _cluster(labels: Labels) -> str:
    return labels.get("cluster") or "default"


def _required(platform: str, place: str, kind: str, name: str, namespace: str | None = None) -> ResourceRef:
    """A reference whose parts all come from labels: an empty one is as good as none. Raises KeyError."""
    if not place or not name or namespace == "":
        raise KeyError("a label is empty")
    return ResourceRef(platform, place, kind, name, namespace or "")


def _name(text: str) -> str:
    """Fit for a signal or a detail: printable and short."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:SIGNAL_CHARS])


def host_of(instance: str) -> str:
    """`web-1:9100` → `web-1`, `[::1]:9100` → `::1`. What has no port stays as it is."""
    bracketed = re.fullmatch(r"\[(.+)\](?::[0-9]+)?", instance)
    if bracketed:
        return bracketed[1]
    host, _, port = instance.rpartition(":")
    return host if host and ":" not in host and re.fullmatch("[0-9]+", port) else instance


SOURCE = AlertmanagerSource()
