"""The queue's rows live for milliseconds: vacuum after a number of dead rows, not after a share of a table that is empty."""

from django.db import migrations

SET = """
    ALTER TABLE queued_tasks SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000)
"""
RESET = """
    ALTER TABLE queued_tasks RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
        autovacuum_vacuum_cost_delay, autovacuum_analyze_scale_factor, autovacuum_analyze_threshold)
"""


class Migration(migrations.Migration):
    dependencies = [("byteport", "0001_initial")]
    operations = [migrations.RunSQL(SET, RESET)]
