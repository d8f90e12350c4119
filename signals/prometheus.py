"""The alerts of a notification as Alertmanager posts them, and Grafana after it: each judged by its own status. Pure.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from byteport.core.outcome import Severity
from signals.alert import Alert, reading_of, severity_of
from signals.reading import Reading, State
from signals.source import SourceConfig

log = structlog.get_logger()

STATES = {"firing": State.FIRING, "resolved": State.RESOLVED}
NOT_A_PROBLEM = "none"  # the severity of alerts that fire by design: kube-prometheus' Watchdog and InfoInhibitor


class Alerting(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification; what BytePort does not use is not listed."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = ""
    fingerprint: str = ""


def readings_of(
    alerts: Sequence[Alerting], config: SourceConfig, now: datetime, *, kind: str, truncated: int
) -> list[Reading]:
    """The alerts as of now, since their senders repeat what goes on. What fires comes last, by severity."""
    if truncated > 0:
        log.warning("the sender left alerts out", source=config.slug, alerts=truncated)
    extra = {"byteport.truncated_alerts": str(truncated)} if truncated > 0 else {}
    told = sorted((one for one in alerts if one.labels.get("severity") != NOT_A_PROBLEM), key=_weight)
    return [
        reading_of(_alert(one, now + timedelta(microseconds=index), extra), config, kind=kind)
        for index, one in enumerate(told)
    ]


def _weight(one: Alerting) -> tuple[bool, int]:
    """Several alerts can be about one thing and the last reading counts: the most severe of those that fire."""
    severity = severity_of(one.labels.get("severity", ""))
    return one.status == "firing", severity.rank if severity else Severity.WARNING.rank


def _alert(one: Alerting, at: datetime, extra: Mapping[str, str]) -> Alert:
    return Alert(
        name=one.labels.get("alertname", ""),
        state=STATES.get(one.status, State.UNKNOWN),
        at=at,
        labels=one.labels,
        notes=one.annotations,
        severity=severity_of(one.labels.get("severity", "")),
        key=one.fingerprint,
        incident=f"{one.fingerprint}@{one.starts_at}",
        extra=extra,
    )
