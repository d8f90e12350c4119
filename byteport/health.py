"""What other machines ask of the web process: is it up, can it serve, and how is everything (Prometheus)."""

import hmac
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import lru_cache

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from byteport.core.clock import now
from incidents import queries
from incidents.handover import open_deliveries
from runbooks.models import AgentAction
from runbooks.policy import agent_settings
from signals.catalog import CATALOG
from signals.models import OutgoingEvent, OutgoingWebhook, ResolvedBy, SignalEvent, Status

LATEST_ACTIONS, MOST_SOURCES = 10_000, 1_000  # what one scrape looks through at most
DAY = timedelta(days=1)


@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers. Asks nothing of the database: restarting the process would not bring that back."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Whether requests can be served: 200, or 503 with the part that is missing."""
    parts = _parts()
    ready = all(part["ok"] for part in parts.values())
    return JsonResponse({"ready": ready, "parts": parts}, status=200 if ready else 503)


def _parts() -> dict[str, dict[str, object]]:
    try:
        missing = missing_migrations()
    except DatabaseError:
        connection.close()
        away = {"ok": False, "detail": "PostgreSQL does not answer."}
        return {"database": away, "migrations": {"ok": False, "detail": "Unknown while PostgreSQL is away."}}
    detail = f"Not applied: {', '.join(missing)}. Run `manage.py migrate`." if missing else "All are applied."
    database: dict[str, object] = {"ok": True, "detail": "PostgreSQL answers."}
    return {"database": database, "migrations": {"ok": not missing, "detail": detail}}


def missing_migrations() -> list[str]:
    """The latest migration of each app that this code has and the database has not. One query."""
    applied = MigrationRecorder(connection).applied_migrations()
    return [f"{app}.{name}" for app, name in _latest_migrations() if (app, name) not in applied]


@lru_cache(maxsize=1)
def _latest_migrations() -> list[tuple[str, str]]:
    return list(MigrationLoader(None).graph.leaf_nodes())


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Everything below, read from the database at this moment: the same whichever web process is asked."""
    if not _may_scrape(request):
        answer = HttpResponse("A bearer token is needed (BYTEPORT_METRICS_TOKEN).\n", "text/plain", status=401)
        answer["WWW-Authenticate"] = 'Bearer realm="metrics"'
        return answer
    registry = CollectorRegistry()
    registry.register(RecordCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        return HttpResponse(encode(registry), content_type=content_type)
    except DatabaseError:
        connection.close()
        return HttpResponse("PostgreSQL does not answer.\n", "text/plain", status=503)


def _may_scrape(request: HttpRequest) -> bool:
    token = str(settings.METRICS_TOKEN)
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return not token or (scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode()))


class RecordCollector(Collector):
    """Gauges out of BytePort's own record. None costs more when the history is longer."""

    def describe(self) -> Iterable[Metric]:
        return ()  # registering it must not ask the database

    def collect(self) -> Iterator[Metric]:
        yield from _agent()
        yield _open_events()
        yield _resolved_events()
        yield _actions()
        yield from _queue()
        yield _deliveries()
        yield _outgoing()
        yield _processes()
        yield from _sources()


def _agent() -> Iterator[Metric]:
    agent = agent_settings()
    yield GaugeMetricFamily("byteport_dry_run", "1 while the agent is in dry-run: it changes nothing.", agent.dry_run)
    yield GaugeMetricFamily("byteport_paused", "1 while the agent is paused: it begins no action.", agent.paused)


def _open_events() -> Metric:
    """A signal outside the catalog is some sender's own word: counted as `other`, to bound the labels."""
    gauge = GaugeMetricFamily(
        "byteport_open_events", "Open incidents by status and signal.", labels=("status", "signal")
    )
    rows = SignalEvent.objects.filter(status__in=SignalEvent.OPEN).order_by().values_list("status", "signal")
    counts = {(status, signal): 0 for status in SignalEvent.OPEN for signal in (*CATALOG, "other")}
    for status, signal, n in rows.annotate(n=Count("pk")):
        counts[status, signal if signal in CATALOG else "other"] += n
    for key, n in counts.items():
        gauge.add_metric(key, n)
    return gauge


