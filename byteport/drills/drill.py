"""The contract of a drill. A new one is one file in `byteport/drills/` that defines `DRILL`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from byteport.core.registry import Registry
from byteport.core.resource import ResourceRef

Say = Callable[[str], None]

scale = 1.0  # tests that run a hundred drills make them smaller, and so quicker


def scaled(size: int, *, least: int = 0) -> int:
    return max(int(size * scale), least)


def opt_in(root: Path, word: str) -> None:
    """Opts in what a drill on this host has made, as a person would its host."""
    annotations = root / "etc" / "byteport" / "annotations"
    annotations.parent.mkdir(parents=True)
    annotations.write_text(f"byteport.io/auto-remediate: {word}\n")
    annotations.chmod(0o644)


@runtime_checkable
class Drill(Protocol):
    """Makes a trouble, and takes it away again."""

    name: str  # the signal that it provokes
    title: str
    platform: str  # where: "host", "kubernetes"

    def prepare(self, say: Say) -> ResourceRef:
        """Makes the trouble and opts it in. Raises Permanent with the remedy when it cannot."""

    def figures(self) -> dict[str, Any]:
        """The trouble measured now, e.g. {"percent": 91.2}; the names are shown to people."""

    def remove(self) -> None:
        """Takes away everything that `prepare` made, however far it came. Safe to call twice.

        Raises Permanent with what is left, and how to take it away.
        """


DRILLS: Registry[Drill] = Registry(package="byteport.drills", attribute="DRILL", group="byteport.drills")
