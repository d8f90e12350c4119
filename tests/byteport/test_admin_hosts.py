"""The inventory in the admin, through Django's test client. Real: PostgreSQL, every form and page, `hostctl` here.

Not real: no browser runs the page's scripts.
"""

import re

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from byteport.clients.hosts.inventory import local_name
from byteport.models import AuditEntry, Host

pytestmark = pytest.mark.django_db
ADD = "admin:byteport_host_add"


@pytest.fixture
def operator(client):
    client.force_login(User.objects.create_superuser("anna", password="right-horse-9"))
    return client


def sent(**values):
    return {"name": "web-1", "way": "", "port": "22", "enabled": "on", **values}


def page(client, row):
    return client.get(reverse("admin:byteport_host_change", args=[row.pk])).content.decode()


def shown(text, label):
    """What stands beside a label on a page."""
    found = re.search(rf"{re.escape(label)}.*?readonly[^>]*>(.*?)</div>", text, re.DOTALL)
    assert found, f"{label} is not on the page"
    return re.sub(r"<[^>]+>|\s+", " ", found.group(1)).strip()


def test_a_host_is_added_and_the_change_audited(operator):
    assert operator.post(reverse(ADD), sent()).status_code == 302
    assert Host.objects.get().name == "web-1"
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target) == ("anna", "create", "host web-1")


def test_only_the_host_that_byteport_runs_on_can_be_local(operator):
    errors = operator.post(reverse(ADD), sent(way="local")).context["adminform"].form.errors
    assert local_name() in errors["way"][0]
    assert operator.post(reverse(ADD), sent(name=local_name(), way="local")).status_code == 302


def test_the_page_of_a_host_reads_its_opt_in_live(operator):
    row = Host.objects.create(name=local_name(), way="local")
    assert f"/etc/byteport/annotations of {local_name()}" in shown(page(operator, row), "Opted in to")


def test_the_page_of_a_host_that_is_only_seen_says_so_and_what_would_suit(operator):
    row = Host.objects.create(name="i-0123456789abcdef0", suggested="ssm")
    text = page(operator, row)
    assert "BytePort does not reach it" in shown(text, "Opted in to")
    assert "not at all (ssm would suit)" in operator.get(reverse("admin:byteport_host_changelist")).content.decode()


def test_the_page_of_a_host_that_cannot_be_read_says_why(operator):
    row = Host.objects.create(name="elsewhere", way="local")
    assert "only by a BytePort that runs on it" in shown(page(operator, row), "Opted in to")


def test_a_name_stays(operator):
    row = Host.objects.create(name="web-1")
    url = reverse("admin:byteport_host_change", args=[row.pk])
    operator.post(url, sent(name="web-2"))
    assert Host.objects.get().name == "web-1"


def test_what_the_chosen_way_cannot_do_without_is_asked_for(operator):
    errors = operator.post(reverse(ADD), sent(way="ssh")).context["adminform"].form.errors
    assert errors == {field: ["A host that is reached by ssh needs it."] for field in ("address", "user")}
    assert operator.post(reverse(ADD), sent(way="ssh", address="web-1.example.com", user="root")).status_code == 302
