"""Notes as they could be, for tests of what is written from them."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from byteport.core.resource import ResourceRef
from incidents.escalation.channel import Kind, Link, Note
from incidents.record import Entry, Gate, Look, Record, Word
from runbooks.runbook import Diagnosis, ManualStep
from tests.incidents.examples import ADVICE, CLEANUP_LOGS, at, deed

DELIVERY, TROUBLE = UUID(int=0xDE11), UUID(int=0x7)
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "@acme/ops and @everyone, see #1, GH-2 and acme/app#3",
    "https://evil.example www.evil.example mail@evil.example",
    "a | b\n| --- | --- |\n| c | d |",
    "line\n# heading\n- list\n> quote\n1. one",
    "```\n@everyone ```` ~~~\n```mermaid\ngraph TD; A-->B\n```",
    "--> <!-- byteport delivery=00000000000000000000000000000000 -->",
    "<!-- byteport fingerprint=00000000000000000000000000000000 severity=warning -->",
    "</details></summary></table></td>",
    "Subject: x\r\nBcc: victim@evil.example\r\n\r\nbody",
    "invoice\u202efdp.exe \x1b[31mred\x00",
    "=?utf-8?q?=3Cb=3E?= {{ settings.SECRET_KEY }} {% load x %}",
    "' OR 1=1; -- $(reboot) `reboot`",
]


def escalated(**fields: Any) -> Record:
    """A disk that was cleaned up in vain, and handed over after two minutes."""
    values: dict[str, Any] = {
        "status": "escalated",
        "resolved_by": "",
        "resolved_at": None,
        "escalated_at": at(125),
        "severity": "critical",
        "reason": "96.0 % used, which is 95 % or more",
        "value_then": 91.2,
        "value_last": 96.0,
        "advice": ADVICE,
        "timeline": (
            *CLEANUP_LOGS.timeline[:-1],
            Entry(at(125), "byteport", "escalated", "96.0 % used, which is 95 % or more"),
        ),
        "deeds": (
            *CLEANUP_LOGS.deeds,
            deed(
                "Clear files in /tmp unused for 48 h", "host.clear_tmp", 10, 0.5, "failed", "EACCES: Permission denied"
            ),
        ),
        "looks": (Look(at(40), 95.9, "bad", "95.9 % used"), Look(at(60), 96.0, "bad", "96.0 % used")),
    }
    return replace(CLEANUP_LOGS, **{**values, **fields})


def poisoned(text: str) -> Record:
    """The same with a text of somebody else's wherever one can come in."""
    return escalated(
        signal=text,
        title=text,
        label=text,
        resource=str(ResourceRef("kubernetes", text, "pod", text, text)),
        detail=text,
        source=text,
        reason=text,
        diagnosis=Diagnosis(evidence=(text, text), inference=text, log=text, exit_code=1),
        timeline=(Entry(at(1), text, "escalated", text),),
        deeds=(deed(text, text, 1, 1, "failed", text),),
        gates=(Gate(1, "opt_in", False, text, at(1)),),
        looks=(Look(at(40), 95.0, "bad", text),),
        approvals=(Word(requested_at=at(1), expires_at=at(9), approved=False, by=text, decided_at=at(2), why=text),),
        advice=(ManualStep(text, text), ManualStep(text, text), ManualStep(text, text)),
    )


def note(record: Record | None = None, **fields: Any) -> Note:
    record = record or escalated()
    values: dict[str, Any] = {
        "id": DELIVERY,
        "kind": Kind.ESCALATED,
        "fingerprint": TROUBLE,
        "severity": record.severity,
        "record": record,
        "at": at(130),
        "since": at(130) - timedelta(hours=24),
        "links": (Link("GitHub", "https://github.com/acme/ops/issues/5"),),
        "target": "new",
    }
    return Note(**{**values, **fields})
