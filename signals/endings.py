"""Senders that say that an incident is over, and name it by their own key alone (`Ending`)."""

from collections.abc import Iterator, Sequence

from django.db.models.fields.json import KeyTextTransform

from byteport.core.resource import ResourceRef
from signals.alert import INCIDENT, clean
from signals.models import SignalEvent, Status
from signals.reading import Reading, State
from signals.source import Ending
from signals.untrusted import LABEL_VALUE_CHARS


def with_endings(slug: str, said: Sequence[Reading | Ending]) -> list[Reading]:
    """The readings, and each ending as a reading of what its sender had reported under that key, if it had."""
    ends = {clean(one.incident, LABEL_VALUE_CHARS): one for one in said if isinstance(one, Ending)}
    readings = [one for one in said if isinstance(one, Reading)]
    return [*readings, *_resolved(slug, ends)] if ends else readings


def _resolved(slug: str, ends: dict[str, Ending]) -> Iterator[Reading]:
    opened = SignalEvent.objects.exclude(status=Status.RESOLVED).annotate(key=KeyTextTransform(INCIDENT, "labels"))
    rows = opened.filter(source=slug, key__in=list(ends)).values_list("key", "signal", "resource", "detail")
    for key, signal, resource, detail in rows:
        yield Reading(
            signal=signal,
            resource=ResourceRef.parse(resource),
            at=ends[key].at,
            state=State.RESOLVED,
            detail=detail,
            source=slug,
        )
