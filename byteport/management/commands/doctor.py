"""`manage.py doctor`: each thing that BytePort depends on, whether it is well, and the fix when it is not."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from django.conf import settings
from django.core.checks import WARNING, run_checks
from django.db import Error as DatabaseError
from django.db import connection, connections

from byteport import embedded, upgrade
from byteport.cli import Report, ReportCommand
from byteport.clients.hosts.inventory import ANNOTATIONS_TIMEOUT_S, reachable, transport_to
from byteport.clients.hosts.protocol import Scope
from byteport.clients.hosts.reader import read_by
from byteport.clients.kubernetes.access import forbidden_reads, version_of
from byteport.clients.kubernetes.clusters import cluster_names
from byteport.clients.kubernetes.errors import rule_text
from byteport.clients.postgres import inventory, reader
from byteport.clients.postgres.connection import grants
from byteport.clients.postgres.statements import RightsRow
from byteport.core.clock import now
from byteport.core.errors import BytePortError, Permanent
from byteport.core.health import is_failing
from byteport.core.units import human_bytes, human_duration
from byteport.core.ways import Address
from byteport.heartbeats import alive
from byteport.models import Host, MonitoredDatabase
from byteport.sealing import seal, unseal
from incidents.escalation.channel import CHANNELS, Channel
from incidents.handover import hand_over, what_to_set
from incidents.queries import is_late
from runbooks.policy import agent_settings, is_switched_on
from runbooks.runbook import RUNBOOKS
from signals.models import Source
from signals.source import SOURCES, Credentialed, StreamSource, WebhookSource

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
LOW_SPACE_BYTES = 1_000_000_000
HOSTS_AT_ONCE = 16
NOT_ROOT = {
    "local": "Run BytePort as root on this host, or accept that what only root may delete stays.",
    "ssh": "Sign in as root, or set “Use sudo” for it in the admin (docs/hosts.md has the line for sudoers).",
}


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing looked at. `fix` says what to do when it is not "ok"."""

    name: str
    state: str  # "ok", "warn" (works, but not as it should) or "fail"
    detail: str
    fix: str = ""


class Command(ReportCommand):
    help = (
        "Looks at everything that BytePort depends on and says how to fix what is wrong. Ends with 1 if something is."
    )

    def report(self, **options: Any) -> Report:
        findings = list(examine())
        lines = [line for finding in findings for line in shown(finding)]
        self.failed = any(finding.state == "fail" for finding in findings)
        return Report({"well": not self.failed, "findings": findings}, lines)

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        if self.failed:
            raise SystemExit(1)


def shown(finding: Finding) -> Iterator[str]:
    yield f"{MARKS[finding.state]}  {finding.name}: {finding.detail}"
    if finding.fix:
        yield f"      → {finding.fix}"


def examine() -> Iterator[Finding]:
    """Everything, one after the other. What needs the database is left out when that is away."""
    yield from configuration()
    reachable = postgres()
    yield reachable
    if reachable.state == "fail":
        return
    for look in (migrations, agent, processes, sources, credentials, hosts, clusters, databases, channels, programs):
        yield from look()


def configuration() -> Iterator[Finding]:
    problems = [check for check in run_checks() if check.level >= WARNING]
    for check in problems:
        yield Finding(
            "configuration", "fail" if check.is_serious() else "warn", f"{check.id}: {check.msg}", check.hint or ""
        )
    if not problems:
        yield Finding("configuration", "ok", "no system check complains")


def postgres() -> Finding:
    kind = "BytePort's own" if settings.EMBEDDED_POSTGRES else "DATABASE_URL"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version'), pg_database_size(current_database())")
            version, size = cursor.fetchone()
    except DatabaseError as error:
        fix = "See that the server runs and DATABASE_URL names it; or unset DATABASE_URL to use BytePort's own."
        return Finding("PostgreSQL", "fail", f"{kind}: {str(error).strip().splitlines()[0]}", fix)
    where = f" in {embedded.status(settings.STATE_DIR).data}" if settings.EMBEDDED_POSTGRES else ""
    return Finding("PostgreSQL", "ok", f"{version}, {kind}{where}, {human_bytes(size)}")


def migrations() -> Iterator[Finding]:
    pending = upgrade.pending()
    if pending:
        yield Finding("migrations", "fail", f"{len(pending)} not applied", "manage.py setup")
    else:
        yield Finding("migrations", "ok", "all applied")


