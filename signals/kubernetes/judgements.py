"""What a Deployment or a Certificate says of itself: trouble, no trouble, or nothing that can be told. Pure."""

from datetime import datetime, timedelta

import msgspec

from byteport.core.outcome import Severity
from signals.kubernetes.objects import Certificate, Deployment
from signals.reading import State

DAYS_AHEAD = timedelta(days=14)
DAYS_CRITICAL = timedelta(days=3)
GRACE = timedelta(minutes=15)  # cert-manager begins at the renewal time, and an issuer takes a while


class Judgement(msgspec.Struct, frozen=True):
    """What the object comes to. `labels` are for people and for the runbook."""

    state: State
    labels: dict[str, str] = {}


def of_deployment(deployment: Deployment) -> Judgement | None:
    """Failed, complete, or None while a rollout goes on, or the controller has not looked at the newest one yet.

    https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status
    """
    progressing, meta = deployment.condition("Progressing"), deployment.metadata
    if progressing is None or deployment.status.observed_generation < meta.generation or meta.deletion_timestamp:
        return None
    if progressing.status == "True" and progressing.reason == "NewReplicaSetAvailable":
        return Judgement(State.RESOLVED)
    if progressing.status == "False" and progressing.reason == "ProgressDeadlineExceeded":
        available = deployment.condition("Available")
        serves = available is not None and available.status == "True"
        labels = {"reason": progressing.reason, "message": progressing.message, "generation": str(meta.generation)}
        if meta.revision:
            labels["revision"] = meta.revision
        severity = Severity.WARNING if serves else Severity.CRITICAL
        return Judgement(State.FIRING, {**labels, "available": str(serves).lower(), "severity": severity.value})
    return None


def stable_revision(deployment: Deployment) -> int | None:
    """The number of the revision that is rolled out and fully available; None where that cannot be said just now."""
    judgement, text = of_deployment(deployment), deployment.metadata.revision
    replicas = deployment.spec.replicas
    is_whole = 0 < replicas <= deployment.status.available_replicas
    if judgement is None or judgement.state is not State.RESOLVED or not is_whole:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def of_certificate(certificate: Certificate, now: datetime) -> Judgement | None:
    """Within 14 days of its end and past its renewal time, or expired; fine; or None before it was ever issued.

    https://cert-manager.io/docs/usage/certificate/#renewal
    """
    end, renewal = certificate.status.not_after, certificate.status.renewal_time
    if end is None or certificate.metadata.deletion_timestamp:
        return None
    ready = certificate.ready
    expired = end <= now
    overdue = renewal is not None and now - renewal > min(GRACE, (end - renewal) / 4)
    if expired or (end - now <= DAYS_AHEAD and overdue):
        critical = expired or end - now <= DAYS_CRITICAL
        labels = {
            "not_after": end.isoformat(),
            "renewal_time": renewal.isoformat() if renewal else "",
            "ready": ready.status if ready else "",
            "reason": ready.reason if ready else "",
            "message": ready.message if ready else "",
            "severity": (Severity.CRITICAL if critical else Severity.WARNING).value,
        }
        return Judgement(State.FIRING, {key: value for key, value in labels.items() if value})
    return Judgement(State.RESOLVED) if ready is not None and ready.status == "True" else None
