"""What a payload would become, and why, without keeping anything of it: for the operator who sets up a source."""

from uuid import UUID

import msgspec

from byteport.core.clock import now
from byteport.core.errors import Permanent
from signals.alert import INCIDENT, MAPPING
from signals.health import config_of
from signals.mapping import RuleSet, explain
from signals.models import Series, Source
from signals.policy import rule_for, rules
from signals.reading import Reading
from signals.router import Track, Why, route
from signals.source import Call, Ending, WebhookSource
from signals.untrusted import MalformedError

SHOWN = 50
NAMES = ("alertname", "AlarmName")  # labels that hold the alert's name


class Outcome(msgspec.Struct, frozen=True):
    """What one message of the payload would become."""

    signal: str
    resource: str
    detail: str
    state: str
    severity: str
    why: str  # the router's answer
    by: str  # what said what it is about; empty where the message itself does
    mapping: tuple[str, ...]  # why each rule that has to do with it applies or not
    labels: dict[str, str]


class Trial(msgspec.Struct, frozen=True):
    """The outcomes, or why the payload cannot be read."""

    outcomes: tuple[Outcome, ...] = ()
    fault: str = ""
    total: int = 0


def trial(webhook: WebhookSource, source: Source, payload: str) -> Trial:
    """Reads a payload as the source would, and judges it as the router would now."""
    try:
        config = config_of(source)
        said = webhook.parse(config, Call({}, payload.encode("utf-8", "surrogatepass")), now())
    except (MalformedError, Permanent) as error:
        return Trial(fault=str(error))
    readings = [one for one in said if isinstance(one, Reading)]
    known = Series.objects.in_bulk([UUID(one.fingerprint) for one in readings[:SHOWN]])
    outcomes = [_outcome(one, known.get(UUID(one.fingerprint)), config.rules) for one in readings[:SHOWN]]
    ends = [_ended(one) for one in said if isinstance(one, Ending)]
    return Trial((*outcomes, *ends[:SHOWN]), total=len(said))


def _outcome(reading: Reading, series: Series | None, mapping: RuleSet) -> Outcome:
    known = Track(series.last_at, series.last_value, series.breach_since, series.clear_since) if series else Track()
    routed = route(known, reading, rule_for(reading.signal, reading.resource, rules()))
    by = reading.labels.get(MAPPING, "")
    name = next((reading.labels[key] for key in NAMES if key in reading.labels), reading.signal.removeprefix("alert:"))
    return Outcome(
        signal=reading.signal,
        resource=reading.resource.label,
        detail=reading.detail,
        state=reading.state,
        severity=routed.severity if routed.why is Why.FIRES else "",
        why=routed.why,
        by=by,
        mapping=tuple(explain(name, reading.labels, mapping)) if by else (),
        labels=reading.labels,
    )


def _ended(ending: Ending) -> Outcome:
    what = f"whatever is open under the key {ending.incident}"
    return Outcome("", what, "", "resolved", "", Why.CLEARS, "", (), {INCIDENT: ending.incident})
