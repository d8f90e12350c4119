"""What the tests on a real cluster share. Without BYTEPORT_TEST_KUBECONFIG they are all skipped, and say so."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from kubernetes.config import list_kube_config_contexts

from byteport.clients.kubernetes.clusters import forget
from tests.cluster.kubelet import Kubelet
from tests.cluster.live import KUBECONFIG, LiveCluster
from tests.cluster.objects import opted_in

Stage = Callable[..., Kubelet]


@pytest.fixture(scope="session")
def live() -> LiveCluster:
    if not KUBECONFIG:
        pytest.skip("BYTEPORT_TEST_KUBECONFIG is not set: there is no cluster to test against")
    return LiveCluster(KUBECONFIG)


@pytest.fixture
def place(live: LiveCluster, settings) -> Iterator[str]:
    """The cluster as BytePort knows it, with the administrator's credentials."""
    settings.KUBECONFIG, settings.KUBE_CONTEXTS = KUBECONFIG, []
    name = str(list_kube_config_contexts(KUBECONFIG)[1]["name"])
    forget(name)
    yield name
    forget(name)


@pytest.fixture
def stage(live: LiveCluster) -> Iterator[Stage]:
    """Makes a namespace for the test, opted in to the given words, and a kubelet for it."""
    with ExitStack() as stack:
        yield lambda *words: Kubelet(live, stack.enter_context(live.namespace(opted_in(*words))))
