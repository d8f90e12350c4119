"""Datadog's webhooks integration: a monitor's notification, in the payload that the snippet has one paste there.

Datadog signs nothing: the secret comes in a custom header, as Bearer token, or as Basic password in the address.
https://docs.datadoghq.com/integrations/webhooks/
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from signals.alert import Alert, reading_of, unix_time
from signals.datadog import key_of, monitor_ref, name_of, severity_of, tags_of
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import MalformedError, require_bearer_or_password
from signals.webhook_options import fault_of

# $ALERT_TRANSITION. What is left out here ("No Data" and whatever else comes) is unknown: it leads to nothing.
TRANSITIONS = {
    **dict.fromkeys(("triggered", "re-triggered", "warn", "re-warn"), State.FIRING),
    "recovered": State.RESOLVED,
}
MILLISECONDS = 1e11  # a unix time beyond is not in seconds


class Notification(msgspec.Struct, frozen=True):
    """The payload of the snippet. Every field is text, since Datadog fills in text."""

    transition: str
    alert_id: str
    title: str = ""
    cycle_key: str = ""
    scope: str = ""
    metric: str = ""
    hostname: str = ""
    tags: str = ""
    priority: str = ""
    date: str = ""
    link: str = ""


class DatadogMonitorSource:
    """A monitor renotifies as it is set to, so that nothing is refused as a replay."""

    name = "datadog_monitor"
    title = "Webhook: Datadog monitors"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        require_bearer_or_password(call.headers, config.secret)
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        try:
            told = msgspec.json.decode(call.body, type=Notification)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"The body is not the payload that BytePort's snippet sets: {error}.") from error
        return [reading_of(_alert(told, now), config, kind=self.name)]

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options)

    def snippet(self, url: str, secret: str) -> str:
        headers = json.dumps({"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
        return SNIPPET.format(url=url, headers=headers)


SNIPPET = """\
Integrations, Webhooks, New. Then write @webhook-byteport into the messages of the monitors.

Name            byteport
URL             {url}
Custom headers  {headers}
Payload
{{
  "transition": "$ALERT_TRANSITION",
  "alert_id": "$ALERT_ID",
  "cycle_key": "$ALERT_CYCLE_KEY",
  "scope": "$ALERT_SCOPE",
  "title": "$ALERT_TITLE",
  "metric": "$ALERT_METRIC",
  "hostname": "$HOSTNAME",
  "tags": "$TAGS",
  "priority": "$ALERT_PRIORITY",
  "date": "$DATE",
  "link": "$LINK"
}}
"""


def _alert(told: Notification, now: datetime) -> Alert:
    transition = told.transition.lower()
    return Alert(
        name=name_of(told.title),
        state=TRANSITIONS.get(transition, State.UNKNOWN),
        at=_at(told.date, now),
        labels=_labels(told),
        notes={"summary": told.title, "description": told.link},
        severity=severity_of(told.priority, transition),
        key=key_of(told.alert_id, told.scope),
        incident=told.cycle_key or f"{told.alert_id}+{told.scope}",
        sender=monitor_ref(told.alert_id),
    )


def _labels(told: Notification) -> dict[str, str]:
    """Tags and scope are `key:value`, comma-separated; the scope is what this very alert is about, and wins."""
    labels = {**tags_of(told.tags), **tags_of(told.scope)}
    if told.hostname:
        labels.setdefault("host", told.hostname)
    return {**labels, "metric": told.metric} if told.metric else labels


def _at(date: str, now: datetime) -> datetime:
    """$DATE is unix time, in milliseconds. One that cannot be read, or lies ahead, is now."""
    try:
        unix = float(date)
    except ValueError:
        return now
    return unix_time(unix / 1000 if unix > MILLISECONDS else unix, now)


SOURCE = DatadogMonitorSource()
