"""Postmark: one email for each incident that is handed over, one more should it grow worse, and reminders where they
are asked for.

The delivery's id travels in the message's metadata, by which Postmark finds it again. Limits and answers:
postmarkapp.com/developer/api (email, messages, bounces; error codes in the overview); metadata: keys of 20 characters,
values of 80.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import getaddresses
from typing import Any, NoReturn

import msgspec
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email
from postmarker.core import PostmarkClient
from postmarker.exceptions import ClientError
from requests import HTTPError, RequestException

from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.environment import env, secret
from incidents.escalation.as_email import PICTURE, html, text
from incidents.escalation.as_markdown import markdown
from incidents.escalation.channel import Kind, Limited, Message, Note, Receipt, Setup, Undeliverable, version_of
from incidents.escalation.contents import letter_of
from incidents.escalation.letter import Chart, Letter
from incidents.markup import http_address, line
from incidents.picture import png
from incidents.postmortem import render_record

SUBJECT_LIMIT = 200
RECIPIENTS = 50  # of one message
TIMEOUT_S = 20
PAUSE_S = 60.0  # Postmark says that it is too much, and not for how long
KEY = "delivery"
AHEAD: Mapping[str, str] = {Kind.WORSENED: "Worse: ", Kind.REMINDER: "Still open: "}
HARMLESS_BOUNCES = {"Transient", "AutoResponder", "Subscribe", "Unsubscribe", "AddressChange", "OpenRelayTest"}


class Settings(msgspec.Struct, frozen=True):
    """As they are in the environment."""

    token: str
    sender: str
    recipients: str
    stream: str
    url: str


def read_settings() -> Settings:
    """Raises ImproperlyConfigured when the token's file cannot be read."""
    return Settings(
        token=secret("BYTEPORT_POSTMARK_TOKEN"),
        sender=env.str("BYTEPORT_POSTMARK_FROM", ""),
        recipients=env.str("BYTEPORT_POSTMARK_TO", ""),
        stream=env.str("BYTEPORT_POSTMARK_STREAM", "outbound"),
        url=env.str("BYTEPORT_POSTMARK_URL", "https://api.postmarkapp.com"),
    )


def setup_of(found: Settings) -> Setup:
    """What is missing, and what is wrong."""
    needed = {
        "BYTEPORT_POSTMARK_TOKEN": found.token,
        "BYTEPORT_POSTMARK_FROM": found.sender,
        "BYTEPORT_POSTMARK_TO": found.recipients,
    }
    given = any(needed.values())
    missing = tuple(name for name, value in needed.items() if not value)
    faults = tuple(_faults(found)) if given else ()
    return Setup(given=given, missing=missing, faults=faults, version=version_of(found))


def _faults(found: Settings) -> Iterator[str]:
    if found.sender and (not are_addresses(found.sender) or len(addresses(found.sender)) > 1):
        yield f"BYTEPORT_POSTMARK_FROM is no address: {found.sender!r}."
    if found.recipients and not are_addresses(found.recipients):
        yield f"BYTEPORT_POSTMARK_TO is no list of addresses: {found.recipients!r}."
    if len(addresses(found.recipients)) > RECIPIENTS:
        yield f"BYTEPORT_POSTMARK_TO has more than {RECIPIENTS} addresses."
    if not http_address(found.url):
        yield f"BYTEPORT_POSTMARK_URL is no address: {found.url!r}."


def addresses(given: str) -> list[str]:
    """The bare addresses of `Ops <ops@example.com>, cto@example.com`."""
    return [address for _, address in getaddresses([given])]


def are_addresses(given: str) -> bool:
    try:
        for address in addresses(given):
            validate_email(address)
    except ValidationError:
        return False
    return given.isprintable()


class PostmarkEmail:
    """The channel."""

    name = "postmark"
    title = "Postmark"
    kinds = frozenset({Kind.ESCALATED, Kind.WORSENED, Kind.REMINDER})
    follows = ("github",)
    settle_s = 60.0
    confirm_s = 300.0

    def setup(self) -> Setup:
        try:
            return setup_of(read_settings())
        except ImproperlyConfigured as error:
            return Setup(given=True, faults=(str(error),))

    def message(self, note: Note) -> Message:
        return Message(subject_of(note), markdown(letter_of(note)))

    def aim(self, note: Note) -> str | None:
        return read_settings().recipients

    def probe(self, note: Note) -> Receipt | None:
        stream = {"messagestream": read_settings().stream}
        wanted = {f"metadata_{KEY}": note.id.hex}
        with talking() as client:
            found = client.call("GET", "/messages/outbound", count=10, offset=0, **wanted, **stream)
            for message in found["Messages"]:
                if message.get("Metadata", {KEY: note.id.hex}).get(KEY) == note.id.hex:
                    return _receipt(message["MessageID"], message["Recipients"])
        return None

    def send(self, note: Note) -> Receipt:
        with talking() as client:
            answer = client.emails.send(**email_of(note, read_settings()))
            if answer["ErrorCode"]:
                raise refusal(answer["ErrorCode"], answer["Message"])
            said = answer["Message"]
            return _receipt(answer["MessageID"], addresses(note.target), "" if said == "OK" else line(said, 300))

    def confirm(self, note: Note) -> str:
        with talking() as client:
            found = client.call("GET", "/bounces", count=RECIPIENTS, offset=0, messageID=note.target)
            bounced = {b["Email"].lower(): b["Type"] for b in found["Bounces"] if b["Type"] not in HARMLESS_BOUNCES}
        told = "; ".join(f"{line(address, 100)}: {line(kind, 100)}" for address, kind in sorted(bounced.items()))
        if bounced and bounced.keys() >= {address.lower() for address in addresses(read_settings().recipients)}:
            raise Undeliverable(f"It has reached nobody. {told}.", remedy=REMEDIES[406])
        return f"It has not reached everybody. {told}. {REMEDIES[406]}" if bounced else ""

    def check(self) -> str:
        stream = read_settings().stream
        with talking() as client:
            server = client.call("GET", "/server")["Name"]
            kind = client.call("GET", f"/message-streams/{stream}")["MessageStreamType"]
        return f"server {line(server, 100)}, message stream {stream} ({line(kind, 100)})"