def agent() -> Iterator[Finding]:
    row = agent_settings()
    if row.paused:
        yield Finding("agent", "warn", f"paused: {row.paused_reason or 'no reason given'}", "manage.py agent resume")
    elif row.dry_run_is_forced:
        yield Finding("agent", "ok", "kept in dry-run by this deployment (BYTEPORT_FORCE_DRY_RUN)")
    elif row.dry_run:
        yield Finding(
            "agent", "ok", "in dry-run: it says what it would do (to let it act: manage.py agent dry-run off)"
        )
    else:
        yield Finding("agent", "ok", "acts on what has been opted in")
    off = [runbook.name for runbook in RUNBOOKS.values() if not is_switched_on(runbook)]
    if off:
        yield Finding("runbooks", "ok", f"switched off by this deployment (BYTEPORT_RUNBOOKS): {', '.join(off)}")


def processes() -> Iterator[Finding]:
    for role, does in (("worker", "no incident goes on"), ("watch", "no source is asked")):
        running = alive(role)
        if running:
            yield Finding(role, "ok", ", ".join(beat.process for beat in running))
        else:
            yield Finding(role, "warn", f"none is running: {does}", f"make run, or: manage.py {role}")


def sources() -> Iterator[Finding]:
    for row in Source.objects.filter(enabled=True):
        name = f"source {row.slug}"
        if unreadable := unreadable_secret(row):
            yield Finding(name, "fail", unreadable, "In the admin, on the source's page: Make a new secret.")
        elif is_failing(row):
            called = isinstance(SOURCES.get(row.kind), WebhookSource)  # anybody can have a call refused
            yield Finding(name, "warn" if called else "fail", row.last_error, fix_of(row))
        elif row.last_success_at is None:
            yield Finding(
                name, "warn", "nothing has come in yet", "It fills itself once watch runs, or its sender calls."
            )
        else:
            yield heard_of(row, max((now() - row.last_success_at).total_seconds(), 0))


def heard_of(row: Source, ago_s: float) -> Finding:
    name, detail = f"source {row.slug}", f"last heard of {human_duration(ago_s)} ago"
    if is_late(row, ago_s):
        return Finding(name, "warn", f"{detail}, which is late", fix_of(row))
    return Finding(name, "ok", detail)


def unreadable_secret(row: Source) -> str:
    """Why a source's secret cannot be read; empty when it can, or there is none."""
    try:
        unseal(row.sealed_secret or seal(""))
    except Permanent as error:
        return str(error)
    return ""


def fix_of(row: Source) -> str:
    """What to do about a source that fails."""
    source: object = SOURCES.get(row.kind)
    if isinstance(source, WebhookSource):
        return "docs/webhooks.md, Answers, says what to do; the next call that is taken clears it"
    if isinstance(source, StreamSource):
        return "manage.py watch tries it again and again"
    return f"manage.py poll {row.slug} tries it now"


def credentials() -> Iterator[Finding]:
    """Of each source that signs in at a vendor: whether this process finds what it needs for that."""
    for row in Source.objects.filter(enabled=True).order_by("slug"):
        source: object = SOURCES.get(row.kind)
        if isinstance(source, Credentialed):
            yield credentials_of(row, source)


def credentials_of(row: Source, source: Credentialed) -> Finding:
    name = f"source {row.slug}, credentials"
    try:
        return Finding(name, "ok", source.credentials(row.options))
    except BytePortError as error:
        fix = "docs/clouds.md says which rights they need; every process of BytePort that reads needs them."
        return Finding(name, "fail", str(error), fix)


def hosts() -> Iterator[Finding]:
    """Each host that BytePort has a way to, several at a time; and those that are only seen."""
    known = reachable()
    with ThreadPoolExecutor(HOSTS_AT_ONCE) as pool:
        for findings in pool.map(look_at, known):
            yield from findings
    unreached = list(Host.objects.filter(enabled=True, way="").order_by("name").values_list("name", flat=True)[:20])
    if unreached:
        fix = "Choose how to reach them in the admin (Hosts), or leave them to people."
        yield Finding("hosts", "ok", f"only seen, so BytePort does nothing on them: {', '.join(unreached)}", fix)


def look_at(host: Address) -> list[Finding]:
    """One host. Touches the database only where its way has to, and then leaves no connection behind."""
    try:
        found = list(reached(host))
        return found if found[0].state == "fail" else [*found, *opted_in(host)]
    finally:
        connections.close_all()


def reached(host: Address) -> Iterator[Finding]:
    name = f"host {host.name}"
    try:
        facts = read_by(transport_to(host), host.name, "facts")
    except BytePortError as error:
        yield Finding(name, "fail", str(error), f"docs/hosts.md says what the way “{host.way}” needs.")
        return
    who = "root" if facts["uid"] == 0 else f"user {facts['uid']}"
    yield Finding(name, "ok", f"{host.way}, read as {who}, Python {facts['python']}, kernel {facts['kernel']}")
    if facts["uid"] != 0:
        yield Finding(
            f"{name}, rights", "warn", "not root: it can delete only its own user's files", NOT_ROOT.get(host.way, "")
        )
    missing = [tool for tool, present in facts["tools"].items() if not present]
    if missing:
        detail = f"not installed, so their steps are skipped: {', '.join(sorted(missing))}"
        yield Finding(f"{name}, tools", "ok", detail)


