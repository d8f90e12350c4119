"""The web process: `gunicorn byteport.wsgi`.

Webhooks come in by the thousand and need neither session nor page, so that they go a shorter way: straight to their
view, past the middleware.
"""

import gc
import os
import select
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connection
from django.http import HttpResponse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "byteport.settings")

pages = get_wsgi_application()
from signals.webhook import enqueue_event, receive  # noqa: E402 (needs Django to be set up)

HOOKS = "/hooks/"
EVENTS = "/v2/enqueue"

gc.collect()
gc.freeze()  # what is loaded stays: the collector need not look through it again and again


def application(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
    path = environ.get("PATH_INFO", "")
    if path.startswith(HOOKS) or path == EVENTS:
        return _webhook(environ, start_response, path)
    return pages(environ, start_response)


def _webhook(environ: dict[str, Any], start_response: "StartResponse", path: str) -> Iterable[bytes]:
    connection.health_check_done = not _has_news_of_its_end()  # type: ignore[attr-defined]  # stubs
    request = WSGIRequest(environ)
    slug = request.path_info.removeprefix(HOOKS)
    try:
        response: HttpResponse = enqueue_event(request) if path == EVENTS else receive(request, slug)
    finally:
        close_old_connections()
    response["Content-Length"] = str(len(response.content))
    response["X-Content-Type-Options"] = "nosniff"
    start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
    return [] if request.method == "HEAD" else [response.content]


def _has_news_of_its_end() -> bool:
    """Whether PostgreSQL has said something on this thread's connection, unasked, or has hung up.

    That shows on the socket itself. Django would ask with a query before each request, and wait for the answer.
    """
    wire = connection.connection
    if wire is None:
        return False
    if wire.closed:
        return True
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLIN)
    return bool(poll.poll(0))
