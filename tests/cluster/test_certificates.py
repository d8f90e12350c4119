"""certificate_expiry on a real cluster, from the event to its end, with the rights that the chart gives and no more.

Real: the API server, its RBAC, cert-manager's CRD; the watcher, PostgreSQL, the queue, every stage and gate.
cert-manager itself is played.
"""

from datetime import UTC, datetime, timedelta

import pytest

from tests.cluster.objects import OPT_IN, certificate, certificate_status, stamp
from tests.cluster.players import CertManager, is_asked_for, is_served

SIGNAL = "certificate_expiry"

DUE = timedelta(days=5)


@pytest.fixture
def due(live, stage):
    """Makes a Certificate that was to be renewed weeks ago and was not."""
    if not is_served(live, "/apis/cert-manager.io/v1"):
        pytest.skip("cert-manager's CRD is not in this cluster")

    def make(*words: str, condition=None, **status) -> CertManager:
        namespace = stage(*words).namespace
        live.create("certificates", certificate("web"), namespace)
        found = certificate_status(datetime.now(UTC), expires_in=DUE)
        found["status"]["conditions"] += [condition] if condition else []
        found["status"] |= status
        live.patch("certificates", "web", namespace, found, subresource="status")
        return CertManager(live, namespace)

    return make


def is_being_renewed(live, namespace):
    return is_asked_for(live.get("certificates", "web", namespace))


def test_a_certificate_that_is_due_is_renewed(live, due, agent):
    manager = due("certificates")
    event = agent(SIGNAL, manager).run("web", kind="certificate")
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    [action] = event.actions.all()
    assert (action.action, action.status) == ("kubernetes.renew_certificate", "done")
    assert live.get("certificates", "web", manager.namespace)["status"]["revision"] == 2


def test_an_issuance_that_never_ends_is_handed_over(live, due, agent):
    manager = due("certificates")
    manager.works = False
    event = agent(SIGNAL, manager).run("web", kind="certificate")
    assert event.status == "escalated"
    assert [action.status for action in event.actions.all()] == ["done"]
    assert is_being_renewed(live, manager.namespace)


def test_an_issuance_that_is_under_way_is_left_alone(live, due, agent):
    issuing = {
        "type": "Issuing",
        "status": "True",
        "reason": "DoesNotExist",
        "lastTransitionTime": stamp(datetime.now(UTC)),
    }
    manager = due("certificates", condition=issuing)
    manager.works = False
    event = agent(SIGNAL, manager).run("web", kind="certificate")
    assert event.status == "escalated"
    assert not event.actions.exists()


def test_after_a_failure_within_the_hour_the_ca_is_spared(live, due, agent):
    manager = due("certificates", lastFailureTime=stamp(datetime.now(UTC) - timedelta(minutes=10)))
    event = agent(SIGNAL, manager).run("web", kind="certificate")
    assert event.status == "escalated"
    assert not event.actions.exists()
    assert not is_being_renewed(live, manager.namespace)


def test_without_the_opt_in_it_is_left_alone(live, due, agent):
    manager = due("crashloop")
    event = agent(SIGNAL, manager).run("web", kind="certificate")
    assert event.status == "escalated"
    assert "opt_in" in event.reason
    assert not is_being_renewed(live, manager.namespace)


@pytest.mark.parametrize("moment", ["diagnosed", "acting"])
def test_the_opt_in_taken_back_at_the_last_moment_stops_it(live, due, agent, moment):
    manager = due("certificates")
    running = agent(SIGNAL, manager)
    running.run("web", moment, kind="certificate")
    live.patch("namespaces", manager.namespace, "", {"metadata": {"annotations": {OPT_IN: None}}})
    event = running.run("web", kind="certificate")
    assert event.status == "escalated"
    assert not is_being_renewed(live, manager.namespace)
