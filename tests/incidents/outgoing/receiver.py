"""A program that webhooks call: a real HTTP server that keeps what it gets, and fails as it is told to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from byteport.sealing import seal
from signals.models import OutgoingWebhook
from tests.incidents.escalation.wire import Answer, Asked, Wire, served

SECRET = "the secret of both sides"


@dataclass
class Receiver(Wire):
    """What has arrived, in order."""

    got: list[Asked] = field(default_factory=list)
    reply: Answer = field(default_factory=lambda: Answer(204, b""))

    def answer(self, asked: Asked) -> Answer:
        self.got.append(asked)
        return self.reply

    @property
    def bodies(self) -> list[Any]:
        return [asked.body for asked in self.got]

    @property
    def types(self) -> list[str]:
        return [body["type"] for body in self.bodies]


@contextmanager
def receiver() -> Iterator[Receiver]:
    state = Receiver()
    with served(state, state):
        yield state


def webhook(url: str, name: str = "pager", **fields: Any) -> OutgoingWebhook:
    fields = {"private": True, "sealed_secret": seal(SECRET), **fields}
    return OutgoingWebhook.objects.create(name=name, url=url, **fields)
