"""The host that BytePort itself runs on: `hostctl` as a child process."""

import subprocess
import sys

import msgspec

from byteport.clients.hosts.annotations import file_remedy, from_file
from byteport.clients.hosts.inventory import local_name
from byteport.clients.hosts.program import HOSTCTL, decode
from byteport.clients.hosts.protocol import Annotations, HostAnswer, HostRequest, Scope
from byteport.core.errors import Permanent, Temporary
from byteport.core.ways import Address, Way

# As a module: so its bytecode is kept, and it need not be compiled at every call.
LOADER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hostctl import main; sys.exit(main())"


class LocalTransport:
    """Runs `hostctl` with this Python, isolated from its environment and packages."""

    def __init__(self, host: Address) -> None:
        self._name = host.name

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        if self._name != local_name():  # the process that asks may run on another machine than the one that was meant
            raise Permanent(
                f"{self._name} is reached only by a BytePort that runs on it; this one runs on {local_name()}."
            )
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", LOADER, str(HOSTCTL.parent)],
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

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        return from_file(self, self._name, scope, timeout_s=timeout_s)

    def remedy(self, words: str) -> str:
        return file_remedy(self._name, words)


# No interval of its own: it is looked at whenever the host source is asked.
WAY = Way(name="local", title="Local: BytePort runs on it", transport=LocalTransport, poll_s=0)
