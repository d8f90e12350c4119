"""The inventory fills itself from the series. Real: PostgreSQL, ingest."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.models import Host
from signals import maintenance, seen_hosts
from signals.ingest import ingest
from signals.reading import Reading

pytestmark = pytest.mark.django_db


def see(*refs):
    ingest([Reading(signal="disk_pressure", resource=ref, at=now(), value=10.0, source="datadog") for ref in refs])


def mount(place, name="/"):
    return ResourceRef("host", place, "mount", name)


def test_a_host_that_a_source_sees_gets_a_row_without_a_way():
    see(mount("web-1"), mount("web-1", "/var"), mount("web-2"))
    maintenance.run()
    assert list(Host.objects.values_list("name", "way", "suggested")) == [("web-1", "", ""), ("web-2", "", "")]


def test_an_ec2_instance_is_suggested_to_be_reached_by_ssm():
    see(mount("i-0123456789abcdef0"), mount("i-am-no-instance"))
    seen_hosts.note()
    rows = dict(Host.objects.values_list("name", "suggested"))
    assert rows == {"i-0123456789abcdef0": "ssm", "i-am-no-instance": ""}
    assert Host.objects.get(suggested="ssm").instance_id == "i-0123456789abcdef0"


def test_the_number_of_a_gce_instance_is_suggested_to_be_opted_in_by_its_label():
    see(mount("4520031799277581759"), mount("10"))
    seen_hosts.note()
    assert dict(Host.objects.values_list("name", "suggested")) == {"4520031799277581759": "gce", "10": ""}


def test_a_node_is_suggested_to_be_reached_through_its_cluster():
    see(
        ResourceRef("kubernetes", "prod/eu", "node", "node-1"), ResourceRef("kubernetes", "prod/eu", "pod", "x", "shop")
    )
    seen_hosts.note()
    [row] = Host.objects.all()
    assert (row.name, row.suggested, row.cluster, row.node, row.way) == ("node-1", "node", "prod/eu", "node-1", "")


def test_what_a_person_has_set_stays():
    Host.objects.create(name="web-1", way="local", enabled=False)
    see(mount("web-1"))
    assert seen_hosts.note() == 0
    row = Host.objects.get()
    assert (row.way, row.enabled) == ("local", False)


def test_a_drills_volume_is_no_host():
    see(ResourceRef("host", "web-1", "drill", "abcd1234"))
    assert seen_hosts.note() == 0


@pytest.mark.parametrize("name", ["$(reboot)", "web 1", "-rf", "wéb", "a'b\"c", "%2F", "web/1"])
def test_a_hostile_name_is_kept_as_it_is_and_suggests_nothing(name):
    see(mount(name))
    seen_hosts.note()
    assert list(Host.objects.values_list("name", "way", "suggested")) == [(name, "", "")]


@pytest.mark.parametrize("name", ["x" * 254, "two\nlines", "bell\x07"])
def test_what_can_be_no_name_gets_no_row(name):
    see(mount(name))
    seen_hosts.note()
    assert not Host.objects.exists()


def test_many_hosts_cost_two_statements():
    see(*(mount(f"web-{n}") for n in range(300)))
    with CaptureQueriesContext(connection) as queries:
        assert seen_hosts.note() == 300
    assert len([query for query in queries if "SAVEPOINT" not in query["sql"]]) == 2
