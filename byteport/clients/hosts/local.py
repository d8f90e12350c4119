"""The host that BytePort itself runs on: `hostctl` as a child process."""

import subprocess
import sys
from pathlib import Path

import msgspec
from django.conf import settings

from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, HostAnswer, HostRequest
from byteport.core.errors import Permanent, Temporary

HOSTCTL = Path(settings.BASE_DIR) / "runbooks" / "hostctl.py"


class LocalTransport:
    """Runs `hostctl` with this Python, isolated from its environment and packages."""

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(HOSTCTL)],
                input=msgspec.json.encode(request),
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Temporary(f"hostctl {request.verb} did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise Temporary(f"hostctl could not be started: {error.strerror}") from error
        return decode(done.stdout, done.returncode, done.stderr)


def decode(stdout: bytes, code: int, stderr: bytes) -> HostAnswer:
    """The answer in what the program printed. Raises Temporary when there is none: it may have been cut off."""
    if len(stdout) > MAX_ANSWER_BYTES + 1024:
        raise Permanent(f"hostctl answered with more than {MAX_ANSWER_BYTES} bytes")
    try:
        return msgspec.json.decode(stdout, type=HostAnswer)
    except msgspec.DecodeError as error:
        said = stderr.decode(errors="replace").strip()[-500:]
        raise Temporary(f"hostctl ended with {code} and no readable answer: {said or error}") from error
