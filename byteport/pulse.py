"""The signs of life of worker and watcher, for an orchestrator that cannot ask them over HTTP.

Each is a file whose time is moved on: `<role>.alive` whenever the process's main loop turns, `<role>.ready`
whenever its heartbeat has also reached the database. A probe looks at its age, without the start of a whole Django:

    python -I -S byteport/pulse.py worker alive

It ends with 0 when the file is fresh, else with 1 and the reason. Stands alone: standard library only.
"""

import os
import sys
import time
from pathlib import Path

FRESH_S = 60.0
SIGNS = ("alive", "ready")


def beat(role: str, sign: str) -> None:
    """Moves the file's time on, in BYTEPORT_PULSE_DIR; without that, nothing. Raises OSError."""
    folder = os.environ.get("BYTEPORT_PULSE_DIR")
    if folder:
        Path(folder, f"{role}.{sign}").touch()


def fault(folder: str, role: str, sign: str, now: float) -> str:
    """Why the sign of life counts as absent; empty while it is fresh. `now` is a Unix time."""
    file = Path(folder, f"{role}.{sign}")
    try:
        age_s = now - file.stat().st_mtime
    except OSError as error:
        return f"{file}: {error.strerror}"
    return f"{file} is {age_s:.0f} s old, more than {FRESH_S:g} s" if age_s > FRESH_S else ""


def main(arguments: list[str]) -> int:
    folder = os.environ.get("BYTEPORT_PULSE_DIR")
    if len(arguments) != 2 or arguments[1] not in SIGNS or not folder:
        print(f"usage: BYTEPORT_PULSE_DIR=/folder pulse.py ROLE {'|'.join(SIGNS)}", file=sys.stderr)  # noqa: T201
        return 2
    role, sign = arguments
    found = fault(folder, role, sign, time.time())
    if found:
        print(found, file=sys.stderr)  # noqa: T201 (this is a program, too)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
