"""`manage.py watch`: asks the sources that BytePort asks itself, as long as it runs."""

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from byteport.logs import logging_config
from signals.polling import Watch


class Command(BaseCommand):
    help = "Asks the poll sources at their intervals. Any number may run; each source is asked by one of them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Log one JSON object a line.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["json"]:
            logging_config(level="INFO", form="json")
        stop = threading.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        Watch().run(stop)
