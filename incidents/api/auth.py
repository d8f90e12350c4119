"""Who calls: a token (hashed, with scopes and an expiry) or a session; and whether it may."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core.cache import cache
from knox.auth import TokenAuthentication
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from incidents.models import ApiToken
from incidents.roles import Deed, may, within

if TYPE_CHECKING:
    from rest_framework.views import APIView  # it imports this module, by the settings

FAILURES, WINDOW_S = 30, 60  # wrong tokens from one address in that time, in one process


class BearerToken(TokenAuthentication):  # type: ignore[misc]
    """`Authorization: Bearer …`. An address that guesses is held off for a while."""

    def authenticate(self, request: Request) -> Any:
        key = f"api-failures:{request.META.get('REMOTE_ADDR', '')}"
        if cache.get(key, 0) >= FAILURES:
            raise Throttled(wait=WINDOW_S)
        try:
            return super().authenticate(request)
        except (AuthenticationFailed, UnicodeDecodeError) as error:
            cache.add(key, 0, WINDOW_S)
            cache.incr(key)
            raise AuthenticationFailed("The token is unknown, has expired, or its user is not active.") from error


class Session(SessionAuthentication):
    """The console's own sign-in, with CSRF token."""


class MayDo(BasePermission):
    """Each view says which deed each of its methods is; role and token's scopes both have to allow it."""

    message = "Your role, or the scopes of this token, do not allow this."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        deeds: Mapping[str, Deed] = getattr(view, "deeds", {})
        deed = deeds.get(request.method or "", Deed.VIEW)  # a method that the view does not have, it refuses itself
        if not may(request.user, deed):
            return False
        return not isinstance(request.auth, ApiToken) or within(request.auth.scopes, deed)
