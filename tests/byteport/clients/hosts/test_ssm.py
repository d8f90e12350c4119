"""EC2 instances through SSM. Real: boto3 over HTTP to moto's server, the shell that runs the command, `hostctl` in it,
the files and the file system that it works on, PostgreSQL and the loop.

Not real: AWS is moto; the agent is tests/aws.py, which runs the commands on a machine of the tests' own; `journalctl`
is a stand-in there.
"""

import json
import os
import re
import shlex
import subprocess
import threading
import zlib
from base64 import b64encode
from contextlib import contextmanager
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from django.conf import settings
from moto.core.authorization import enable_iam_authentication
from moto.core.exceptions import ServiceException
from moto.ssm import models as ssm_models

from byteport.clients import aws as client
from byteport.clients.hosts import ssm
from byteport.clients.hosts.protocol import HostRequest, Scope
from byteport.clients.hosts.ssm import SsmTransport, command_of
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.core.outcome import Result
from byteport.core.resource import ResourceRef
from byteport.core.ways import Address
from byteport.models import Host
from runbooks.action import ACTIONS, ActionCall, ProbeState
from signals.models import SignalEvent
from tests import aws, incident
from tests.machine import Machine, needs_loop, needs_machine, old_file, wait_for

pytestmark = pytest.mark.proof

PATIENCE_S = 60  # against hanging; no measure of speed
FACTS = HostRequest(verb="facts")


@pytest.fixture(scope="module", autouse=True)
def _moto():
    with aws.server():
        yield


@pytest.fixture(autouse=True)
def _empty():
    yield
    aws.reset()


@pytest.fixture
def machine():
    made = Machine("i")
    yield made
    made.stop()


def transport(instance_id, **changes):
    return SsmTransport(Address(name="web-1", way="ssm", instance_id=instance_id, region=aws.REGION, **changes))


def ask(instance_id, request=FACTS, *, timeout_s=PATIENCE_S, **changes):
    return transport(instance_id, **changes).run(request, timeout_s=timeout_s)


# --- what an instance answers


@needs_machine
def test_an_instance_answers(machine):
    instance_id = aws.instance(tag="disk")
    with aws.agent(instance_id, machine):
        answer = ask(instance_id)
        assert answer.result["uid"] == 0
        machine.opt_in("memory")  # a file means nothing where there is a tag
        found = transport(instance_id).annotations(Scope("host"), timeout_s=PATIENCE_S)
    assert found.words == ("disk",)
    assert found.where == f"the tag byteport.io/auto-remediate of {instance_id}"


def test_nothing_is_sent_to_an_instance_without_the_tag_not_even_to_look():
    with pytest.raises(Permanent, match="does not carry the tag"):
        ask(aws.instance())
    with pytest.raises(Permanent, match="does not carry the tag"):
        ask("i-00000000000000000")
    assert aws.commands() == []


@pytest.mark.parametrize(
    ("value", "words"), [("", ()), ("off", ()), ("disk,off", ()), ("Disk, memory", ("disk", "memory"))]
)
def test_the_opt_in_is_the_tags_value(value, words):
    found = transport(aws.instance(tag=value)).annotations(Scope("host"), timeout_s=PATIENCE_S)
    assert (found.words, found.present) == (words, True)


def test_the_remedy_is_a_command_whose_words_are_quoted():
    instance_id = aws.instance()
    words = shlex.split(transport(instance_id).remedy("memory,disk"))
    assert words[:5] == ["aws", "ec2", "create-tags", "--resources", instance_id]
    assert words[5:] == ["--tags", 'Key=byteport.io/auto-remediate,Value="memory,disk"']


# --- what travels


def test_no_request_can_bring_anything_into_the_shell():
    hostile = "'; touch /tmp/owned; $(reboot) \n `id` \\ \" ü"
    request = HostRequest(verb=hostile, scope=Scope("drill", hostile), action_id=hostile, args={hostile: hostile})
    words = shlex.split(command_of(request))
    assert words[:6] == ["exec", "python3", "-I", "-S", "-c", ssm.LOADER]
    assert len(words) == 9
    assert words[8] == "packed"
    assert "\n" not in command_of(request)
    done = subprocess.run(["/bin/sh", "-c", command_of(request)], capture_output=True, check=False, timeout=PATIENCE_S)
    assert b"refused" in ssm.unpacked(done.stdout.decode())


def test_the_program_fits_into_a_command_with_the_largest_request():
    """SSM takes 64 KB with everything in it."""
    request = HostRequest(verb="restartable", action_id="x" * 80, args={"consumers": ["y" * 300] * 5})
    assert len(command_of(request)) <= ssm.COMMAND_CHARS
    with pytest.raises(Permanent, match="takes 60000"):
        command_of(HostRequest(verb="facts", args={"x": os.urandom(30_000).hex()}))


