"""Brings a database to what this version needs: its migrations, then the rows that an operator expects."""

from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from byteport import seeds


def pending() -> list[str]:
    """The migrations that the database has not, in order, as `app.name`."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def bring_up_to_date() -> list[str]:
    """Applies what is pending, one process at a time, and returns it. Quick when there is nothing to do."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('byteport.upgrade', 0))")
        try:
            applied = pending()
            if applied:
                call_command("migrate", verbosity=0, interactive=False)
            seeds.plant()
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended('byteport.upgrade', 0))")
    return applied
