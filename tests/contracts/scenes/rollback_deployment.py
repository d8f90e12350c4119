"""A failed rollout that is rolled back, where Argo CD is installed."""

from tests.runbooks.library.test_rollback_deployment import DONE, failed_rollout, fire, roll_out, run


def rolled_back(cluster, clock):
    failed_rollout(cluster)
    roll_out(cluster, **DONE)
    assert run(fire(), clock).status == "resolved"


SCENES = (rolled_back,)
