"""A cluster with everything that the source looks at: followed until it has looked at all of it."""

from tests.signals.sources.test_kubernetes_events import backoff, certificate, deployment, following, pod, until


def everything(cluster):
    """The pod's Deployment is not known by its name, so that its ReplicaSet has to be read; then the pod is gone."""
    cluster.kinds.add("podmetrics")
    cluster.store.put("deployment", deployment("web", failed=True))
    cluster.store.put("pod", pod(2, ready=False))
    cluster.store.put("certificate", certificate(2))
    with following() as channel:
        until(lambda: len([each for each in channel.streams.values() if each.contact_at]) >= 5, "the streams")
        cluster.store.put("event", backoff())
        until(lambda: any(reading.signal == "pod_crashloop" for reading in channel.taken), "the crash loop")
        cluster.store.delete("pod", "shop", "boom-77db7844b9-j5279")
        cluster.store.put("event", backoff(reason="CrashLoopBackOff"))  # the same again within seconds is passed over
        until(lambda: any(seen.right == "pods: get" for seen in cluster.seen), "the look at the pod")


SCENES = (everything,)
