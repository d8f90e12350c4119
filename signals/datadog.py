"""What both ways in which Datadog's monitors reach BytePort share, so that one alert is the same thing by either. Pure.

https://docs.datadoghq.com/integrations/webhooks/ says what its variables hold.
"""

import re
from collections.abc import Mapping

from byteport.core.outcome import Severity
from byteport.core.resource import ResourceRef

SEVERITIES = {
    **dict.fromkeys(("p1", "triggered", "re-triggered", "alert"), Severity.CRITICAL),
    **dict.fromkeys(("p2", "p3", "warn", "re-warn"), Severity.WARNING),
    **dict.fromkeys(("p4", "p5"), Severity.INFO),
}
# "[P1] [Triggered on {host:web-1}] Disk is full": what is before the monitor's own name changes with its state.
_BEFORE_THE_NAME = re.compile(
    r"(\[P[1-5]\]\s*)?\[(Re-|No |Re-No )?(Triggered|Recovered|Warn|Data|Renotify)( on \{[^}]*\})?\]\s*"
)
_SLOT = re.compile(r"\{\{\s*([^{}\s]+?)(?:\.name)?\s*\}\}")


def severity_of(priority: str, state: str) -> Severity | None:
    """By the monitor's own priority (P1 to P5), or else by its state."""
    return SEVERITIES.get(priority.lower()) or SEVERITIES.get(state.lower())


def tags_of(text: str) -> Mapping[str, str]:
    """`env:prod,host:web-1` as labels; a tag without a value stands for itself, and `*` for nothing."""
    pairs = (tag.strip().partition(":") for tag in text.split(",") if tag.strip() not in ("", "*"))
    return {key: value or key for key, _, value in pairs}


def name_of(title: str) -> str:
    """The monitor's name in the title of an alert."""
    return title[found.end() :] if (found := _BEFORE_THE_NAME.match(title)) else title


def filled(name: str, tags: Mapping[str, str]) -> str:
    """The monitor's name as a group's alert has it: `{{host.name}}` is the group's tag. What is no tag stays."""
    return _SLOT.sub(lambda slot: tags.get(slot[1], slot[0]), name)


def key_of(monitor: str, scope: str) -> str:
    """Keeps apart the alerts of one name on one thing, in whatever order the tags come."""
    return " ".join((monitor, ",".join(f"{key}:{value}" for key, value in sorted(tags_of(scope).items())))).strip()


def monitor_ref(monitor: str) -> ResourceRef | None:
    """What an alert is about when its tags point at nothing."""
    return ResourceRef("datadog", "monitors", "monitor", monitor[:64]) if monitor.isprintable() and monitor else None
