"""`GET /incidents/<id>/postmortem`: a postmortem as a page, as Markdown or as JSON, by `Accept`."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from operator import attrgetter

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.request import MediaType
from django.shortcuts import render as render_page
from django.utils.cache import get_conditional_response
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers
from django.views.defaults import page_not_found

from byteport.problem import ProblemError
from incidents.markup import to_html
from incidents.postmortem import render
from incidents.report import postmortem_document
from incidents.views.incident import drawn_trend
from incidents.views.page import top_context
from signals.models import SignalEvent

HTML, MARKDOWN, JSON = "html", "md", "json"
# The first is what a client gets that takes anything.
MEDIA_TYPES = {HTML: "text/html", MARKDOWN: "text/markdown", JSON: "application/json"}
TREND_HEADING = "<h2>Trend</h2>"


@require_safe
@vary_on_headers("Accept", "Cookie")
def postmortem(request: HttpRequest, event_id: int) -> HttpResponse:
    """The draft of an open incident, from its record as it stands; of one that has ended, the stored text."""
    form = negotiated(request)
    if not request.user.is_authenticated:
        return _sign_in_first(request, form)
    if form is None:
        return _not_acceptable()
    event = SignalEvent.objects.filter(pk=event_id).first()
    if event is None:
        return _not_found(request, form, event_id)
    return _answer(request, form, event)


def negotiated(request: HttpRequest) -> str | None:
    """The form that the client likes best, by `?format=` or else by `Accept`. None: it takes none of them."""
    asked = request.GET.get("format")
    if asked is not None:
        return asked if asked in MEDIA_TYPES else None
    accept = request.headers.get("Accept") or "*/*"
    qualities = {form: quality(media_type, accept) for form, media_type in MEDIA_TYPES.items()}
    best = max(qualities, key=qualities.__getitem__)
    return best if qualities[best] > 0 else None


def quality(media_type: str, accept: str) -> float:
    """How welcome a media type is, 0 to 1: the most specific range that matches it counts (RFC 9110, 12.5.1).

    Parameters such as `charset` are not looked at.
    """
    ranges = [MediaType(text) for text in accept.split(",")]
    matching = [each for each in ranges if MediaType(media_type).match(f"{each.main_type}/{each.sub_type}")]
    return float(max(matching, key=attrgetter("specificity")).quality) if matching else 0.0


def _sign_in_first(request: HttpRequest, form: str | None) -> HttpResponse:
    if form == HTML:
        return redirect_to_login(request.get_full_path())
    detail = "Sign in to the console: its session is what counts here."
    challenge = {"WWW-Authenticate": 'Session realm="BytePort"'}
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers=challenge).response()


def _not_acceptable() -> HttpResponse:
    offered = ", ".join(MEDIA_TYPES.values())
    detail = f"A postmortem comes as {offered}, or by ?format={', '.join(MEDIA_TYPES)}."
    return ProblemError(HTTPStatus.NOT_ACCEPTABLE, detail).response()


def _not_found(request: HttpRequest, form: str, event_id: int) -> HttpResponse:
    detail = f"There is no incident {event_id}."
    if form == HTML:
        return page_not_found(request, Http404(detail))
    return ProblemError(HTTPStatus.NOT_FOUND, detail).response()


def _answer(request: HttpRequest, form: str, event: SignalEvent) -> HttpResponse:
    text = event.postmortem_md if event.postmortem_final else render(event)
    etag = _etag(request, form, text)
    response = get_conditional_response(request, etag=etag) or FORMS[form](request, event, text)
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    return response


def _etag(request: HttpRequest, form: str, text: str) -> str:
    """The text's hash. A page also belongs to the session whose forms it holds."""
    session = request.session.session_key or "" if form == HTML else ""
    digest = sha256("\0".join((form, session, text)).encode()).hexdigest()[:32]
    return f'"{digest}"' if form == MARKDOWN else f'W/"{digest}"'


def _as_html(request: HttpRequest, event: SignalEvent, text: str) -> HttpResponse:
    before, heading, after = to_html(text).partition(TREND_HEADING)
    context = {
        **top_context(request),
        "event": event,
        "before": SafeString(before + heading),
        "picture": drawn_trend(event),
        "after": SafeString(after),
    }
    return render_page(request, "incidents/postmortem.html", context)


def _as_markdown(request: HttpRequest, event: SignalEvent, text: str) -> HttpResponse:
    response = HttpResponse(text, content_type="text/markdown; charset=utf-8")
    if "format" in request.GET:
        response["Content-Disposition"] = f'attachment; filename="postmortem-{event.pk}.md"'
    return response


def _as_json(request: HttpRequest, event: SignalEvent, text: str) -> HttpResponse:
    return JsonResponse(postmortem_document(event, text))


FORMS: Mapping[str, Callable[[HttpRequest, SignalEvent, str], HttpResponse]] = {
    HTML: _as_html,
    MARKDOWN: _as_markdown,
    JSON: _as_json,
}
