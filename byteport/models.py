"""Tables of the machinery itself: the task queue, the processes' heartbeats, the audit trail."""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.functions import Now


class QueuedTask(models.Model):
    """One task waiting to run, or leased to a worker that runs it. Its row goes when the task is done."""

    queue = models.TextField()
    payload = models.TextField(help_text="django-q2's signed package")
    visible_at = models.DateTimeField(db_default=Now(), help_text="not before this; a lease moves it into the future")
    attempts = models.PositiveIntegerField(db_default=0, help_text="how often it was handed to a worker")
    dedup_key = models.TextField(null=True, blank=True, help_text="at most one unleased task of this key is kept")
    enqueued_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "queued_tasks"
        indexes = [models.Index(fields=["queue", "visible_at", "id"], name="queued_tasks_ready")]
        constraints = [
            models.UniqueConstraint(fields=["dedup_key"], condition=models.Q(attempts=0), name="queued_tasks_dedup")
        ]

    def __str__(self) -> str:
        return f"task {self.pk}"


class Heartbeat(models.Model):
    """A process of BytePort that says it is alive. Older than a minute, it is taken for dead."""

    process = models.TextField(primary_key=True, help_text="role@host:pid, e.g. worker@web-1:4711")
    role = models.TextField(help_text="web, worker or watch")
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    detail = models.JSONField(default=dict)

    class Meta:
        db_table = "heartbeats"

    def __str__(self) -> str:
        return self.process


class AuditEntry(models.Model):
    """One change that an operator made."""

    at = models.DateTimeField(db_default=Now())
    actor = models.TextField(help_text="the user's name, or `command:<system user>` from the terminal")
    action = models.TextField(help_text="what was done, e.g. `change`, `dry-run off`, `approve`")
    target = models.TextField(help_text="what it was done to, e.g. `policy cleanup_logs`")
    before = models.JSONField(encoder=DjangoJSONEncoder)
    after = models.JSONField(encoder=DjangoJSONEncoder)

    class Meta:
        db_table = "audit_entries"
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["target", "-id"], name="audit_target")]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}"
