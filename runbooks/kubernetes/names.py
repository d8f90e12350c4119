"""The words that BytePort and Kubernetes have agreed on: annotations, labels, conditions."""

LAST_ACTION = "byteport.io/last-action"  # the id of the latest action on the object
ORIGINAL_LIMITS = "byteport.io/original-memory-limits"  # JSON: container → its limit before BytePort first touched it
MAX_REPLICAS = "byteport.io/max-replicas"

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
TEMPLATE_HASH = "pod-template-hash"

ISSUING = "Issuing"
READY = "Ready"
PROGRESSING = "Progressing"
DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
