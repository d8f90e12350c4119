"""Hosts reached by SSH: `hostctl` is piped to `python3 -` there. Nothing is installed on the host.

The host key has to be in the file of known hosts, and the only key that is offered is the one in the file that was
set: no agent, no key or configuration of the user that BytePort runs as, no password. What goes over the wire as a
command is fixed text and base64.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncssh
import msgspec
from django.conf import settings

from byteport.clients.hosts.annotations import file_remedy, from_file
from byteport.clients.hosts.program import HOSTCTL, PYTHON_NEEDED, decode
from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, Annotations, HostAnswer, HostRequest, Scope
from byteport.core.errors import Permanent, Temporary
from byteport.core.ways import Address, Way

CONNECT_TIMEOUT_S = 10.0  # until the TCP connection stands
LOGIN_TIMEOUT_S = 20.0  # from there to the end of authentication
KEEPALIVE_S = 10.0  # a connection that a firewall has forgotten ends after three of these
CLOSE_TIMEOUT_S = 2.0
CHUNK_BYTES = 65_536
STDERR_BYTES = 65_536
NOT_FOUND = 127  # a shell's exit code for a program that it does not find

HOSTCTL_FROM_STDIN = "python3 -I -S - "
AS_ROOT = "sudo -n -- "


class Output(msgspec.Struct, frozen=True):
    """What the program on the host printed, cut off at a limit, and its exit code (None: it did not come to that)."""

    stdout: bytes
    stderr: bytes
    code: int | None


class SshTransport:
    """One host over SSH; a connection of its own for each call."""

    def __init__(self, host: Address) -> None:
        self._host = host

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        output = asyncio.run(self._run(command_of(request, use_sudo=self._host.use_sudo), timeout_s))
        if len(output.stdout) > MAX_ANSWER_BYTES:
            raise Permanent(
                f"{self._host.name} answered with more than {MAX_ANSWER_BYTES} bytes; it was cut off there."
            )
        why = why_not_run(self._host, output)
        if why:
            raise Permanent(why)
        return decode(output.stdout, output.code, output.stderr)

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        return from_file(self, self._host.name, scope, timeout_s=timeout_s)

    def remedy(self, words: str) -> str:
        return file_remedy(self._host.name, words)

    async def _run(self, command: str, timeout_s: float) -> Output:
        """Raises Temporary or Permanent, and no error of asyncssh or of the network."""
        name = self._host.name
        try:
            async with asyncio.timeout(timeout_s), _connected(self._host) as connection:
                return await _exchange(connection, command)
        except asyncssh.HostKeyNotVerifiable as error:
            raise Permanent(why_not_trusted(self._host)) from error
        except asyncssh.PermissionDenied as error:
            raise Permanent(f"{name} refused the key {key_file(self._host)} for the user {self._host.user}.") from error
        except (asyncssh.KeyExchangeFailed, asyncssh.ProtocolNotSupported) as error:
            raise Permanent(f"{name} offers nothing in SSH that BytePort trusts: {error.reason}") from error
        except ValueError as error:
            raise Permanent(f"{name} cannot be reached as its row says: {error}") from error
        except TimeoutError as error:
            raise Temporary(f"{name} did not answer by SSH within {timeout_s:g} s.") from error
        except (OSError, asyncssh.Error) as error:
            raise Temporary(f"SSH to {name} failed: {error}") from error


def command_of(request: HostRequest, *, use_sudo: bool) -> str:
    """The one command line that goes to a host's shell: fixed words and base64, which no shell reads anything into."""
    encoded = b64encode(msgspec.json.encode(request)).decode()
    return f"{AS_ROOT if use_sudo else ''}{HOSTCTL_FROM_STDIN}{encoded}"


# --- the connection


@asynccontextmanager
async def _connected(host: Address) -> AsyncIterator[asyncssh.SSHClientConnection]:
    connection = await asyncssh.connect(**options_of(host))
    try:
        yield connection
    finally:
        connection.close()
        try:
            await asyncio.wait_for(connection.wait_closed(), CLOSE_TIMEOUT_S)
        except (TimeoutError, OSError, asyncssh.Error):  # nobody is there any more to say good-bye to
            connection.abort()


