"""PagerDuty's Events API v2, with BytePort as the receiver: whatever pages PagerDuty can point here unchanged.

The secret is the `routing_key` in the body; it is called at `/v2/enqueue` as at PagerDuty, or at `/hooks/<slug>`. A
`resolve` names its `dedup_key` and nothing else. https://developer.pagerduty.com/docs/events-api-v2/trigger-events/
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from signals.alert import Alert, flat_texts, reading_of, severity_of
from signals.reading import Reading, State
from signals.source import Call, Ending, SourceConfig
from signals.untrusted import MalformedError, UnauthenticatedError, is_secret
from signals.webhook_options import fault_of

DEDUP_CHARS = 255
ACTIONS = ("trigger", "acknowledge", "resolve")

_LABEL = re.compile(r"^ - ([A-Za-z_]\w*) = (.*)$", re.MULTILINE)

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class Payload(msgspec.Struct, frozen=True, rename={"class_": "class"}):
    """What is wrong. `source` is the affected system, e.g. a host's name."""

    summary: Text
    source: Text
    severity: str
    component: str | None = None
    group: str | None = None
    class_: str | None = None
    custom_details: Any = None


class Event(msgspec.Struct, frozen=True):
    """One event. `event_action`: trigger, acknowledge, resolve. Clients write null for what they leave out."""

    routing_key: str
    event_action: str
    dedup_key: Annotated[str, msgspec.Meta(max_length=DEDUP_CHARS)] | None = None
    payload: Payload | None = None
    client: str | None = None


class _Key(msgspec.Struct, frozen=True):
    routing_key: str = ""


class PagerdutySource:
    """Repeats are told apart by their `dedup_key`, so that nothing is refused as a replay."""

    name = "pagerduty"
    title = "Webhook: PagerDuty Events v2 (BytePort as the receiver)"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        if not is_secret(routing_key(call.body).encode("utf-8", "surrogatepass"), config.secret):
            raise UnauthenticatedError("the routing_key is not this source's secret")
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading | Ending]:
        event = _decoded(call.body)
        if event.event_action == "resolve":
            return [Ending(_dedup_key(event), now)]
        if event.event_action == "acknowledge":
            return []  # a person looks at it, which changes nothing of the signal
        if event.payload is None:
            raise MalformedError("A trigger needs a payload.")
        return [reading_of(_alert(event, event.payload, now), config, kind=self.name)]

    def answer(self, call: Call) -> Mapping[str, Any]:
        return {"status": "success", "message": "Event processed", "dedup_key": _dedup_key(_decoded(call.body))}

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options)

    def snippet(self, url: str, secret: str) -> str:
        base = url.partition("/hooks/")[0]
        return SNIPPET.format(base=base, secret=json.dumps(secret))


SNIPPET = """\
# Whatever sends events to https://events.pagerduty.com/v2/enqueue: give it this address and this key.
address      {base}/v2/enqueue
routing key  {secret}

# Alertmanager, say:
receivers:
  - name: byteport
    pagerduty_configs:
      - url: {base}/v2/enqueue
        routing_key: {secret}
"""


def routing_key(body: bytes) -> str:
    """The key, which is in the body itself; empty when there is none to be found."""
    try:
        return msgspec.json.decode(body, type=_Key).routing_key
    except (ValueError, RecursionError):
        return ""


def _decoded(body: bytes) -> Event:
    try:
        event = msgspec.json.decode(body, type=Event)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not an event of the Events API v2: {error}.") from error
    if event.event_action not in ACTIONS:  # PagerDuty refuses it too: else nobody would see that it led to nothing
        raise MalformedError(f"event_action is one of {', '.join(ACTIONS)}.")
    if event.event_action != "trigger" and not event.dedup_key:
        raise MalformedError(f"To {event.event_action}, name the dedup_key.")
    return event


def _dedup_key(event: Event) -> str:
    """The sender's, or one that is the same whenever the same thing is reported in the same words."""
    if event.dedup_key or event.payload is None:
        return event.dedup_key or ""
    payload = event.payload
    told = "\x1f".join((payload.source, payload.component or "", payload.class_ or "", payload.summary))
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def common_labels(text: str) -> dict[str, str] | None:
    """The labels that all alerts have in common which Alertmanager lists (its template `pagerduty.default.instances`);
    None where it is no such list."""
    alerts = [dict(_LABEL.findall(one.partition("\nAnnotations:")[0])) for one in text.split("Labels:\n")[1:]]
    if not alerts:
        return None
    return {key: value for key, value in alerts[0].items() if all(other.get(key) == value for other in alerts)}


def _alert(event: Event, payload: Payload, now: datetime) -> Alert:
    """`class` is what PagerDuty calls the kind of event, e.g. "ping failure": the nearest to an alert's name."""
    custom = payload.custom_details if isinstance(payload.custom_details, dict) else {}
    given = {"component": payload.component, "group": payload.group, "class": payload.class_, "client": event.client}
    listed = common_labels(str(custom.get("firing", "")))
    labels = {**flat_texts(custom), **(listed or {}), **{key: value for key, value in given.items() if value}}
    if listed is None:  # else the source is Alertmanager itself
        labels.setdefault("host", payload.source)
    return Alert(
        name=payload.class_ or labels.get("alertname", "") or "pagerduty",
        state=State.FIRING,
        at=now,
        labels={**labels, "source": payload.source},
        notes={"summary": payload.summary},
        severity=severity_of((listed or {}).get("severity", "")) or severity_of(payload.severity),
        key=_dedup_key(event),
        incident=_dedup_key(event),
    )


SOURCE = PagerdutySource()
