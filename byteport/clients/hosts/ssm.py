"""EC2 instances through AWS Systems Manager: `hostctl` travels inside of a Run Command (AWS-RunShellScript).

Only on instances that carry the tag `byteport.io/auto-remediate`, which is read live before each command and is also
where their opt-in stands. Program and request are base64 in one line of fixed text. SSM keeps 24,000 characters of what
a command prints, so that `hostctl` is asked for an answer that is packed to fit.

https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html, API_GetCommandInvocation.html
"""

import binascii
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from shlex import quote
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from byteport.clients import aws
from byteport.clients.hosts.annotations import OPT_IN, opt_in_words
from byteport.clients.hosts.program import HOSTCTL, PYTHON_NEEDED, decode, may_have_happened
from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, Annotations, HostAnswer, HostRequest, Scope
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.core.ways import Address, Way

DOCUMENT = "AWS-RunShellScript"
COMMAND_CHARS = 60_000  # SSM's limit for a document with its parameters is 64 KB
DELIVERY_S = 30  # the least that SSM allows; after that the command is not begun any more
DELIVERY_PATIENCE_S = DELIVERY_S + 3.0  # long enough to hear that from SSM itself
PAUSES_S = (0.3, 0.5, 1.0, 1.5, 2.0)  # between looks at how a command goes; the last again and again
OUTPUT_CHARS = 24_000  # what SSM keeps of stdout
NOT_FOUND = 127

# The program is the first argument, the request the second; `packed` bounds the answer.
LOADER = "import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))"
UNDER_WAY = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})


class Invocation(msgspec.Struct, frozen=True):
    """How one command stands on one instance."""

    status: str
    details: str = ""
    code: int = -1
    stdout: str = ""
    stderr: str = ""


NOT_THERE_YET = Invocation("Pending")


class SsmTransport:
    """One EC2 instance."""

    def __init__(self, host: Address) -> None:
        self._host = host
        self._where = (host.region, host.role_arn)

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        """Raises Permanent also for an instance without the tag: nothing is run there, not even what only reads."""
        if not self.annotations(request.scope, timeout_s=timeout_s).present:
            raise Permanent(
                f"{self._host.instance_id} does not carry the tag {OPT_IN}, so BytePort runs nothing there."
                f" To allow it: {self.remedy('disk')}"
            )
        command_id = self._send(request, timeout_s)
        try:
            with may_have_happened():
                found = self._wait(command_id, timeout_s + DELIVERY_PATIENCE_S)
        except BytePortError:
            self._cancel(command_id)
            raise
        return answer_of(self._host, found)

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        filters = [{"Name": "resource-id", "Values": [self._host.instance_id]}, {"Name": "key", "Values": [OPT_IN]}]
        with aws.own_errors(f"tags of {self._host.instance_id}"):
            tags = aws.client("ec2", *self._where).describe_tags(Filters=filters)["Tags"]
        value = next((tag["Value"] for tag in tags), "")
        where = f"the tag {OPT_IN} of {self._host.instance_id}"
        return Annotations(words=opt_in_words(value), present=bool(tags), where=where)

    def remedy(self, words: str) -> str:
        tag = f"Key={OPT_IN},Value={quote(words)}" if "," not in words else f'Key={OPT_IN},Value="{words}"'
        return f"aws ec2 create-tags --resources {quote(self._host.instance_id)} --tags {quote(tag)}"

    def _send(self, request: HostRequest, timeout_s: float) -> str:
        parameters = {"commands": [command_of(request)], "executionTimeout": [str(ceil(timeout_s))]}
        with aws.own_errors(f"command to {self._host.instance_id}"):
            sent = aws.client("ssm", *self._where).send_command(
                InstanceIds=[self._host.instance_id],
                DocumentName=DOCUMENT,
                Parameters=parameters,
                TimeoutSeconds=DELIVERY_S,
                Comment=f"BytePort: {request.verb[:60]}",
            )
        return str(sent["Command"]["CommandId"])

    def _wait(self, command_id: str, patience_s: float) -> Invocation:
        """How it ended. Raises Temporary when it has not, in time."""
        until = time.monotonic() + patience_s
        for pause_s in pauses():
            time.sleep(pause_s)
            found = self._look(command_id)
            if found.status not in UNDER_WAY:
                return found
            if time.monotonic() > until:
                break
        raise Temporary(f"{self._host.instance_id}: the command is still {found.status} after {patience_s:g} s.")

    def _look(self, command_id: str) -> Invocation:
        with aws.own_errors(f"command on {self._host.instance_id}"):
            ssm = aws.client("ssm", *self._where)
            try:
                found = ssm.get_command_invocation(CommandId=command_id, InstanceId=self._host.instance_id)
            except ClientError as error:
                if aws.code_of(error) == "InvocationDoesNotExist":  # SSM has it only a moment after it took it
                    return NOT_THERE_YET
                raise
        return invocation_of(found)

    def _cancel(self, command_id: str) -> None:
        """So that it does not begin when nobody waits any more. If it has, its journal tells what came of it."""
        try:
            with aws.own_errors("cancel"):
                aws.client("ssm", *self._where).cancel_command(
                    CommandId=command_id, InstanceIds=[self._host.instance_id]
                )
        except BytePortError:
            pass  # the reason for which it is given up is the one to tell


