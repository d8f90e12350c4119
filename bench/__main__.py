"""`make bench`: runs every measurement in a database of its own and prints JSON lines."""

import os

from django.test.utils import get_runner  # noqa: F401

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")
