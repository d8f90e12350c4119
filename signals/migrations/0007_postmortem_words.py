"""Postmortems are found by their words (`incidents.search`).

The column is PostgreSQL's own business: no query of the ORM should carry it along. Its words are cut to what a tsvector
can hold whatever is written. To add it rewrites the table, which is small where BytePort is new.
"""

from django.db import migrations

WORDS = """
    ALTER TABLE signal_events ADD COLUMN postmortem_words tsvector GENERATED ALWAYS AS (
        to_tsvector('english', replace(replace(left(postmortem_md, 100000), '/', ' / '), '.', ' . '))
    ) STORED;
    CREATE INDEX events_postmortem_words ON signal_events USING gin (postmortem_words);
"""
UNDO = "ALTER TABLE signal_events DROP COLUMN postmortem_words"


class Migration(migrations.Migration):
    dependencies = [("signals", "0006_final_postmortems")]
    operations = [migrations.RunSQL(WORDS, UNDO)]
