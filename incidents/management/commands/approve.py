"""`manage.py approve ID`: yes to the plan that waits."""

from argparse import ArgumentParser
from typing import Any

import msgspec

from byteport.cli import Report, ReportCommand, actor, positive
from incidents import operate
from incidents.report import event_of
from runbooks.stage import plan_of
from signals.models import SignalEvent


class Word(msgspec.Struct, frozen=True):
    """What was said to which plan."""

    id: int
    approved: bool
    by: str
    why: str
    plan_hash: str
    steps: list[str]


class DecidingCommand(ReportCommand):
    """Says yes or no to the plan that an incident waits with."""

    approved: bool

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("id", type=positive, help="The incident's number.")
        parser.add_argument(
            "--plan", metavar="HASH", help="Only if this is the plan that waits, as `incident ID` shows it."
        )

    def report(self, **options: Any) -> Report:
        event, why = event_of(options["id"]), options.get("why", "")
        # What is answered is the plan as it was just read, and no other, should it change meanwhile.
        self.decide(event, options["plan"] or event.plan_hash, why)
        word = Word(event.pk, self.approved, actor(), why, event.plan_hash, steps_of(event))
        return Report(word, self.lines(word))

    def decide(self, event: SignalEvent, plan_hash: str, why: str) -> None:
        raise NotImplementedError

    def lines(self, word: Word) -> list[str]:
        raise NotImplementedError


class Command(DecidingCommand):
    help = "Approves the plan that an incident waits with; it goes on within seconds."
    approved = True

    def decide(self, event: SignalEvent, plan_hash: str, why: str) -> None:
        operate.approve(event.pk, actor=actor(), plan_hash=plan_hash)

    def lines(self, word: Word) -> list[str]:
        return [
            f"Approved for incident {word.id}:",
            *(f"  {n}. {step}" for n, step in enumerate(word.steps, 1)),
        ]


def steps_of(event: SignalEvent) -> list[str]:
    plan = plan_of(event)
    return [step.summary for step in plan.steps] if plan else []
