"""What the tests on a real cluster share. Without BYTEPORT_TEST_KUBECONFIG they are all skipped, and say so."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from byteport.clients.kubernetes.clusters import forget
from tests.cluster.accounts import PLACE, kubeconfig_of, of_the_chart
from tests.cluster.agent import Agent, Player, configure, watching
from tests.cluster.kubelet import Kubelet
from tests.cluster.live import KUBECONFIG, LiveCluster
from tests.cluster.objects import opted_in

Stage = Callable[..., Kubelet]


@pytest.fixture(scope="session")
def live() -> LiveCluster:
    if not KUBECONFIG:
        pytest.skip("BYTEPORT_TEST_KUBECONFIG is not set: there is no cluster to test against")
    return LiveCluster(KUBECONFIG)


@pytest.fixture(scope="session")
def kubeconfigs(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A kubeconfig for each process, with the credentials that the chart gives it and no others."""
    folder = tmp_path_factory.mktemp("kubeconfigs")
    with live.namespace({}) as namespace, of_the_chart(live, namespace) as tokens:
        yield {process: kubeconfig_of(KUBECONFIG, tokens[process], folder / process) for process in tokens}


@pytest.fixture
def agent(kubeconfigs: dict[str, str], settings, transactional_db: None) -> Iterator[Callable[..., Agent]]:
    """Puts BytePort to work in the players' namespaces. Its watcher starts then, and runs to the test's end."""
    settings.KUBECONFIG, settings.KUBE_CONTEXTS = kubeconfigs["worker"], []
    forget(PLACE)
    configure()
    with ExitStack() as stack:

        def start(signal: str, *players: Player) -> Agent:
            stack.enter_context(watching(kubeconfigs["watch"]))
            return Agent(PLACE, signal, *players)

        yield start
    forget(PLACE)


@pytest.fixture
def stage(live: LiveCluster) -> Iterator[Stage]:
    """Makes a namespace for the test, opted in to the given words, and a kubelet for it."""
    with ExitStack() as stack:
        yield lambda *words: Kubelet(live, stack.enter_context(live.namespace(opted_in(*words))))
