"""Where workers die: each at the first boundary that it comes to and at which none has died before."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from django.conf import settings

from runbooks.models import AgentAction
from signals.models import SignalEvent
from tests.crash.worker import Executioner

ACTED = "an action was carried out, and its row not yet completed"


class Deaths(Executioner):
    """Kills its own process where nobody has died yet. That is kept in a file, since who dies there cannot tell.

    A place is a line of the program with what has called it, how often a task has come by there, and how far the
    incident had got when the task was taken: so the same line is another place in another stage, in another step, and
    on the way of who takes over.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(None, None, frugal=True)
        file.touch()
        self._file = file
        self._moment = ""
        self._passed: Counter[str] = Counter()

    def places(self) -> list[str]:
        return self._file.read_text().splitlines()

    def look(self, event_id: int) -> str:
        """Before each task: notes how far the incident has got. Returns its status."""
        status = SignalEvent.objects.values_list("status", flat=True).get(pk=event_id)
        steps = AgentAction.objects.filter(event_id=event_id).order_by("pk").values_list("step", "status")
        self._moment = " ".join([status, *(f"{step}={how}" for step, how in steps)])
        self._passed.clear()
        return str(status)

    def boundary(self) -> None:
        where = " < ".join([*([ACTED] if self.acted else []), *lines(sys._getframe(1))])
        self._passed[where] += 1
        place = f"{self._moment} | {where} | {self._passed[where]}"
        if place not in self.places():
            with self._file.open("a") as file:
                file.write(f"{place}\n")
            os.kill(os.getpid(), signal.SIGKILL)


def lines(frame: FrameType | None) -> Iterator[str]:
    """The lines of BytePort itself, without its tests, on which the frame and its callers are."""
    base = f"{settings.BASE_DIR}/"
    while frame is not None:
        name = frame.f_code.co_filename.removeprefix(base)
        if not name.startswith(("/", "tests/", ".venv/")):
            yield f"{name}:{frame.f_lineno}"
        frame = frame.f_back
