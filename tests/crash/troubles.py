"""A trouble for each runbook to treat: that of its drill, which is real; or, where that would take a cluster, the one
in tests/contracts/scenes/<runbook>.py (`trouble`), on the API server of tests/kubernetes.
"""

from importlib import import_module
from importlib.util import find_spec

import pytest

from byteport.core.clock import now
from byteport.core.outcome import Result
from byteport.drills.drill import DRILLS, Drill
from runbooks.models import AgentAction
from runbooks.runbook import RUNBOOKS
from signals.catalog import CATALOG
from signals.ingest import ingest
from signals.models import SignalEvent, Source, Status
from signals.reading import Reading
from signals.source import SOURCES, PollSource, SourceConfig
from tests.kubernetes.standin import Cluster
from tests.runbooks.shop import namespace

ENDED = (Status.RESOLVED, Status.ESCALATED)


class OfADrill:
    """What was done shows in the drill's own figures."""

    results = (Result.DONE, Result.SKIPPED)

    def __init__(self, drill: Drill) -> None:
        self._drill = drill
        resource = drill.prepare(lambda line: None)
        seen = self._seen(str(resource))
        self.reading = next(one for one in seen if one.signal == drill.name)
        self.beside = [one for one in seen if one.signal not in CATALOG]  # such as who holds how much memory
        self._before = drill.figures()

    def _seen(self, resource: str) -> list[Reading]:
        """By the source that is for such things. Other tests make troubles on this machine at the same time."""
        kinds = [name for name, source in SOURCES.items() if isinstance(source, PollSource)]
        for kind in sorted(kinds, key=lambda kind: not kind.startswith(self._drill.platform)):
            seen = [one for one in SOURCES[kind].poll(SourceConfig(kind), now()) if str(one.resource) == resource]
            if any(one.signal == self._drill.name for one in seen):
                Source.objects.get_or_create(slug=kind, defaults={"kind": kind})
                return seen
        raise AssertionError(f"no source sees the trouble of the drill {self._drill.name}")

    def assert_changed_once(self, steps: int) -> None:
        assert self._drill.figures() != self._before

    def remove(self) -> None:
        self._drill.remove()


class OfACluster:
    """What was done is what the API server was asked to change, and has changed."""

    beside: tuple[Reading, ...] = ()

    def __init__(self, name: str, cluster: Cluster) -> None:
        scene = import_module(f"tests.contracts.scenes.{name}")
        self._cluster = cluster
        self.remove()
        namespace(cluster)
        self.reading: Reading = scene.trouble(cluster)
        no_mark = getattr(scene, "LEAVES_NO_MARK", False)
        self.results = (Result.DONE, Result.UNKNOWN) if no_mark else (Result.DONE,)
        self._changed: list[str] = []
        cluster.store.react(lambda kind, changed: self._changed.append(f"{kind} {changed['metadata']['name']}"))

    def assert_changed_once(self, steps: int) -> None:
        assert len(self._changed) == steps, f"it was changed more than once: {self._changed}"
        assert len(self._cluster.changing()) == steps, "it was asked for more than once"

    def remove(self) -> None:
        store = self._cluster.store
        for kept in (store.objects, store.reactions, self._cluster.seen, self._cluster.faults):
            kept.clear()


Trouble = OfADrill | OfACluster


def trouble_for(name: str, cluster: Cluster) -> Trouble:
    drill = DRILLS.get(RUNBOOKS[name].signal)
    if drill is not None and drill.platform != "kubernetes":
        return OfADrill(drill)
    if find_spec(f"tests.contracts.scenes.{name}"):
        return OfACluster(name, cluster)
    pytest.fail(f"{name} needs a trouble: a drill of its signal, or `trouble` in tests/contracts/scenes/{name}.py")


def detected(trouble: Trouble) -> SignalEvent:
    """The event that it opens."""
    ingest([*trouble.beside, trouble.reading])
    return SignalEvent.objects.exclude(status__in=ENDED).get(resource=str(trouble.reading.resource))


def assert_treated_once(event: SignalEvent, trouble: Trouble) -> None:
    """BytePort has resolved it, with each step of the plan done once, and nothing left open."""
    event.refresh_from_db()
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert event.postmortem_final
    assert event.lease_token is None
    rows = list(AgentAction.objects.filter(event=event).order_by("pk"))
    assert [row.step for row in rows] == [step["key"] for step in event.plan["steps"]]
    assert {row.status for row in rows} <= set(trouble.results), [(row.step, row.status) for row in rows]
    trouble.assert_changed_once(len(rows))
