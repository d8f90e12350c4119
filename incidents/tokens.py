"""Tokens for the API: made, listed, revoked; for admin and command alike, each audited. Only a hash is kept."""

from collections.abc import Sequence
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import transaction

from byteport import audit
from byteport.core.errors import Refused
from incidents.models import ApiToken
from incidents.roles import Scope

DAYS = 90
MOST_DAYS = 3650
KEY_CHARS = 8  # of the token: by these it is named; they are no secret


@transaction.atomic
def make(user: User, *, name: str, scopes: Sequence[str], days: int, actor: str) -> tuple[ApiToken, str]:
    """The new row, and the token itself, which nobody can read from it. Raises Refused."""
    unknown = set(scopes) - set(Scope)
    if unknown or not scopes:
        raise Refused(f"A token needs one or more of the scopes {', '.join(Scope)}.")
    if not 0 < days <= MOST_DAYS:
        raise Refused(f"A token is good for 1 to {MOST_DAYS} days.")
    row, token = ApiToken.objects.create(user, expiry=timedelta(days=days), name=name, scopes=sorted(set(scopes)))
    after = {"user": user.get_username(), "scopes": row.scopes, "expiry": row.expiry}
    audit.record(actor=actor, action="create", target=target_of(row), before={}, after=after)
    return row, token


@transaction.atomic
def revoke(key: str, *, actor: str) -> ApiToken:
    """By its first characters. Raises Refused when there is none."""
    row: ApiToken | None = ApiToken.objects.filter(token_key__startswith=key).first() if len(key) >= KEY_CHARS else None
    if row is None:
        raise Refused(f"There is no token {key!r}; `token list` shows their keys.")
    before = {"user": row.user.get_username(), "scopes": row.scopes, "expiry": row.expiry}
    audit.record(actor=actor, action="revoke", target=target_of(row), before=before, after={})
    ApiToken.objects.filter(pk=row.pk).delete()
    return row


def target_of(row: ApiToken) -> str:
    return f"token {row.token_key[:KEY_CHARS]} ({row.name})"
