"""Events and their timeline are vacuumed and analysed after a hundredth of them has come or changed.

With PostgreSQL's own fifth, a history of millions would wait for months: the latest incidents, which are what pages ask
for, could not be read from an index alone, and the planner would not know of them.
"""

from django.db import migrations

PARAMETERS = (
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_insert_scale_factor",
    "autovacuum_analyze_scale_factor",
)
SET = ", ".join(f"{name} = 0.01" for name in PARAMETERS)
TABLES = ("signal_events", "timeline_entries")


class Migration(migrations.Migration):
    dependencies = [("signals", "0007_postmortem_words")]
    operations = [
        migrations.RunSQL(
            [f"ALTER TABLE {table} SET ({SET})" for table in TABLES],
            [f"ALTER TABLE {table} RESET ({', '.join(PARAMETERS)})" for table in TABLES],
        )
    ]
