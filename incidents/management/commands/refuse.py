"""`manage.py refuse ID --why TEXT`: no to the plan that waits."""

from argparse import ArgumentParser, ArgumentTypeError

from byteport.cli import actor
from incidents import operate
from incidents.management.commands.approve import DecidingCommand, Word
from signals.models import SignalEvent


def reason(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("say why; it is what the next person reads")
    return text.strip()


class Command(DecidingCommand):
    help = "Refuses the plan that an incident waits with; it is handed to people."
    approved = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--why", type=reason, required=True, help="The reason; it goes to the timeline.")

    def decide(self, event: SignalEvent, plan_hash: str, why: str) -> None:
        operate.refuse(event.pk, actor=actor(), why=why, plan_hash=plan_hash)

    def lines(self, word: Word) -> list[str]:
        return [f"Refused for incident {word.id}; it is handed to people now."]