def opted_in(host: Address) -> Iterator[Finding]:
    name, transport = f"host {host.name}, opt-in", transport_to(host)
    try:
        found = transport.annotations(Scope("host"), timeout_s=ANNOTATIONS_TIMEOUT_S)
    except BytePortError as error:
        yield Finding(name, "fail", str(error), f"To opt in: {transport.remedy('disk')}")
        return
    if found.words:
        yield Finding(name, "ok", ", ".join(found.words))
    else:
        fix = f"To opt in: {transport.remedy('disk')}"
        yield Finding(name, "warn", "nothing, so BytePort only tells people", fix)


def clusters() -> Iterator[Finding]:
    """Each configured cluster: whether it answers, and what BytePort may not read there."""
    try:
        names = cluster_names()
    except BytePortError as error:
        yield Finding("clusters", "fail", str(error), "docs/kubernetes.md says how to point BytePort at a cluster.")
        return
    for name in names:
        try:
            yield from _cluster(name)
        except BytePortError as error:
            yield Finding(f"cluster {name}", "fail", str(error), "docs/kubernetes.md says how it is reached.")


def reads_of(role: str) -> Iterator[str]:
    """What the processes of a role read in a cluster, of all roles when it is empty; of runbooks, those that are on."""
    if role in ("", "watch"):
        yield from (text for source in SOURCES.values() for text in source.permissions)
    if role in ("", "worker"):
        on = (runbook for runbook in RUNBOOKS.values() if is_switched_on(runbook))
        yield from (text for runbook in on for text in runbook.permissions)


def _cluster(name: str) -> Iterator[Finding]:
    version = version_of(name)
    missing = list(forbidden_reads(name, reads_of(settings.ROLE)))
    yield Finding(f"cluster {name}", "ok", f"Kubernetes {version}" + ("" if missing else ", all reads are allowed"))
    for error in missing:
        if error.permission is not None:
            fix = f"Add to the ClusterRole of BytePort's account: {rule_text(error.permission)}"
            yield Finding(f"cluster {name}", "warn", f"may not: {error.permission}", fix)


def channels() -> Iterator[Finding]:
    """Each channel that is set up is tried, changing nothing there."""
    found = hand_over(now())
    for channel in CHANNELS.values():
        if channel.setup().ready:
            yield tried(channel)
    if not found.ready:
        what = f"no channel is set up; {found.untold} wait for one" if found.untold else "no channel is set up"
        yield Finding("hand-over", "fail" if found.untold else "warn", what, what_to_set())
    for trouble in found.troubles:
        what = f"{trouble.count} not delivered by {trouble.channel}: {trouble.error}"
        where = ", ".join(f"incident {event}" for event in trouble.events)
        yield Finding("hand-over", "fail", what, trouble.remedy or f"Send them again in the console: {where}.")


def tried(channel: Channel) -> Finding:
    try:
        return Finding(channel.title, "ok", channel.check())
    except BytePortError as error:
        return Finding(channel.title, "fail", str(error), getattr(error, "remedy", "") or "See docs/escalation.md.")


def databases() -> Iterator[Finding]:
    for row in inventory.monitored():
        try:
            rights = reader.rights(inventory.target_of(row))
        except BytePortError as error:
            yield Finding(f"database {row.name}", "fail", str(error), "docs/databases.md says what is needed.")
        else:
            yield database(row, rights)


def database(row: MonitoredDatabase, rights: RightsRow) -> Finding:
    name = f"database {row.name}"
    if rights.lacks:
        return Finding(name, "fail", rights.told, f"As a superuser: {grants(rights.role)}")
    if rights.is_superuser:
        fix = f"Give BytePort a role of its own, and no more than this: {grants('byteport_agent')}"
        return Finding(name, "warn", f"{rights.told}; this role is a superuser, which BytePort need not be", fix)
    if not rights.is_private:
        fix = "Add sslmode=verify-full to the DSN (and sslrootcert, where the server's certificate is of your own CA)."
        return Finding(name, "warn", f"{rights.told}; the connection is not encrypted", fix)
    return Finding(name, "ok", rights.told)


def programs() -> Iterator[Finding]:
    if os.geteuid() == 0 and shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        yield Finding("drill", "ok", "mkfs.ext4 is not installed: the disk drill uses a folder with a budget")
    free = shutil.disk_usage(settings.BASE_DIR).free
    if free < LOW_SPACE_BYTES:
        yield Finding("space", "warn", f"{human_bytes(free)} free for BytePort itself", "Free some, or move it.")
