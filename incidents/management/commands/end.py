"""`manage.py end ID --why TEXT`: a person's word that an incident is over."""

from argparse import ArgumentParser
from typing import Any

import msgspec

from byteport.cli import Report, ReportCommand, actor, positive
from incidents import operate
from incidents.management.commands.refuse import reason


class Ended(msgspec.Struct, frozen=True):
    id: int
    by: str
    why: str


class Command(ReportCommand):
    help = "Ends an incident of which nobody will say that it is over. Should it fire again, that is a new one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("id", type=positive, help="The incident's number.")
        parser.add_argument("--why", type=reason, required=True, help="The reason; it goes to the timeline.")

    def report(self, **options: Any) -> Report:
        operate.end(options["id"], actor=actor(), why=options["why"])
        ended = Ended(options["id"], actor(), options["why"])
        return Report(ended, [f"Incident {ended.id} ends within seconds."])