def options_of(host: Address) -> dict[str, Any]:
    """What asyncssh is told; whatever it would otherwise look for by itself is switched off. Raises Permanent."""
    return {
        "host": host.address,
        "port": host.port,
        "username": host.user,
        "client_keys": [private_key(key_file(host))],
        "known_hosts": known_hosts(known_hosts_file(host)),
        "config": None,
        "agent_path": None,
        "pkcs11_provider": None,
        "preferred_auth": "publickey",
        "password_auth": False,
        "kbdint_auth": False,
        "host_based_auth": False,
        "gss_auth": False,
        "gss_kex": False,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "disable_trivial_auth": True,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "login_timeout": LOGIN_TIMEOUT_S,
        "keepalive_interval": KEEPALIVE_S,
    }


def key_file(host: Address) -> str:
    return host.key_file or str(settings.SSH_IDENTITY)


def known_hosts_file(host: Address) -> str:
    return host.known_hosts_file or str(settings.SSH_KNOWN_HOSTS)


def private_key(path: str) -> asyncssh.SSHKey:
    """Raises Permanent when there is none that can be used without a passphrase."""
    if not path:
        raise Permanent("No private key is set: name its file at the host, or in BYTEPORT_SSH_IDENTITY.")
    try:
        return asyncssh.read_private_key(path)
    except OSError as error:
        raise Permanent(f"The private key {path} cannot be read: {error.strerror}.") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise Permanent(f"{path} is no private key that BytePort can use: {error}") from error


def known_hosts(path: str) -> asyncssh.SSHKnownHosts:
    """Raises Permanent. Without the file no host is trusted."""
    if not path:
        raise Permanent("No known hosts are set: name their file at the host, or in BYTEPORT_SSH_KNOWN_HOSTS.")
    try:
        return asyncssh.read_known_hosts(path)
    except OSError as error:
        raise Permanent(f"The known hosts {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise Permanent(f"{path} is no file of known hosts: {error}") from error


def why_not_trusted(host: Address) -> str:
    """A key that nobody has noted, or one that is not the one noted: the second may be an attack."""
    path = known_hosts_file(host)
    what = f"The host key of {host.name} ({host.address}, port {host.port})"
    if not any(known_hosts(path).match(host.address, "", host.port)[:2]):
        return f"{what} is not in {path}, so it is not trusted."
    return (
        f"{what} is not the one in {path}: the connection was refused."
        " If the host was made anew, replace its line there; if not, somebody may stand between."
    )


# --- the exchange


async def _exchange(connection: asyncssh.SSHClientConnection, command: str) -> Output:
    """Sends the program to the command, and takes what it prints."""
    process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(command, encoding=None)
    feeding = asyncio.create_task(_feed(process.stdin, HOSTCTL.read_bytes()))
    draining = asyncio.create_task(_taken(process.stderr, STDERR_BYTES, go_on=True))
    try:
        stdout = await _taken(process.stdout, MAX_ANSWER_BYTES + 1, go_on=False)
        if len(stdout) > MAX_ANSWER_BYTES:
            return Output(stdout, b"", None)
        stderr = await draining
        await process.wait_closed()
        return Output(stdout, stderr, process.exit_status)
    finally:
        feeding.cancel()
        draining.cancel()
        await asyncio.gather(feeding, draining, return_exceptions=True)


async def _feed(stdin: asyncssh.SSHWriter[bytes], program: bytes) -> None:
    with suppress(OSError):  # it has ended without reading on; its exit code and stderr say why
        stdin.write(program)
        await stdin.drain()
        stdin.write_eof()


async def _taken(reader: asyncssh.SSHReader[bytes], limit_bytes: int, *, go_on: bool) -> bytes:
    """What comes, up to the limit. `go_on`: the rest is read and dropped, so that the writer does not wait for ever."""
    kept = bytearray()
    while chunk := await reader.read(CHUNK_BYTES):
        kept += chunk[: limit_bytes - len(kept)]
        if len(kept) >= limit_bytes and not go_on:
            break
    return bytes(kept)


def why_not_run(host: Address, output: Output) -> str:
    """Why `hostctl` did not even begin, where that is certain; empty where it began or nobody can tell. Pure."""
    said = output.stderr.decode(errors="replace").strip()
    last = said.splitlines()[-1][:500] if said else ""
    if output.stdout.strip() or not output.code:
        return ""
    if output.code == NOT_FOUND or "python3: command not found" in last:
        return f"There is no python3 on {host.name} ({PYTHON_NEEDED})."
    if host.use_sudo and last.startswith("sudo:"):
        return f"sudo on {host.name} did not allow it ({last}). docs/hosts.md has the line for sudoers."
    if last.startswith("SyntaxError"):
        return f"The python3 on {host.name} is too old: it has to be 3.8 or later."
    return ""


WAY = Way(name="ssh", title="SSH", transport=SshTransport, needs=("address", "user"), poll_s=30.0)
