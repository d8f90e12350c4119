"""Problem documents (RFC 9457): what a program is told when its call is not carried out."""

from collections.abc import Mapping
from http import HTTPStatus
from uuid import uuid4

import msgspec
from django.http import HttpResponse

from byteport.core.errors import BytePortError

CONTENT_TYPE = "application/problem+json"


class ProblemError(BytePortError):
    """Ends a call with a problem document.

    `detail` is for the caller and says what to do about it; `reason` is for the log and may say more. Both carry
    `instance`, so that an operator finds the log line of a document that a caller shows them.
    """

    def __init__(
        self, status: HTTPStatus, detail: str, *, reason: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason or detail
        self.headers = dict(headers or {})
        self.instance = f"urn:uuid:{uuid4()}"

    def response(self) -> HttpResponse:
        """The document. Its type is `about:blank`: the HTTP status says all there is to say of the kind."""
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "instance": self.instance,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        return HttpResponse(
            msgspec.json.encode(document), status=self.status.value, content_type=CONTENT_TYPE, headers=headers
        )
