"""`manage.py worker`: runs the loop's stages, as long as it runs."""

from typing import Any

from django.core.management.base import BaseCommand

from byteport import tasks  # noqa: F401 (loaded before the workers are forked, and shared by them)
from byteport.pool import run_workers


class Command(BaseCommand):
    help = "Runs tasks from the queue. Any number may run on any number of machines, against one PostgreSQL."

    def handle(self, *args: Any, **options: Any) -> None:
        run_workers()