# --- agents and commands that fail


def test_an_agent_that_is_offline_is_told():
    instance_id = aws.instance(tag="disk")

    def give_up():
        wait_for(aws.invocations)
        aws.invocations()[0].update(Status="TimedOut", StatusDetails="Delivery Timed Out")

    service = threading.Thread(target=give_up)
    service.start()
    with pytest.raises(Temporary, match="its SSM agent is offline"):
        ask(instance_id)
    service.join()


def test_a_command_that_nobody_takes_is_cancelled_so_that_it_does_not_begin_later(monkeypatch):
    monkeypatch.setattr(ssm, "DELIVERY_PATIENCE_S", 0)
    instance_id = aws.instance(tag="disk")
    with pytest.raises(Temporary, match="still Pending"):
        ask(instance_id, timeout_s=0.5)
    assert [one["Status"] for one in aws.invocations()] == ["Cancelled"]


def test_an_instance_that_ssm_does_not_know_is_told(monkeypatch):
    class InvalidInstanceId(ServiceException):
        code = "InvalidInstanceId"

    def refuse(*args, **kwargs):
        raise InvalidInstanceId("Instances not in a valid state for account")

    monkeypatch.setattr(ssm_models.SimpleSystemManagerBackend, "send_command", refuse)
    with pytest.raises(Permanent, match="InvalidInstanceId: Instances not in a valid state"):
        ask(aws.instance(tag="disk"))


@pytest.fixture
def _anew():
    """Clients of this test's own: none that another test has made, none for another test."""
    client.forget()
    yield
    client.forget()


@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize("call", ["send_command", "get_command_invocation"])
def test_being_throttled_passes(call, monkeypatch):
    class Throttled(ServiceException):
        code = "ThrottlingException"

    def refuse(*args, **kwargs):
        raise Throttled("Rate exceeded")

    instance_id = aws.instance(tag="disk")
    monkeypatch.setattr(client, "CONFIG", Config(retries={"max_attempts": 1}))  # boto3 would wait some seconds itself
    monkeypatch.setattr(ssm_models.SimpleSystemManagerBackend, call, refuse)
    with pytest.raises(Temporary, match="Rate exceeded") as caught:
        ask(instance_id)
    assert caught.value.delay_s >= 20


@pytest.mark.usefixtures("_anew")
def test_an_unreachable_api_passes(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Temporary, match="Could not connect"):
        transport("i-1").annotations(Scope("host"), timeout_s=PATIENCE_S)


@pytest.mark.usefixtures("_anew")
def test_missing_credentials_need_a_person(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(Permanent, match="credentials"):
        transport("i-1").annotations(Scope("host"), timeout_s=PATIENCE_S)


@needs_machine
def test_a_command_that_takes_too_long_is_given_up(machine):
    machine.program("python3", "exec sleep 20")
    instance_id = aws.instance(tag="disk")
    with aws.agent(instance_id, machine), pytest.raises(Temporary, match="Execution Timed Out"):
        ask(instance_id, timeout_s=1)


@needs_machine
def test_output_that_ssm_has_cut_off_is_not_taken_for_an_answer(machine):
    machine.program("python3", "yes | head -c 50000")
    instance_id = aws.instance(tag="disk")
    with aws.agent(instance_id, machine), pytest.raises(Temporary, match="cut the answer off at 24000"):
        ask(instance_id)


@needs_machine
def test_a_host_without_python_is_told(machine):
    machine.program("python3", "echo 'sh: python3: not found' >&2; exit 127")
    instance_id = aws.instance(tag="disk")
    with aws.agent(instance_id, machine), pytest.raises(Permanent, match="no python3 on i-"):
        ask(instance_id)


@needs_machine
def test_an_answer_far_larger_than_ssm_keeps_still_arrives(machine):
    """Thousands of folders with names that hardly compress: the lists are cut, and say so."""
    instance_id = aws.instance(tag="disk")
    machine.without_journal()
    for number in range(10):
        old_file(machine.base / "var/log" / os.urandom(100).hex() / f"{os.urandom(100).hex()}.gz", 9)
        old_file(machine.base / "tmp" / os.urandom(100).hex() / f"{number}-{os.urandom(100).hex()}", 9)
    with aws.agent(instance_id, machine):
        answer = ask(instance_id, HostRequest(verb="survey"))
    assert answer.status == "done"
    assert answer.result["rotated_logs"]["found"]["files"] == 10
    assert len(aws.invocations()[-1]["StandardOutputContent"]) < aws.STDOUT_CHARS


def test_a_bomb_in_an_answer_is_refused():
    bomb = b64encode(zlib.compress(b"x" * 50_000_000)).decode()
    with pytest.raises(Permanent, match="more than 1048576 bytes"):
        ssm.unpacked(bomb)


# --- roles


@needs_machine
def test_an_instance_in_another_account_is_reached_by_a_role(machine):
    role, account = "arn:aws:iam::222222222222:role/byteport", "222222222222"
    assumed = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    session = boto3.Session(assumed["AccessKeyId"], assumed["SecretAccessKey"], assumed["SessionToken"])
    instance_id = aws.instance(tag="disk", session=session)
    with aws.agent(instance_id, machine, account):
        assert ask(instance_id, role_arn=role).status == "done"
    with pytest.raises(Permanent, match="does not carry the tag"):
        ask(instance_id)


# --- rights


def policy_in_the_docs() -> dict:
    page = (settings.BASE_DIR / "docs/hosts.md").read_text(encoding="utf-8")
    return json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL).group(1))


