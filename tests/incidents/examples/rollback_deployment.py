"""deployment_failed: a new image that cannot be pulled, and the revision before it."""

from runbooks.kubernetes.revisions import Stable
from runbooks.library import rollback_deployment
from tests.incidents.examples.kubernetes import CART, treated, view

FAILURE = 'ReplicaSet "cart-7d9f8c6b5d" has timed out progressing.'
DIGEST = "b0f1c2"

EXAMPLE = treated(
    view(44, "deployment_failed", CART),
    rollback_deployment.RUNBOOK,
    rollback_deployment.Found(
        uid="7d0c3a52-55f1-4a7e-8f39-6f7f4f1f4c11",
        template=DIGEST,
        revision=8,
        failure=FAILURE,
        stable=Stable("cart-5b6c9d7f4b", 7, "it was fully available at 2026-02-27 14:05:11 UTC", remembered=True),
        images=("Container cart runs shop/cart:4.1.0 in revision 7 and shop/cart:4.2.0 in revision 8.",),
        serving=3,
        replicas=4,
        waits=("container cart: ImagePullBackOff",),
    ),
    fired=FAILURE,
    changes=("spec.template.spec.containers.0.image: shop/cart:4.2.0 → shop/cart:4.1.0",),
    waited=((13, "1 of 4 new replicas are available"), (33, "all 4 replicas are new and available")),
    good="the rollout of the earlier revision is complete",
    ended_s=83,
)
