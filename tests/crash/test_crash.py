"""Workers are killed with SIGKILL at every boundary between two statements that commit; others take over.

Real: PostgreSQL, the processes and their deaths, the queue's table, `hostctl` with its journal, the files that are
deleted, the database sessions that are ended, the process that is restarted, HTTP. The API server of the runbooks for
clusters is the stand-in of tests/kubernetes, which counts what it is asked for. The worker is the loop itself fed from
the queue; that real pools survive SIGKILL is shown in test_queue.py, and that hostctl, which runs within the worker
here, does nothing twice when it is killed itself, in tests/runbooks/test_hostctl.py.
"""

import signal
from datetime import timedelta

import pytest

from byteport import loop
from byteport.models import QueuedTask
from runbooks.runbook import RUNBOOKS
from tests.crash.deaths import ACTED, Deaths
from tests.crash.troubles import ENDED, Trouble, assert_treated_once, detected, trouble_for
from tests.crash.worker import work
from tests.processes import exit_code, forked

LEASE = timedelta(seconds=0.1)
MOST_DEATHS = 300
pytestmark = [pytest.mark.proof, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LEASE", LEASE)


@pytest.mark.parametrize("name", list(RUNBOOKS))
def test_an_incident_survives_the_death_of_its_worker_at_every_boundary(name, cluster, tmp_path):
    """Incident after incident, until one is seen through by its first worker: it came to no boundary at which none had
    died, and neither had those who took over."""
    deaths = Deaths(tmp_path / "deaths")
    while died_in(trouble_for(name, cluster), deaths):
        assert len(deaths.places()) < MOST_DEATHS, "there is no end to it"
    assert len(deaths.places()) > 20, "the worker that lived must have come to many boundaries"
    assert any(ACTED in place for place in deaths.places())


def died_in(trouble: Trouble, deaths: Deaths) -> int:
    """How many workers it took to see an incident through, less the one who did."""
    died = 0
    try:
        event = detected(trouble)
        while (code := worker(event.pk, deaths)) == -signal.SIGKILL:
            died += 1
        assert code == 0
        assert_treated_once(event, trouble)
    finally:
        trouble.remove()
        QueuedTask.objects.all().delete()
    return died


def worker(event_id: int, deaths: Deaths) -> int:
    """The exit code of one worker."""

    def body() -> None:
        deaths.install()
        work(lambda: deaths.look(event_id) in ENDED, LEASE)

    return exit_code(forked(body))
