"""The alerts that BytePort knows by name or by metric, as the senders' own rule sets and agents name them. Pure data.

Only those that say the same as the signal: throttling is not saturation, and a file system out of inodes is not full.
Sources: kubernetes-mixin, node-mixin, cert-manager-mixin, awesome-prometheus-alerts; the CloudWatch agent's metric
reference; Datadog's system check; Google Cloud's list of agent metrics.
"""

from signals.mapping import Rule, RuleSet

NOT_IN_RAM = ("fstype", "!tmpfs|devtmpfs|ramfs|rootfs")

_RULES = (
    # Prometheus
    Rule(
        name="node-mixin: file system",
        alert="NodeFilesystemSpaceFillingUp|NodeFilesystemAlmostOutOfSpace"
        "|HostOutOfDiskSpace|HostDiskWillFillIn24Hours|HostDiskMayFillIn24Hours",
        labels=(NOT_IN_RAM,),
        signal="disk_pressure",
        resource="host/{instance:host}/mount/{mountpoint}",
    ),
    Rule(
        name="node-mixin: memory",
        alert="NodeMemoryHighUtilization|HostOutOfMemory",
        signal="memory_pressure",
        resource="host/{instance:host}/memory/memory",
    ),
    Rule(
        name="kubernetes-mixin: crash loop",
        alert="KubePodCrashLooping|KubernetesPodCrashLooping",
        signal="pod_crashloop",
        resource="kubernetes/{cluster|=default}/{namespace}/pod/{pod}",
        detail="{container|=}",
    ),
    Rule(
        name="kubernetes-mixin: rollout",
        alert="KubeDeploymentRolloutStuck",
        signal="deployment_failed",
        resource="kubernetes/{cluster|=default}/{namespace}/deployment/{deployment}",
    ),
    Rule(  # `namespace` is cert-manager's own where Prometheus has renamed the certificate's to `exported_namespace`
        name="cert-manager-mixin: expiry",
        alert="CertManagerCertExpirySoon",
        signal="certificate_expiry",
        resource="kubernetes/{cluster|=default}/{exported_namespace|namespace}/certificate/{name}",
    ),
    # CloudWatch alarms: the labels are the alarm's metric and dimensions
    Rule(
        name="CloudWatch agent: disk",
        labels=(("MetricName", "disk_used_percent|disk.percent|DiskSpaceUtilization"), NOT_IN_RAM),
        signal="disk_pressure",
        resource="host/{InstanceId|host}/mount/{path|MountPath}",
    ),
    Rule(
        name="CloudWatch agent: memory",
        labels=(("MetricName", "mem_used_percent|mem/used|MemoryUtilization"),),
        signal="memory_pressure",
        resource="host/{InstanceId|host}/memory/memory",
    ),
    # Datadog monitors: the labels are the monitor's metric and tags
    Rule(
        name="Datadog: disk",
        labels=(("metric", "*system.disk.in_use*"), ("device", "!tmpfs|udev|shm")),
        signal="disk_pressure",
        resource="host/{host}/mount/{device_label|device}",
    ),
    Rule(
        name="Datadog: memory",
        labels=(("metric", "*system.mem.pct_usable*|*system.mem.used_pct*"),),
        signal="memory_pressure",
        resource="host/{host}/memory/memory",
    ),
    # Google Cloud Monitoring: the labels are those of the incident's metric and resource
    Rule(
        name="Ops Agent: disk",
        labels=(("metric", "agent.googleapis.com/disk/percent_used"),),
        signal="disk_pressure",
        resource="host/{instance_id}/mount/{device}",
    ),
    Rule(
        name="Ops Agent: memory",
        labels=(("metric", "agent.googleapis.com/memory/percent_used"),),
        signal="memory_pressure",
        resource="host/{instance_id}/memory/memory",
    ),
)

STANDARD_RULES = RuleSet(_RULES)
