"""The opt-in of GCE instances. Real: google-auth with a key, HTTP, PostgreSQL; where a test says so, an sshd. Compute
Engine is an HTTP server in this process (tests/gcp.py)."""

import pytest
from django.core.exceptions import ValidationError

from byteport.clients import gcp_compute
from byteport.clients.hosts.inventory import ANNOTATIONS_TIMEOUT_S, as_address, transport_for, transport_to
from byteport.clients.hosts.protocol import HostRequest, Scope
from byteport.core.errors import Permanent, Temporary
from byteport.core.resource import ResourceRef
from byteport.core.ways import WAYS
from byteport.models import Host
from runbooks.host_opt_in import host_opt_in
from tests import gcp
from tests.sshd import needs_sshd, running

NUMBER = "4520031799277581759"
PATH = f"projects/{gcp.PROJECT}/zones/europe-west3-a/instances/web-1"
ROOT = ResourceRef("host", NUMBER, "mount", "/")
HOST = Scope("host")


@pytest.fixture
def far(tmp_path):
    with gcp.compute(tmp_path) as compute:
        yield compute


def row(**changes):
    given = {"name": NUMBER, "way": "gce", "address": "10.0.0.2", "user": "byteport", "gce_instance": PATH}
    return Host(**{**given, **changes})


def labelled(far, labels, path=PATH):
    far.instances[path] = {"id": NUMBER, "labels": labels}


def opt_in(**changes):
    return transport_to(as_address(row(**changes))).annotations(HOST, timeout_s=10)


@pytest.mark.parametrize(
    ("labels", "words", "present"),
    [
        ({"byteport-io_auto-remediate": "disk_memory", "env": "prod"}, ("disk", "memory"), True),
        ({"byteport-io_auto-remediate": "disk_off"}, (), True),
        ({"byteport-io_auto-remediate": ""}, (), True),
        ({"env": "disk"}, (), False),
    ],
)
def test_the_label_is_the_opt_in(far, labels, words, present):
    labelled(far, labels)
    found = opt_in()
    assert (found.words, found.present) == (words, present)
    assert found.where == f"the label byteport-io_auto-remediate of {PATH}"


def test_an_instance_without_any_label_is_opted_in_to_nothing(far):
    far.instances[PATH] = {"id": NUMBER}
    assert opt_in().words == ()


def test_it_asks_for_no_more_than_number_and_labels_by_a_token_that_reads_only(far):
    labelled(far, {})
    opt_in()
    [(path, query, token)] = far.asked
    assert (path, query) == (PATH, "fields=id%2Clabels")
    assert gcp.claims(token)["scope"] == "https://www.googleapis.com/auth/compute.readonly"


@pytest.mark.django_db
def test_it_is_read_anew_at_each_moment_of_acting(far):
    row().save()
    labelled(far, {"byteport-io_auto-remediate": "memory"})
    found = host_opt_in(ROOT, "disk")
    assert (found.given, found.found) == (False, "memory")
    assert found.remedy == (
        "gcloud compute instances add-labels web-1 --project=shop-prod-1 --zone=europe-west3-a"
        " --labels=byteport-io_auto-remediate=memory_disk"
    )
    labelled(far, {"byteport-io_auto-remediate": "memory_disk"})
    assert host_opt_in(ROOT, "disk").given
    assert transport_for(NUMBER).annotations(HOST, timeout_s=ANNOTATIONS_TIMEOUT_S).words == ("memory", "disk")


def test_another_instance_of_the_same_name_has_no_say(far):
    labelled(far, {"byteport-io_auto-remediate": "disk"})
    far.instances[PATH]["id"] = "1"
    with pytest.raises(Permanent, match=f"is the instance 1 now, and not {NUMBER}"):
        opt_in()
    assert opt_in(name="web-1").words == ("disk",)


@pytest.mark.parametrize(
    ("refusal", "error", "told"),
    [
        ((403, b'{"error": {"message": "Required permission"}}'), Permanent, "Required permission.*compute.viewer"),
        ((404, b""), Permanent, "404"),
        ((429, b"slow down"), Temporary, "slow down"),
        ((503, b"<html>"), Temporary, "503"),
        ((302, b""), Permanent, "302"),
        ((200, b"<html>"), Permanent, "not as expected"),
        ((200, b'{"labels": ["disk"]}'), Permanent, "not as expected"),
        ((200, b'{"labels": {"a": "' + b"x" * 400_000 + b'"}}'), Permanent, "not as expected"),
    ],
)
def test_what_cannot_be_read_is_never_an_opt_in(far, refusal, error, told):
    far.refusal = refusal
    with pytest.raises(error, match=told):
        opt_in()


def test_nobody_at_the_other_end_is_temporary(far, monkeypatch):
    monkeypatch.setattr(gcp_compute, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Temporary, match=PATH):
        opt_in()


@pytest.mark.parametrize(
    "path", ["web-1", f"{PATH}/../web-2", f"{PATH}?x=", f"{PATH}\n", "projects/p/zones/z/instances/a b", ""]
)
def test_a_path_that_names_no_instance_is_refused_and_asked_of_nobody(far, path):
    if path:  # an empty one is asked for by the way's needs
        with pytest.raises(ValidationError) as raised:
            row(gce_instance=path).clean_fields()
        assert "gce_instance" in raised.value.message_dict
    with pytest.raises(Permanent, match="does not name a GCE instance"):
        opt_in(gce_instance=path)
    assert far.asked == []


@needs_sshd
@pytest.mark.django_db
def test_all_else_goes_by_ssh_as_to_any_other_host(far):
    labelled(far, {"byteport-io_auto-remediate": "disk"})
    with running("web-1") as [host]:
        host.opt_in("memory")  # its file has no say
        reached = transport_to(as_address(Host(**{**host.row(), "way": "gce", "gce_instance": PATH})))
        assert reached.run(HostRequest(verb="facts"), timeout_s=30).status == "done"
        assert reached.annotations(HOST, timeout_s=10).words == ("disk",)
    assert WAYS["gce"].needs == ("address", "user", "gce_instance")
