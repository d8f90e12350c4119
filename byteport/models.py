"""Tables of the machinery itself: the task queue, the processes' heartbeats, the audit trail; and the inventory."""

from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now

from byteport.core.ways import GCE_INSTANCE, WAYS


def ways() -> list[tuple[str, str]]:
    return [(name, way.title) for name, way in WAYS.items()]


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


class Host(models.Model):
    """A host of the inventory, and how BytePort reaches it. One that is only seen has no way yet."""

    name = models.TextField(unique=True, help_text="Its name in readings: `web-1` in `host/web-1/mount/%2F`.")
    enabled = models.BooleanField(
        default=True, db_default=True, help_text="Off: BytePort neither looks at it nor acts on it."
    )
    way = models.TextField(
        choices=ways,
        blank=True,
        db_default="",
        help_text="How BytePort reaches it. Empty: not at all, it is only seen.",
    )
    suggested = models.TextField(
        blank=True, db_default="", editable=False, help_text="The way that would suit, by where it was seen."
    )
    poll_s = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(5), MaxValueValidator(3600)],
        help_text="Seconds between two looks at its disks and memory. Empty: as suits the way (a node: never).",
    )

    address = models.TextField(blank=True, db_default="", help_text="SSH: its DNS name or IP address.")
    port = models.PositiveIntegerField(
        default=22, db_default=22, validators=[MinValueValidator(1), MaxValueValidator(65_535)], help_text="SSH."
    )
    user = models.TextField(blank=True, db_default="", help_text="SSH: the user to sign in as.")
    key_file = models.TextField(
        blank=True, db_default="", help_text="SSH: the file of the private key. Empty: BYTEPORT_SSH_IDENTITY."
    )
    known_hosts_file = models.TextField(
        blank=True, db_default="", help_text="SSH: the file of known host keys. Empty: BYTEPORT_SSH_KNOWN_HOSTS."
    )
    use_sudo = models.BooleanField(default=False, db_default=False, help_text="SSH: run as root by `sudo -n`.")

    instance_id = models.TextField(blank=True, db_default="", help_text="SSM: the EC2 instance, i-…")
    region = models.TextField(blank=True, db_default="", help_text="SSM: its region. Empty: the environment's.")
    role_arn = models.TextField(blank=True, db_default="", help_text="SSM: the role to assume for it, if any.")

    gce_instance = models.TextField(
        blank=True,
        db_default="",
        validators=[RegexValidator(GCE_INSTANCE, "It is of the form projects/PROJECT/zones/ZONE/instances/NAME.")],
        help_text="GCE: projects/PROJECT/zones/ZONE/instances/NAME (or its number).",
    )

    cluster = models.TextField(blank=True, db_default="", help_text="Node: the cluster's name.")
    node = models.TextField(blank=True, db_default="", help_text="Node: the name of the Node object.")

    seen_at = models.DateTimeField(db_default=Now(), editable=False, help_text="when it was first heard of")
    last_success_at = models.DateTimeField(null=True, editable=False)
    last_error_at = models.DateTimeField(null=True, editable=False)
    last_error = models.TextField(blank=True, db_default="", editable=False)

    class Meta:
        db_table = "hosts"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class MonitoredDatabase(models.Model):
    """A PostgreSQL server that BytePort looks at. Where its DSN stands is kept here; the DSN itself never is."""

    name = models.CharField(
        unique=True,
        max_length=63,
        validators=[
            RegexValidator(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z", "Use small letters, digits, and - and . between them.")
        ],
        help_text="The server's name in incidents: postgres/NAME/database/… One row a server is enough, whichever of "
        "its databases the DSN names: sessions are seen in all of them.",
    )
    enabled = models.BooleanField(default=True, help_text="Off: it is not looked at, and nothing is done in it.")
    connection_variable = models.CharField(
        "environment variable",
        blank=True,
        max_length=255,
        validators=[RegexValidator(r"^[A-Za-z_][A-Za-z0-9_]*\Z", "This is no name of an environment variable.")],
        help_text="The name of the environment variable of BytePort's processes that holds the DSN, e.g. SHOP_DSN. "
        "Never the DSN itself.",
    )
    connection_file = models.CharField(
        "file",
        blank=True,
        max_length=4096,
        validators=[RegexValidator(r"^/[^\x00]*\Z", "Give the whole path, from / on.")],
        help_text="Or else the path of the file that holds the DSN, e.g. a mounted secret.",
    )
    idle_limit_s = models.PositiveIntegerField(
        default=300,
        validators=[MinValueValidator(60), MaxValueValidator(86_400)],
        help_text="Seconds after which a session that is idle in a transaction counts (60 or more).",
    )
    last_success_at = models.DateTimeField(null=True, editable=False)
    last_error_at = models.DateTimeField(null=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)

    class Meta:
        db_table = "monitored_databases"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(connection_variable="") ^ models.Q(connection_file=""), name="dsn_in_one_place"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if bool(self.connection_variable) == bool(self.connection_file):
            raise ValidationError(
                {"connection_variable": "Name either the environment variable or the file that holds the DSN."}
            )
