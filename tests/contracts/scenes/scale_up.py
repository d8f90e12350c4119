"""A saturated Deployment that gets a replica, where KEDA and metrics are installed."""

from tests.runbooks.library.test_scale_up import fire, run, saturated, scales


def scaled(cluster, clock):
    saturated(cluster)
    scales(cluster)
    assert run(fire(), clock, cluster).status == "resolved"


SCENES = (scaled,)
