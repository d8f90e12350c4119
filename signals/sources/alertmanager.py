"""Prometheus Alertmanager's webhook, version 4. It signs nothing: the secret comes as Bearer token or Basic password.

Each alert is judged by its own status, not the group's. Which alerts become BytePort's own signals says the mapping
(`signals.mapping`). https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from signals.prometheus import Alerting, readings_of
from signals.reading import Reading
from signals.source import Call, SourceConfig
from signals.untrusted import MalformedError, require_bearer_or_password
from signals.webhook_options import fault_of

VERSION = "4"


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    """What Alertmanager posts: the alerts of one group."""

    alerts: list[Alerting]
    version: str = VERSION
    truncated_alerts: int = 0


_DECODER = msgspec.json.Decoder(Notification)


class AlertmanagerSource:
    """Repeats itself by design, so that nothing is refused as a replay."""

    name = "alertmanager"
    title = "Webhook: Prometheus Alertmanager"
    permissions: tuple[str, ...] = ()

    def authenticate(self, config: SourceConfig, call: Call, now: datetime) -> str | None:
        require_bearer_or_password(call.headers, config.secret)
        return None

    def parse(self, config: SourceConfig, call: Call, now: datetime) -> Sequence[Reading]:
        try:
            told = _DECODER.decode(call.body)
            if told.version == VERSION:
                return readings_of(told.alerts, config, now, kind=self.name, truncated=told.truncated_alerts)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"The body is not a notification of Alertmanager: {error}.") from error
        raise MalformedError(f"BytePort reads version {VERSION} of Alertmanager's webhook.")

    def fault(self, options: Mapping[str, Any]) -> str:
        return fault_of(options)

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


SOURCE = AlertmanagerSource()
