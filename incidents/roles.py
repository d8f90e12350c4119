"""Who may do what: one table for console, admin and API. Roles are Django's groups of the same names.

Whoever is signed in is at least a viewer; a superuser is an administrator.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group, Permission
from django.db.models import Q, QuerySet

APPS = ("byteport", "signals", "runbooks", "incidents")


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


def plant() -> None:
    """Makes the groups, with the permissions of the table. Those of an existing group stay as an operator set them."""
    for role, deeds in TABLE.items():
        group, is_new = Group.objects.get_or_create(name=role)
        if is_new or not group.permissions.exists():
            group.permissions.set(permissions_of(deeds))


def permissions_of(deeds: Iterable[Deed]) -> QuerySet[Permission]:
    """What the deeds come to in Django's permissions, for the admin's pages too."""
    ours = Q(content_type__app_label__in=APPS)
    wanted = Q(pk__in=[])
    for deed in deeds:
        if deed is Deed.VIEW:
            wanted |= ours & Q(codename__startswith="view_")
        elif deed is Deed.CONFIGURE:
            wanted |= ours & Q(codename__regex="^(add|change|delete)_")
        elif deed is Deed.ADMINISTER:
            wanted |= Q(content_type__app_label="auth") | Q(content_type__app_label="axes")
        else:
            app, _, codename = PERMISSIONS[deed].partition(".")
            wanted |= Q(content_type__app_label=app, codename=codename)
    return Permission.objects.filter(wanted)