ACTIONS_ALLOWED = [action for statement in policy_in_the_docs()["Statement"] for action in statement["Action"]]


@contextmanager
def allowed(monkeypatch, actions):
    """A user of AWS' who may do these and nothing else. (moto judges actions, not on what nor on which condition.)"""
    iam = boto3.client("iam")
    iam.create_user(UserName="byteport")
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    iam.put_user_policy(UserName="byteport", PolicyName="byteport", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName="byteport")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    client.forget()
    with enable_iam_authentication():
        yield


@needs_machine
@pytest.mark.usefixtures("_anew")
def test_the_policy_in_the_docs_is_enough(machine, monkeypatch):
    instance_id = aws.instance(tag="disk")
    with aws.agent(instance_id, machine), allowed(monkeypatch, ACTIONS_ALLOWED):
        assert ask(instance_id).status == "done"
        monkeypatch.setattr(ssm, "DELIVERY_PATIENCE_S", -PATIENCE_S)  # it is given up at once, and cancelled
        machine.program("python3", "exec sleep 2")
        with pytest.raises(Temporary, match="still InProgress"):
            ask(instance_id)


@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize("missing", sorted(set(ACTIONS_ALLOWED) - {"ssm:CancelCommand"}))
def test_a_right_that_is_missing_is_named(missing, monkeypatch):
    """Without ssm:CancelCommand a command that nobody took would end by its own time limit."""
    instance_id = aws.instance(tag="disk")
    others = [action for action in ACTIONS_ALLOWED if action != missing]
    with (
        allowed(monkeypatch, others),
        pytest.raises(BytePortError, match=f"not authorized to perform: {missing}") as told,
    ):
        ask(instance_id)
    sent = missing == "ssm:GetCommandInvocation"
    assert isinstance(told.value, Temporary if sent else Permanent), "what was sent may have been done"


# --- changes, and the whole loop


def row(instance_id):
    return Host.objects.create(name=instance_id, way="ssm", instance_id=instance_id, region=aws.REGION)


@needs_machine
@pytest.mark.django_db
def test_a_change_whose_answer_was_lost_is_found_in_the_hosts_journal_and_not_repeated(machine):
    incident.quick()
    instance_id = aws.instance(tag="disk")
    row(instance_id)
    machine.without_journal()
    old = old_file(machine.base / "var/log/app.log.1.gz", 9)
    call = ActionCall(str(uuid4()), "host.delete_rotated_logs", ResourceRef("host", instance_id, "mount", "/var/log"))
    action, begun_at = ACTIONS["host.delete_rotated_logs"], now()
    lost = machine.program("python3", '/usr/bin/python3 "$@" >/dev/null')
    with aws.agent(instance_id, machine):
        with pytest.raises(Temporary, match="no readable answer"):
            action.execute(call)
        assert not old.exists(), "it was done, and nobody has heard"
        lost.with_name("bin").joinpath("python3").unlink()
        again = old_file(machine.base / "var/log/app.log.1.gz", 9)
        found = action.probe(call, begun_at)
        assert (found.state, found.outcome.result) == (ProbeState.FINISHED, Result.DONE)
        assert action.execute(call) == found.outcome
    assert again.exists(), "the same id does not act twice"


@needs_loop
@pytest.mark.django_db
def test_a_full_disk_is_seen_treated_and_proved_by_ssm():
    machine = Machine("i", disks={"var/log": 20})
    try:
        incident.quick()
        instance_id = aws.instance(tag="memory,disk")
        row(instance_id)
        machine.without_journal()
        machine.fill()
        with aws.agent(instance_id, machine):
            incident.poll()
            event = incident.run(SignalEvent.objects.get(resource=f"host/{instance_id}/mount/%2Fvar%2Flog"))
        assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
        assert {a.action: a.status for a in event.actions.all()}["host.delete_rotated_logs"] == "done"
        assert event.gates.get(gate="opt_in", round=1).reason.startswith("Opted in to `disk` (the tag")
    finally:
        machine.stop()
