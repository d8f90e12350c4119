"""`drill memory_pressure`: a small service that leaks, measured against a budget of its own."""

import time
from typing import Any

from byteport.clients.hosts.inventory import local_name
from byteport.core.errors import Permanent
from byteport.core.resource import ResourceRef
from byteport.drills import drill
from byteport.drills.drill import Say
from byteport.drills.leaky import AT_ONCE, Plan
from byteport.drills.service import Service

BUDGET_BYTES = 96_000_000
GROWS_TO, GROWTH_S, AFTER = 0.985, 0.0025, 0.5
FULL_PATIENCE_S = 30.0


class MemoryPressure:
    """Starts the service and opts it in; to be restarted is all that it needs."""

    name = "memory_pressure"
    title = "A small service leaks memory"
    platform = "host"

    def __init__(self) -> None:
        self._service: Service | None = None

    def prepare(self, say: Say) -> ResourceRef:
        budget = drill.scaled(BUDGET_BYTES, least=32_000_000)
        self._service = service = Service.start(Plan(budget, GROWS_TO, GROWTH_S / drill.scale, AFTER))
        instead = "with a limit of its own, as no cgroup may be made here"
        kept = f"in a cgroup of its own ({service.cgroup})" if service.cgroup else instead
        say(f"started a service with a budget of {budget // 1_000_000} MB, {kept}; it leaks until it is restarted")
        drill.opt_in(service.path, "memory")
        self._wait(service)
        say(f"it holds {service.percent():.1f} % of its budget and grows on; opted it in to `memory`")
        return ResourceRef("host", local_name(), "drill", service.name)

    def figures(self) -> dict[str, Any]:
        return {"percent": round(self._service.percent(), 1)} if self._service else {}

    def remove(self) -> None:
        if self._service is not None:
            self._service.remove()

    def _wait(self, service: Service) -> None:
        until = time.monotonic() + FULL_PATIENCE_S
        while service.percent() < AT_ONCE * 100:
            if time.monotonic() > until:
                raise Permanent(f"The drill's service did not come to hold its memory within {FULL_PATIENCE_S:g} s.")
            time.sleep(0.02)


DRILL = MemoryPressure()
