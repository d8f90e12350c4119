"""Nodes of the stand-in cluster (tests/kubernetes): the parts of the Job controller and the kubelet, played here.

Real: the container. It has a root of its own with BytePort's code where the image has it, the machine's /
(tests/machine.py) where the pod has it mounted, and just the capabilities that the pod asks for. The node has no
Python. Not real: the image (this machine's /usr), cgroups, seccomp and AppArmor.
"""

import shlex
import subprocess
import threading
from collections.abc import Callable

from byteport.settings import BASE_DIR
from tests.kubernetes.standin import Cluster
from tests.kubernetes.store import Object
from tests.machine import Machine

NAMESPACE, IMAGE = "byteport", "registry.example.com/byteport:1"

# `$R` is the container's root. What is mounted over the node's Python hides it from whatever has entered the node.
CONTAINER = """
mount -t tmpfs none "$R"
mkdir -p "$R/usr" "$R/srv/byteport" "$R{mount}"
mount --rbind /usr "$R/usr"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$R/$name"; done
mount --bind {code} "$R/srv/byteport"
mount --rbind {path} "$R{mount}"
for name in python3 python3.11; do mount -t tmpfs none "$R{mount}/usr/lib/$name"; done
for name in $(ls "$BIN"); do mount --bind "$BIN/$name" "$R{mount}/usr/bin/$name"; done
exec setpriv --bounding-set=-all,{capabilities} --no-new-privs env -i PATH=/usr/sbin:/usr/bin chroot "$R" {argv}
"""


class Node:
    """Runs the pods of the Jobs that are made for it."""

    def __init__(self, name: str, cluster: Cluster, machine: Machine | None) -> None:
        self.name, self.cluster, self.machine = name, cluster, machine
        self.takes = True  # False: its pods stay pending
        self.status: Callable[[Object], Object | None] = lambda pod: None  # what befalls a pod instead of being run
        self.threads: list[threading.Thread] = []
        cluster.store.put("node", {"metadata": {"name": name, "annotations": {}}})
        cluster.store.react(self._job_controller)

    def opt_in(self, words: str) -> None:
        def change(node: Object) -> None:
            node["metadata"]["annotations"] = {"byteport.io/auto-remediate": words}

        self.cluster.store.modify("node", "", self.name, change)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(20)

    def _job_controller(self, kind: str, job: Object) -> None:
        template = job["spec"]["template"] if kind == "job" else None
        if template is None or template["spec"]["nodeName"] != self.name:
            return
        name = f"{job['metadata']['name']}-x1y2z"
        labels = {**template["metadata"]["labels"], "job-name": job["metadata"]["name"]}
        meta = {"name": name, "namespace": job["metadata"]["namespace"], "labels": labels}
        pod = self.cluster.store.put(
            "pod", {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}}
        )
        if self.takes:
            self.threads.append(threading.Thread(target=self._run, args=(pod,), daemon=True))
            self.threads[-1].start()

    def _run(self, pod: Object) -> None:
        befallen = self.status(pod)
        if befallen is not None:
            self._set(pod, befallen)
            return
        self._set(pod, {"phase": "Running", "containerStatuses": [{"state": {"running": {"startedAt": "x"}}}]})
        done = self._carry_out(pod["spec"])
        meta = pod["metadata"]
        self.cluster.store.logs[meta["namespace"], meta["name"], "hostctl", False] = done.stdout + done.stderr
        ended = {"exitCode": done.returncode, "reason": "Error" if done.returncode else "Completed"}
        phase = "Failed" if done.returncode else "Succeeded"
        self._set(pod, {"phase": phase, "containerStatuses": [{"state": {"terminated": ended}}]})

    def _set(self, pod: Object, status: Object) -> None:
        meta = pod["metadata"]
        self.cluster.store.modify("pod", meta["namespace"], meta["name"], lambda live: live.update(status=status))

    def _carry_out(self, spec: Object) -> subprocess.CompletedProcess[str]:
        assert self.machine is not None
        [container], [volume] = spec["containers"], spec["volumes"]
        [mount] = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        script = CONTAINER.format(
            code=shlex.quote(str(BASE_DIR)),
            path=shlex.quote(volume["hostPath"]["path"]),
            mount=mount["mountPath"],
            capabilities=",".join(f"+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"]),
            argv=shlex.join([*container["command"], *container["args"]]),
        )
        root = self.machine.base / "rootfs"
        root.mkdir(exist_ok=True)
        begin = f"set -e; R={shlex.quote(str(root))}; BIN={shlex.quote(str(self.machine.base / 'bin'))}; "
        inner = shlex.join(["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", begin + script])
        return self.machine.run(inner, timeout_s=60)
