"""Which revisions have worked: from a Deployment's stream to what is remembered. Real: PostgreSQL, `ingest`, feed."""

import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from byteport.core.resource import ResourceRef
from signals.ingest import ingest
from signals.kubernetes.cluster import Cluster, ClusterState
from signals.kubernetes.feeds import DeploymentFeed
from signals.kubernetes.objects import Deployment
from signals.kubernetes.revisions import STABLE, stable_revisions
from signals.models import SignalEvent
from tests.kubernetes.standin import recorded

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WEB = ResourceRef("kubernetes", "prod", "deployment", "web", "shop")
UID = "5701c59f-2cb4-422d-8c0e-d1905b4ab30d"


def deployment(revision: str = "2", *, available: int = 2, replicas: int = 2, failed: bool = False) -> Deployment:
    raw = recorded("deployment_progress_deadline_exceeded")
    raw["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": revision}
    raw["spec"]["replicas"], raw["status"]["availableReplicas"] = replicas, available
    if not failed:
        raw["status"]["conditions"][1] |= {"status": "True", "reason": "NewReplicaSetAvailable"}
    return msgspec.convert(raw, Deployment)


def told(*found: Deployment) -> list[float | None]:
    """What the stream says of the revisions that have worked, and has it taken in."""
    cluster = Cluster("prod", "kubernetes", ClusterState(), threading.Event())
    feed, values = DeploymentFeed(cluster), []
    for minutes, one in enumerate(found):
        feed.changed("MODIFIED", one, NOW + timedelta(minutes=minutes))
        readings = [reading for reading in cluster.drain()[1] if reading.signal == STABLE]
        ingest(readings)
        values += [reading.value for reading in readings]
    return values


@pytest.mark.django_db
def test_revisions_that_were_fully_available_are_remembered():
    assert told(deployment("2"), deployment("2"), deployment("3"), deployment("5")) == [2, 3, 5]
    assert stable_revisions(WEB, UID) == {2, 3, 5}
    assert not SignalEvent.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "found",
    [
        deployment(failed=True),
        deployment(available=1),
        deployment(replicas=0, available=0),
        deployment(""),
        deployment("two"),
        deployment("99999999999999999999"),
    ],
)
def test_what_has_not_worked_as_a_whole_is_not(found):
    assert told(found) == []
    assert stable_revisions(WEB, UID) == frozenset()


@pytest.mark.django_db
def test_another_deployment_of_the_same_name_has_a_memory_of_its_own():
    told(deployment("2"))
    assert stable_revisions(WEB, "another") == frozenset()
