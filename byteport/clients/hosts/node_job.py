"""The Job by which `hostctl` runs on a cluster's node, and the fence that lets this one pass and nothing else. Pure.

It is pinned to the node and has the node's / mounted. `hostctl` lies in BytePort's own image, makes that / its own
(`host-root`), and prints its answer into the pod's log. The Job ends by itself and is removed by itself: after
`activeDeadlineSeconds` and `ttlSecondsAfterFinished`, also when nobody is there any more to remove it.
https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import binascii
import re
from base64 import b64decode
from math import ceil
from typing import Any

import msgspec

from byteport.clients.hosts.protocol import HostRequest
from byteport.clients.kubernetes.call import JSON, Call
from byteport.clients.kubernetes.paths import path_of
from byteport.core.errors import Refused

NAME = re.compile(r"byteport-node-[0-9a-f]{16}")
CONTAINER = "hostctl"
PROGRAM = "/srv/byteport/runbooks/hostctl.py"  # as the Dockerfile has it
HOST_ROOT = "/host"  # as hostctl.HOST_ROOT
KEPT_AFTER_END_S = 120
GRACE_S = 190  # longer than any verb takes
REMOVAL = (("propagationPolicy", "Background"),)
LABELS = {"app.kubernetes.io/managed-by": "byteport", "byteport.io/node-job": "true"}

# To make the node's / its own, to delete what others own, to see what others hold open, and to write oom_score_adj.
CAPABILITIES = ("DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "SYS_CHROOT", "SYS_PTRACE", "SYS_RESOURCE")
SECURITY = {
    "runAsUser": 0,
    "runAsGroup": 0,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
    "seccompProfile": {"type": "RuntimeDefault"},
    "appArmorProfile": {"type": "Unconfined"},  # the runtimes' own hides from it what other processes hold open
}


class NodeJob(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one such Job from another."""

    name: str
    namespace: str
    node: str
    image: str
    pull_secrets: tuple[str, ...] = ()
    request: str  # base64 of a HostRequest
    deadline_s: float

    def creation(self) -> Call:
        return Call("POST", path_of("job", self.namespace), (), msgspec.json.encode(self.body()), JSON)

    def removal(self) -> Call:
        return Call("DELETE", path_of("job", self.namespace, self.name), REMOVAL)

    def body(self) -> dict[str, Any]:
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": LABELS},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": ceil(self.deadline_s),
                "ttlSecondsAfterFinished": KEPT_AFTER_END_S,
                "template": {"metadata": {"labels": LABELS}, "spec": self._pod()},
            },
        }

    def _pod(self) -> dict[str, Any]:
        """Of the kubelet's own priority and tolerating everything: a node under disk pressure takes no other pod."""
        return {
            "nodeName": self.node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_S,
            "priorityClassName": "system-node-critical",
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": name} for name in self.pull_secrets],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-I", "-S", PROGRAM],
                    "args": [self.request, "host-root"],
                    "securityContext": SECURITY,
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "64Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                    "volumeMounts": [{"name": "host", "mountPath": HOST_ROOT, "mountPropagation": "HostToContainer"}],
                }
            ],
            "volumes": [{"name": "host", "hostPath": {"path": "/", "type": "Directory"}}],
        }


class JobFence:
    """Admits the creation and the removal of one Job, whatever credentials there are."""

    def __init__(self, job: NodeJob) -> None:
        self._job = job

    def admit(self, call: Call) -> None:
        """Raises Refused for any other call, and for a Job that is not of this very shape."""
        if call == self._job.removal() and NAME.fullmatch(self._job.name):
            return
        why = self._why_not_created(call)
        if why:
            raise Refused(f"The fence around nodes does not admit {call.method} {call.path[:200]}: {why}.")

    def _why_not_created(self, call: Call) -> str:
        if (call.method, call.path, call.params) != ("POST", path_of("job", self._job.namespace), ()):
            return "only this Job's creation and removal pass"
        if not NAME.fullmatch(self._job.name) or not is_request(self._job.request):
            return "its name or its request is none that BytePort makes"
        try:
            body = msgspec.json.decode(call.body)
        except msgspec.DecodeError:
            return "its body is no JSON"
        return "" if body == self._job.body() else "its body is not the Job for that node"


def is_request(encoded: str) -> bool:
    """Whether it is base64 of one call of `hostctl`."""
    try:
        msgspec.json.decode(b64decode(encoded, validate=True), type=HostRequest)
    except (binascii.Error, ValueError):
        return False
    return True
