"""Asks metrics.k8s.io for the CPU of all pods, at an interval, where the cluster has it."""

import threading
from collections.abc import Iterator
from datetime import datetime

import msgspec

from byteport.clients.kubernetes import reader
from byteport.clients.kubernetes.errors import NotFound, Unreadable
from byteport.clients.kubernetes.paths import path_of
from byteport.core.backoff import spread_s
from byteport.core.clock import now
from byteport.core.errors import Permanent, Temporary
from signals.kubernetes.cluster import Cluster
from signals.kubernetes.judgements import Judgement
from signals.kubernetes.objects import Page, PodMetrics
from signals.kubernetes.reflector import ABSENT_S, Health
from signals.kubernetes.saturation import saturations
from signals.reading import State

SATURATES = "cpu_saturation"
INTERVAL_S = 30.0  # a metrics server looks every 15 s; readings have to come within 90 s for a window to hold
PATH = path_of("podmetrics")

_DECODER = msgspec.json.Decoder(PodMetrics)


class Meter(threading.Thread):
    """Measures one cluster, in a thread of its own, until `close`."""

    def __init__(self, cluster: Cluster, pods_known: threading.Event) -> None:
        super().__init__(name=f"cpu@{cluster.place}", daemon=True)
        self.health = Health(name=f"{cluster.place}/cpu")
        self._cluster = cluster
        self._pods_known = pods_known
        self._closing = threading.Event()

    def close(self) -> None:
        self._closing.set()

    def run(self) -> None:
        while not self._closing.is_set():
            pause = self._turn() if self._pods_known.is_set() else 1.0
            self._closing.wait(pause)

    def _turn(self) -> float:
        health = self.health
        try:
            self._measure(at := now())
        except NotFound:
            health.absent, health.error, health.contact_at = True, "", now()
            return spread_s(ABSENT_S)
        except (Temporary, Permanent) as error:
            health.error = str(error)
            return max(spread_s(INTERVAL_S), error.delay_s if isinstance(error, Temporary) else 0.0)
        health.absent, health.error, health.contact_at, health.event_at = False, "", at, at
        health.events += 1
        return spread_s(INTERVAL_S)

    def _measure(self, at: datetime) -> None:
        cluster = self._cluster
        measured = list(self._read())
        with cluster.lock:
            found = saturations(measured, cluster.book.pods.values(), cluster.workloads.known, at)
        for workload, saturation in found.items():
            labels = {
                "used": f"{saturation.used:.0f}m",
                "requested": f"{saturation.requested:.0f}m",
                "pods": str(saturation.pods),
            }
            judgement = Judgement(State.MEASURED, labels)
            cluster.note_reading(cluster.reading(SATURATES, workload, judgement, at, value=saturation.percent))

    def _read(self) -> Iterator[PodMetrics]:
        for body in reader.list_pages(self._cluster.place, PATH):
            try:
                items = msgspec.json.decode(body, type=Page).items or ()
            except (msgspec.DecodeError, RecursionError) as error:
                raise Unreadable(f"{PATH} on {self._cluster.place}: the answer is no list ({error}).") from error
            for item in items:
                try:
                    yield _DECODER.decode(item)
                except (msgspec.DecodeError, RecursionError):
                    self.health.malformed += 1
