"""A row as the audit trail keeps it: field by field, fit for JSON, and never with a secret in it."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Model
from django.utils.crypto import salted_hmac

from byteport.logs import SECRET_WORDS


def snapshot(row: Model) -> dict[str, Any]:
    """The row's columns by name."""
    fields = row._meta.concrete_fields
    return {field.name: masked(field.name, field.value_from_object(row)) for field in fields}


def masked(name: str, value: Any) -> Any:
    """The value; or, where its name says that it is a secret, a mark that changes with it and tells nothing else."""
    if isinstance(value, Mapping):
        return {key: masked(str(key), inner) for key, inner in value.items()}
    if not value or not any(word in name.lower() for word in SECRET_WORDS):
        return value
    mark = salted_hmac("byteport.snapshot", str(value), algorithm="sha256").hexdigest()[:6]
    return f"a secret (mark {mark})"
