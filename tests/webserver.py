"""The web process itself, as `manage.py up` runs it, on a free port."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from byteport.management.commands.up import processes

PATIENCE_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def address_of_test_database() -> str:
    """The address of the database that the tests use."""
    kept = connection.settings_dict
    password = f":{quote(kept['PASSWORD'], safe='')}" if kept["PASSWORD"] else ""
    host = f"{quote(kept['HOST'], safe='')}:{kept['PORT']}" if kept["PORT"] else quote(kept["HOST"], safe="")
    return f"postgres://{kept['USER']}{password}@{host}/{kept['NAME']}"


@contextmanager
def serving(database_url: str) -> Iterator[int]:
    """Runs it until the end of the block. Yields its port as soon as something listens there."""
    port = free_port()
    web = processes("127.0.0.1", port)[0]
    own = {"DATABASE_URL": database_url, "BYTEPORT_SECRET_KEY": settings.SECRET_KEY}
    process = subprocess.Popen(
        web.argv,
        env={**os.environ, **web.environment, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_it_listens(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def wait_until_it_listens(process: subprocess.Popen, port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"gunicorn does not listen on {port}; it ended with {process.poll()}")
