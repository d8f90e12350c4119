"""Which thresholds apply: the operator's policies, or the catalog's defaults, kept for a few seconds."""

import time
from math import inf

import msgspec

from byteport.core.resource import ResourceRef
from signals.catalog import CATALOG, SignalType
from signals.models import SignalPolicy
from signals.router import Rule

CACHE_S = 2.0
DRILL_SUSTAIN_S = 2.0  # a drill shows the whole loop within a minute
# For what no catalog entry describes: BytePort has no threshold for it, so only its sender's own word counts.
UNLISTED = Rule(threshold=inf, critical=inf, clear=-inf, sustain_s=0, max_gap_s=90)

_cache: tuple[float, dict[str, Rule]] = (float("-inf"), {})


def rules() -> dict[str, Rule]:
    """Every signal's rule. A change in the admin is seen within CACHE_S seconds."""
    global _cache  # noqa: PLW0603 (one process-wide cache of seven small rows)
    read_at, kept = _cache
    if time.monotonic() - read_at > CACHE_S:
        kept = {name: default_rule(signal) for name, signal in CATALOG.items()}
        kept |= {policy.signal: rule_of(policy) for policy in SignalPolicy.objects.all()}
        _cache = (time.monotonic(), kept)
    return kept


def forget() -> None:
    """Makes this process read the policies anew at the next reading."""
    global _cache  # noqa: PLW0603
    _cache = (float("-inf"), {})


def default_rule(signal: SignalType) -> Rule:
    return Rule(
        threshold=signal.threshold,
        critical=signal.critical,
        clear=signal.clear,
        sustain_s=signal.sustain_s,
        max_gap_s=signal.max_gap_s,
    )


def rule_of(policy: SignalPolicy) -> Rule:
    return Rule(
        enabled=policy.enabled,
        threshold=policy.threshold,
        critical=policy.critical,
        clear=policy.clear,
        sustain_s=policy.sustain_s,
        max_gap_s=policy.max_gap_s,
    )


def rule_for(signal: str, resource: ResourceRef, known: dict[str, Rule]) -> Rule:
    """The rule for one resource; a drill's volume has the same thresholds and a shorter window."""
    rule = known.get(signal, UNLISTED)
    return msgspec.structs.replace(rule, sustain_s=min(rule.sustain_s, DRILL_SUSTAIN_S)) if resource.is_drill else rule
