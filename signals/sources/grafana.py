"""Grafana Alerting's webhook contact point, and the shape of Grafana's legacy alerting.

It signs when told to: the HMAC-SHA256, in hex, of the body, or of `<timestamp>:<body>` when a timestamp header is set;
else the secret comes as Bearer token or Basic password.
https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec

from signals.alert import Alert, flat_texts, reading_of
from signals.prometheus import Alerting, readings_of
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.untrusted import (
    MalformedError,
    UnauthenticatedError,
    header_bytes,
    require_bearer_or_password,
    require_fresh,
)
from signals.webhook_options import WebhookOptions, fault_of

SIGNATURE_HEADER = "X-Grafana-Alerting-Signature"
TIMESTAMP_HEADER = "X-Grafana-Alerting-Timestamp"  # the name that the snippet sets; Grafana has no default
LEGACY_STATES = {"alerting": State.FIRING, "ok": State.RESOLVED}


class Options(WebhookOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The names of the headers, where the contact point sets others."""

    signature_header: str = SIGNATURE_HEADER
    timestamp_header: str = TIMESTAMP_HEADER


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    """Grafana Alerting's notification."""

    alerts: list[Alerting]
    truncated_alerts: int = 0


class Legacy(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of legacy alerting (until Grafana 10). `state`: alerting, ok, no_data, paused, pending."""

    state: str
    rule_id: int
    rule_name: str = ""
    message: str = ""
    tags: dict[str, str] = {}
    eval_matches: list[dict[str, object]] | None = None


class _Shape(msgspec.Struct, frozen=True, rename="camel"):
    """Tells the two apart."""

    alerts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class GrafanaSource:
    """Repeats itself by design, so that nothing is refused as a replay."""

    name = "grafana"
    title = "Webhook: Grafana alerting"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        signature = str(config.options.get("signature_header", SIGNATURE_HEADER))
        if signature in call.headers:
            _require_signature(config, call, call.headers[signature], now)
        else:
            require_bearer_or_password(call.headers, config.secret)
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        try:
            if msgspec.json.decode(call.body, type=_Shape).alerts is msgspec.UNSET:
                return [_legacy(msgspec.json.decode(call.body, type=Legacy), config, now)]
            told = msgspec.json.decode(call.body, type=Notification)
            return readings_of(told.alerts, config, now, kind=self.name, truncated=told.truncated_alerts)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"The body is not a notification of Grafana: {error}.") from error

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options, Options)

    def snippet(self, url: str, secret: str) -> str:
        return SNIPPET.format(url=json.dumps(url), secret=json.dumps(secret), timestamp=TIMESTAMP_HEADER)


SNIPPET = """\
# provisioning/alerting/byteport.yaml; or: Alerting, Contact points, Webhook, with the same settings
apiVersion: 1
contactPoints:
  - orgId: 1
    name: byteport
    receivers:
      - uid: byteport
        type: webhook
        settings:
          url: {url}
          httpMethod: POST
          hmacConfig:
            secret: {secret}
            timestampHeader: {timestamp}
"""


def _require_signature(config: SourceConfig, call: Call, given: str, now: datetime) -> None:
    """Checks signature, then time, where the sender is set to sign one. Raises UnauthenticatedError."""
    if not config.secret:
        raise UnauthenticatedError("the source has no secret")
    timestamp = call.headers.get(str(config.options.get("timestamp_header", TIMESTAMP_HEADER)), "")
    signed = header_bytes(timestamp) + b":" + call.body if timestamp else call.body
    expected = hmac.new(config.secret.encode(), signed, sha256).hexdigest()
    if not hmac.compare_digest(header_bytes(given).lower(), expected.encode()):
        raise UnauthenticatedError("the signature is not the one of this body and timestamp")
    if timestamp:
        require_fresh(timestamp, now)


def _legacy(told: Legacy, config: SourceConfig, now: datetime) -> Reading:
    matches = told.eval_matches or [{}]
    tags = matches[0].get("tags") if matches else None
    labels = {**(flat_texts(tags) if isinstance(tags, dict) else {}), **told.tags}
    alert = Alert(
        name=told.rule_name,
        state=LEGACY_STATES.get(told.state, State.UNKNOWN),
        at=now,
        labels=labels,
        notes={"summary": told.message} if told.message else {},
        key=str(told.rule_id),
        incident=f"rule {told.rule_id}",
    )
    return reading_of(alert, config, kind=SOURCE.name)


SOURCE = GrafanaSource()
