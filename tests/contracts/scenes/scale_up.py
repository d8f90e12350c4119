"""A saturated Deployment that gets a replica, where KEDA and metrics are installed."""

from tests.runbooks.library.test_scale_up import fire, reading, run, saturated, scales


def trouble(cluster):
    saturated(cluster)
    scales(cluster)
    return reading()


def scaled(cluster, clock):
    trouble(cluster)
    assert run(fire(), clock, cluster).status == "resolved"


SCENES = (scaled,)
