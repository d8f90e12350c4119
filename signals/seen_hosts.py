"""The inventory fills itself: a row for each host, and each node of a cluster, that a source has a series of.

Such a row has no way to the host until a person chooses one; where its name tells, one is suggested.
"""

import re
from collections.abc import Iterator

from django.db import connection

from byteport.core.resource import ResourceRef
from byteport.models import Host

EC2_INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")
GCE_INSTANCE = re.compile(r"[0-9]{15,20}")  # its number, of 64 bits
NAME_CHARS = 253  # as long as a DNS name can be
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
AT_ONCE = 1_000

# `unit` is `host/<name>` (see ResourceRef.neighbourhood) or the node's own reference. The first half reads an index
# alone; the second the series of the two signals that a node can have.
UNSEEN = """
    SELECT unit FROM (
        SELECT DISTINCT unit FROM series WHERE fleet = 'host'
        UNION
        SELECT DISTINCT unit FROM series
        WHERE signal IN ('disk_pressure', 'memory_pressure') AND fleet LIKE 'kubernetes/%%'
          AND split_part(unit, '/', 3) = 'node' AND split_part(unit, '/', 5) = ''
    ) AS seen
    WHERE NOT EXISTS (SELECT 1 FROM hosts WHERE name = CASE WHEN unit LIKE 'host/%%' THEN substr(unit, 6)
                                                            ELSE split_part(unit, '/', 4) END)
    ORDER BY unit LIMIT %s"""


def note() -> int:
    """Adds a row for each host that has none. Returns how many. Rows that are there stay as they are."""
    with connection.cursor() as cursor:
        cursor.execute(UNSEEN, [AT_ONCE])
        rows = list(_rows(unit for (unit,) in cursor.fetchall()))
    Host.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _rows(units: Iterator[str]) -> Iterator[Host]:
    for unit in units:
        row = node_row(unit) if unit.startswith("kubernetes/") else host_row(unit.removeprefix("host/"))
        if len(row.name) <= NAME_CHARS and not UNPRINTABLE.search(row.name):
            yield row


def host_row(name: str) -> Host:
    """CloudWatch knows EC2 instances by their ids, Google Cloud Monitoring its own by their numbers."""
    if EC2_INSTANCE.fullmatch(name):
        return Host(name=name, suggested="ssm", instance_id=name)
    if GCE_INSTANCE.fullmatch(name):
        return Host(name=name, suggested="gce")
    return Host(name=name)


def node_row(unit: str) -> Host:
    ref = ResourceRef.parse(unit)
    return Host(name=ref.name, suggested="node", cluster=ref.place, node=ref.name)
