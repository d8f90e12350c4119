"""The seven signals: what fires, when it counts as cleared, and the word that opts a resource in.

The figures are the product's defaults; each can be changed per policy (`SignalPolicy`). Pure data.
"""

import msgspec


class SignalType(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of trouble. Percentages are 0 to 100; times are seconds."""

    name: str
    title: str
    description: str
    opt_in: str  # the word in byteport.io/auto-remediate
    unit: str = "%"
    threshold: float  # fires above
    critical: float  # severity is critical at or above
    clear: float  # counts as cleared below
    sustain_s: int  # has to hold this long on end
    max_gap_s: int = 90  # a longer silence starts the sustained window again
    sends_values: bool = True  # False: its sources say firing or resolved, not a number


CATALOG: dict[str, SignalType] = {
    signal.name: signal
    for signal in (
        SignalType(
            name="disk_pressure",
            title="Disk pressure",
            description="A file system is filling up.",
            opt_in="disk",
            threshold=85,
            critical=95,
            clear=80,
            sustain_s=60,
        ),
        SignalType(
            name="memory_pressure",
            title="Memory pressure",
            description="A host is running out of memory that it could give to programs.",
            opt_in="memory",
            threshold=90,
            critical=97,
            clear=85,
            sustain_s=90,
        ),
        SignalType(
            name="pod_crashloop",
            title="Pod crash loop",
            description="A container keeps ending soon after its start.",
            opt_in="crashloop",
            unit="restarts in 15 min",
            threshold=2,
            critical=10,
            clear=1,
            sustain_s=0,
            sends_values=False,
        ),
        SignalType(
            name="cpu_saturation",
            title="CPU saturation",
            description="A workload uses nearly all the CPU that it asked for.",
            opt_in="scale",
            threshold=85,
            critical=98,
            clear=75,
            sustain_s=180,
        ),
        SignalType(
            name="deployment_failed",
            title="Failed deployment",
            description="A rollout did not finish within its deadline.",
            opt_in="rollback",
            unit="",
            threshold=0,
            critical=1,
            clear=1,
            sustain_s=0,
            sends_values=False,
        ),
        SignalType(
            name="certificate_expiry",
            title="Certificate expiry",
            description="A certificate is about to expire, or has, and was not renewed.",
            opt_in="certificates",
            unit="",
            threshold=0,
            critical=1,
            clear=1,
            sustain_s=0,
            sends_values=False,
        ),
        SignalType(
            name="idle_in_transaction",
            title="Idle in transaction",
            description="Database sessions hold a transaction open and do nothing.",
            opt_in="connections",
            unit="sessions",
            threshold=0,
            critical=20,
            clear=1,
            sustain_s=0,
        ),
    )
}
