"""The inventory. Real: PostgreSQL, the registry of ways, `hostctl` on this host."""

import pytest

from byteport.clients.hosts import inventory
from byteport.clients.hosts.protocol import HostRequest, Scope
from byteport.clients.hosts.reader import read
from byteport.core.errors import Permanent
from byteport.core.ways import WAYS
from byteport.drills.drill import DRILLS
from byteport.models import Host

pytestmark = pytest.mark.django_db


@pytest.fixture
def here() -> str:
    return inventory.local_name()


def test_the_host_that_byteport_runs_on_is_reached_without_a_row(here):
    assert inventory.is_reachable(here)
    assert [host.name for host in inventory.reachable()] == [here]
    assert read(here, "facts")["hostname"]


def test_a_container_is_no_host(here, settings):
    settings.LOCAL_HOST = False
    assert inventory.reachable() == []
    assert not inventory.is_reachable(here)
    Host.objects.create(name=here, way="local")
    assert inventory.reachable() == []
    with pytest.raises(Permanent, match="BYTEPORT_LOCAL_HOST"):
        DRILLS["disk_pressure"].prepare(print)


def test_a_host_without_a_row_or_without_a_way_is_not_reached():
    Host.objects.create(name="web-1", suggested="ssm")
    for name, why in (("web-1", "choose one for it in the inventory"), ("web-2", "knows no way")):
        assert not inventory.is_reachable(name)
        with pytest.raises(Permanent, match=why):
            inventory.transport_for(name)


def test_a_host_that_is_switched_off_is_not_reached(here):
    Host.objects.create(name=here, way="local", enabled=False)
    assert not inventory.is_reachable(here)
    assert inventory.reachable() == []
    with pytest.raises(Permanent, match="switched off"):
        read(here, "facts")


def test_a_way_that_is_not_installed_any_more_reaches_nothing():
    Host.objects.create(name="web-1", way="pigeon")
    assert not inventory.is_reachable("web-1")
    assert "web-1" not in [host.name for host in inventory.reachable()]


def test_another_machines_local_host_is_not_taken_for_this_one(here):
    """Workers on several machines share the rows: what is local to one must not be run on another."""
    Host.objects.create(name="elsewhere", way="local")
    assert not inventory.is_reachable("elsewhere")
    assert [host.name for host in inventory.reachable()] == [here]
    with pytest.raises(Permanent, match="only by a BytePort that runs on it"):
        inventory.transport_for("elsewhere").run(HostRequest(verb="facts"), timeout_s=10)


def test_the_opt_in_of_this_host_is_its_file(here):
    found = inventory.transport_for(here).annotations(Scope("host"), timeout_s=inventory.ANNOTATIONS_TIMEOUT_S)
    assert found.where == f"/etc/byteport/annotations of {here}"


@pytest.mark.parametrize("name", list(WAYS))
def test_what_a_way_needs_are_columns_of_the_inventory(name):
    columns = {field.name for field in Host._meta.fields}
    assert set(WAYS[name].needs) <= columns
    assert WAYS[name].title
