"""certificate_expiry from the signal to its end. Real: PostgreSQL, the whole loop with its gates, the fence, HTTP. The
API server is the stand-in of tests/kubernetes; the tests play cert-manager. Time is moved by hand."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from byteport import loop
from runbooks.kubernetes.objects import CertificateStatus, read_as
from runbooks.library.renew_certificate import RUNBOOK, progress_of
from runbooks.models import AgentSettings
from runbooks.runbook import ProgressState
from runbooks.stage import diagnosis_of, view_of
from signals.ingest import ingest
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.kubernetes.standin import Fault
from tests.runbooks.shop import ago, certificate, namespace, ref

pytestmark = pytest.mark.django_db
TLS = ref("certificate", "shop-tls")
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": "Up to date"}


@pytest.fixture
def clock():
    with time_machine.travel(datetime.now(UTC).replace(microsecond=0), tick=False) as traveller:
        yield traveller


@pytest.fixture
def shop(cluster, clock):
    AgentSettings.objects.create(dry_run=False)
    namespace(cluster)
    certificate(cluster)
    return cluster


def issues(cluster, **outcome: object) -> None:
    """Plays cert-manager: what the status comes to once an issuance is asked for; by default it succeeds."""
    fresh = {"conditions": [READY], "notAfter": ago(days=-90), "renewalTime": ago(days=-60), "revision": 5}

    def react(kind: str, changed: dict) -> None:
        if kind == "certificate":
            cluster.store.modify(kind, "shop", "shop-tls", lambda found: found["status"].update(outcome or fresh))

    cluster.store.react(react)


def status(cluster, **changes: object) -> None:
    cluster.store.modify("certificate", "shop", "shop-tls", lambda found: found["status"].update(changes))


def reading() -> Reading:
    return Reading(signal="certificate_expiry", resource=TLS, at=datetime.now(UTC), state=State.FIRING)


def fire() -> SignalEvent:
    ingest([reading()])
    return SignalEvent.objects.latest("pk")


def run(event: SignalEvent, clock: time_machine.Traveller, *statuses: str) -> SignalEvent:
    for _ in range(200):
        event.refresh_from_db()
        if event.status in (statuses or ("resolved", "escalated")):
            return event
        if event.due_at and event.due_at > datetime.now(UTC):
            clock.move_to(event.due_at)
        loop.advance(event.pk)
    raise AssertionError(f"still {event.status}: {event.reason}")


def test_a_certificate_that_is_due_is_issued_anew_and_verified(shop, clock):
    issues(shop)
    event = run(fire(), clock)
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    (sent,) = shop.changing()
    assert (sent.subresource, sent.params) == ("status", {"fieldManager": "byteport"})


def test_an_expired_certificate_is_issued_anew(shop, clock):
    status(shop, notAfter=ago(hours=1), conditions=[{**READY, "status": "False", "reason": "Expired"}])
    issues(shop)
    event = run(fire(), clock)
    assert event.status == "resolved", event.reason


def test_what_was_seen_is_told(shop, clock):
    status(shop, lastFailureTime=ago(hours=2), failedIssuanceAttempts=3)
    told = "\n".join(diagnosis_of(run(fire(), clock, "diagnosed")).evidence)
    assert "for shop.example.com ends in 3 d" in told
    assert "Its renewal time was 27 d ago." in told
    assert "The last issuance failed at" in told
    assert "the 3. time in a row" in told
    assert "Issuer letsencrypt" in told


def test_an_issuance_that_goes_on_is_waited_for(shop, clock):
    event = run(fire(), clock, "verifying")
    clock.move_to(event.due_at)
    loop.advance(event.pk)
    assert event.samples.get().message == "it is progressing: cert-manager is issuing it"
    event = run(event, clock)
    assert event.status == "escalated"
    assert "Could not verify within 900 s" in event.reason


def test_an_issuance_that_fails_is_handed_over_at_once(shop, clock):
    failed = {"type": "Issuing", "status": "False", "reason": "Failed", "message": "The challenge was not met"}
    issues(shop, conditions=[READY, failed], lastFailureTime=ago())
    event = run(fire(), clock)
    assert event.status == "escalated"
    assert "The challenge was not met" in event.reason
    assert event.samples.count() == 1


def test_the_same_end_is_no_new_certificate(shop, clock):
    issues(shop, conditions=[READY])
    event = run(fire(), clock)
    assert "cert-manager has not issued it yet" in event.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"conditions": [READY, {"type": "Issuing", "status": "True", "reason": "Renewing"}]},
            "an issuance is under way",
        ),
        ({"lastFailureTime": "30 min"}, "limits that certificate authorities set"),
        ({"notAfter": "fine", "renewalTime": "fine"}, "not due for renewal any more"),
    ],
)
def test_what_must_not_be_asked_for_is_handed_over_with_the_reason(shop, clock, changes, said):
    times = {"30 min": ago(minutes=30), "fine": ago(days=-80)}
    status(
        shop, **{key: times.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    )
    event = run(fire(), clock)
    assert event.status == "escalated"
    assert said in event.reason
    assert [seen for seen in shop.seen if seen.method != "GET"] == []


def test_a_failure_of_more_than_an_hour_ago_is_no_obstacle(shop, clock):
    status(shop, lastFailureTime=ago(minutes=61))
    issues(shop)
    event = run(fire(), clock, "verifying", "escalated")
    assert event.status == "verifying", event.reason


def test_an_issuance_that_begins_between_plan_and_act_stops_it(shop, clock):
    event = run(fire(), clock, "diagnosed")
    status(shop, conditions=[READY, {"type": "Issuing", "status": "True", "reason": "Renewing"}])
    assert "an issuance is under way" in run(event, clock).reason
    assert shop.changing() == []


def test_what_is_gone_or_no_certificate_is_told(shop, clock):
    shop.store.delete("certificate", "shop", "shop-tls")
    assert "is gone" in run(fire(), clock).reason
    at = datetime.now(UTC)
    ingest([Reading(signal="certificate_expiry", resource=ref("ingress", "x"), at=at, state=State.FIRING)])
    assert "of the kind ingress" in run(SignalEvent.objects.latest("pk"), clock).reason


def test_without_cert_manager_there_is_nothing_to_renew(shop, clock):
    shop.kinds.discard("certificate")
    assert "cert-manager is not installed" in run(fire(), clock).reason


def test_without_the_opt_in_nothing_is_done(shop, clock):
    namespace(shop, "crashloop")
    assert "byteport.io/auto-remediate=crashloop,certificates" in run(fire(), clock).reason
    assert [seen for seen in shop.seen if seen.method != "GET"] == []


def test_an_issuance_that_ends_before_the_answer_comes_is_not_asked_for_twice(shop, clock):
    issues(shop)
    event = run(fire(), clock, "acting")
    shop.faults.append(Fault(cut=True, after=True, where=lambda seen: seen.method == "PATCH"))
    event = run(event, clock)
    assert event.status == "resolved", event.reason
    assert len(shop.changing()) == 1
    assert [row.status for row in event.actions.all()] == ["unknown"]


def test_a_failure_of_before_is_not_taken_for_its_own():
    since = datetime(2026, 3, 1, tzinfo=UTC)
    for seconds, state in ((-3600, ProgressState.PROGRESSING), (30, ProgressState.STUCK)):
        at = since + timedelta(seconds=seconds)
        found = read_as(CertificateStatus, {"lastFailureTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
        assert progress_of(found, "", since).state is state


def test_the_manual_steps_have_the_real_names(shop, clock):
    event = run(fire(), clock, "diagnosed")
    steps = RUNBOOK.advise(view_of(event), diagnosis_of(event))
    assert steps[0].command == "kubectl -n shop describe certificate shop-tls"
    assert steps[2].command == "cmctl renew -n shop shop-tls"
