"""What happens to incidents is written down for outgoing webhooks, in the transaction in which it happens.

Where nobody has asked for a kind of event, that is all that is found out. Sending is done elsewhere, later
(`incidents.outgoing`).
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from django.db import connection

from byteport.queue import enqueue
from signals.happening import Happening

SEND = "byteport.tasks.send_events"

# Held until the transaction ends, so that nobody deletes a webhook while rows are written for it.
_WHO_WANTS = "SELECT id FROM outgoing_webhooks WHERE enabled AND kinds @> ARRAY[%s] ORDER BY id FOR KEY SHARE"
_WRITE = """
    INSERT INTO outgoing_events (webhook_id, uid, happening, kind, incident_id, action_id, snapshot, at, due_at)
    SELECT webhook, gen_random_uuid(), happened.uid, %s, event.id, happened.action_id,
           jsonb_build_object('status', event.status, 'severity', event.severity, 'reason', event.reason,
                              'value', event.value),
           %s, %s
    FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[]) AS happened (uid, incident_id, action_id)
    JOIN signal_events AS event ON event.id = happened.incident_id
    CROSS JOIN unnest(%s::bigint[]) AS webhook"""


def publish(kind: Happening, incidents: Sequence[int], at: datetime, actions: Sequence[int] = ()) -> None:
    """Writes one event for each incident and each webhook that wants this kind, and has them sent.

    `actions`: for ACTED, the action's row for each incident. Needs a transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(_WHO_WANTS, [kind.value])
        webhooks = [pk for (pk,) in cursor.fetchall()]
        if not webhooks:
            return
        ids = [uuid4() for _ in incidents]
        about: Sequence[int | None] = actions or [None] * len(ids)
        cursor.execute(_WRITE, [kind.value, at, at, ids, list(incidents), list(about), webhooks])
    enqueue(SEND)  # without a key: two transactions that share one wait for each other
