"""Whether what Helm renders is what Kubernetes takes: each object passes through the official client's own types.

Real: Helm's lint and rendering, the types of the `kubernetes` package. Not real: no API server (tests/cluster has one).
"""

import json

import helm_python
import pytest
from kubernetes.client import ApiClient

from tests.charts.rendering import CHART, EVERYTHING, LEAST, NOTHING, render

VARIANTS = {"the least": LEAST, "everything": EVERYTHING, "nothing": NOTHING}
TYPES = {
    "apps/v1": "V1",
    "batch/v1": "V1",
    "networking.k8s.io/v1": "V1",
    "policy/v1": "V1",
    "rbac.authorization.k8s.io/v1": "V1",
    "v1": "V1",
}


def as_the_api_has_it(found):
    """The object read into the client's type and written again: what is not of the type is lost, or no longer equal.

    Raises ValueError where something is missing.
    """
    client, type_name = ApiClient(), f"{TYPES[found['apiVersion']]}{found['kind']}"
    return client.sanitize_for_serialization(client.deserialize(json.dumps(found), type_name, "application/json"))


def is_of_its_kind(found):
    try:
        return as_the_api_has_it(found) == found
    except ValueError:
        return False


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_has_the_shape_of_its_kind(values):
    objects = render(values)
    assert len(objects) > 5
    for found in objects:
        assert as_the_api_has_it(found) == found


@pytest.mark.parametrize("bent", [{"replica": 2}, {"replicas": "2"}, {"template": None}, {"selector": "web"}])
def test_a_wrong_shape_would_be_seen(bent):
    deployment = next(each for each in render() if each["kind"] == "Deployment")
    assert not is_of_its_kind({**deployment, "spec": {**deployment["spec"], **bent}})


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_helm_has_nothing_against_it(values):
    report = helm_python.lint(CHART, values, strict=True, kube_version="v1.27.0")
    assert report["errors"] == []
    assert [found["error"] for found in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_is_known_as_the_releases(values):
    for found in render(values):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "byteport"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"].startswith("byteport-agent-")
