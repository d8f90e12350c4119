"""Crash loops that a restart cures, and those that need more memory, of each kind of workload."""

from functools import partial

from byteport import loop
from runbooks.kubernetes.reads import WORKLOADS
from tests.runbooks.library.test_restart_with_backoff import REFUSED_BY_DB, fire, reading, run
from tests.runbooks.shop import controller, crash_loop, crashed, ref


def trouble(cluster):
    crash_loop(cluster, crashed(1), REFUSED_BY_DB)
    controller(cluster)
    return reading()


def told_of_a_pod(cluster, clock):
    trouble(cluster)
    assert run(fire(ref("pod", "cart-1"), detail="app"), clock).status == "resolved"


def to_be_restarted(kind, cluster, clock):
    crash_loop(cluster, crashed(143), "terminated\n", kind=kind)
    look_once(fire(ref(kind, "cart")), clock)


def out_of_memory(kind, cluster, clock):
    crash_loop(cluster, crashed(137, "OOMKilled"), "", kind=kind)
    look_once(fire(ref(kind, "cart"), detail="app exit 137"), clock)


def look_once(event, clock):
    """Acts, and looks at the rollout, which does not get on here."""
    assert run(event, clock, "verifying", "escalated").status == "verifying", event.reason
    clock.move_to(event.due_at)
    loop.advance(event.pk)


SCENES = (
    told_of_a_pod,
    *(partial(scene, kind) for scene in (to_be_restarted, out_of_memory) for kind in WORKLOADS),
)
