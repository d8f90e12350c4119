"""The fence and the actions on hosts. Real: PostgreSQL, the fence, the actions, `hostctl` as a child process with
its journal."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from byteport.clients.hosts.inventory import local_name
from byteport.clients.hosts.protocol import READ_VERBS, HostRequest
from byteport.clients.hosts.reader import read
from byteport.core.errors import Permanent, Refused, Temporary
from byteport.core.outcome import Result
from byteport.core.resource import ResourceRef
from byteport.drills import drill
from byteport.drills.volume import Volume
from runbooks.action import ACTIONS, ActionCall, ProbeState
from runbooks.actions import host
from runbooks.actions.fence import Permit, admit, heed_switches, opened
from runbooks.hostctl import VERBS, Roots
from runbooks.models import AgentSettings

pytestmark = pytest.mark.django_db
CLEAR_TMP = Permit("host", "web-1", "clear_tmp", "host/web-1/mount/%2F")


@pytest.fixture
def volume(monkeypatch):
    monkeypatch.setattr("byteport.drills.drill.scale", 0.1)
    made = Volume.make()
    (made.path / "var" / "log").mkdir(parents=True)
    (made.path / "tmp").mkdir()
    drill.opt_in(made.path, "disk")
    yield ResourceRef("host", local_name(), "drill", made.name)
    made.remove()


def test_nothing_passes_while_no_action_runs():
    with pytest.raises(Refused, match="does not admit"):
        admit(CLEAR_TMP)


def test_an_action_passes_with_what_it_declared_and_with_nothing_else():
    with opened(CLEAR_TMP):
        admit(CLEAR_TMP)
        for other in ("delete_rotated_logs", "clear_tmp "):
            with pytest.raises(Refused):
                admit(Permit("host", "web-1", other, CLEAR_TMP.target))
        with pytest.raises(Refused):
            admit(Permit("host", "web-2", "clear_tmp", CLEAR_TMP.target))


def test_the_fence_closes_again_also_after_an_error():
    with pytest.raises(ZeroDivisionError), opened(CLEAR_TMP):
        raise ZeroDivisionError
    with pytest.raises(Refused):
        admit(CLEAR_TMP)


def test_an_action_cannot_open_the_fence_for_another():
    with opened(CLEAR_TMP), pytest.raises(Refused, match="one at a time"), opened(CLEAR_TMP):
        pass


def test_the_reading_client_refuses_every_verb_that_changes_something():
    changing = {verb for verb, how in VERBS.items() if how.changes}
    assert not changing & READ_VERBS
    for verb in changing:
        with pytest.raises(Refused, match="not a reading verb"):
            read(local_name(), verb)


def test_a_changing_verb_does_not_leave_without_a_permit(volume):
    request = HostRequest(verb="clear_tmp", action_id=str(uuid4()))
    with pytest.raises(Refused, match="does not admit"):
        host._send(volume, request, timeout_s=10)


def test_a_host_that_is_not_in_the_inventory_is_not_reached():
    call = ActionCall(str(uuid4()), "host.clear_tmp", ResourceRef("host", "elsewhere", "mount", "/"))
    with pytest.raises(Permanent, match="knows no way"):
        ACTIONS["host.clear_tmp"].execute(call)


CHANGING = [name for name in ACTIONS if name.startswith("host.") and name != "host.restore_oom_score"]


@pytest.mark.parametrize("words", ["", "off", "rollback"])
@pytest.mark.parametrize("name", CHANGING)
def test_without_the_opt_in_no_verb_leaves_for_a_host(volume, name, words):
    (drill_folder(volume) / "etc/byteport/annotations").write_text(f"byteport.io/auto-remediate: {words}\n")
    call = ActionCall(str(uuid4()), name, volume)
    with pytest.raises(Refused, match=r"not opted in to `(disk|memory)`"):
        ACTIONS[name].execute(call)
    assert read(local_name(), "probe", action_id=call.id)["state"] == "absent"


def test_each_verb_takes_the_word_of_its_own_runbook(volume):
    """`disk` is there, and lets nothing be restarted."""
    for name in ("host.restart_unit", "host.restart_container", "host.adjust_oom_score"):
        with pytest.raises(Refused, match="not opted in to `memory`"):
            ACTIONS[name].execute(ActionCall(str(uuid4()), name, volume))


def test_what_byteport_changed_is_put_back_also_when_the_opt_in_was_taken_back(volume):
    (drill_folder(volume) / "etc/byteport/annotations").unlink()
    outcome = ACTIONS["host.restore_oom_score"].execute(ActionCall(str(uuid4()), "host.restore_oom_score", volume))
    assert outcome.result is not Result.REFUSED


@pytest.mark.parametrize("name", CHANGING)
def test_a_pause_that_comes_after_the_gates_stops_a_verb_right_before_it_leaves(volume, name):
    (drill_folder(volume) / "etc/byteport/annotations").write_text("byteport.io/auto-remediate: disk,memory\n")
    AgentSettings.objects.create(paused=True)
    call = ActionCall(str(uuid4()), name, volume)
    with pytest.raises(Temporary, match="paused right before"):
        ACTIONS[name].execute(call)
    assert read(local_name(), "probe", action_id=call.id)["state"] == "absent"


@pytest.mark.parametrize(("switches", "said"), [({"paused": True}, "paused"), ({"dry_run": True}, "dry-run")])
def test_what_is_no_drill_heeds_both_switches(switches, said):
    heed_switches(in_dry_run=True)
    AgentSettings.objects.create(**{"dry_run": False, **switches})
    with pytest.raises(Temporary, match=said):
        heed_switches()


def drill_folder(volume: ResourceRef) -> Path:
    return Path(Roots.of_this_host().drills) / volume.name


def test_the_same_action_id_acts_once_on_the_host(volume):
    call = ActionCall(str(uuid4()), "host.clear_tmp", volume)
    action = ACTIONS["host.clear_tmp"]
    assert action.probe(call, _long_ago()).state is ProbeState.UNKNOWN, "absent, and the host was restarted since"
    first = action.execute(call)
    again = action.execute(call)
    assert first == again
    assert first.result is Result.DONE
    probe = action.probe(call, _long_ago())
    assert (probe.state, probe.outcome) == (ProbeState.FINISHED, first)


def test_a_simulation_leaves_no_trace_on_the_host(volume):
    call = ActionCall(str(uuid4()), "host.clear_tmp", volume)
    assert ACTIONS["host.clear_tmp"].simulate(call).result is Result.SIMULATED
    found = read(local_name(), "probe", action_id=call.id)
    assert found["state"] == "absent"


def _long_ago():
    return datetime(2000, 1, 1, tzinfo=UTC)
