"""The operator's settings as the loop reads them: live, with the product's defaults where nothing was set."""

from django.conf import settings

from byteport.core.resource import ResourceRef
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.runbook import Runbook, Timing
from signals.policy import rule_for, rules

# A drill shows the whole loop within a minute or two; it still takes several good looks in a row. New pods have to be
# ready for a while before they count, hence the deadline.
DRILL_VERIFY = {"verify_delay_s": 2.0, "verify_interval_s": 1.0, "verify_deadline_s": 90.0}


def agent_settings() -> AgentSettings:
    """The one row, as it works now: not to be saved. Without it, and where the deployment forces it, in dry-run."""
    agent = AgentSettings.objects.filter(pk=1).first() or AgentSettings()
    agent.dry_run = agent.dry_run or settings.FORCE_DRY_RUN
    return agent


def is_switched_on(runbook: Runbook) -> bool:
    """Whether this deployment has the runbook switched on (BYTEPORT_RUNBOOKS); its policy has the second word."""
    return settings.RUNBOOKS_ON is None or runbook.name in settings.RUNBOOKS_ON


def policy_for(runbook: Runbook) -> RunbookPolicy:
    """The runbook's policy as it stands now, or its defaults."""
    return RunbookPolicy.objects.filter(pk=runbook.name).first() or default_policy(runbook)


def default_policy(runbook: Runbook) -> RunbookPolicy:
    return RunbookPolicy(
        runbook=runbook.name, cooldown_s=runbook.cooldown_s, verify_deadline_s=runbook.verify_deadline_s
    )


def timing_for(policy: RunbookPolicy, signal: str, resource: ResourceRef) -> Timing:
    """The figures that a plan is frozen with."""
    figures = {
        "verify_delay_s": float(policy.verify_delay_s),
        "verify_interval_s": float(policy.verify_interval_s),
        "verify_deadline_s": float(policy.verify_deadline_s),
    }
    if resource.is_drill:
        figures = DRILL_VERIFY
    clear = rule_for(signal, resource, rules()).clear
    return Timing(**figures, good_samples=policy.good_samples, clear=clear, step=policy.step)
