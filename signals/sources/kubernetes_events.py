"""Clusters: Events, Pods, Deployments and Certificates as they are watched, and the CPU of workloads.

What it is made of is in `signals.kubernetes`; which clusters there are is configured (docs/kubernetes.md).
"""

import threading

from signals.kubernetes.follower import Follower
from signals.source import Channel, SourceConfig


class KubernetesSource:
    """Watches every cluster that BytePort knows, at once."""

    name = "kubernetes_events"
    title = "Kubernetes clusters"
    permissions: tuple[str, ...] = (
        "events: list, watch",
        "pods: get, list, watch",
        "apps/deployments: list, watch",
        "apps/replicasets: get",
        "cert-manager.io/certificates: list, watch",
        "metrics.k8s.io/pods: list",
    )

    def follow(self, config: SourceConfig, channel: Channel, stop: threading.Event) -> None:
        Follower(config.slug, channel).run(stop)


SOURCE = KubernetesSource()
