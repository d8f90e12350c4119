"""`make bench`: runs each file's measurements in a database of its own, and prints a JSON line for each of them.

`make bench ARGS=ingest` runs one file's. What matters are the ratios within one run.
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import django

import bench
from byteport import embedded

HELPERS = ("__main__", "load")  # what measures nothing by itself


@contextmanager
def own_database() -> Iterator[None]:
    """An empty database beside the real one, dropped afterwards."""
    from django.db import connection  # noqa: PLC0415 (needs django.setup)

    real = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "test_byteport_bench"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(real, verbosity=0)


def main(names: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")
    os.environ.setdefault("BYTEPORT_LOG_LEVEL", "ERROR")
    known = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in HELPERS]
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"no such measurement: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    server = nullcontext() if os.environ.get("DATABASE_URL") else embedded.running()
    with server:
        django.setup()
        for name in names or known:
            with own_database():  # of each: what one leaves behind is neither in another's way nor in its figures
                for line in importlib.import_module(f"bench.{name}").run():
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
