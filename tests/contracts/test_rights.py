"""What sources, runbooks and actions declare that they may do in a cluster, held to the calls that they make.

Real: every source and runbook, the loop with its gates, the actions and the fence, HTTP, PostgreSQL. The API server is
the stand-in of tests/kubernetes, which sees each call as RBAC does.
"""

from collections import defaultdict
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec

import pytest
import time_machine
from django.db import transaction
from msgspec import structs

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.paths import path_of
from byteport.core.errors import Permanent
from byteport.core.permissions import cluster_permissions
from runbooks import rbac
from runbooks.act import call_of
from runbooks.action import ACTIONS
from runbooks.models import AgentAction, AgentSettings
from runbooks.runbook import RUNBOOKS
from signals.source import SOURCES
from tests.kubernetes.standin import PLACE
from tests.runbooks.shop import namespace

pytestmark = pytest.mark.django_db


def rights(*permissions):
    """`{"pods: list", "pods: watch"}`, as the stand-in names a call."""
    found = cluster_permissions(permissions)
    return {str(structs.replace(each, verbs=(verb,))) for each in found for verb in each.verbs}


def in_clusters(registry):
    return [name for name, each in registry.items() if cluster_permissions(each.permissions)]


def scenes(name):
    assert find_spec(f"tests.contracts.scenes.{name}"), (
        f"what {name} can meet has to be in tests/contracts/scenes/{name}.py"
    )
    return import_module(f"tests.contracts.scenes.{name}").SCENES


class Overheard:
    """An action as it is; which calls were made while it ran is noted."""

    def __init__(self, action, cluster, calls):
        self._action, self._cluster, self._calls = action, cluster, calls

    def __getattr__(self, name):
        found = getattr(self._action, name)
        return self._noting(found) if name in ("simulate", "execute", "probe") else found

    def _noting(self, method):
        def noted(*args):
            before = len(self._cluster.seen)
            try:
                return method(*args)
            finally:
                self._calls[self._action.name] += self._cluster.seen[before:]

        return noted


@contextmanager
def overhearing(cluster):
    """The calls by the action that made them."""
    calls, before = defaultdict(list), dict(ACTIONS)
    vars(ACTIONS)["_found"] = {name: Overheard(action, cluster, calls) for name, action in before.items()}
    try:
        yield calls
    finally:
        vars(ACTIONS)["_found"] = before


@pytest.fixture
def clock():
    with time_machine.travel(datetime.now(UTC).replace(microsecond=0), tick=False) as traveller:
        yield traveller


@contextmanager
def stage(cluster):
    """A namespace that has opted in, for one scene, after which nothing of it is left."""
    cluster.store.objects.clear()
    cluster.store.reactions.clear()
    with transaction.atomic():
        AgentSettings.objects.create(dry_run=False)
        namespace(cluster)
        yield
        transaction.set_rollback(True)


def probe_all():
    """What the loop does after a crash: each action that was begun is looked for."""
    for row in AgentAction.objects.filter(dry_run=False):
        ACTIONS[row.action].probe(call_of(row), row.started_at)


@pytest.mark.parametrize("name", in_clusters(RUNBOOKS))
def test_a_runbook_makes_the_calls_that_it_declares_no_more_and_none_less(name, cluster, clock):
    runbook = RUNBOOKS[name]
    with overhearing(cluster) as calls:
        for scene in scenes(name):
            with stage(cluster):
                scene(cluster, clock)
                probe_all()
    acting = {id(seen) for made in calls.values() for seen in made}
    assert {seen.right for seen in cluster.seen if id(seen) not in acting} == rights(*runbook.permissions)
    assert set(calls) == set(runbook.actions)
    for action, made in calls.items():
        assert {seen.right for seen in made} == rights(*ACTIONS[action].permissions), action
    granted = {f"{right}" for one in rbac.of_runbooks([name]) for right in rights(*map(str, one.permissions))}
    assert {seen.right for seen in cluster.seen} == granted, "what the chart gives its account"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", in_clusters(SOURCES))
def test_a_source_makes_the_calls_that_it_declares_no_more_and_none_less(name, cluster):
    for scene in scenes(name):
        scene(cluster)
    made = {seen.right for seen in cluster.seen if seen.resource}  # without discovery and /version, which ask for none
    assert made == rights(*SOURCES[name].permissions)


def test_a_call_that_is_not_declared_would_be_seen(cluster):
    """The measure itself: what the stand-in calls a right is what the declarations are written in."""
    assert rights("pods: get, list", "apps/deployments: get, patch", "host: clear_tmp") == {
        "pods: get",
        "pods: list",
        "apps/deployments: get",
        "apps/deployments: patch",
    }, "what is of hosts is no right in a cluster"
    with suppress(Permanent):
        reader.get(PLACE, path_of("certificate", "shop", "tls", "status"))
    assert [seen.right for seen in cluster.seen] == ["cert-manager.io/certificates/status: get"]
