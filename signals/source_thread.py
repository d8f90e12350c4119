"""The thread that looks after one source until it is told to stop (see `signals.polling`)."""

import threading

from django.db import connection


class SourceThread(threading.Thread):
    """Takes turn after turn. Each kind says what a turn is."""

    def __init__(self, slug: str) -> None:
        super().__init__(name=f"{type(self).__name__.lower()}-{slug}", daemon=True)
        self.slug = slug
        self.stop_asked = threading.Event()

    def stop(self) -> None:
        self.stop_asked.set()

    def run(self) -> None:
        faults = 0
        while not self.stop_asked.is_set():
            pause_s, faults = self.turn(faults)
            self.stop_asked.wait(pause_s)
        connection.close()

    def turn(self, faults: int) -> tuple[float, int]:
        """After so many faults in a row. Returns the seconds until the next turn, and the faults in a row now."""
        raise NotImplementedError
