"""`manage.py drill SIGNAL`: a real trouble of BytePort's own making, treated by the real loop."""

import signal
import sys
import time
from argparse import ArgumentParser
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from byteport import seeds
from byteport.core.errors import BytePortError
from byteport.core.resource import ResourceRef
from byteport.drills.drill import DRILLS, Drill
from byteport.heartbeats import alive
from byteport.supervisor import Spec, Supervisor, manage
from runbooks.models import AgentAction, AgentSettings, VerificationSample
from signals.models import SignalEvent, Status, TimelineEntry

LOOK_S = 0.25
END_PATIENCE_S = 240.0
ENDS = (Status.RESOLVED, Status.ESCALATED, Status.SIMULATED)


class Command(BaseCommand):
    help = (
        "Makes a real trouble that touches nothing but what the drill itself made, and lets the loop treat it."
        " Works beside a running BytePort, and with nothing running. Ends with 0 when BytePort resolved it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("signal", choices=sorted(DRILLS), help="The signal to provoke.")
        parser.add_argument(
            "--beside",
            action="store_true",
            help="BytePort is starting or running: wait for its processes instead of starting others.",
        )
        parser.add_argument("--json", action="store_true", help="Print one line of JSON; the progress goes to stderr.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._json = options["json"]
        drill = DRILLS[options["signal"]]
        seeds.plant()
        signal.signal(signal.SIGTERM, _as_exit)
        try:
            with nullcontext() if options["beside"] else loop_running(self.say):
                event, before = self._run(drill)
                summary = summary_of(event, before, drill.figures())
        except BytePortError as error:
            raise CommandError(str(error)) from error
        finally:
            _remove(drill)
        self._report(summary)
        if summary["resolved_by"] != "byteport":
            sys.exit(1)

    def say(self, line: str) -> None:
        out = self.stderr if self._json else self.stdout
        out.write(line, style_func=str)
        out.flush()

    def _run(self, drill: Drill) -> tuple[SignalEvent, dict[str, Any]]:
        if AgentSettings.objects.filter(paused=True).exists():
            raise CommandError(
                "BytePort is paused; no action is begun, not even a drill's. To go on: manage.py agent resume"
            )
        self.say(f"drill: {drill.title}")
        resource = drill.prepare(lambda line: self.say(f"  {line}"))
        before = drill.figures()
        self.say("  now BytePort has to see it, treat it and prove it; nothing below is the drill's own doing")
        return self._follow(drill.name, resource), before

    def _follow(self, name: str, resource: ResourceRef) -> SignalEvent:
        """Tells the story as it is written, until it ends. In a cluster it may be told of a pod of the workload."""
        until = time.monotonic() + END_PATIENCE_S
        seen: set[tuple[str, int]] = set()
        while time.monotonic() < until:
            found = SignalEvent.objects.filter(signal=name, neighbourhood=resource.neighbourhood)
            event = found.order_by("-pk").first()
            if event is not None:
                for line in news(event, seen):
                    self.say(f"  {line}")
                if event.status in ENDS:
                    return event
            time.sleep(LOOK_S)
        raise CommandError(
            f"The drill did not end within {END_PATIENCE_S:g} s. Look with: manage.py agent status; manage.py doctor"
        )

    def _report(self, summary: dict[str, Any]) -> None:
        if self._json:
            self.stdout.write(msgspec.json.encode(summary).decode())
            return
        by = f" by {summary['resolved_by']}" if summary["resolved_by"] else ""
        before, after = shown(summary["before"]), shown(summary["after"])
        self.stdout.write(f"{summary['status']}{by}: {before} before, {after} after")
        self.stdout.write(f"postmortem: {summary['postmortem_url']}")


def news(event: SignalEvent, seen: set[tuple[str, int]]) -> Iterator[str]:
    """The lines that were written since the last look, oldest first."""
    lines = [(t.at, "line", t.pk, f"{t.kind:<10} {t.message}") for t in TimelineEntry.objects.filter(event=event)]
    done = AgentAction.objects.filter(event=event, finished_at__isnull=False)
    lines += [
        (a.finished_at, "action", a.pk, f"{a.status:<10} {a.summary}: {a.message}") for a in done if a.finished_at
    ]
    looks = VerificationSample.objects.filter(event=event)
    lines += [(s.at, "look", s.pk, f"{s.look:<10} {s.message}") for s in looks]
    for at, kind, pk, text in sorted(lines):
        if (kind, pk) not in seen:
            seen.add((kind, pk))
            yield f"{at:%H:%M:%S} {text}"


def shown(figures: dict[str, Any]) -> str:
    """`{"ready_pods": 0, "restarts": 4}` as `0 ready pods, 4 restarts`."""
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in figures.items())


def summary_of(event: SignalEvent, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The drill's result, as `--json` prints it."""
    actions = AgentAction.objects.filter(event=event).order_by("pk")
    return {
        "event_id": event.pk,
        "status": event.status,
        "resolved_by": event.resolved_by,
        "before": before,
        "after": after,
        "before_percent": before.get("percent"),
        "after_percent": after.get("percent"),
        "actions": [
            {"action": a.action, "status": a.status, "message": a.message, "result": a.result} for a in actions
        ],
        "postmortem_url": f"{console_url()}/incidents/{event.pk}/postmortem",
    }


def console_url() -> str:
    """As the watcher knows it: `up` chose a port for its processes, of which this command was not told."""
    said: list[str] = [beat.detail["console"] for beat in alive("watch") if "console" in beat.detail]
    return said[0] if said else settings.PUBLIC_URL


@contextmanager
def loop_running(say: Any) -> Iterator[None]:
    """Starts workers and watcher for the drill's time where none are alive, and stops what it started."""
    missing = [role for role in ("worker", "watch") if not alive(role)]
    if not missing:
        yield
        return
    say(f"nothing running: {' and '.join(missing)} start for the time of the drill")
    log: deque[str] = deque(maxlen=50)
    started = Supervisor(
        [Spec(role, manage(role)) for role in missing], lambda name, line: log.append(f"{name}: {line}")
    )
    started.start()
    try:
        yield
    except CommandError as error:
        raise CommandError(f"{error}\nThe last lines of what was started:\n" + "\n".join(log)) from error
    finally:
        started.stop()


def _remove(drill: Drill) -> None:
    try:
        drill.remove()
    except BytePortError as error:
        raise CommandError(str(error)) from error


def _as_exit(*_: Any) -> NoReturn:
    """SIGTERM ends the drill like Ctrl-C: what it made is taken away."""
    raise SystemExit(143)
