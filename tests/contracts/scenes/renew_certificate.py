"""A certificate that is due, and is issued anew."""

from tests.runbooks.library.test_renew_certificate import fire, issues, reading, run
from tests.runbooks.shop import certificate

LEAVES_NO_MARK = True  # once it is issued, cert-manager's own words stand where the action's id was


def trouble(cluster):
    certificate(cluster)
    issues(cluster)
    return reading()


def renewed(cluster, clock):
    trouble(cluster)
    assert run(fire(), clock).status == "resolved"


SCENES = (renewed,)
