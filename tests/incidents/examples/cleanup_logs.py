"""disk_pressure: a disk that fills up with old logs."""

from incidents.record import Earlier, Entry, Look, Record
from runbooks.runbook import Diagnosis, ManualStep, Plan, Step
from tests.incidents.examples.base import TIMING, at, course, deed, gate

RESOURCE = "host/web-1/mount/%2Fvar"
STEPS = (
    Step("journal", "host.journal_vacuum", RESOURCE, "Vacuum the system journal to 50 MB"),
    Step("rotated_logs", "host.delete_rotated_logs", RESOURCE, "Delete *.gz below the log folder older than 7 days"),
    Step("containers", "host.container_prune", RESOURCE, "Prune unused container images and artefacts"),
)
PLAN = Plan("cleanup_logs", "vacuum the journal; delete old rotated logs; prune containers.", STEPS, TIMING)

CLEANUP_LOGS = Record(
    id=12,
    signal="disk_pressure",
    title="Disk pressure",
    unit="%",
    label="/var on web-1",
    resource=RESOURCE,
    source="host",
    severity="warning",
    status="resolved",
    resolved_by="byteport",
    reason="3 good looks in a row; the latest: 71.4 % used, below 80 %",
    detected_at=at(0),
    acted_at=at(2),
    resolved_at=at(60),
    value_then=91.2,
    value_last=71.4,
    threshold=85,
    clear=80,
    runbook="cleanup_logs",
    diagnosis=Diagnosis(
        evidence=(
            "/var on web-1 is 91.2 % full (36.5 GB of 40.0 GB; ext4 on /dev/vda2).",
            "42 rotated logs older than 7 days: 6.1 GB.",
            "The system journal takes 1.6 GB.",
            "Among the biggest files in the log folder: /var/log/shop/access.log.3.gz, 2.1 GB.",
        ),
        inference="6.1 GB in old logs and stale temporary files can be freed.",
        confident=False,
        facts={"mount": {"total_bytes": 40_000_000_000}},
    ),
    plan=PLAN,
    timeline=(
        Entry(at(0), "host", "detected", "91.2 is above the threshold of 85, for 60 s on end."),
        Entry(at(1), "byteport", "diagnosed", f"6.1 GB can be freed. Plan: {PLAN.summary}"),
        Entry(at(2), "byteport", "acting", f"Every gate allows it: {PLAN.summary}"),
        Entry(at(10), "byteport", "verifying", "All 3 steps were gone through; now their effect is looked at."),
        Entry(at(60), "byteport", "resolved", "3 good looks in a row; the latest: 71.4 % used, below 80 %"),
    ),
    gates=(
        gate("paused", "BytePort is not paused."),
        gate("never", "The plan holds nothing that BytePort must never do."),
        gate("verifiable", "The signal can be read again after the action."),
        gate("opt_in", "Opted in to `disk` (/etc/byteport/annotations of web-1: disk)."),
        gate("human_override", "Nobody else has changed the resource since detection."),
        gate("dry_run", "Dry-run is off."),
        gate("maintenance_window", "No maintenance window covers it."),
        gate("cooldown", "It did not run on this resource within the cooldown."),
        gate("ineffective_loop", "Earlier fixes of this resource have lasted, or there were none."),
        gate("budget", "Within the budgets."),
        gate("approval", "The policy asks for no approval."),
    ),
    deeds=(
        deed(
            STEPS[0].summary, STEPS[0].action, 2.4, 3.1, "done", "freed 1.5 GB",
            usage_bytes=1_600_000_000, freed_bytes=1_547_000_000,
        ),
        deed(
            STEPS[1].summary, STEPS[1].action, 5.7, 3.9, "done", "deleted 41 of 42 files, 6.1 GB",
            folder="/var/log", found={"files": 42, "bytes": 6_150_000_000},
            deleted={"files": 41, "bytes": 6_120_000_000}, left={"open": 1}, errors={},
        ),
        deed(
            STEPS[2].summary, STEPS[2].action, 9.7, 0.2, "skipped", "neither docker nor crictl is installed here",
        ),
    ),
    looks=(
        Look(at(40), 71.3, "good", "71.3 % used, below 80 %"),
        Look(at(50), 71.3, "good", "71.3 % used, below 80 %"),
        Look(at(60), 71.4, "good", "71.4 % used, below 80 %"),
    ),
    earlier=(Earlier(9, at(-9 * 86_400), "byteport"), Earlier(4, at(-20 * 86_400), "byteport")),
    earlier_count=2,
    trend=course(),
    base_url="https://byteport.example.com",
)  # fmt: skip

ADVICE = (
    ManualStep("See what takes the space on /var on web-1", "du -xh --max-depth=2 -- /var | sort -rh | head -25"),
    ManualStep("Look for files that were deleted but are still held open", "lsof -nP +L1 -- /var"),
    ManualStep("Delete what is no longer needed, then check", "df -h -- /var && df -i -- /var"),
)

EXAMPLE = CLEANUP_LOGS
