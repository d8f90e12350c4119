"""ETags: a strong one over what is given, so that whoever has it already is spared the rest."""

import json
from hashlib import sha256
from typing import Any, TypeVar

from django.utils.decorators import method_decorator
from django.views.decorators.http import conditional_page

V = TypeVar("V")


def etag_of(document: Any) -> str:
    told = json.dumps(document, sort_keys=True, default=str)
    return f'"{sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'


def with_etags(view: type[V]) -> type[V]:
    """GET is answered with an ETag, and with 304 where `If-None-Match` has it."""
    decorated: type[V] = method_decorator(conditional_page, name="dispatch")(view)
    return decorated
