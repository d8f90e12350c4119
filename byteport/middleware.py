"""Two things that must work before, or in spite of, everything else: the probes, and an honest 503."""

from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import resolve

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
RETRY_AFTER_S = 5

GetResponse = Callable[[HttpRequest], HttpResponse]


def probes(get_response: GetResponse) -> GetResponse:
    """Answers them before anything looks at the Host header: kubelet and Prometheus call by bare address."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info in PROBES:
            answer: HttpResponse = resolve(request.path_info).func(request)
            return answer
        return get_response(request)

    return middleware


class DatabaseAway:
    """A page that needs PostgreSQL while it is away answers 503 with Retry-After, not 500."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, OperationalError | InterfaceError):
            return None
        if not connection.in_atomic_block:
            connection.close()  # the next request opens a fresh one
        return unavailable(request)


def unavailable(request: HttpRequest) -> HttpResponse:
    """Plain text, or HTML for whoever prefers it."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
    if request.accepts("text/html"):
        return HttpResponse(render_to_string("503.html"), status=503, headers=headers)
    text = "BytePort cannot reach its database. Try again in a few seconds.\n"
    return HttpResponse(text, content_type="text/plain", status=503, headers=headers)
