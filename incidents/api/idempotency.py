"""A write that is sent twice under one `Idempotency-Key` is carried out once, and answered alike both times."""

import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from http import HTTPStatus

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from byteport.core.clock import now
from byteport.problem import ProblemError
from incidents.models import IdempotentCall

HEADER = "Idempotency-Key"
KEY_CHARS = 255
KEPT = timedelta(hours=24)


class Idempotent:
    """For views: wraps the methods that write. The key's row and what was done commit together, or neither does."""

    def once(self, request: Request, work: Callable[[], Response]) -> Response:
        """Runs `work`, which returns a Response, unless its key was seen before. Raises ProblemError."""
        key = request.headers.get(HEADER, "")
        if not key:
            return work()
        if len(key) > KEY_CHARS or not key.isprintable():
            raise ProblemError(HTTPStatus.BAD_REQUEST, f"{HEADER} may have {KEY_CHARS} printable characters at most.")
        with transaction.atomic():
            call, is_new = _claim(request, key)
            if is_new:
                answer = work()
                IdempotentCall.objects.filter(pk=call.pk).update(
                    status=answer.status_code, answer=json.loads(json.dumps(answer.data, default=str))
                )
                return answer
        if call.request_hash != _hash(request):
            detail = f"This {HEADER} was used for another call. Take a new one for each call."
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
        return Response(call.answer, status=call.status, headers={"Idempotent-Replayed": "true"})


def _claim(request: Request, key: str) -> tuple[IdempotentCall, bool]:
    """The key's row, and whether this call has made it. A twin at the same time waits here for the first one's end."""
    user_id = int(request.user.pk or 0)  # who is not signed in does not come here
    row = IdempotentCall(user_id=user_id, key=key, request_hash=_hash(request), created_at=now())
    IdempotentCall.objects.bulk_create([row], ignore_conflicts=True)
    kept = IdempotentCall.objects.select_for_update().get(user_id=user_id, key=key)
    return kept, kept.status is None


def _hash(request: Request) -> str:
    told = json.dumps([request.method, request.path, request.data], sort_keys=True, default=str)
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def purge() -> int:
    """Drops the keys that are older than a day."""
    return IdempotentCall.objects.filter(created_at__lt=now() - KEPT).delete()[0]
