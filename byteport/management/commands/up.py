"""`manage.py up`: everything on one machine, in one terminal."""

import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from byteport import embedded, upgrade
from byteport.core.errors import BytePortError
from byteport.supervisor import Spec, Supervisor, manage
from signals.models import SignalEvent

OPERATOR = "operator"
COLOURS = {"web": 36, "worker": 32, "watch": 34, "drill": 33, "byteport": 35}
WORKER_CLASS = "byteport.webworker.PatientWorker"
READY_PATIENCE_S = 60.0
POSTGRES_LOOK_S = 3.0


class Command(BaseCommand):
    help = "Sets up what is missing, then runs web console, workers and watcher until Ctrl-C."
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address of the console (default: %(default)s).")
        parser.add_argument("--port", type=int, default=8000, help="Its port (default: %(default)s).")
        parser.add_argument("--setup-only", action="store_true", help="Set up what is missing, and run nothing.")
        parser.add_argument("--no-drill", action="store_true", help="Skip the drill of the very first start.")
        parser.add_argument("--json", action="store_true", help="One JSON object a line instead of coloured text.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._json = options["json"]
        if options["setup_only"]:
            prepare(self.say)
            self.say("byteport", "everything is set up; to run it: make run")
            return
        require_free_port(options["host"], options["port"])
        prepare(self.say)
        url = f"http://{options['host']}:{options['port']}/"
        os.environ.setdefault("BYTEPORT_PUBLIC_URL", url)  # for the links that its processes give
        specs = processes(options["host"], options["port"])
        if is_first_start() and not options["no_drill"]:
            self.say("byteport", "first start: a disk drill shows one real incident from detection to postmortem")
            specs.append(Spec("drill", manage("drill", "disk_pressure", "--beside"), once=True))
        self._run(Supervisor(specs, self.say), url)

    def _run(self, supervisor: Supervisor, url: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.ask_to_stop())
        supervisor.start()
        threading.Thread(target=self._announce, args=(url,), daemon=True).start()
        stopping = threading.Event()
        with ExitStack() as servers:
            keeper = threading.Thread(target=self._keep_postgres, args=(servers, stopping))
            keeper.start()
            try:
                supervisor.run()
            finally:
                self.say("byteport", "stopping")
                supervisor.stop()
                stopping.set()
                keeper.join()
        self.say("byteport", "stopped")

    def _keep_postgres(self, servers: ExitStack, stopping: threading.Event) -> None:
        """Starts BytePort's own PostgreSQL again when it has ended: killed for want of memory, say."""
        while settings.EMBEDDED_POSTGRES and not stopping.wait(POSTGRES_LOOK_S):
            if embedded.status(settings.STATE_DIR).running:
                continue
            self.say("byteport", "PostgreSQL has ended; it is started again")
            try:
                servers.enter_context(embedded.running(settings.STATE_DIR))
            except BytePortError as error:
                self.say("byteport", str(error))

    def _announce(self, url: str) -> None:
        """Says where the console is as soon as it answers."""
        until = time.monotonic() + READY_PATIENCE_S
        while time.monotonic() < until:
            try:
                with urlopen(f"{url}healthz", timeout=2):  # noqa: S310 (our own address)
                    self.say("byteport", f"the console is at {url} (stop with Ctrl-C)")
                    return
            except (URLError, OSError):
                time.sleep(0.1)

    def say(self, name: str, line: str) -> None:
        """One line of one process, whole: several write at the same time."""
        if self._json:
            text = msgspec.json.encode({"process": name, "line": line}).decode()
        elif sys.stdout.isatty():
            text = f"\x1b[{COLOURS.get(name, 37)}m{name:>8} │\x1b[0m {line}"
        else:
            text = f"{name:>8} | {line}"
        os.write(sys.stdout.fileno(), f"{text}\n".encode(errors="replace"))


# Each of its threads would otherwise have a heap of its own, none of which gives back what a flood of alerts has taken.
WEB_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


def processes(host: str, port: int) -> list[Spec]:
    """The three kinds of process that make up BytePort."""
    web = (
        sys.executable, "-m", "gunicorn", "byteport.wsgi", "--chdir", str(settings.BASE_DIR), "--bind",
        f"{host}:{port}", "--worker-class", WORKER_CLASS, "--workers", "1", "--threads", "16", "--timeout", "60",
        "--graceful-timeout", "5", "--log-level", "warning", "--no-control-socket",
    )  # fmt: skip
    return [
        Spec("web", web, environment=WEB_ENVIRONMENT),
        Spec("worker", manage("worker")),
        Spec("watch", manage("watch")),
    ]


def require_free_port(host: str, port: int) -> None:
    """Raises CommandError when something else listens there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"{host}:{port} cannot be used: {error.strerror}. Is BytePort running already? Else choose another"
                ' port: make run ARGS="--port 8001"'
            ) from error


def prepare(say: Any) -> None:
    """Brings the database up to date, and makes the first operator. Quick when there is nothing to do."""
    if upgrade.pending():
        say("byteport", "setting up the database")
    upgrade.bring_up_to_date()
    password = first_operator()
    if password:
        width = shutil.get_terminal_size().columns
        say("byteport", "─" * min(width - 12, 60))
        say("byteport", f"first operator: {OPERATOR}   password: {password}")
        say("byteport", "it is shown only now; `manage.py changepassword operator` sets another")
        say("byteport", "─" * min(width - 12, 60))


def first_operator() -> str:
    """Makes the first user when there is none. Returns the password, or an empty text."""
    users = get_user_model().objects
    if users.exists():
        return ""
    password = secrets.token_urlsafe(12)
    users.create_superuser(username=OPERATOR, password=password)
    return password


def is_first_start() -> bool:
    return not SignalEvent.objects.exists()
