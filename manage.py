#!/usr/bin/env python
"""BytePort's command line. `./manage.py help` lists the commands."""

import os
import sys

from byteport import embedded


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")
    from django.core.management import execute_from_command_line  # noqa: PLC0415 (needs the settings module named first)

    with embedded.for_command(sys.argv):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
