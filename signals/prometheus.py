"""The alerts of a notification as Alertmanager posts them, and Grafana after it: each judged by its own status. Pure.

The same alerts come round with every repeat, so that what follows from their labels is kept for the latest of them.
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

import msgspec
import structlog

from byteport.core.outcome import Severity
from signals.alert import Alert, Subject, reading_about, severity_of, subject_of
from signals.mapping import RuleSet
from signals.reading import Reading, State
from signals.source import SourceConfig

log = structlog.get_logger()

STATES = {"firing": State.FIRING, "resolved": State.RESOLVED}
NOT_A_PROBLEM = "none"  # the severity of alerts that fire by design: kube-prometheus' Watchdog and InfoInhibitor
KEPT_SUBJECTS = 8192  # about 2 kB each

_LABELS = msgspec.json.Decoder(dict[str, str])


class Alerting(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification; what BytePort does not use is not listed. `labels` are read when they are new."""

    status: str
    labels: msgspec.Raw
    annotations: dict[str, str] = {}
    starts_at: str = ""
    fingerprint: str = ""


class _Known(msgspec.Struct, frozen=True):
    """What is kept of one set of labels."""

    name: str
    severity: Severity | None
    is_a_problem: bool
    subject: Subject


def readings_of(
    alerts: Sequence[Alerting], config: SourceConfig, now: datetime, *, kind: str, truncated: int
) -> list[Reading]:
    """The alerts as of now, since their senders repeat what goes on. What fires comes last, by severity.

    Raises ValueError when labels are not texts by name.
    """
    if truncated > 0:
        log.warning("the sender left alerts out", source=config.slug, alerts=truncated)
    extra = {"byteport.truncated_alerts": str(truncated)} if truncated > 0 else {}
    ends = config.options.get("reports_end", True) is True
    told = [(one, _known(bytes(one.labels), one.fingerprint, config.rules, config.slug, kind)) for one in alerts]
    told = sorted(((one, known) for one, known in told if known.is_a_problem), key=_weight)
    return [
        reading_about(
            known.subject,
            Alert(
                name=known.name,
                state=STATES.get(one.status, State.UNKNOWN),
                at=now + timedelta(microseconds=index),
                labels=known.subject.labels,
                notes=one.annotations,
                severity=known.severity,
                incident=f"{one.fingerprint}@{one.starts_at}",
                extra=extra,
            ),
            config,
            ends=ends,
        )
        for index, (one, known) in enumerate(told)
    ]


@lru_cache(maxsize=KEPT_SUBJECTS)
def _known(raw: bytes, fingerprint: str, rules: RuleSet, slug: str, kind: str) -> _Known:
    labels = _LABELS.decode(raw)
    severity = labels.get("severity", "")
    name = labels.get("alertname", "")
    subject = subject_of(name, labels, SourceConfig(slug, rules=rules), kind=kind, key=fingerprint)
    return _Known(name, severity_of(severity), severity != NOT_A_PROBLEM, subject)


def _weight(told: tuple[Alerting, _Known]) -> tuple[bool, int]:
    """Several alerts can be about one thing and the last reading counts: the most severe of those that fire."""
    one, known = told
    return one.status == "firing", (known.severity or Severity.WARNING).rank
