"""cpu_saturation: a workload whose replicas all use nearly all the CPU that they ask for, and gets one more."""

from incidents.trend import Point, Points
from runbooks.kubernetes.load import PodLoad
from runbooks.library import scale_up
from tests.incidents.examples.base import at
from tests.incidents.examples.kubernetes import CART, treated, view

COURSE = [
    *((seconds, 71.0 + (seconds + 1800) * 0.004) for seconds in range(-1800, -239, 60)),
    *((seconds, 92.0 + (seconds + 180) * 0.01) for seconds in range(-180, 1, 30)),
    *((60, 81.0), (83, 69.6), (93, 70.1), (103, 69.8)),
]

EXAMPLE = treated(
    view(52, "cpu_saturation", CART, severity="warning", value=93.8, threshold=85.0),
    scale_up.RUNBOOK,
    scale_up.Found(
        uid="7d0c3a52-55f1-4a7e-8f39-6f7f4f1f4c11",
        replicas=3,
        most=6,
        percent=93.5,
        loads=(
            PodLoad("cart-5b6c9d7f4b-8kq2m", 0.475, 0.5),
            PodLoad("cart-5b6c9d7f4b-x2x9q", 0.468, 0.5),
            PodLoad("cart-5b6c9d7f4b-zt7wd", 0.46, 0.5),
        ),
    ),
    fired="93.8 is above the threshold of 85, for 180 s on end.",
    changes=("spec.replicas: 3 → 4",),
    waited=((13, "3 of 4 replicas are available"), (53, "all 4 replicas are new and available")),
    good="70 % of its request, below 75 %, and the new replicas are available",
    ended_s=103,
    value_last=69.8,
    trend=Points(tuple(Point(at(seconds), value, value, value) for seconds, value in COURSE), "%"),
)
