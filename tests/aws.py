"""AWS at the far end of the wire: moto's server over HTTP. What moto does not do is done here, for real: an agent takes
the commands for its instance and runs them with /bin/sh on a machine of the tests' own (tests/machine.py).
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.backends import get_backend
from moto.core.responses import ActionResult
from moto.ec2.utils import random_ami_id
from moto.server import ThreadedMotoServer
from moto.ssm import models as ssm_models
from moto.ssm import responses as ssm_responses

from byteport.clients import aws
from tests.machine import Machine

REGION, ACCOUNT = "eu-central-1", "123456789012"
STDOUT_CHARS, STDERR_CHARS = 24_000, 8_000  # what SSM keeps (API_GetCommandInvocation)


@contextmanager
def server() -> Iterator[str]:
    """moto, and this process' environment pointing at it. Yields its address. `reset` empties it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from _server(monkeypatch)


def reset() -> None:
    for service in ("ssm", "ec2", "sts", "iam", "cloudwatch"):
        get_backend(service).reset()


def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    begin = ssm_models.Command.invocation_response

    def pending(command, instance_id, plugin_name):
        """moto says that a command has succeeded before anybody ran it."""
        return {**begin(command, instance_id, plugin_name), "Status": "Pending", "StatusDetails": "Pending",
                "ResponseCode": -1}  # fmt: skip

    def cancel_command(response):
        """moto does not know it."""
        asked = json.loads(response.body)
        for invocation in invocations(asked["CommandId"]):
            if invocation["Status"] == "Pending":
                invocation.update(Status="Cancelled", StatusDetails="Cancelled")
        return ActionResult({})

    monkeypatch.setattr(ssm_models.Command, "invocation_response", pending)
    monkeypatch.setattr(ssm_responses.SimpleSystemManagerResponse, "cancel_command", cancel_command, raising=False)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    aws.forget()
    try:
        yield f"http://{host}:{port}"
    finally:
        started.stop()
        reset()
        aws.forget()


def commands(account: str = ACCOUNT) -> list[ssm_models.Command]:
    return list(get_backend("ssm")[account][REGION]._commands)


def invocations(command_id: str = "", account: str = ACCOUNT) -> list[dict]:
    return [one for command in commands(account) for one in command.invocations
            if command_id in ("", command.command_id)]  # fmt: skip


def instance(*, tag: str | None = None, session: boto3.Session | None = None) -> str:
    """A new EC2 instance. `tag`: the value of byteport.io/auto-remediate. Returns its id."""
    ec2 = (session or boto3).client("ec2", region_name=REGION)
    made = ec2.run_instances(ImageId=random_ami_id(), MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    if tag is not None:
        ec2.create_tags(Resources=[made], Tags=[{"Key": "byteport.io/auto-remediate", "Value": tag}])
    return made


class Agent(threading.Thread):
    """The SSM agent on one instance: what it runs, it runs for real."""

    def __init__(self, instance_id: str, machine: Machine, account: str = ACCOUNT) -> None:
        super().__init__(daemon=True)
        self.instance_id, self.machine, self.account = instance_id, machine, account
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            for command in commands(self.account):
                for invocation in command.invocations:
                    if invocation["InstanceId"] == self.instance_id and invocation["Status"] == "Pending":
                        self._carry_out(command, invocation)

    def stop(self) -> None:
        self._stopped.set()
        self.join(10)

    def _carry_out(self, command: ssm_models.Command, invocation: dict) -> None:
        invocation.update(Status="InProgress", StatusDetails="InProgress")
        script = "\n".join(command.parameters["commands"])
        try:
            done = self.machine.run(script, timeout_s=float(command.parameters["executionTimeout"][0]))
        except subprocess.TimeoutExpired:
            invocation.update(Status="TimedOut", StatusDetails="Execution Timed Out")
            return
        status = "Success" if done.returncode == 0 else "Failed"
        invocation.update(
            Status=status, StatusDetails=status, ResponseCode=done.returncode,
            StandardOutputContent=done.stdout[:STDOUT_CHARS], StandardErrorContent=done.stderr[:STDERR_CHARS],
        )  # fmt: skip


@contextmanager
def agent(instance_id: str, machine: Machine, account: str = ACCOUNT) -> Iterator[Agent]:
    started = Agent(instance_id, machine, account)
    started.start()
    try:
        yield started
    finally:
        started.stop()
