"""What the tests of crashes and races of whole incidents share: nothing waits, nothing is limited, drills are small."""

import msgspec
import pytest

from byteport.clients.hosts.local import LocalTransport
from byteport.clients.hosts.protocol import HostAnswer, HostRequest
from runbooks import hostctl, policy
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.runbook import RUNBOOKS

AT_ONCE = {"verify_delay_s": 0, "verify_interval_s": 0, "verify_deadline_s": 60}
UNLIMITED = dict.fromkeys(
    ("max_concurrent", "max_per_hour", "max_per_neighbourhood_hour", "storm_minimum", "ineffective_limit"), 10_000
)


@pytest.fixture
def quick(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    AgentSettings.objects.create(dry_run=False, **UNLIMITED)
    for name in RUNBOOKS:
        RunbookPolicy.objects.create(runbook=name, cooldown_s=0, good_samples=1, **AT_ONCE)
    monkeypatch.setattr(policy, "DRILL_VERIFY", {name: float(seconds) for name, seconds in AT_ONCE.items()})
    monkeypatch.setattr("signals.policy.DRILL_SUSTAIN_S", 0.0)
    monkeypatch.setattr("byteport.drills.drill.scale", 0.1)
    monkeypatch.setattr("byteport.clients.postgres.inventory.DRILL_IDLE_LIMIT_S", 0.05)
    monkeypatch.setattr(LocalTransport, "run", without_a_process)


def without_a_process(transport: LocalTransport, request: HostRequest, *, timeout_s: float) -> HostAnswer:
    """To start Python a dozen times takes longer than all the rest of an incident."""
    asked = msgspec.json.decode(msgspec.json.encode(request))
    return msgspec.convert(hostctl.run(asked, hostctl.Roots.of_this_host()), HostAnswer)
