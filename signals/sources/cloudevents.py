"""CloudEvents 1.0 over HTTP: structured, batched and binary mode.

The format says nothing of firing and resolved, so the source's options say which types are which:
`{"firing": ["com.example.*.full"], "resolved": ["com.example.*.ok"], "origins": ["events.example.com"]}`, with
shell-style patterns. The first of `resolved` ends what the first of `firing` has opened, and so on; what a `*` stands
for is the same in both. Any other type is unknown: it is noted and leads to nothing.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from shlex import quote
from typing import Annotated, Any

import msgspec

from signals.alert import Alert, flat_texts, reading_of, severity_of, text_time
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import MalformedError, require_bearer_or_password
from signals.webhook_options import WebhookOptions, fault_of

VERSION = "1.0"
EVENTS = 1000
BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"
PREFIX = "Ce-"
ATTRIBUTES = ("id", "source", "type", "specversion", "subject", "time")
ALLOWED_RATE = "600"  # requests a minute

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Options(WebhookOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which types fire, which say that it is over, and who may ask with OPTIONS whether he may call."""

    firing: list[str] = []
    resolved: list[str] = []
    origins: list[str] = []


class CloudEvent(msgspec.Struct, frozen=True):
    """The attributes that BytePort goes by. `data` may be anything; the texts of an object become labels."""

    id: Text
    source: Text
    type: Text
    specversion: str
    subject: str = ""
    time: str = ""
    data: Any = None


class CloudEventsSource:
    """`source` and `id` name an event; what is repeated is late, and changes nothing."""

    name = "cloudevents"
    title = "Webhook: CloudEvents 1.0"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        require_bearer_or_password(call.headers, config.secret)
        return None

    def preflight(self, config: SourceConfig, headers: Mapping[str, str]) -> Mapping[str, str]:
        origin, allowed = headers.get("WebHook-Request-Origin", ""), config.options.get("origins", [])
        if not origin or not isinstance(allowed, list) or not _fits(origin, allowed):
            return {}
        return {"Allow": "POST", "WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": ALLOWED_RATE}

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        return [
            reading_of(_alert(event, config, now), config, kind=self.name, reports_end=False) for event in _events(call)
        ]

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options, Options)

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(url=quote(url), authorization=quote(f"Authorization: Bearer {secret}"))


SNIPPET = """\
# This source's options say first which types fire and which say that it is over, by pairs:
#   {{"firing": ["com.example.*.full"], "resolved": ["com.example.*.ok"]}}
curl --fail-with-body {url} \\
  -H {authorization} \\
  -H 'Content-Type: application/cloudevents+json' \\
  --data-raw '{{"specversion": "1.0", "id": "1", "source": "/checks/web-1", "type": "com.example.disk.full",
               "data": {{"host": "web-1", "severity": "warning", "summary": "/var is nearly full"}}}}'
"""


def _events(call: Call) -> list[CloudEvent]:
    try:
        events = _decoded(call)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not a CloudEvent: {error}.") from error
    for event in events:
        if event.specversion != VERSION:
            raise MalformedError(f"BytePort reads CloudEvents {VERSION}.")
        if not all(text.isprintable() for text in (event.id, event.source, event.type, event.subject)):
            raise MalformedError("The attributes of an event may not have control characters.")
    return events


def _decoded(call: Call) -> list[CloudEvent]:
    """By the mode that the headers say. Raises ValueError."""
    kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == BATCH:
        return list(msgspec.json.decode(call.body, type=Annotated[list[CloudEvent], msgspec.Meta(max_length=EVENTS)]))
    if kind == STRUCTURED or PREFIX + "Specversion" not in call.headers:
        return [msgspec.json.decode(call.body, type=CloudEvent)]
    attributes = {
        name: call.headers[PREFIX + name.title()] for name in ATTRIBUTES if PREFIX + name.title() in call.headers
    }
    return [msgspec.convert({**attributes, "data": msgspec.json.decode(call.body or b"null")}, CloudEvent)]


def _fits(text: str, patterns: Sequence[Any]) -> bool:
    return any(isinstance(pattern, str) and fnmatchcase(text, pattern) for pattern in patterns)


def _state(event: CloudEvent, config: SourceConfig) -> State:
    for name, state in (("firing", State.FIRING), ("resolved", State.RESOLVED)):
        patterns = config.options.get(name, [])
        if isinstance(patterns, list) and _fits(event.type, patterns):
            return state
    return State.UNKNOWN


def _fires_as(kind: str, config: SourceConfig) -> str:
    """The type under which fires what an event of this type ends; the type itself where it ends nothing."""
    firing, resolved = (config.options.get(name, []) for name in ("firing", "resolved"))
    if not isinstance(firing, list) or not isinstance(resolved, list) or _fits(kind, firing):
        return kind
    for over, begun in zip(resolved, firing, strict=False):
        if isinstance(begun, str) and _fits(kind, [over]) and (name := _filled(over, begun, kind)):
            return name
    return kind


def _filled(over: str, begun: str, kind: str) -> str:
    """`begun` with what the `*` of `over` stand for; empty where the two are no pair."""
    if begun.count("*") != over.count("*") or set("?[") & set(over + begun):
        return ""
    found = re.fullmatch("(.*)".join(map(re.escape, over.split("*"))), kind)
    if found is None:
        return ""
    parts = begun.split("*")
    return parts[0] + "".join(stood + part for stood, part in zip(found.groups(), parts[1:], strict=True))


def _alert(event: CloudEvent, config: SourceConfig, now: datetime) -> Alert:
    data = flat_texts(event.data) if isinstance(event.data, dict) else {}
    attributes = {"ce_source": event.source, "ce_type": event.type, "ce_subject": event.subject}
    return Alert(
        name=data.get("alertname") or _fires_as(event.type, config),
        state=_state(event, config),
        at=min(text_time(event.time, now), now),
        labels={**data, **{key: value for key, value in attributes.items() if value}},
        severity=severity_of(data.get("severity", "")),
        key=f"{event.source} {event.subject}".strip(),
        incident=f"{event.source} {event.subject}".strip(),
    )


SOURCE = CloudEventsSource()
