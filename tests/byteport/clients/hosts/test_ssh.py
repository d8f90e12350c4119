"""Hosts by SSH. Real: several sshds (Debian's) with keys of their own, asyncssh, the program that is piped to python3,
its journal of actions, the files and the file system that it works on, PostgreSQL and the loop.

Not real: `journalctl` is a stand-in on the hosts' PATH, and so is python3 where a test says so. (tests/sshd.py)
"""

import os
import shutil
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import asyncssh
import pytest
from django.conf import settings

from byteport.clients.hosts.protocol import MAX_ANSWER_BYTES, HostRequest, Scope
from byteport.clients.hosts.ssh import SshTransport, command_of
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from byteport.core.outcome import Result
from byteport.core.resource import ResourceRef
from byteport.core.ways import Address
from byteport.models import Host
from runbooks.action import ACTIONS, ActionCall, ProbeState
from signals.models import SignalEvent
from signals.source import SourceConfig
from signals.sources.host import HostSource
from tests import incident
from tests.machine import needs_loop, old_file, wait_for
from tests.sshd import Sshd, needs_sshd, running

pytestmark = needs_sshd
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
PATIENCE_S = 30  # against hanging; no measure of speed
FACTS = HostRequest(verb="facts")


@pytest.fixture(scope="module")
def hosts():
    """Two that are well."""
    with running("web-1", "web-2") as started:
        yield started


def address(host: Sshd, **changes) -> Address:
    return Address(**{**host.row(), **changes})


def ask(host: Sshd, request=FACTS, *, timeout_s=PATIENCE_S, **changes):
    return SshTransport(address(host, **changes)).run(request, timeout_s=timeout_s)


# --- what a host answers


def test_each_host_answers_for_itself(hosts):
    for host, words in zip(hosts, ("disk", "memory"), strict=True):
        host.opt_in(words)
    for host, words in zip(hosts, ("disk", "memory"), strict=True):
        found = SshTransport(address(host)).annotations(Scope("host"), timeout_s=PATIENCE_S)
        assert found.words == (words,)
        assert found.where == f"/etc/byteport/annotations of {host.name}"


