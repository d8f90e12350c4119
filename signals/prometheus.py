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
FIRING = 1 + max(severity.rank for severity in Severity)  # what fires outweighs the most severe that does not

_LABELS = msgspec.json.Decoder(dict[str, str])


class Alerting(msgspec.Struct, frozen=True, rename="camel", gc=False):
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
    rank: int
    is_a_problem: bool
    subject: Subject


def readings_of(
    alerts: Sequence[Alerting], config: SourceConfig, now: datetime, *, kind: str, truncated: int
) -> list[Reading]:
    """The alerts as of now, since their senders repeat what goes on. Raises ValueError when labels are not texts.

    Several can be about one thing, and the latest reading counts: the most severe of those that fire.
    """
    if truncated > 0:
        log.warning("the sender left alerts out", source=config.slug, alerts=truncated)
    extra = {"byteport.truncated_alerts": str(truncated)} if truncated > 0 else {}
    ends = config.options.get("reports_end", True) is True
    told = [(one, _known(bytes(one.labels), one.fingerprint, config.rules, config.slug, kind)) for one in alerts]
    moments = [now - timedelta(microseconds=lighter) for lighter in reversed(range(2 * FIRING))]
    return [
        reading_about(
            known.subject,
            Alert(
                name=known.name,
                state=STATES.get(one.status, State.UNKNOWN),
                at=moments[known.rank + FIRING if one.status == "firing" else known.rank],
                labels=known.subject.labels,
                notes=one.annotations,
                severity=known.severity,
                incident=f"{one.fingerprint}@{one.starts_at}",
                extra=extra,
            ),
            config,
            ends=ends,
        )
        for one, known in told
        if known.is_a_problem
    ]


@lru_cache(maxsize=KEPT_SUBJECTS)
def _known(raw: bytes, fingerprint: str, rules: RuleSet, slug: str, kind: str) -> _Known:
    labels = _LABELS.decode(raw)
    severity = labels.get("severity", "")
    name = labels.get("alertname", "")
    subject = subject_of(name, labels, SourceConfig(slug, rules=rules), kind=kind, key=fingerprint)
    known_as = severity_of(severity)
    return _Known(name, known_as, (known_as or Severity.WARNING).rank, severity != NOT_A_PROBLEM, subject)