def _resolved_events() -> Metric:
    help_text = "Incidents resolved within the last 24 h, by whom: byteport, person or itself."
    gauge = GaugeMetricFamily("byteport_events_resolved_last_day", help_text, labels=("by",))
    rows = SignalEvent.objects.filter(status=Status.RESOLVED, resolved_at__gte=now() - DAY).order_by()
    counts = dict.fromkeys(ResolvedBy.values, 0) | dict(rows.values_list("resolved_by").annotate(n=Count("pk")))
    for by, n in counts.items():
        gauge.add_metric((by,), n)
    return gauge


def _actions() -> Metric:
    help_text = f"Actions begun within the last 24 h (among the latest {LATEST_ACTIONS:,}), by status."
    gauge = GaugeMetricFamily("byteport_actions_last_day", help_text, labels=("status", "dry_run"))
    latest = AgentAction.objects.order_by("-pk").values("pk")[:LATEST_ACTIONS]
    rows = AgentAction.objects.filter(pk__in=latest, started_at__gte=now() - DAY).order_by()
    for status, dry_run, n in rows.values_list("status", "dry_run").annotate(n=Count("pk")):
        gauge.add_metric((status, str(dry_run).lower()), n)
    return gauge


def _queue() -> Iterator[Metric]:
    queue = queries.queue()
    help_text = "Tasks in the queue: ready to run, running under a lease, or delayed."
    depth = GaugeMetricFamily("byteport_queue_tasks", help_text, labels=("state",))
    for state in ("ready", "running", "delayed"):
        depth.add_metric((state,), getattr(queue, state))
    yield depth
    help_text = "Age of the task that has been due for longest; 0 when none waits."
    yield GaugeMetricFamily("byteport_queue_oldest_due_seconds", help_text, queue.oldest_due_s)


def _deliveries() -> Metric:
    help_text = (
        "What people have to be told and were not yet, by channel and where it stands: waiting, sending, held, failed."
    )
    gauge = GaugeMetricFamily("byteport_deliveries_open", help_text, labels=("channel", "status"))
    for (channel, status), n in open_deliveries().items():
        gauge.add_metric((channel, status), n)
    return gauge


def _outgoing() -> Metric:
    help_text = "Events that outgoing webhooks have to be told and were not yet, by webhook."
    gauge = GaugeMetricFamily("byteport_outgoing_events_waiting", help_text, labels=("webhook",))
    waiting = OutgoingEvent.objects.filter(due_at__isnull=False).order_by()  # the rest of the record is not read
    counts = dict(waiting.values_list("webhook").annotate(n=Count("*")))
    for pk, name in OutgoingWebhook.objects.values_list("pk", "name"):
        gauge.add_metric((name,), counts.get(pk, 0))
    return gauge


def _processes() -> Metric:
    help_text = "Processes of BytePort that gave a sign of life within the last minute, by role."
    gauge = GaugeMetricFamily("byteport_processes", help_text, labels=("role",))
    for role, beats in queries.processes().alive.items():
        gauge.add_metric((role,), len(beats))
    return gauge


def _sources() -> Iterator[Metric]:
    help_text = "Seconds since a source last answered (or called); absent while it never did."
    lag = GaugeMetricFamily("byteport_source_lag_seconds", help_text, labels=("source", "kind"))
    failing = GaugeMetricFamily(
        "byteport_source_failing",
        "1 when the latest attempt to read a source failed.",
        labels=("source", "kind"),
    )
    for health in queries.source_health(now(), MOST_SOURCES).listed:
        labels = (health.source.slug, health.source.kind)
        if health.source.enabled:
            failing.add_metric(labels, health.state == "failing")
            if health.lag_s is not None:
                lag.add_metric(labels, health.lag_s)
    yield from (lag, failing)
