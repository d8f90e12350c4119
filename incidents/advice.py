"""What a person can do about a resource when no runbook has anything to say of it. Pure; real names, shell-quoted."""

from shlex import quote

from byteport.core.resource import ResourceRef
from incidents.record import Record
from runbooks.runbook import ManualStep


def general_steps(record: Record) -> tuple[ManualStep, ManualStep, ManualStep]:
    """Look at it, look at what is around it, and look whether it is over."""
    try:
        ref = ResourceRef.parse(record.resource)
    except ValueError:
        return (*_anywhere(record), _over(record))
    steps = {"host": _host, "kubernetes": _kubernetes, "postgres": _postgres}.get(ref.platform)
    return (*(steps(ref) if steps else _anywhere(record)), _over(record))


def _over(record: Record) -> ManualStep:
    return ManualStep("See in BytePort whether the signal is over", f"manage.py incident {record.id}")


def _anywhere(record: Record) -> tuple[ManualStep, ManualStep]:
    return (
        ManualStep("See all that BytePort has on record", f"manage.py incident {record.id} --json"),
        ManualStep("See what happened to it before", f"manage.py incidents --signal {quote(record.signal)}"),
    )


def _host(ref: ResourceRef) -> tuple[ManualStep, ManualStep]:
    on = f"ssh -- {quote(ref.place)}"
    return (
        ManualStep(f"See what runs on {ref.place}", f"{on} 'uptime; free -h; df -h; ps aux --sort=-rss | head -15'"),
        ManualStep(
            "See what went wrong there lately", f"{on} 'systemctl --failed; journalctl -p err -n 50 --no-pager'"
        ),
    )


def _kubernetes(ref: ResourceRef) -> tuple[ManualStep, ManualStep]:
    within = f" -n {quote(ref.namespace)}" if ref.namespace else ""
    return (
        ManualStep(f"Look at it, in {ref.place}", f"kubectl describe{within} -- {quote(ref.kind)} {quote(ref.name)}"),
        ManualStep("See what happened around it", f"kubectl get events{within} --sort-by=.lastTimestamp"),
    )


def _postgres(ref: ResourceRef) -> tuple[ManualStep, ManualStep]:
    server = f"psql -h {quote(ref.place)}"
    sessions = (
        "SELECT pid, usename, datname, state, xact_start, left(query, 80) FROM pg_stat_activity ORDER BY xact_start"
    )
    blocked = "SELECT pid, pg_blocking_pids(pid), left(query, 80) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return (
        ManualStep(f"See the sessions on {ref.place}", f"{server} -c {quote(sessions)}"),
        ManualStep("See who waits for whom", f"{server} -c {quote(blocked)}"),
    )
