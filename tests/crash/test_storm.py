"""A storm: many incidents due at once, and eight processes that take them. Real: PostgreSQL, the processes, the loop.
The far end of the wire is tests/standin.py, and what was done there is noted in files. Waiting is cut short."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from byteport import loop
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from runbooks import policy
from runbooks.facts import RUNNING
from runbooks.models import AgentAction, AgentSettings
from signals.ingest import ingest
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.crash.test_race import together
from tests.standin import Platform, installed

pytestmark = [pytest.mark.proof, pytest.mark.django_db(transaction=True)]
HOSTS = 60
ENDED = ("resolved", "escalated")
PATIENCE_S = 100.0


@pytest.fixture
def storm(monkeypatch):
    """Each of the hosts has a full disk, and none has been looked at."""
    timing = policy.Timing(verify_delay_s=0, verify_interval_s=0, verify_deadline_s=60, good_samples=1, clear=80)
    monkeypatch.setattr("runbooks.diagnose.timing_for", lambda *_: timing)
    hosts = [ResourceRef("host", f"web-{n}", "mount", "/") for n in range(HOSTS)]
    at = datetime.now(UTC)
    ingest([Reading(signal="disk_pressure", resource=host, at=at, state=State.FIRING) for host in hosts])
    assert SignalEvent.objects.count() == HOSTS


def work(number: int) -> None:
    """Takes what is open, one stage at a time, until nothing is. What has begun goes first: it has to make room."""
    deadline = time.monotonic() + PATIENCE_S
    chosen = random.Random(number)
    while True:
        still_open = list(SignalEvent.objects.exclude(status__in=ENDED).values_list("status", "pk", "lease_token"))
        if not still_open:
            return
        assert time.monotonic() < deadline, f"{len(still_open)} incidents do not end"
        free = [(status, pk) for status, pk, lease in still_open if lease is None]
        begun = [pk for status, pk in free if status in RUNNING and chosen.random() < 0.8]
        pk = chosen.choice(begun or [pk for _, pk in free] or [still_open[0][1]])
        SignalEvent.objects.filter(pk=pk, lease_token=None).exclude(status__in=ENDED).update(due_at=now())
        loop.advance(pk)


def test_a_storm_gets_no_more_runs_than_the_budget_and_no_more_of_them_at_once(tmp_path: Path, storm):
    brake_off = HOSTS + 1  # else it would hold all of them
    limits = AgentSettings.objects.create(dry_run=False, max_per_hour=10, max_concurrent=3, storm_minimum=brake_off)
    platform = Platform()

    def note(call) -> None:
        at_work = SignalEvent.objects.filter(status__in=RUNNING).count()
        (tmp_path / f"{call.id} {at_work}").touch(exist_ok=False)

    platform.on_execute = note
    with installed(platform, steps=1):
        together(work)
    done = [int(path.name.split()[1]) for path in tmp_path.iterdir()]
    assert len(done) == AgentAction.objects.count() == limits.max_per_hour
    assert SignalEvent.objects.filter(acted_at__isnull=False).count() == limits.max_per_hour
    assert max(done) <= limits.max_concurrent
    handed_over = SignalEvent.objects.filter(acted_at=None)
    assert (
        handed_over.filter(status="escalated", reason__contains="budget of 10 runs an hour").count()
        == HOSTS - limits.max_per_hour
    )


def test_what_fails_all_at_once_is_not_acted_on_at_all(storm):
    AgentSettings.objects.create(dry_run=False)
    few = list(SignalEvent.objects.order_by("pk").values_list("pk", flat=True)[:3])
    with installed(Platform()):
        for pk in few * 2:
            loop.advance(pk)
    assert not AgentAction.objects.exists()
    reasons = SignalEvent.objects.filter(pk__in=few).values_list("status", "reason")
    assert all(
        status == "escalated" and f"{HOSTS} of {HOSTS} known fail at once" in reason for status, reason in reasons
    )
