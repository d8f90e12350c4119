"""Datadog: the state of its monitors, group by group. Reading only; keys and errors as in `datadog`.

https://docs.datadoghq.com/api/latest/monitors/#get-all-monitors
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from datadog_api_client import ApiClient
from datadog_api_client.model_utils import unset
from datadog_api_client.v1.api.monitors_api import MonitorsApi

from byteport.clients.datadog import configuration, own_errors
from byteport.core.errors import Permanent

SCOPE = "monitors_read"
PAGE = 200  # monitors; Datadog allows 1,000, whose groups can be very many
MOST_PAGES = 100
MOST_GROUPS = 50_000
NARROW = "Narrow them by the option monitor_tags."


class Group(msgspec.Struct, frozen=True):
    """One group: Datadog's own word for its state, and when it last did what (unix time; 0 or None: never)."""

    status: str = ""
    last_triggered_ts: float | msgspec.UnsetType | None = msgspec.UNSET
    last_notified_ts: float | None = None
    last_resolved_ts: float | None = None

    @property
    def has_never_fired(self) -> bool:
        return self.last_triggered_ts is not msgspec.UNSET and not self.last_triggered_ts


class State(msgspec.Struct, frozen=True):
    groups: dict[str, Group] = {}  # by their tags, comma-separated; "*" where it has one for all


class Downtime(msgspec.Struct, frozen=True):
    scope: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True):
    silenced: dict[str, float | None] | None = None  # by scope: until when (unix time), None for ever


class Monitor(msgspec.Struct, frozen=True):
    """What BytePort uses of a monitor."""

    id: int
    query: str
    name: str = ""
    multi: bool = False
    priority: int | None = None
    draft_status: str = ""
    overall_state: str = ""
    overall_state_modified: datetime | float | None = None  # or unix time; None: it was never judged
    tags: tuple[str, ...] = ()
    state: State = State()
    options: Settings = Settings()
    matching_downtimes: tuple[Downtime, ...] = ()

    @property
    def by_itself(self) -> Group:
        """As a group of its own. It has come into its state when that was modified."""
        modified = self.overall_state_modified
        came_ts = modified.timestamp() if isinstance(modified, datetime) else modified
        return Group(self.overall_state, last_triggered_ts=came_ts or 0, last_resolved_ts=came_ts)


class Monitors(msgspec.Struct, frozen=True):
    """The monitors that could be read, and the number of those that could not."""

    read: tuple[Monitor, ...] = ()
    unread: int = 0


def monitors(site: str, tags: Sequence[str], count: Callable[[], None]) -> Monitors:
    """The monitors that have all of these tags, in the order of their pages. Raises Temporary or Permanent."""
    read: list[Monitor] = []
    unread = groups = 0
    for page in _pages(site, tags, count):
        found = [_monitor(each) for each in page]
        read += [each for each in found if each is not None]
        unread += found.count(None)
        groups += sum(len(each.state.groups) for each in found if each is not None)
        if groups > MOST_GROUPS:
            raise Permanent(f"Datadog: the monitors have more than {MOST_GROUPS:,} groups. {NARROW}")
    return Monitors(tuple(read), unread)


def _pages(site: str, tags: Sequence[str], count: Callable[[], None]) -> Iterator[list[Any]]:
    chosen = ",".join(tags) if tags else unset
    with own_errors(SCOPE), ApiClient(configuration(site)) as client:
        for page in range(MOST_PAGES):
            count()
            listed = MonitorsApi(client).list_monitors(
                group_states="all", monitor_tags=chosen, with_downtimes=True, page=page, page_size=PAGE
            )
            if not isinstance(listed, list):
                raise Permanent("Datadog's answer is not as expected: it is no list of monitors.")
            yield listed
            if len(listed) < PAGE:
                return
    raise Permanent(f"Datadog: there are more than {PAGE * MOST_PAGES:,} monitors. {NARROW}")


def _monitor(listed: Any) -> Monitor | None:
    """By its own type, since the client's models refuse a whole monitor for one word that is newer than they are."""
    try:
        return msgspec.convert(listed.to_dict(), Monitor)
    except (msgspec.ValidationError, AttributeError):
        return None
