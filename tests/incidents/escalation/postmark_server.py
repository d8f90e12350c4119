"""Postmark's side of the wire: a small server that keeps messages and bounces, and speaks HTTP.

Each request is checked against Postmark's documentation (postmarkapp.com/developer/api: email, messages, bounces,
message streams, error codes), and answers have the shapes that it shows. A breach by BytePort is kept in `breaches`.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.incidents.escalation.wire import Answer, Asked, Wire, served

TOKEN = "0f0f0f0f-test-server-token"
FROM, TO = "BytePort <byteport@example.com>", "ops@example.com"
STREAMS = {"outbound": "Transactional", "alerts": "Transactional"}
FIELDS = {
    "From": str, "To": str, "Cc": str, "Bcc": str, "Subject": str, "Tag": str, "HtmlBody": str, "TextBody": str,
    "ReplyTo": str, "Headers": list, "TrackOpens": bool, "TrackLinks": str, "Attachments": list, "Metadata": dict,
    "MessageStream": str,
}  # fmt: skip
FORBIDDEN = re.compile(r"\.(exe|bat|com|cmd|js|vbs|msi|scr|jar|lnk|ps1|chm|dll|cpl|reg)$", re.IGNORECASE)
BODY_LIMIT, MESSAGE_LIMIT = 5_000_000, 10_000_000
INACTIVE = "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression."


def refused(code: int, message: str, status: int = 422) -> Answer:
    return Answer(status, {"ErrorCode": code, "Message": message})


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


@dataclass
class State(Wire):
    """What this Postmark has taken, and which addresses it does not deliver to."""

    messages: list[dict[str, Any]] = field(default_factory=list)  # as the messages API shows them
    emails: list[dict[str, Any]] = field(default_factory=list)  # as they were sent
    inactive: set[str] = field(default_factory=set)
    bounces: list[dict[str, Any]] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=lambda: {"byteport@example.com"})

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("X-Postmark-Server-Token") != TOKEN:
            return refused(10, "Request does not contain a valid Server token.", 401)
        if asked.headers.get("Accept") != "application/json":
            self.breaches.append("the header Accept: application/json is required")
        return self.serve(asked)

    def serve(self, asked: Asked) -> Answer:
        match asked.method, asked.path.strip("/").split("/"):
            case "POST", ["email"]:
                return self.send(asked.body)
            case "GET", ["messages", "outbound"]:
                return self.search(asked.query)
            case "GET", ["bounces"]:
                return self.bounced(asked.query)
            case "GET", ["server"]:
                return Answer(200, {"ID": 1, "Name": "Production", "ApiTokens": [], "DeliveryType": "Live"})
            case "GET", ["message-streams", stream]:
                return self.stream(stream)
        return Answer(404, {"ErrorCode": 0, "Message": "Not found"})

    def stream(self, stream: str) -> Answer:
        if stream not in STREAMS:
            return refused(1226, "The stream provided does not exist on this server.", 422)
        kind = STREAMS[stream]
        return Answer(200, {"ID": stream, "ServerID": 1, "Name": stream, "MessageStreamType": kind, "ArchivedAt": None})

    def send(self, email: dict[str, Any]) -> Answer:
        self.breaches += faults_of(email)
        recipients = addresses(email["To"])
        if not set(addresses(email["From"])) <= self.confirmed:
            return refused(400, "The 'From' address you supplied is not a Sender Signature on your account.")
        if email.get("MessageStream", "outbound") not in STREAMS:
            return refused(1235, "The 'MessageStream' provided does not exist on this server.")
        away = [address for address in recipients if address in self.inactive]
        if set(away) == set(recipients):
            tried = "You tried to send to recipient(s) that have been marked as inactive."
            return refused(406, f"{tried} Found inactive addresses: {', '.join(away)}. {INACTIVE}")
        said = f"Message OK, but will not deliver to these inactive addresses: {', '.join(away)}. {INACTIVE}"
        return self.take(email, recipients, said if away else "OK")

    def take(self, email: dict[str, Any], recipients: list[str], said: str) -> Answer:
        ident = str(uuid4())
        self.emails.append(email)
        self.messages.append({
            "Tag": email.get("Tag"), "MessageID": ident, "MessageStream": email.get("MessageStream", "outbound"),
            "To": [{"Email": address, "Name": None} for address in recipients], "Cc": [], "Bcc": [],
            "Recipients": recipients, "ReceivedAt": stamp(), "From": email["From"], "Subject": email["Subject"],
            "Attachments": [each["Name"] for each in email["Attachments"]], "Status": "Sent", "TrackOpens": False,
            "TrackLinks": "None", "Metadata": email.get("Metadata", {}), "Sandboxed": False,
        })  # fmt: skip
        answer = {"To": email["To"], "SubmittedAt": stamp(), "MessageID": ident, "ErrorCode": 0, "Message": said}
        return Answer(200, answer)

    def search(self, query: dict[str, str]) -> Answer:
        self._look_at_paging(query)
        wanted = {
            name.removeprefix("metadata_"): value for name, value in query.items() if name.startswith("metadata_")
        }
        if len(wanted) > 1:
            self.breaches.append("only one metadata field can be searched for at a time")
        found = [
            message
            for message in self.messages[::-1]
            if wanted.items() <= message["Metadata"].items()
            and query.get("messagestream", message["MessageStream"]) == message["MessageStream"]
        ]
        return Answer(200, {"TotalCount": len(found), "Messages": found[: int(query["count"])]})

    def bounced(self, query: dict[str, str]) -> Answer:
        self._look_at_paging(query)
        found = [bounce for bounce in self.bounces if bounce["MessageID"] == query.get("messageID")]
        return Answer(200, {"TotalCount": len(found), "Bounces": found})

    def _look_at_paging(self, query: dict[str, str]) -> None:
        if not {"count", "offset"} <= query.keys() or not 0 < int(query["count"]) <= 500:
            self.breaches.append(f"count (up to 500) and offset are required: {query}")

    def bounce(self, address: str, kind: str = "HardBounce") -> None:
        """The latest message comes back from this address."""
        message = self.messages[-1]
        self.bounces.append({
            "ID": 692560173, "Type": kind, "TypeCode": 1, "Name": kind, "Tag": message["Tag"], "ServerID": 1,
            "MessageID": message["MessageID"], "MessageStream": message["MessageStream"], "Description": "came back",
            "Details": "smtp;550 no such user", "Email": address, "From": message["From"], "BouncedAt": stamp(),
            "DumpAvailable": True, "Inactive": True, "CanActivate": True, "Subject": message["Subject"],
        })  # fmt: skip


def addresses(given: str) -> list[str]:
    return [(re.findall(r"<([^>]*)>", each) or [each.strip()])[0] for each in given.split(",")]


def faults_of(email: dict[str, Any]) -> Iterator[str]:
    """What Postmark's documentation does not allow."""
    for name, value in email.items():
        if name not in FIELDS or not (value is None or isinstance(value, FIELDS[name])):
            yield f"{name}: {type(value).__name__} is not what the documentation says"
    if not email.get("HtmlBody") and not email.get("TextBody"):
        yield "neither HtmlBody nor TextBody"
    if any(len(email.get(name) or "") > BODY_LIMIT for name in ("HtmlBody", "TextBody")):
        yield "a body of more than 5 MB"
    if not email["Subject"] or len(email["Subject"]) > 2000 or not email["Subject"].isprintable():
        yield f"no subject: {email['Subject'][:80]!r}"
    if len(email.get("Tag") or "") > 1000 or email["TrackLinks"] not in ("None", "HtmlAndText", "HtmlOnly", "TextOnly"):
        yield "Tag or TrackLinks"
    if len(addresses(email["To"])) > 50:
        yield "more than 50 recipients"
    yield from metadata_faults(email["Metadata"])
    yield from attachment_faults(email["Attachments"])
    for header in email["Headers"]:
        if header.keys() != {"Name", "Value"} or not (header["Name"] + header["Value"]).isprintable():
            yield f"header {header}"


def metadata_faults(metadata: dict[str, str]) -> Iterator[str]:
    if len(metadata) > 10:
        yield "more than 10 metadata fields"
    for name, value in metadata.items():
        if len(name) > 20 or not isinstance(value, str) or len(value) > 80:
            yield f"metadata {name}: {value!r}"


def attachment_faults(attachments: list[dict[str, str]]) -> Iterator[str]:
    size = 0
    for each in attachments:
        if not {"Name", "Content", "ContentType"} <= each.keys() <= {"Name", "Content", "ContentType", "ContentID"}:
            yield f"attachment {each.keys()}"
        if FORBIDDEN.search(each["Name"]) or not each.get("ContentID", "cid:x").startswith("cid:"):
            yield f"attachment {each['Name']}"
        size += len(base64.b64decode(each["Content"], validate=True))
    if size > MESSAGE_LIMIT:
        yield "more than 10 MB"


@contextmanager
def postmark() -> Iterator[State]:
    """Runs it until the end of the block."""
    state = State()
    with served(state, state):
        yield state
