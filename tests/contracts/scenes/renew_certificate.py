"""A certificate that is due, and is issued anew."""

from tests.runbooks.library.test_renew_certificate import fire, issues, run
from tests.runbooks.shop import certificate


def renewed(cluster, clock):
    certificate(cluster)
    issues(cluster)
    assert run(fire(), clock).status == "resolved"


SCENES = (renewed,)
