"""What holds for every source, runbook, action, drill and channel there is, also for one that comes tomorrow."""

import inspect
import secrets

import pytest

from byteport.core.permissions import VERBS, cluster_permissions
from byteport.core.ways import WAYS, Address
from byteport.drills.drill import DRILLS, Drill
from incidents.escalation.channel import CHANNELS, Channel
from runbooks.action import ACTIONS, Action
from runbooks.runbook import RUNBOOKS, Runbook
from signals.catalog import CATALOG
from signals.source import SOURCES, PollSource, StreamSource, WebhookSource, needs_secret


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_source_keeps_its_contract(name):
    source = SOURCES[name]
    assert isinstance(source, PollSource | StreamSource | WebhookSource)
    assert source.name == name
    assert source.title
    assert_only_reads(source.permissions)


def assert_only_reads(permissions):
    assert {verb for permission in cluster_permissions(permissions) for verb in permission.verbs} <= set(VERBS[:3])


WEBHOOKS = [name for name, source in SOURCES.items() if isinstance(source, WebhookSource)]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_the_secret_stands_in_what_is_pasted_at_the_sender_where_it_needs_one(name):
    source, secret = SOURCES[name], secrets.token_urlsafe(32)
    assert isinstance(source, WebhookSource)
    assert (secret in source.snippet("https://byteport.example.com/hooks/x", secret)) == needs_secret(source)


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_a_runbook_keeps_its_contract(name):
    runbook = RUNBOOKS[name]
    assert isinstance(runbook, Runbook)
    assert runbook.signal in CATALOG
    assert set(runbook.actions) <= set(ACTIONS), "it names an action that does not exist"
    assert runbook.verify_deadline_s >= 30
    assert runbook.cooldown_s > 0
    assert_only_reads(runbook.permissions)


def test_no_two_runbooks_treat_the_same_signal():
    signals = [runbook.signal for runbook in RUNBOOKS.values()]
    assert len(signals) == len(set(signals))


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_a_runbook_is_described_for_its_users(name, request):
    page = request.config.rootpath / "docs" / "runbooks" / f"{name}.md"
    assert page.read_text(encoding="utf-8").startswith(f"# {name}\n")


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_what_decides_in_a_runbook_cannot_reach_what_reads(name):
    """`diagnose`, `plan`, `judge` and `advise` are functions of data: their code names no client."""
    for method in ("diagnose", "plan", "judge", "advise"):
        names = inspect.unwrap(getattr(type(RUNBOOKS[name]), method)).__code__.co_names
        assert not {"read", "transport_for", "is_reachable", "subprocess", "open"} & set(names)


@pytest.mark.parametrize("name", list(ACTIONS))
def test_an_action_keeps_its_contract(name):
    action = ACTIONS[name]
    assert isinstance(action, Action)
    assert action.permissions
    assert all(": " in permission for permission in action.permissions)
    cluster_permissions(action.permissions)  # raises for what is none


@pytest.mark.parametrize("name", list(DRILLS))
def test_a_drill_keeps_its_contract(name):
    assert isinstance(DRILLS[name], Drill)
    assert name in CATALOG


@pytest.mark.parametrize("name", list(CHANNELS))
def test_a_channel_keeps_its_contract(name):
    channel = CHANNELS[name]
    assert isinstance(channel, Channel)
    assert channel.title
    assert channel.kinds
    assert name not in channel.follows
    assert set(channel.follows) <= set(CHANNELS)


@pytest.mark.parametrize("name", list(CHANNELS))
def test_a_channel_that_nobody_has_set_up_is_off_and_says_what_it_needs(name):
    setup = CHANNELS[name].setup()
    assert not setup.given
    assert not setup.ready
    assert all(setting.startswith("BYTEPORT_") for setting in setup.missing)
    assert setup.missing


@pytest.mark.parametrize("name", list(WAYS))
def test_a_way_to_reach_hosts_keeps_its_contract(name):
    way = WAYS[name]
    assert (way.name, bool(way.title)) == (name, True)
    assert set(way.needs) <= set(Address.__struct_fields__)
    assert way.poll_s is None or way.poll_s < 90, "a longer pause than a sustained window bears (max_gap_s)"
    transport = way.transport(Address(name="web-1", way=name, **dict.fromkeys(way.needs, "x")))
    for method in ("run", "annotations", "remedy"):
        assert callable(getattr(transport, method))
    assert "disk" in transport.remedy("disk")
