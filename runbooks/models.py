"""The tables of DIAGNOSE, ACT and VERIFY: settings, policies, gates' verdicts, approvals, actions, samples."""

import pgtrigger
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from byteport.core.outcome import Result
from runbooks.runbook import RUNBOOKS, Look
from signals.models import SignalEvent

STARTED = "started"


def runbook_names() -> list[tuple[str, str]]:
    return [(name, runbook.title) for name, runbook in RUNBOOKS.items()]


class AgentSettings(models.Model):
    """How the agent as a whole behaves. There is one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    dry_run = models.BooleanField(
        default=True,
        help_text="On: BytePort goes through every stage and says what it would do, but changes nothing.",
    )
    paused = models.BooleanField(
        default=False, help_text="The kill switch. On: no action is begun anywhere, whatever else is set."
    )
    paused_reason = models.TextField(blank=True, help_text="Shown to everybody while it is paused.")
    max_concurrent = models.PositiveIntegerField(
        default=5,
        help_text="Incidents per fleet (a cluster, or all hosts) that may be acted on at the same time.",
    )
    max_per_hour = models.PositiveIntegerField(default=20, help_text="Runbook runs per fleet within an hour.")
    max_per_neighbourhood_hour = models.PositiveIntegerField(
        default=3, help_text="Runbook runs per namespace (or host) within an hour."
    )
    storm_percent = models.PositiveIntegerField(
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Storm brake: when more than this share (%) of the known resources' hosts or workloads fail at once, "
        "nothing is acted on, since the cause must be a common one.",
    )
    storm_minimum = models.PositiveIntegerField(
        default=4, help_text="The storm brake looks only when at least this many fail at once."
    )
    refire_window_s = models.PositiveIntegerField(
        default=1800,
        help_text="Seconds. A fix after which the signal fires again within this time was ineffective.",
    )
    ineffective_limit = models.PositiveIntegerField(
        default=3,
        help_text="Ineffective fixes of one resource after which BytePort stops trying and tells a person.",
    )
    ineffective_window_s = models.PositiveIntegerField(
        default=14_400, help_text="Seconds within which ineffective fixes are counted."
    )
    approval_ttl_s = models.PositiveIntegerField(
        default=3600,
        help_text="Seconds after which a request for approval lapses and the incident is escalated.",
    )

    class Meta:
        db_table = "agent_settings"
        permissions = [
            ("operate_agent", "Can switch dry-run, pause and resume"),
            ("decide_plans", "Can approve and refuse plans"),
            ("send_signals", "Can send signals"),
        ]
        verbose_name_plural = "agent settings"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_settings")]

    def __str__(self) -> str:
        return "agent settings"

    @property
    def dry_run_is_forced(self) -> bool:
        """Whether this deployment keeps BytePort in dry-run, whatever is set here."""
        return bool(settings.FORCE_DRY_RUN)


class RunbookPolicy(models.Model):
    """What one runbook may do, and how its result is verified. Times are seconds."""

    runbook = models.TextField(primary_key=True, choices=runbook_names)
    enabled = models.BooleanField(default=True, help_text="Off: its signal is escalated to people instead.")
    dry_run = models.BooleanField(
        default=False, help_text="On: this runbook stays in dry-run even when the agent does not."
    )
    needs_approval = models.BooleanField(default=False, help_text="On: every plan waits until a person approves it.")
    cooldown_s = models.PositiveIntegerField(help_text="Seconds between two runs on the same resource, at least.")
    verify_delay_s = models.PositiveIntegerField(
        default=30,
        validators=[MinValueValidator(30), MaxValueValidator(120)],
        help_text="Seconds after the last action until the signal is looked at again (30 to 120).",
    )
    verify_interval_s = models.PositiveIntegerField(
        default=10, validators=[MinValueValidator(1)], help_text="Seconds between two looks."
    )
    verify_deadline_s = models.PositiveIntegerField(
        help_text="Seconds after the last action by which the signal has to be cleared. More than the delay."
    )
    good_samples = models.PositiveIntegerField(
        default=3, validators=[MinValueValidator(1)], help_text="Good looks in a row that count as resolved."
    )
    step = models.PositiveIntegerField(
        default=1,
        db_default=1,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How much one run adds, of a runbook that adds something (scale_up: replicas).",
    )

    class Meta:
        db_table = "runbook_policies"
        ordering = ["runbook"]
        verbose_name_plural = "runbook policies"

    def __str__(self) -> str:
        return self.runbook

    def clean(self) -> None:
        given = self.verify_deadline_s is not None and self.verify_delay_s is not None
        if given and self.verify_deadline_s <= self.verify_delay_s:
            raise ValidationError({"verify_deadline_s": f"Must be more than the delay ({self.verify_delay_s} s)."})


class MaintenanceWindow(models.Model):
    """A time in which people are at work on something, and BytePort keeps its hands off it."""

    name = models.TextField(help_text="What is being done, for whoever reads why nothing happened.")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    resources = models.TextField(
        default="*",
        help_text="Which resources, as a pattern over their references, e.g. host/web-*/* or kubernetes/prod/shop/*.",
    )

    class Meta:
        db_table = "maintenance_windows"
        ordering = ["-starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")), name="window_ends_after_start"
            )
        ]

    def __str__(self) -> str:
        return self.name


class GateVerdict(models.Model):
    """What one gate said of one event. A new round is kept only when it differs from the one before."""

    event = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, related_name="gates")
    round = models.PositiveIntegerField()
    ordinal = models.PositiveSmallIntegerField()
    gate = models.TextField()
    allowed = models.BooleanField()
    reason = models.TextField()
    at = models.DateTimeField()

    class Meta:
        db_table = "gate_verdicts"
        ordering = ["event", "round", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["event", "round", "ordinal"], name="one_verdict")]

    def __str__(self) -> str:
        return f"{self.gate}: {'allowed' if self.allowed else 'refused'}"


class Approval(models.Model):
    """A plan that waits for a person's word, or got it."""

    event = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, related_name="approvals")
    plan_hash = models.TextField(help_text="The plan it is for; a word for one plan is none for another.")
    requested_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    approved = models.BooleanField(null=True, help_text="Empty while nobody has decided.")
    decided_by = models.TextField(blank=True)
    decided_at = models.DateTimeField(null=True)
    why = models.TextField(blank=True)

    class Meta:
        db_table = "approvals"
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["event", "plan_hash"], name="one_approval_per_plan")]

    def __str__(self) -> str:
        return f"approval of {self.plan_hash}"


