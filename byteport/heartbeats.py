"""Which of BytePort's processes are alive, as they say so themselves in the table `heartbeats`."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.db import connection
from django.db.models.functions import Now

from byteport.core import clock
from byteport.models import Heartbeat

ALIVE_S = 60.0

_BEAT = """
WITH forgotten AS (
    DELETE FROM heartbeats WHERE seen_at < now() - interval '1 day' AND process <> %(process)s
)
INSERT INTO heartbeats (process, role, started_at, seen_at, detail)
VALUES (%(process)s, %(role)s, %(started_at)s, now(), %(detail)s::jsonb)
ON CONFLICT (process) DO UPDATE
SET started_at = EXCLUDED.started_at, seen_at = EXCLUDED.seen_at, detail = EXCLUDED.detail
"""


def heartbeat(role: str, detail: Mapping[str, Any]) -> None:
    """Says that this process is alive. `role` is web, worker or watch; to be repeated within `ALIVE_S`."""
    values: dict[str, Any] = {
        "process": process_name(role),
        "role": role,
        "started_at": _first_seen(os.getpid()),
        "detail": json.dumps(dict(detail)),
    }
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, values)


def farewell(role: str) -> None:
    """Takes this process off the list: it ends as intended and is not missed."""
    Heartbeat.objects.filter(process=process_name(role)).delete()


def alive(role: str) -> list[Heartbeat]:
    """The processes of this role that were seen within `ALIVE_S`, by name."""
    recent = Now() - timedelta(seconds=ALIVE_S)
    return list(Heartbeat.objects.filter(role=role, seen_at__gt=recent).order_by("process"))


def process_name(role: str) -> str:
    """E.g. `worker@web-1:4711`."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"


@lru_cache(maxsize=1)
def _first_seen(_pid: int) -> datetime:
    return clock.now()
