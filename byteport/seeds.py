"""The rows that an operator expects to find in the admin, and the schedule of the sweep.

A missing row means the product's defaults, so BytePort runs without them; and a row that is there is never touched, but
for the roles' permissions, which follow their table.
"""

from collections.abc import Iterator

from django.db import connection, transaction
from django_q.models import Schedule

from byteport.clients.hosts.inventory import local_name
from byteport.clients.kubernetes.clusters import cluster_names, is_pod
from byteport.core.errors import Permanent
from byteport.models import Host
from incidents import roles
from incidents.policies import default_row
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.runbook import RUNBOOKS
from signals.catalog import CATALOG
from signals.models import SignalPolicy, Source

SWEEP = "byteport.tasks.sweep"


@transaction.atomic
def plant() -> None:
    """Adds what is missing. Quick when nothing is; any number of processes may do it at once."""
    AgentSettings.objects.bulk_create([AgentSettings()], ignore_conflicts=True)
    signals = [row for row in map(default_row, CATALOG) if isinstance(row, SignalPolicy)]
    SignalPolicy.objects.bulk_create(signals, ignore_conflicts=True)
    runbooks = [row for row in map(default_row, RUNBOOKS) if isinstance(row, RunbookPolicy)]
    RunbookPolicy.objects.bulk_create(runbooks, ignore_conflicts=True)
    Source.objects.bulk_create([Source(slug=slug, kind=kind) for slug, kind in _sources()], ignore_conflicts=True)
    if local_name():
        Host.objects.bulk_create([Host(name=local_name(), way="local")], ignore_conflicts=True)
    roles.plant()
    _schedule_sweep()


def _sources() -> Iterator[tuple[str, str]]:
    """Hosts, databases, and clusters where some are configured. A kubeconfig that cannot be read, the source tells.

    In a pod the cluster is one, also where this process has no token for it: the setup of the Helm chart has none.
    """
    yield "host", "host"
    yield "postgres", "postgres_sessions"
    try:
        configured = is_pod() or bool(cluster_names())
    except Permanent:
        configured = True
    if configured:
        yield "kubernetes", "kubernetes_events"


def _schedule_sweep() -> None:
    """Once a minute. The table has no key of its own for this, so that one process at a time looks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('byteport.seeds', 0))")
    if not Schedule.objects.filter(func=SWEEP).exists():
        Schedule.objects.create(name="sweep", func=SWEEP, schedule_type=Schedule.MINUTES, minutes=1)
