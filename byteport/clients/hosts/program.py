"""The program that goes to hosts, and the answer in what comes back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from django.conf import settings

from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, HostAnswer
from byteport.core.errors import Permanent, Temporary

PYTHON_NEEDED = "Python 3.8 or later is all that BytePort needs there"
HOSTCTL = Path(settings.BASE_DIR) / "runbooks" / "hostctl.py"


def decode(stdout: bytes, code: int | None, stderr: bytes) -> HostAnswer:
    """The answer in what the program printed: its last line, as a host's shell may greet before.

    Raises Temporary when there is none: it may have been cut off.
    """
    if len(stdout) > MAX_ANSWER_BYTES + 1024:
        raise Permanent(f"hostctl answered with more than {MAX_ANSWER_BYTES} bytes")
    try:
        return msgspec.json.decode(stdout.rstrip().rpartition(b"\n")[2], type=HostAnswer)
    except msgspec.DecodeError as error:
        said = stderr.decode(errors="replace").strip()[-500:]
        raise Temporary(f"hostctl ended with {code} and no readable answer: {said or error}") from error


@contextmanager
def may_have_happened() -> Iterator[None]:
    """Once a request is on its way, no error tells that nothing was done: it is looked into, not given up."""
    try:
        yield
    except Permanent as error:
        raise Temporary(str(error)) from error
