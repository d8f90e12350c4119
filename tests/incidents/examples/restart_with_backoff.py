"""pod_crashloop: a container that the kernel ends at its memory limit, which is raised."""

from datetime import timedelta

from runbooks.kubernetes.memory import Limits
from runbooks.kubernetes.objects import Terminated
from runbooks.library import restart_with_backoff
from tests.incidents.examples.base import START
from tests.incidents.examples.kubernetes import CART, treated, view

POD = "cart-5b6c9d7f4b-x2x9q"

EXAMPLE = treated(
    view(41, "pod_crashloop", CART, detail="cart 137", severity="warning", value=4.0),
    restart_with_backoff.RUNBOOK,
    restart_with_backoff.Found(
        target=str(CART),
        uid="7d0c3a52-55f1-4a7e-8f39-6f7f4f1f4c11",
        template="b0f1c2",
        pods=3,
        unwell=(f"{POD}: container cart waits: CrashLoopBackOff",),
        container=restart_with_backoff.Container(
            pod=POD,
            name="cart",
            is_init=False,
            is_terminating=False,
            restarts=4,
            ended=Terminated(
                exit_code=137,
                reason="OOMKilled",
                started_at=START - timedelta(seconds=107),
                finished_at=START - timedelta(seconds=15),
            ),
            waiting="CrashLoopBackOff",
            limits=Limits(now="256Mi", request="128Mi"),
            log=(
                "03:12:21 INFO loading 1,204,118 prices into the cache",
                "03:12:24 WARN the cache holds 241 MB and grows",
            ),
            log_problem="",
        ),
    ),
    fired=f"Container cart of pod {POD} was restarted 4 times in 15 min; it waits: CrashLoopBackOff.",
    changes=("spec.template.spec.containers.0.resources.limits.memory: 256Mi → 512Mi",),
    waited=((13, "1 of 3 new replicas are available"), (53, "all 3 replicas are new and available")),
    good="all 3 pods are Running and Ready, and stay so",
    ended_s=103,
)
