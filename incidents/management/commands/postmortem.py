"""`manage.py postmortem ID`: the postmortem, or its draft while the incident is open."""

from argparse import ArgumentParser
from typing import Any

from byteport.cli import Report, ReportCommand, positive
from incidents.report import FORMS, event_of, postmortem_document, postmortem_text


class Command(ReportCommand):
    help = "Prints an incident's postmortem; a draft while it is open."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("id", type=positive, help="The incident's number.")
        parser.add_argument("--format", choices=list(FORMS), default="md", help="Default: %(default)s.")

    def report(self, **options: Any) -> Report:
        event = event_of(options["id"])
        text = postmortem_text(event)
        return Report(postmortem_document(event, text), [FORMS[options["format"]](event, text).rstrip("\n")])