def pauses() -> Iterator[float]:
    yield from PAUSES_S
    while True:
        yield PAUSES_S[-1]


def invocation_of(found: dict[str, Any]) -> Invocation:
    return Invocation(
        status=found["Status"],
        details=found.get("StatusDetails", ""),
        code=found.get("ResponseCode", -1),
        stdout=found.get("StandardOutputContent", ""),
        stderr=found.get("StandardErrorContent", ""),
    )


def command_of(request: HostRequest) -> str:
    """The one line of shell that runs on the instance: fixed words and base64, which no shell reads anything into."""
    encoded = b64encode(msgspec.json.encode(request)).decode()
    command = f"exec python3 -I -S -c '{LOADER}' {_program()} {encoded} packed"
    if len(command) > COMMAND_CHARS:
        raise Permanent(f"The command for SSM has {len(command)} characters; it takes {COMMAND_CHARS}.")
    return command


@lru_cache(maxsize=1)
def _program() -> str:
    return b64encode(zlib.compress(HOSTCTL.read_bytes(), 9)).decode()


def answer_of(host: Address, found: Invocation) -> HostAnswer:
    """What `hostctl` answered. Raises Permanent where it certainly did not begin, Temporary where nobody can tell."""
    name = host.instance_id
    if found.status == "TimedOut" and found.details.replace(" ", "") == "DeliveryTimedOut":
        raise Temporary(f"{name} did not take the command within {DELIVERY_S} s: its SSM agent is offline.", delay_s=30)
    if found.status not in ("Success", "Failed"):
        raise Temporary(f"{name}: the command ended as {found.details or found.status}.")
    if found.code == NOT_FOUND and not found.stdout.strip():
        raise Permanent(f"There is no python3 on {name} ({PYTHON_NEEDED}).")
    if len(found.stdout) >= OUTPUT_CHARS:
        raise Temporary(f"{name}: SSM has cut the answer off at {OUTPUT_CHARS} characters.")
    return decode(unpacked(found.stdout), found.code, found.stderr.encode())


def unpacked(stdout: str) -> bytes:
    """The last line that was printed, unpacked; as it came where it is not packed. Bounded, whatever is in it."""
    packed = stdout.rstrip().rpartition("\n")[2].encode()
    try:
        plain = zlib.decompressobj().decompress(b64decode(packed, validate=True), MAX_ANSWER_BYTES + 1)
    except (binascii.Error, ValueError, zlib.error):
        return packed
    if len(plain) > MAX_ANSWER_BYTES:
        raise Permanent(f"hostctl answered with more than {MAX_ANSWER_BYTES} bytes")
    return plain


WAY = Way(name="ssm", title="AWS Systems Manager", transport=SsmTransport, needs=("instance_id",), poll_s=60.0)
