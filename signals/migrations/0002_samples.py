"""`samples` is partitioned by day (`signals.maintenance` makes the days ahead and drops the old ones); room for updates."""

from django.db import migrations

CREATE = """
    DROP TABLE samples;
    CREATE TABLE samples (
        fingerprint uuid NOT NULL,
        at timestamptz NOT NULL,
        value double precision NOT NULL,
        PRIMARY KEY (fingerprint, at)
    ) PARTITION BY RANGE (at);
    CREATE TABLE samples_default PARTITION OF samples DEFAULT;
    ALTER TABLE series SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
    ALTER TABLE signal_events SET (fillfactor = 85);
"""


class Migration(migrations.Migration):
    dependencies = [("signals", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, migrations.RunSQL.noop)]
