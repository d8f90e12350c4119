"""The filters of lists. One that is misspelt, or says neither yes nor no, is refused: passed over, it would give
everything, to a program that asked for less."""

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django_filters.rest_framework import BooleanFilter, DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

OF_EVERY_LIST = ("cursor", "page_size", "format")
YES_OR_NO = ("", "true", "false", "1", "0")


class Narrowing(DjangoFilterBackend):  # type: ignore[misc]
    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        filterset = self.get_filterset(request, queryset, view)
        _require_known(request, filterset.filters if filterset else {})
        narrowed: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return narrowed


def _require_known(request: Request, filters: Mapping[str, Any]) -> None:
    """Raises DRF's ValidationError."""
    for name in request.query_params:
        if name not in filters and name not in OF_EVERY_LIST:
            known = ", ".join((*filters, *OF_EVERY_LIST))
            raise ValidationError({name: f"There is no such filter here. There are: {known}."})
        if isinstance(filters.get(name), BooleanFilter) and _said(request, name) not in YES_OR_NO:
            raise ValidationError({name: "Say true or false."})


def _said(request: Request, name: str) -> str:
    return str(request.query_params[name]).lower()
