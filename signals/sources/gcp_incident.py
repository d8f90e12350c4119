"""Google Cloud Monitoring's webhook notification channel: one incident, open or closed.

It can set no headers: the secret comes as Basic password, or as `token` in the address (which proxies may log).
https://cloud.google.com/monitoring/support/notification-options#webhooks
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from signals.alert import Alert, reading_of, severity_of, unix_time
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import MalformedError, is_secret, require_bearer_or_password
from signals.webhook_options import fault_of

STATES = {"open": State.FIRING, "closed": State.RESOLVED}
TOKEN = "token"  # noqa: S105 (the parameter's name)


class Described(msgspec.Struct, frozen=True):
    """The metric or the monitored resource: its type and labels."""

    type: str = ""
    labels: dict[str, str] = {}


class Incident(msgspec.Struct, frozen=True):
    """The part of an incident that BytePort uses. Times are unix seconds."""

    incident_id: str
    state: str
    summary: str | None = None
    policy_name: str | None = None
    condition_name: str | None = None
    severity: str | None = None
    url: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    resource: Described = Described()
    metric: Described = Described()
    policy_user_labels: dict[str, str] | None = None


class Notification(msgspec.Struct, frozen=True):
    incident: Incident


class GcpIncidentSource:
    """Google repeats a delivery that was not answered; what is repeated is late, and changes nothing."""

    name = "gcp_incident"
    title = "Webhook: Google Cloud Monitoring"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        if TOKEN not in call.query or not is_secret(call.query[TOKEN].encode(), config.secret):
            require_bearer_or_password(call.headers, config.secret)
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        try:
            told = msgspec.json.decode(call.body, type=Notification).incident
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"The body is not an incident of Google Cloud Monitoring: {error}.") from error
        return [reading_of(_alert(told, now), config, kind=self.name)]

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options)

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(url=url, secret=secret, token=quote(secret, safe=""))


SNIPPET = """\
Alerting, Edit notification channels, Webhooks, Add new:

Endpoint URL     {url}
Use HTTP Basic   on
Username         byteport
Password         {secret}

Where Basic cannot be used: {url}?token={token}
"""


def _alert(told: Incident, now: datetime) -> Alert:
    state = STATES.get(told.state.lower(), State.UNKNOWN)
    seconds = told.ended_at if state is State.RESOLVED else told.started_at
    labels = {**(told.policy_user_labels or {}), **told.resource.labels, **told.metric.labels}
    return Alert(
        name=told.policy_name or told.condition_name or "",
        state=state,
        at=unix_time(seconds, now) if seconds else now,
        labels={**labels, "metric": told.metric.type, "resource_type": told.resource.type},
        notes={"summary": told.summary or "", "description": told.url or ""},
        severity=severity_of(told.severity or ""),
        key=told.condition_name or "",
        incident=told.incident_id,
    )


SOURCE = GcpIncidentSource()
