"""`manage.py poll SOURCE`: asks one source once, now."""

from argparse import ArgumentParser
from typing import Any

from byteport.cli import Report, ReportCommand
from byteport.core.clock import now
from byteport.core.errors import Refused
from signals.ingest import Ingested
from signals.models import Source
from signals.polling import poll_once, poll_slugs


class Command(ReportCommand):
    help = "Asks one source once, now, and says what came of it. What it finds goes the ordinary way."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("source", help="The source's slug, e.g. host.")

    def report(self, **options: Any) -> Report:
        row = Source.objects.filter(slug=options["source"]).first()
        if row is None:
            known = ", ".join(poll_slugs()) or "none"
            raise Refused(f"There is no source {options['source']!r}. Those that can be asked: {known}.")
        return ingested_report({"source": row.slug}, poll_once(row, now()))


def ingested_report(about: dict[str, Any], ingested: Ingested) -> Report:
    """What a batch of readings led to, reading by reading."""
    total = sum(ingested.why.values())
    lines = [
        f"{total} reading{'' if total == 1 else 's'}",
        *(f"  {count}: {why}" for why, count in ingested.why.items()),
        *(f"opened incident {pk}" for pk in ingested.opened),
        *(f"cleared incident {pk}" for pk in ingested.cleared),
    ]
    return Report({**about, "readings": total, **_counts(ingested)}, lines)


def _counts(ingested: Ingested) -> dict[str, Any]:
    return {"opened": list(ingested.opened), "cleared": list(ingested.cleared), "why": ingested.why}
