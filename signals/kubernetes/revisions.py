"""Which revisions of a Deployment have worked: the source tells it as a series, which outlives every event."""

from byteport.core.resource import ResourceRef
from signals.models import Sample, Series
from signals.reading import fingerprint

STABLE = "stable_revision"  # its value is the revision's number, its detail the Deployment's uid
MOST = 50


def stable_revisions(deployment: ResourceRef, uid: str) -> frozenset[int]:
    """The numbers of the revisions that BytePort has seen rolled out and fully available."""
    key = fingerprint(STABLE, deployment, uid)
    latest = Series.objects.filter(pk=key).values_list("last_value", flat=True)
    earlier = Sample.objects.filter(fingerprint=key).order_by("-at").values_list("value", flat=True)[:MOST]
    return frozenset(int(value) for value in (*latest, *earlier) if value is not None)
