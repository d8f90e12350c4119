"""Who may do what: one table for console, admin and API. Roles are Django's groups of the same names.

In console and API whoever is signed in is at least a viewer; a superuser is an administrator. The admin goes by
Django's permissions: each belongs to one deed (`deed_of`), and a role's group holds those of its deeds.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group, Permission
from django.db import transaction

APPS = ("byteport", "signals", "runbooks", "incidents", "django_q")
PEOPLE = ("auth", "axes")
TOKEN = "apitoken"  # noqa: S105 (a table's name)


class Deed(StrEnum):
    """What a person or program can do."""

    VIEW = "view"  # look at everything but secrets
    SIGNAL = "signal"  # send signals
    APPROVE = "approve"  # say yes or no to a plan that waits
    OPERATE = "operate"  # switch dry-run, pause and resume, have something sent again
    CONFIGURE = "configure"  # policies, sources, hosts, mappings and the like
    ADMINISTER = "administer"  # users, roles and tokens


class Role(StrEnum):
    VIEWER = "viewer"
    RESPONDER = "responder"
    ADMINISTRATOR = "administrator"


class Scope(StrEnum):
    """What a token is for. It never allows more than its user's role does."""

    READ = "read"
    SIGNAL = "signal"
    APPROVE = "approve"
    ADMINISTER = "administer"


TABLE: Mapping[Role, frozenset[Deed]] = {
    Role.VIEWER: frozenset({Deed.VIEW}),
    Role.RESPONDER: frozenset({Deed.VIEW, Deed.SIGNAL, Deed.APPROVE, Deed.OPERATE}),
    Role.ADMINISTRATOR: frozenset(Deed),
}
SCOPES: Mapping[Scope, frozenset[Deed]] = {
    Scope.READ: frozenset({Deed.VIEW}),
    Scope.SIGNAL: frozenset({Deed.SIGNAL}),
    Scope.APPROVE: frozenset({Deed.VIEW, Deed.APPROVE}),
    Scope.ADMINISTER: frozenset(Deed),
}
# The permission that stands for a deed; those of AgentSettings are made for it (runbooks.models).
PERMISSIONS: Mapping[Deed, str] = {
    Deed.SIGNAL: "runbooks.send_signals",
    Deed.APPROVE: "runbooks.decide_plans",
    Deed.OPERATE: "runbooks.operate_agent",
    Deed.CONFIGURE: "runbooks.change_agentsettings",
    Deed.ADMINISTER: "auth.change_user",
}
User = AbstractBaseUser | AnonymousUser


def may(user: User, deed: Deed) -> bool:
    """Whether the user's role allows it."""
    if not user.is_authenticated or not user.is_active:
        return False
    has_perm = getattr(user, "has_perm", None)
    return deed is Deed.VIEW or (has_perm is not None and bool(has_perm(PERMISSIONS[deed])))


def within(scopes: Iterable[str], deed: Deed) -> bool:
    """Whether one of a token's scopes covers it."""
    return any(deed in SCOPES[Scope(scope)] for scope in scopes if scope in list(Scope))


@transaction.atomic
def plant() -> None:
    """Makes the groups what the table says. Any number of processes may do it at once."""
    Group.objects.bulk_create([Group(name=role) for role in TABLE], ignore_conflicts=True)
    for group in Group.objects.select_for_update().filter(name__in=list(TABLE)).order_by("name"):
        group.permissions.set(permissions_of(TABLE[Role(group.name)]))


def permissions_of(deeds: Iterable[Deed]) -> list[int]:
    """The keys of what the deeds come to in Django's permissions."""
    wanted = frozenset(deeds)
    rows = Permission.objects.values_list("pk", "content_type__app_label", "codename")
    return [pk for pk, app, codename in rows if deed_of(app, codename) in wanted]


def deed_of(app: str, codename: str) -> Deed | None:
    """The deed that a permission of Django's is part of; None for what nobody needs. Pure."""
    for deed, permission in PERMISSIONS.items():
        if permission == f"{app}.{codename}":
            return deed
    verb, _, table = codename.partition("_")
    if app in PEOPLE or table == TOKEN:
        return Deed.ADMINISTER
    if app not in APPS:
        return None
    return Deed.VIEW if verb == "view" else Deed.CONFIGURE


def is_role(group: object) -> bool:
    """Whether it is one of BytePort's own groups, which follow the table."""
    return isinstance(group, Group) and group.name in list(Role)
