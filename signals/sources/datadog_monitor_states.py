"""Datadog: the state of its monitors, asked for, group by group. One row of `sources` is one site.

What a group's alert is about says the same mapping as for the webhook (`datadog_monitor`), and the same alert is one
thing by either way. A monitor that is muted or a draft tells nobody, and neither does it here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec
import structlog

from byteport.clients import datadog
from byteport.clients.datadog_monitors import Group, Monitor, monitors
from byteport.core.errors import Permanent
from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef
from signals.alert import Alert, reading_of, unix_time
from signals.datadog import filled, key_of, monitor_ref, severity_of, tags_of
from signals.metrics import Pace, options_of
from signals.reading import Reading, State
from signals.source import SourceConfig

log = structlog.get_logger()

# What is left out here ("No Data", "Ignored", "Skipped", "Unknown") is unknown: it neither opens nor closes.
STATES = {"Alert": State.FIRING, "Warn": State.FIRING, "OK": State.RESOLVED}
WORST_LAST = (State.RESOLVED, State.UNKNOWN, State.FIRING)
UNLISTED = "alert:"  # what no rule describes keeps its own name
BEHIND_S = 600.0  # a monitor judges over a window of its own: five or ten minutes, as a rule
EVERYTHING = "*"

# avg(last_5m):avg:system.disk.in_use{host:web-1} by {device} > 0.9
_MEASURED = re.compile(r":([A-Za-z][A-Za-z0-9_.]*)\{([^{}]*)\}")
_PLAIN_TAG = re.compile(r"[^\s:!()*$]+:[^\s!()*$]+")
_PLAIN_VALUE = re.compile(r"[^\s!()]+")


class MonitorOptions(Pace, frozen=True, kw_only=True):
    """Which monitors: those that have all of the tags. `others`: also those that no rule of the mapping describes."""

    site: str = "datadoghq.com"
    monitor_tags: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^[^,\s]{1,200}$")], ...], msgspec.Meta(max_length=20)
    ] = ()
    others: bool = True

    def __post_init__(self) -> None:
        if self.site not in datadog.SITES:
            raise ValueError(f"site: not one of {', '.join(datadog.SITES)}")


class DatadogMonitorStates:
    """Judged by Datadog, as of when a group came into its state."""

    name = "datadog_monitor_states"
    title = "Datadog monitors, asked for their state"
    permissions: tuple[str, ...] = ()

    def interval_s(self) -> float:
        return float(Pace().every_s)

    def every_s(self, options: dict[str, Any]) -> float:
        return float(options_of(options, MonitorOptions).every_s)

    def behind_s(self, options: dict[str, Any], signal: str) -> float:
        return BEHIND_S

    def fault(self, options: dict[str, Any]) -> str:
        try:
            options_of(options, MonitorOptions)
        except Permanent as error:
            return str(error)
        return ""

    def credentials(self, options: dict[str, Any]) -> str:
        site = options_of(options, MonitorOptions).site
        datadog.configuration(site)
        return f"an API key and an application key of Datadog's, for {site}"

    def poll(self, config: SourceConfig, now: datetime) -> Sequence[Reading]:
        return [each for each in self._look(config, now) if each.state is not State.UNKNOWN]

    def reread(self, config: SourceConfig, signal: str, resource: ResourceRef, now: datetime) -> Reading | None:
        """The worst that any monitor says of it."""
        found = [each for each in self._look(config, now) if (each.signal, each.resource) == (signal, resource)]
        return max(found, key=weight, default=None)

    def _look(self, config: SourceConfig, now: datetime) -> list[Reading]:
        options = options_of(config.options, MonitorOptions)
        listed = monitors(options.site, options.monitor_tags, config.progress.count)
        if listed.unread:
            log.warning("monitors could not be read", source=config.slug, monitors=listed.unread)
        told = (reading_of(alert, config, kind=self.name) for alert in alerts_of(listed.read, now))
        return worst(each for each in told if options.others or not each.signal.startswith(UNLISTED))


def worst(told: Iterable[Reading]) -> list[Reading]:
    """One reading a series: several monitors can be about one thing, which is well only when none of them fires."""
    found: dict[str, Reading] = {}
    for each in told:
        found[each.fingerprint] = max(found.get(each.fingerprint, each), each, key=weight)
    return list(found.values())


def weight(reading: Reading) -> tuple[int, int]:
    severity = reading.labels.get("severity")
    return WORST_LAST.index(reading.state), Severity(severity).rank if severity else 0


def alerts_of(listed: Iterable[Monitor], now: datetime) -> Iterator[Alert]:
    """Each group of each monitor. One that has never fired has nothing to resolve, and is left out."""
    for monitor in listed:
        if monitor.draft_status == "draft":
            continue
        pinned, muted = pinned_tags(monitor.query), muted_scopes(monitor, now)
        for scope, group in groups_of(monitor).items():
            if group.has_never_fired and STATES.get(group.status) is State.RESOLVED:
                continue
            tags = {**pinned, **tags_of(scope)}
            yield _alert(monitor, group, scope, tags, now, muted=any(may_hold(each, tags) for each in muted))


def groups_of(monitor: Monitor) -> dict[str, Group]:
    """By their scopes. A monitor that is not grouped may have its state by itself alone."""
    if monitor.state.groups or monitor.multi:
        return monitor.state.groups
    return {EVERYTHING: monitor.by_itself}


def _alert(monitor: Monitor, group: Group, scope: str, tags: Mapping[str, str], now: datetime, *, muted: bool) -> Alert:
    metrics = {name for name, _ in _MEASURED.findall(monitor.query)}
    metric = {"metric": metrics.pop()} if len(metrics) == 1 else {}
    name, known_as = filled(monitor.name, tags), str(monitor.id)
    state = STATES.get(group.status, State.UNKNOWN)
    return Alert(
        name=name,
        state=State.UNKNOWN if muted and state is State.FIRING else state,
        at=since(group, state, now),
        labels={**tags_of(",".join(monitor.tags)), **tags, **metric},
        notes={"summary": name, "description": monitor.query},
        severity=severity_of(f"p{monitor.priority}", group.status),
        key=key_of(known_as, scope),
        incident=f"{known_as}+{scope}",
        sender=monitor_ref(known_as),
    )


def since(group: Group, state: State, now: datetime) -> datetime:
    """When it came into its state, or said so last; now, where Datadog does not say.

    An end that has no time of its own ends what the monitor itself said last, and nothing after that. A state that
    merely goes on is no news: else a monitor that is slower or laxer than BytePort's own measurements would end what
    they have opened, and open again what was fixed.
    """
    fired = max(group.last_triggered_ts or 0, group.last_notified_ts or 0)
    ended = group.last_resolved_ts or (fired and fired + 1)
    latest = ended if state is State.RESOLVED else fired
    return unix_time(latest, now) if latest else now


def pinned_tags(query: str) -> dict[str, str]:
    """The tags that a query's only filter fixes, e.g. its host; none where it may be about more than one."""
    filters = {text for _, text in _MEASURED.findall(query)}
    tags = filters.pop().replace(" AND ", ",").split(",") if len(filters) == 1 else []
    return dict(tags_of(",".join(tag.strip() for tag in tags if _PLAIN_TAG.fullmatch(tag.strip()))))


def muted_scopes(monitor: Monitor, now: datetime) -> list[Mapping[str, str]]:
    """The scopes of the downtimes that hold now, as tags."""
    silenced = monitor.options.silenced or {}
    scopes = [",".join(each.scope) for each in monitor.matching_downtimes]
    scopes += [scope for scope, until in silenced.items() if until is None or until > now.timestamp()]
    return [tags_of(scope) for scope in scopes]


def may_hold(downtime: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether a downtime may cover a group: unless one of its tags clearly says another thing than the group's."""
    plain = {key: value for key, value in downtime.items() if key in tags and _PLAIN_VALUE.fullmatch(value)}
    return all(fnmatchcase(tags[key], value) for key, value in plain.items())


SOURCE = DatadogMonitorStates()
