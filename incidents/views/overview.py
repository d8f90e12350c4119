"""The first page, and the head that all pages share."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from byteport.core.clock import now
from incidents import queries
from incidents.templatetags.console import THEME_COOKIE, THEMES
from incidents.views.page import go_back, show, signed_in, top_context

YEAR_S = 365 * 24 * 3600


@require_safe
@signed_in
def overview(request: HttpRequest) -> HttpResponse:
    """What needs a person, what goes on, what was done lately, and whether all parts are well."""
    at = now()
    context = {
        "overview": queries.overview(at),
        "week": queries.week(at),
        "sources": queries.source_health(at),
        "processes": queries.processes(),
        "queue": queries.queue(),
        "at": at,
    }
    return show(request, "overview", context)


@require_safe
@signed_in
def top(request: HttpRequest) -> HttpResponse:
    """The head of the page alone, which every open page asks for every few seconds."""
    return render(request, "console/live/top.html", top_context(request))


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Keeps the reader's choice of theme in a cookie; works without JavaScript and without an account."""
    response = go_back(request, "overview")
    chosen = request.POST.get("theme", "")
    if chosen in THEMES:
        response.set_cookie(THEME_COOKIE, chosen, max_age=YEAR_S, samesite="Lax", secure=request.is_secure())
    return response
