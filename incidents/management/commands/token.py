"""`manage.py token create|list|revoke`: tokens for the API."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

import msgspec
from django.contrib.auth.models import User

from byteport.cli import Report, ReportCommand, actor
from byteport.core.errors import Refused
from incidents import tokens
from incidents.models import ApiToken
from incidents.roles import Scope


class Token(msgspec.Struct, frozen=True):
    """One token; `token` itself is there only when it was just made."""

    key: str
    name: str
    user: str
    scopes: list[str]
    created: datetime
    expiry: datetime | None
    token: str | None = None


class Command(ReportCommand):
    help = "Makes, lists and revokes tokens for the API. A token never allows more than its user's role does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        deeds = parser.add_subparsers(dest="deed", required=True)
        create = deeds.add_parser("create", help="Makes a token and shows it, this once.")
        create.add_argument("name", help="What it is for.")
        create.add_argument("--user", required=True, help="Whose role it has.")
        create.add_argument("--scope", action="append", choices=list(Scope), required=True, help="May be repeated.")
        create.add_argument("--days", type=int, default=tokens.DAYS, help="How long it is good (default: %(default)s).")
        deeds.add_parser("list", help="Shows all tokens, and never a token itself.")
        revoke = deeds.add_parser("revoke", help="Makes a token void at once.")
        revoke.add_argument("key", help="Its key, as `token list` shows it.")
        for each in deeds.choices.values():
            each.add_argument("--json", action="store_true", help="One line of JSON.")

    def report(self, **options: Any) -> Report:
        if options["deed"] == "list":
            rows = [_token(row) for row in ApiToken.objects.select_related("user")[:1000]]
            return Report(rows, [_line(row) for row in rows] or ["There are no tokens. To make one: token create."])
        if options["deed"] == "revoke":
            gone = _token(tokens.revoke(options["key"], actor=actor()))
            return Report(gone, [f"revoked {_line(gone)}"])
        return self._create(options)

    def _create(self, options: dict[str, Any]) -> Report:
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise Refused(f"There is no active user {options['user']!r}.")
        row, token = tokens.make(
            user, name=options["name"], scopes=options["scope"], days=options["days"], actor=actor()
        )
        made = msgspec.structs.replace(_token(row), token=token)
        return Report(made, [token, f"for {_line(made)}", "It is shown only now."])


def _token(row: ApiToken) -> Token:
    key = row.token_key[: tokens.KEY_CHARS]
    return Token(key, row.name, row.user.get_username(), list(row.scopes), row.created, row.expiry)


def _line(token: Token) -> str:
    until = f"{token.expiry:%Y-%m-%d}" if token.expiry else "ever"
    return f"{token.key}  {token.name}: {token.user}, {', '.join(token.scopes)}, until {until}"
