"""A failed rollout that is rolled back, where Argo CD is installed."""

from tests.runbooks.library.test_rollback_deployment import DONE, failed_rollout, fire, reading, roll_out, run


def trouble(cluster):
    failed_rollout(cluster)
    roll_out(cluster, **DONE)
    return reading()


def rolled_back(cluster, clock):
    trouble(cluster)
    assert run(fire(), clock).status == "resolved"


SCENES = (rolled_back,)