CHANNEL = PostmarkEmail()


# ------------------------------------------------------------------------------------------------- what is said


def subject_of(note: Note) -> str:
    """One line, whatever is in it: nothing of it can be a header of its own."""
    return line(f"[BytePort] {AHEAD.get(note.kind, '')}{letter_of(note).title}", SUBJECT_LIMIT)


def email_of(note: Note, found: Settings) -> dict[str, Any]:
    """The arguments of postmarker's `emails.send`."""
    letter, record = letter_of(note), note.record
    return {
        "From": found.sender,
        "To": found.recipients,
        "Subject": subject_of(note),
        "HtmlBody": html(letter),
        "TextBody": text(letter),
        "Tag": line(record.signal, 100),
        "Metadata": {KEY: note.id.hex, "incident": str(record.id), "fingerprint": note.fingerprint.hex},
        "Headers": {"X-BytePort-Incident": str(record.id)},
        "Attachments": list(_attachments(note, letter)),
        "MessageStream": found.stream,
        "TrackOpens": False,
        "TrackLinks": "None",
    }


def _attachments(note: Note, letter: Letter) -> Iterator[dict[str, str]]:
    draft = render_record(note.record).encode()
    yield _attachment(f"postmortem-{note.record.id}.md", "text/markdown", draft)
    charts = [block for section in letter.sections for block in section.blocks if isinstance(block, Chart)]
    for chart in charts[:1]:
        picture = png(chart.points, chart.levels, chart.marks)
        yield {**_attachment(PICTURE, "image/png", picture), "ContentID": f"cid:{PICTURE}"}


def _attachment(name: str, kind: str, content: bytes) -> dict[str, str]:
    return {"Name": name, "Content": b64encode(content).decode(), "ContentType": kind}


def _receipt(message_id: str, recipients: Sequence[str], warning: str = "") -> Receipt:
    return Receipt(f"Sent an email to {line(', '.join(recipients), 300)}", message_id, warning=warning)


# ------------------------------------------------------------------------------------------- the way to Postmark


@contextmanager
def talking() -> Iterator[PostmarkClient]:
    """The client, without retries of its own. Whatever goes wrong meanwhile becomes one of BytePort's own errors."""
    try:
        found = read_settings()
        yield PostmarkClient(found.token, timeout=TIMEOUT_S, root_api_url=found.url.rstrip("/") + "/")
    except BytePortError:
        raise
    except ClientError as error:
        _give_up(error, _status(error))
    except HTTPError as error:  # an answer that is no JSON: some gateway's
        _give_up(error, error.response.status_code if error.response is not None else 0)
    except RequestException as error:
        raise Temporary(f"Postmark cannot be reached: {line(str(error), 300)}") from error
    except ImproperlyConfigured as error:
        raise Undeliverable(str(error), remedy=REMEDIES[10]) from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise Temporary(f"Postmark's answer makes no sense: {type(error).__name__}: {line(str(error), 300)}") from error


def _status(error: ClientError) -> int:
    """Of the answer; postmarker keeps it in the cause."""
    cause = error.__cause__
    return cause.response.status_code if isinstance(cause, HTTPError) and cause.response is not None else 0


def _give_up(error: ClientError | HTTPError, status: int) -> NoReturn:
    """What an answer means."""
    code = error.error_code if isinstance(error, ClientError) else 0
    said = f"Postmark answers {status}: {line(str(error), 300)}"
    if status == 429 or code == 429:
        raise Limited(said, delay_s=PAUSE_S) from error
    if status >= 500 or status in (0, 408) or code == 100:
        raise Temporary(said) from error
    raise refusal(10 if status == 401 else code, said) from error


SENDER = "Confirm the sender signature (or the domain) of BYTEPORT_POSTMARK_FROM in Postmark."
ACCOUNT = "Look at the account in Postmark: it may not send."
REMEDIES: Mapping[int, str] = {
    10: "Set BYTEPORT_POSTMARK_TOKEN to the server's API token.",
    300: "Correct BYTEPORT_POSTMARK_FROM, _TO or _STREAM: Postmark does not take them.",
    400: SENDER,
    401: SENDER,
    405: ACCOUNT,
    406: "Reactivate the address in Postmark (Suppressions), or set another in BYTEPORT_POSTMARK_TO; then send again.",
    412: ACCOUNT,
    413: ACCOUNT,
}


def refusal(code: int, said: str) -> Permanent:
    """By Postmark's error code."""
    return Undeliverable(said, remedy=REMEDIES.get(code, "See what Postmark says of it, and send again."))
