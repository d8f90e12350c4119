"""Search over all postmortems."""

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from incidents.search import RANKED, asked_for, cursor_of, search
from incidents.views.page import show, signed_in


@require_safe
@signed_in
def postmortems(request: HttpRequest) -> HttpResponse:
    """Without a query: all of them, the newest first. A cursor that is none begins at the beginning."""
    query = asked_for(request.GET.get("q", ""))
    after = cursor_of(request.GET.get("after", ""))
    page = search(query, after)
    context = {
        "page": page,
        "query": query,
        "ranked": RANKED,
        "further": address_of(query, str(page.after)) if page.after else "",
        "first": address_of(query) if after else "",
    }
    return show(request, "postmortems", context)


def address_of(query: str, after: str = "") -> str:
    """The page's query string."""
    return "?" + urlencode({name: value for name, value in {"q": query, "after": after}.items() if value})