def test_no_request_can_bring_anything_into_the_hosts_shell():
    hostile = "'; touch /tmp/owned; $(reboot) \n `id` -rf \\ \" ü"
    request = HostRequest(verb=hostile, scope=Scope("drill", hostile), action_id=hostile, args={hostile: hostile})
    for use_sudo, words in ((False, 5), (True, 8)):
        command = command_of(request, use_sudo=use_sudo)
        assert len(command.split(" ")) == words
        assert set(command.split(" ")[-1]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def test_a_hostile_request_is_refused_by_the_host_and_harms_nothing(hosts):
    answer = ask(hosts[0], HostRequest(verb="$(touch /tmp/owned)", args={"x'\n": "`id`"}))
    assert answer.status == "refused"
    assert not (hosts[0].base / "tmp/owned").exists()


def test_a_host_whose_shell_greets_is_understood(hosts):
    talking = hosts[0].base / "greeting"
    talking.mkdir(exist_ok=True)
    (talking / "python3").write_text(
        f'#!/bin/sh\necho "Welcome!"\ntouch {talking}/called\nexec /usr/bin/python3 "$@"\n'
    )
    (talking / "python3").chmod(0o755)
    with running("talker", path=f"{talking}:/usr/bin:/bin") as [talker]:
        assert ask(talker).status == "done"
        assert (talking / "called").exists()


# --- whom it trusts, and who trusts it


def test_a_host_key_that_has_changed_is_refused_and_said_so():
    with running("web-1") as [host]:
        assert ask(host).status == "done"
        host.change_host_key()
        with pytest.raises(Permanent, match=r"is not the one in .*known_hosts.*somebody may stand between"):
            ask(host)
        assert "Accepted" not in host.log


def test_a_host_key_that_nobody_has_noted_is_not_trusted(hosts, tmp_path):
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(Permanent, match=r"is not in .*known_hosts, so it is not trusted"):
        ask(hosts[0], known_hosts_file=str(tmp_path / "known_hosts"))


def test_a_key_that_the_host_does_not_take_is_told(hosts, tmp_path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    with pytest.raises(Permanent, match=f"refused the key {tmp_path}/other for the user root"):
        ask(hosts[0], key_file=str(tmp_path / "other"))


def test_neither_the_agent_nor_the_users_own_keys_nor_configuration_are_used(hosts, tmp_path, monkeypatch):
    """All that is right lies in the user's home; the row names a key that the host refuses."""
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(hosts[0].key_file.read_bytes())
    (home / "known_hosts").write_bytes(hosts[0].known_hosts_file.read_bytes())
    (home / "config").write_text(f"Host *\n  IdentityFile {hosts[0].key_file}\n  StrictHostKeyChecking no\n")
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    monkeypatch.setenv("HOME", str(home.parent))
    with pytest.raises(Permanent, match="refused the key"):
        ask(hosts[0], key_file=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key_file": ""}, "No private key is set"),
        ({"key_file": "/nowhere/key"}, "/nowhere/key cannot be read: No such file"),
        ({"key_file": "/etc/hostname"}, "is no private key that BytePort can use"),
        ({"known_hosts_file": ""}, "No known hosts are set"),
        ({"known_hosts_file": "/nowhere/known"}, "/nowhere/known cannot be read"),
        ({"address": "a..b"}, "cannot be reached as its row says"),
    ],
)
def test_a_row_that_cannot_work_says_why(hosts, changes, why):
    with pytest.raises(Permanent, match=why):
        ask(hosts[0], **changes)


@pytest.mark.parametrize("name", ["-oProxyCommand=touch /tmp/owned", "$(id)", "a b", "x\ny", "'\""])
@pytest.mark.parametrize("field", ["address", "user"])
def test_a_hostile_address_or_user_is_only_ever_a_name(hosts, field, name, tmp_path):
    with pytest.raises((Permanent, Temporary)):
        ask(hosts[0], **{field: name})


# --- hosts that are slow, cut off or broken


def test_a_host_that_takes_the_connection_and_says_nothing_is_given_up():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with running("web-1") as [host], pytest.raises(Temporary, match=r"within 0\.5 s"):
            ask(host, port=mute.getsockname()[1], timeout_s=0.5)


def test_a_host_that_refuses_the_connection_may_be_well_again_later(hosts):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(Temporary, match="SSH to web-1 failed"):
            ask(hosts[0], port=nobody.getsockname()[1])


@contextmanager
def host_with_python(script: str):
    """A host whose python3 is a script."""
    with running("odd", path="/var/lib/byteport-agent:/usr/bin:/bin") as [host]:
        (host.base / "var/lib/byteport-agent/python3").write_text(f"#!/bin/sh\n{script}\n")
        (host.base / "var/lib/byteport-agent/python3").chmod(0o755)
        yield host


def test_a_host_that_takes_too_long_is_given_up():
    with host_with_python("exec sleep 20") as host, pytest.raises(Temporary, match=r"within 1\.5 s"):
        ask(host, timeout_s=1.5)


def test_an_answer_that_is_too_big_is_cut_off():
    with (
        host_with_python("cat >/dev/null; yes | head -c 50000000") as host,
        pytest.raises(Permanent, match=f"more than {MAX_ANSWER_BYTES} bytes"),
    ):
        ask(host)


def test_a_flood_of_errors_does_not_hold_up_the_answer():
    script = 'yes e | head -c 5000000 >&2; exec /usr/bin/python3 "$@"'
    with host_with_python(script) as host:
        assert ask(host).status == "done"


def test_a_host_without_python_is_told():
    with running("bare", path="/nowhere") as [host], pytest.raises(Permanent, match="no python3 on bare"):
        ask(host)


def test_a_python_that_is_too_old_is_told():
    script = "cat >/dev/null; echo 'SyntaxError: invalid syntax' >&2; exit 1"
    with host_with_python(script) as host, pytest.raises(Permanent, match="too old"):
        ask(host)


def sudoers_line() -> str:
    page = (settings.BASE_DIR / "docs/hosts.md").read_text(encoding="utf-8")
    return next(line for line in page.splitlines() if line.startswith("byteport ALL="))


@pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed")
def test_the_line_for_sudoers_in_the_docs_is_enough_to_work_as_root():
    with running("web-1", sudoers=sudoers_line()) as [host]:
        assert ask(host).result["uid"] == 0
        assert ask(host, use_sudo=False).result["uid"] == 4711


@pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed")
def test_sudo_that_allows_something_else_is_told():
    refused = pytest.raises(Permanent, match=r"did not allow it \(sudo: .*docs/hosts")
    with running("web-1", sudoers="byteport ALL=(root) NOPASSWD: /usr/bin/true") as [host], refused:
        ask(host)


def test_sudo_that_asks_for_a_password_is_told():
    with running("web-1", path="/var/lib/byteport-agent:/usr/bin:/bin") as [host]:
        sudo = host.base / "var/lib/byteport-agent/sudo"
        sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && echo "sudo: a password is required" >&2\nexit 1\n')
        sudo.chmod(0o755)
        with pytest.raises(Permanent, match=r"a password is required.*docs/hosts"):
            ask(host, use_sudo=True)


# --- changes


def call_for(host: Sshd, action: str) -> ActionCall:
    return ActionCall(str(uuid4()), action, ResourceRef("host", host.name, "mount", "/var/log"))


@pytest.mark.django_db
def test_a_connection_that_is_cut_in_mid_action_repeats_nothing():
    """The sshd is killed while journalctl runs; it goes on without us, and the probe finds out how it ended."""
    incident.quick()
    with running("web-1") as [host]:
        Host.objects.create(**host.row())
        host.opt_in("disk")
        gate = host.base / "gate"
        os.mkfifo(gate)
        noted = host.program(
            "journalctl",
            f'case "$1" in --vacuum*) read -r _ < {gate}; echo "freed 8.0M of archived" ;;'
            ' *) echo "Archived and active journals take up 80.0M in the file system." ;; esac',
        )
        call, action = call_for(host, "host.journal_vacuum"), ACTIONS["host.journal_vacuum"]
        begun_at = now()

        def cut() -> None:
            wait_for(lambda: noted.exists() and "--vacuum" in noted.read_text())
            host.cut_connections()

        cutting = threading.Thread(target=cut)
        cutting.start()
        with pytest.raises(Temporary):
            action.execute(call)
        cutting.join(PATIENCE_S)
        assert action.probe(call, begun_at).state is ProbeState.RUNNING
        with pytest.raises(Temporary, match="begun under this id already"):
            action.execute(call)
        gate.write_text("go\n")
        wait_for(lambda: action.probe(call, begun_at).state is ProbeState.FINISHED)
        found = action.probe(call, begun_at)
        assert found.outcome is not None
        assert found.outcome.result is Result.DONE
        assert action.execute(call) == found.outcome, "the same id again gets the recorded answer"
        assert noted.read_text().count("--vacuum") == 1


@pytest.mark.django_db
def test_a_connection_that_is_cut_before_anything_began_leaves_it_to_be_done():
    incident.quick()
    with running("web-1") as [host]:
        Host.objects.create(**host.row())
        host.opt_in("disk")
        old = old_file(host.base / "var/log/app.log.1.gz", days=9)
        call, action = call_for(host, "host.delete_rotated_logs"), ACTIONS["host.delete_rotated_logs"]
        Host.objects.update(port=1)  # nobody listens there
        begun_at = now()
        with pytest.raises(Temporary, match="SSH to web-1 failed"):
            action.execute(call)
        Host.objects.update(port=host.port)
        assert action.probe(call, begun_at).state is ProbeState.ABSENT
        assert action.probe(call, datetime(2000, 1, 1, tzinfo=UTC)).state is ProbeState.UNKNOWN, (
            "it was restarted since"
        )
        assert action.execute(call).result is Result.DONE
        assert not old.exists()


# --- the whole loop


@pytest.fixture
def full_host():
    """A host whose /var/log is a small file system of its own."""
    with running("web-1", disks={"var/log": 20}) as [host]:
        host.without_journal()
        Host.objects.create(**host.row())
        yield host


def only_event() -> SignalEvent:
    return SignalEvent.objects.get(resource="host/web-1/mount/%2Fvar%2Flog")


@needs_loop
@pytest.mark.django_db
def test_a_full_disk_is_seen_treated_and_proved_by_ssh(full_host):
    incident.quick()
    full_host.opt_in("disk")
    full_host.fill()
    incident.poll()
    event = incident.run(only_event())
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    steps = {action.action: (action.status, action.message) for action in event.actions.all()}
    assert set(steps) == {"host.journal_vacuum", "host.delete_rotated_logs"}
    assert steps["host.delete_rotated_logs"][0] == "done"
    assert "16 of 16 files" in steps["host.delete_rotated_logs"][1]
    assert Host.objects.get(name="web-1").last_error == ""


@needs_loop
@pytest.mark.django_db
def test_a_host_that_is_not_opted_in_is_left_alone_and_the_remedy_told(full_host):
    incident.quick()
    full_host.opt_in("memory")
    full_host.fill()
    incident.poll()
    event = incident.run(only_event())
    assert event.status == "escalated"
    assert "Not opted in to `disk` (/etc/byteport/annotations of web-1: memory)" in event.reason
    assert "as root on web-1, put the line `byteport.io/auto-remediate: memory,disk`" in event.reason
    assert not event.actions.exists()


@needs_loop
@pytest.mark.django_db
def test_dry_run_by_ssh_changes_nothing(full_host):
    incident.quick(dry_run=True)
    full_host.opt_in("disk")
    full_host.fill()
    incident.poll()
    event = incident.run(only_event())
    assert event.status == "simulated"
    told = {action.action: action.message for action in event.actions.all()}
    assert "would delete 16 of 16 files" in told["host.delete_rotated_logs"]
    assert len(list((full_host.inside / "var/log").glob("*.gz"))) == 16


# --- several hosts at once


@pytest.mark.django_db
def test_several_hosts_are_read_at_once_and_one_that_is_cut_off_holds_up_none():
    with running("web-1", "web-2", "web-3") as hosts, socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        for host in hosts:
            Host.objects.create(**host.row())
        Host.objects.create(**{**hosts[0].row(), "name": "mute", "port": mute.getsockname()[1]})
        Host.objects.create(**{**hosts[0].row(), "name": "stranger", "port": hosts[1].port})
        source, seen = HostSource(), set()

        def all_have_been_seen() -> bool:
            seen.update(reading.resource.place for reading in source.poll(SourceConfig("host"), now()))
            told = Host.objects.get(name="stranger").last_error
            return {"web-1", "web-2", "web-3"} <= seen and "is not trusted" in told

        wait_for(all_have_been_seen)
        assert "mute" in source._looks.running
        assert seen.isdisjoint({"mute", "stranger"})
