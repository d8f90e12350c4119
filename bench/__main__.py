"""`make bench`: runs every measurement in a database of its own, and prints a JSON line for each.

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

    connection.settings_dict["TEST"]["NAME"] = "test_byteport_bench"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    name = connection.settings_dict["NAME"]
    try:
        yield
    finally:
        connection.creation.destroy_test_db("", verbosity=0, keepdb=False) if name else None


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
        with own_database():
            for name in names or known:
                for line in importlib.import_module(f"bench.{name}").run():
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
