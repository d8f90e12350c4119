"""GCE instances: reached by SSH as any other host, and opted in by a label of the instance, which is read live.

https://docs.cloud.google.com/compute/docs/labeling-resources
"""

import re
from shlex import quote

from byteport.clients import gcp_compute
from byteport.clients.hosts.annotations import GCE_LABEL, gce_opt_in_words
from byteport.clients.hosts.protocol import Annotations, Scope
from byteport.clients.hosts.ssh import SshTransport
from byteport.core.errors import Permanent
from byteport.core.ways import GCE_INSTANCE, Address, Way


class GceTransport(SshTransport):
    """One GCE instance."""

    def __init__(self, host: Address) -> None:
        super().__init__(host)
        self._name, self._path = host.name, host.gce_instance

    def annotations(self, scope: Scope, *, timeout_s: float) -> Annotations:
        """Raises Permanent also where another instance has taken the place of the one that is known by its number."""
        if not re.match(GCE_INSTANCE, self._path):
            raise Permanent(f"{self._name}: {self._path} does not name a GCE instance.")
        found = gcp_compute.instance(self._path, timeout_s=timeout_s)
        if self._name.isdecimal() and found.id != self._name:
            raise Permanent(f"{self._path} is the instance {found.id or 'of no number'} now, and not {self._name}.")
        where = f"the label {GCE_LABEL} of {self._path}"
        return Annotations(words=gce_opt_in_words(found.labels), present=GCE_LABEL in found.labels, where=where)

    def remedy(self, words: str) -> str:
        parts = self._path.split("/")
        named = dict(zip(parts[::2], parts[1::2], strict=False))
        project, zone, name = (quote(named.get(key, "")) for key in ("projects", "zones", "instances"))
        label = quote(f"{GCE_LABEL}={words.replace(',', '_')}")
        return f"gcloud compute instances add-labels {name} --project={project} --zone={zone} --labels={label}"


WAY = Way(
    name="gce",
    title="SSH, GCE instance",
    transport=GceTransport,
    needs=("address", "user", "gce_instance"),
    poll_s=30.0,
)
