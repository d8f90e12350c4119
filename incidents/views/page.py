"""What every page shares: who may see it, who may change things, and in which form an answer is given."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from byteport.core.clock import now
from byteport.core.errors import Refused
from incidents.handover import hand_over, what_to_set
from incidents.queries import NEEDS_PERSON, processes
from incidents.roles import Deed, may
from runbooks.policy import agent_settings
from signals.models import SignalEvent

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


def signed_in(view: View[P]) -> View[P]:
    """Only for those who are signed in. A fragment's request takes the whole page to the login."""

    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if request.user.is_authenticated:
            return view(request, *args, **kwargs)
        htmx = HtmxDetails(request)
        if not htmx:
            return redirect_to_login(request.get_full_path())
        login = reverse("login") + "?" + urlencode({"next": htmx.current_url_abs_path or "/"})
        return HttpResponseClientRedirect(login)

    return guarded


def only_for(deed: Deed) -> Callable[[View[P]], View[P]]:
    """Only for those whose role allows the deed: what changes something, and the pages that lead to it."""

    def decorated(view: View[P]) -> View[P]:
        @signed_in
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if not may(request.user, deed):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return guarded

    return decorated


def show(request: HttpRequest, name: str, context: Mapping[str, Any]) -> HttpResponse:
    """The page, or for htmx only its live part, `console/live/<name>.html`, which the page includes."""
    if HtmxDetails(request):
        return render(request, f"console/live/{name}.html", dict(context))
    return render(request, f"console/{name}.html", {**top_context(request), **context})


def top_context(request: HttpRequest) -> dict[str, Any]:
    """What the head of every page shows: the agent's state and what is missing."""
    htmx = HtmxDetails(request)
    return {
        "agent": agent_settings(),
        "processes": processes(),
        "hand_over": hand_over(now()),
        "what_to_set": what_to_set(),
        "needs_person": SignalEvent.objects.filter(status__in=NEEDS_PERSON).count(),
        "here": (htmx.current_url_abs_path if htmx else None) or request.get_full_path(),
    }


def carry_out(request: HttpRequest, deed: Callable[[], None], done: str) -> None:
    """Does what an operator asked for, and tells them that it was done or why it was refused."""
    try:
        deed()
    except Refused as refusal:
        messages.error(request, refusal.reason)
    else:
        messages.success(request, done)


def go_back(request: HttpRequest, fallback: str, *args: object) -> HttpResponse:
    """After a change: back to the page that it was asked for on (`next`), when that is one of ours."""
    url = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(url, allowed_hosts={request.get_host()}, require_https=request.is_secure()):
        url = resolve_url(fallback, *args)
    return HttpResponseClientRedirect(url) if HtmxDetails(request) else redirect(url)


def actor(request: HttpRequest) -> str:
    """The name under which a deed is audited."""
    return request.user.get_username()
