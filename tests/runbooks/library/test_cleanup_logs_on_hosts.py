"""disk_pressure on a host, from the reading to the end. Real: SSH, `hostctl`, every file system that fills up, the
processes that hold files open, PostgreSQL and the loop. Not real: `journalctl` and `crictl` are stand-ins on the host.
"""

import os
import shlex

import pytest

from byteport.models import Host
from runbooks.models import RunbookPolicy
from runbooks.runbook import RUNBOOKS
from runbooks.stage import view_of
from signals.models import SignalEvent
from tests import incident
from tests.machine import needs_loop, old_file
from tests.sshd import needs_sshd, running

pytestmark = [pytest.mark.proof, needs_sshd, needs_loop, pytest.mark.django_db]
LOG = {"var/log": 20}
IMAGE_FS = '{"status":{"imageFilesystems":[{"fsId":{"mountpoint":"/var/log/containerd"}}]}}'


@pytest.fixture
def hosts(request):
    with running("web-1", **request.param) as started:
        incident.quick()
        for host in started:
            if not host.bare:
                host.without_journal()
            host.opt_in("disk")
            Host.objects.create(**host.row())
        yield started


def event_of(mount: str) -> SignalEvent:
    return SignalEvent.objects.filter(resource__startswith="host/web-1/mount/").get(
        resource__endswith=mount.replace("/", "%2F"), resolved_at=None
    )


def steps_of(event: SignalEvent) -> dict[str, str]:
    return {action.action: action.status for action in event.actions.all()}


@pytest.mark.parametrize("hosts", [{"disks": {"var/log": 20, "tmp": 20}}], indirect=True)
def test_two_mounts_that_fill_up_at_once_are_two_incidents_and_each_is_treated_by_its_own_steps(hosts):
    [host] = hosts
    host.fill()
    host.fill("tmp/upload-{}")
    incident.poll()
    events = {mount: event_of(mount) for mount in ("/var/log", "/tmp")}
    for event in events.values():
        incident.run(event)
        assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert steps_of(events["/var/log"]) == {"host.journal_vacuum": "done", "host.delete_rotated_logs": "done"}
    assert steps_of(events["/tmp"]) == {"host.clear_tmp": "done"}


@pytest.mark.parametrize("hosts", [{"disks": LOG}], indirect=True)
def test_a_mount_that_fills_again_and_again_is_handed_over(hosts):
    RunbookPolicy.objects.update(good_samples=1)
    for _ in range(3):
        hosts[0].fill()
        incident.poll()
        assert incident.run(event_of("/var/log")).resolved_by == "byteport"
        incident.poll()
    hosts[0].fill()
    incident.poll()
    event = incident.run(event_of("/var/log"))
    assert event.status == "escalated"
    assert "`ineffective_loop` refused. 3 fixes of this resource did not last" in event.reason
    assert not event.actions.exists()


@pytest.mark.parametrize("hosts", [{"disks": LOG}], indirect=True)
def test_deleted_files_that_are_held_open_are_named_and_their_holder_is_left_alone(hosts):
    RunbookPolicy.objects.update(verify_deadline_s=1)
    big = hosts[0].inside / "var/log/big.log"
    big.write_bytes(os.urandom(16_000_000))
    with hosts[0].holding("/var/log/big.log") as holder:
        big.unlink()
        incident.poll()
        event = incident.run(event_of("/var/log"))
        assert event.status == "escalated"
        assert "deleted but are still held open take 16.0 MB" in event.diagnosis["inference"]
        assert f"the biggest by python3 ({holder.pid})." in " ".join(event.diagnosis["evidence"])
        assert holder.poll() is None, "its holder is left alone"


@pytest.mark.parametrize("hosts", [{"disks": LOG, "bare": True}], indirect=True)
def test_a_host_without_journald_and_container_runtime_is_treated_by_what_is_left(hosts):
    hosts[0].fill()
    incident.poll()
    event = incident.run(event_of("/var/log"))
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    told = {action.action: (action.status, action.message) for action in event.actions.all()}
    assert told["host.journal_vacuum"] == ("skipped", "journalctl is not installed here")
    assert told["host.delete_rotated_logs"][0] == "done"


@pytest.mark.parametrize("hosts", [{"disks": LOG}], indirect=True)
def test_a_containerd_node_whose_images_fill_the_mount_has_them_pruned(hosts):
    [host] = hosts
    noted = host.program(
        "crictl",
        f"case \"$*\" in *imagefsinfo*) echo '{IMAGE_FS}' ;;"
        ' *"rmi --prune") rm /var/log/containerd/*.layer && echo "Deleted: a/b:1" && echo "Deleted: c/d:2" ;; esac',
    )
    host.fill("var/log/containerd/{}.layer", days=0)
    incident.poll()
    event = incident.run(event_of("/var/log"))
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    pruned = event.actions.get(action="host.container_prune")
    assert (pruned.status, pruned.result["runtime"], pruned.result["images"]) == ("done", "crictl", 2)
    assert noted.read_text().count("rmi --prune") == 1


@pytest.mark.parametrize("hosts", [{"disks": LOG}], indirect=True)
def test_hostile_names_are_only_ever_names(hosts):
    log = hosts[0].inside / "var/log"
    hosts[0].fill()
    names = ["$(touch owned).gz", "-rf.gz", "a b'c\"d.gz", "new\nline.gz", "\udcff.gz"]
    for number, name in enumerate(names):
        (log / f"app.log.{number}.gz").rename(log / name)
    incident.poll()
    event = incident.run(event_of("/var/log"))
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert list(log.glob("*.gz")) == []
    assert not (hosts[0].inside / "owned").exists()


HOSTILE = "var/log/$(touch owned) '\"-rf"


@pytest.mark.parametrize("hosts", [{"disks": {HOSTILE: 20}}], indirect=True)
def test_a_mount_with_a_hostile_name_is_handed_over_with_its_name_quoted(hosts):
    for number in range(16):
        old_file(hosts[0].inside / HOSTILE / f"{number}", 0, 1_000_000)
    incident.poll()
    event = incident.run(SignalEvent.objects.get(resource__startswith="host/web-1/mount/%2Fvar%2Flog%2F"))
    assert event.status == "escalated"
    assert f"Nothing that BytePort may clean up lies on /{HOSTILE} on web-1." in event.reason
    for step in RUNBOOKS["cleanup_logs"].advise(view_of(event), None):
        assert f"/{HOSTILE}" in shlex.split(step.command)