class AgentAction(models.Model):
    """One step of a runbook: written as `started` before the call, completed once after it, never touched again."""

    event = models.ForeignKey(SignalEvent, on_delete=models.PROTECT, related_name="actions")
    uid = models.UUIDField(unique=True, help_text="The id that travels with the change to the infrastructure.")
    plan_hash = models.TextField(help_text="The plan that the step is part of.")
    step = models.TextField(help_text="The plan step's key.")
    action = models.TextField()
    target = models.TextField(help_text="text form of the resource reference")
    params = models.JSONField(default=dict)
    summary = models.TextField()
    dry_run = models.BooleanField()
    status = models.TextField(choices=[(STARTED, STARTED), *((r.value, r.value) for r in Result)], default=STARTED)
    message = models.TextField(blank=True)
    result = models.JSONField(default=dict)
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "agent_actions"
        ordering = ["id"]
        indexes = [
            models.Index(fields=["event", "id"], name="actions_event"),
            models.Index(fields=["started_at"], condition=models.Q(status=STARTED), name="actions_started"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["event", "plan_hash", "step", "dry_run"], name="one_action_per_step"),
            models.CheckConstraint(
                condition=models.Q(status=STARTED, finished_at__isnull=True)
                | (~models.Q(status=STARTED) & models.Q(finished_at__isnull=False)),
                name="finished_has_a_time",
            ),
        ]
        triggers = [
            pgtrigger.Protect(
                name="finished_is_final",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__finished_at__isnull=False),
            ),
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(
                name="what_was_begun_stays",
                fields=[
                    "event",
                    "uid",
                    "plan_hash",
                    "step",
                    "action",
                    "target",
                    "params",
                    "summary",
                    "dry_run",
                    "started_at",
                ],
            ),
            pgtrigger.Trigger(
                name="never_truncated",
                level=pgtrigger.Statement,
                when=pgtrigger.Before,
                operation=pgtrigger.Truncate,
                # A test run empties its own database between two tests.
                func="IF current_database() LIKE 'test\\_%' THEN RETURN NULL; END IF;"
                " RAISE EXCEPTION 'agent_actions is append-only';",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.status}"


class VerificationSample(models.Model):
    """One look at the signal after the action, as evidence."""

    event = models.ForeignKey(SignalEvent, on_delete=models.CASCADE, related_name="samples")
    at = models.DateTimeField()
    value = models.FloatField(null=True)
    measured_at = models.DateTimeField(null=True, help_text="when it was measured; empty where nothing was")
    look = models.TextField(choices=[(look.value, look.value) for look in Look])
    message = models.TextField()

    class Meta:
        db_table = "verification_samples"
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.look}: {self.message}"
