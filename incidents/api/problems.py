"""Every error of the API is a problem document (RFC 9457), whoever raised it."""

from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import DataError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler

from byteport.core.errors import Refused
from byteport.problem import ProblemError


def handled(error: Exception, context: dict[str, Any]) -> Response | HttpResponse | None:
    """DRF's hook. None for what is nobody's fault but BytePort's: that is a 500 and is logged."""
    if isinstance(error, ProblemError):
        return error.response()
    if isinstance(error, Refused):
        return ProblemError(HTTPStatus.CONFLICT, error.reason).response()
    if isinstance(error, DataError):  # a time zone of 20 hours, say, which Python knows and PostgreSQL does not
        return ProblemError(HTTPStatus.BAD_REQUEST, "A value is out of range.", reason=str(error)).response()
    answer = exception_handler(error, context)
    if answer is None:
        return None
    return _as_problem(error, answer)


def _as_problem(error: Exception, answer: Response) -> HttpResponse:
    headers = {name: value for name, value in answer.items() if name in ("WWW-Authenticate", "Retry-After", "Allow")}
    document = ProblemError(HTTPStatus(answer.status_code), _detail(error, answer.data), headers=headers)
    return document.response()


def _detail(error: Exception, data: Any) -> str:
    if isinstance(error, exceptions.ValidationError):
        return " ".join(_sentences(data, ""))
    if isinstance(error, Http404):
        return "There is no such thing here."
    if isinstance(error, PermissionDenied):
        return "Your role does not allow this."
    return str(data.get("detail", error)) if isinstance(data, dict) else str(error)


def _sentences(data: Any, where: str) -> list[str]:
    """DRF's nested messages as sentences, each with the field that it is about."""
    if isinstance(data, dict):
        return [
            line for key, value in data.items() for line in _sentences(value, f"{where}.{key}" if where else str(key))
        ]
    if isinstance(data, list):
        return [
            line
            for index, value in enumerate(data)
            for line in _sentences(value, f"{where}[{index}]" if isinstance(value, dict | list) else where)
        ]
    return [f"{where}: {data}" if where and where != "non_field_errors" else str(data)]


def not_found(request: HttpRequest, *_: object, **__: object) -> HttpResponse:
    """Whatever else stands below /api/."""
    return ProblemError(HTTPStatus.NOT_FOUND, "There is nothing at this address; see /api/v1/docs/.").response()
