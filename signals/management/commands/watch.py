"""`manage.py watch`: asks the sources that BytePort asks itself, as long as it runs."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from signals.polling import Watch


class Command(BaseCommand):
    help = "Asks the poll sources at their intervals. Any number may run; each source is asked by one of them."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        Watch().run(stop)
