"""The policies of signals and runbooks, by name and field by field: for people and programs at a terminal.

A policy without a row has the product's defaults; the first change of it writes the row.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import BooleanField, Field

from byteport import audit
from byteport.core.errors import Refused
from byteport.snapshot import snapshot
from incidents import operate
from runbooks.models import RunbookPolicy
from runbooks.policy import default_policy
from runbooks.runbook import RUNBOOKS
from signals.catalog import CATALOG
from signals.models import SignalPolicy
from signals.policy import default_rule, forget

Policy = SignalPolicy | RunbookPolicy
IN_SIGNAL_UNIT = ("threshold", "critical", "clear")
SWITCH = {
    **dict.fromkeys(("on", "true", "yes", "1"), True),
    **dict.fromkeys(("off", "false", "no", "0"), False),
}


class Setting(msgspec.Struct, frozen=True):
    """One field of a policy. `unit` is empty where there is none (a switch, a count)."""

    key: str
    value: bool | int | float
    default: bool | int | float
    unit: str
    help: str


class PolicyView(msgspec.Struct, frozen=True):
    """`kind`: signal or runbook. `stored`: whether it has a row of its own."""

    name: str
    kind: str
    title: str
    stored: bool
    settings: tuple[Setting, ...]


class PolicyChange(msgspec.Struct, frozen=True):
    """The fields that a change has moved, from and to; empty where they already were as asked for."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]


def names() -> list[str]:
    """Every policy's name: the signals', then the runbooks'."""
    return [*CATALOG, *RUNBOOKS]


def all_policies() -> list[PolicyView]:
    stored: dict[str, Policy] = {str(row.pk): row for row in SignalPolicy.objects.all()}
    stored |= {str(row.pk): row for row in RunbookPolicy.objects.all()}
    return [_view(name, stored.get(name)) for name in names()]


def policy(name: str) -> PolicyView:
    """Raises Refused when there is none of this name."""
    return _view(name, type(default_row(name)).objects.filter(pk=name).first())


def default_row(name: str) -> Policy:
    """The policy as the product ships it, not saved. Raises Refused when there is none of this name."""
    if name in CATALOG:
        return SignalPolicy(signal=name, **msgspec.structs.asdict(default_rule(CATALOG[name])))
    if name in RUNBOOKS:
        return default_policy(RUNBOOKS[name])
    raise Refused(f"There is no policy {name}. There are: {', '.join(names())}.")


def fields_of(row: Policy) -> "dict[str, Field[Any, Any]]":
    """What can be set, by key."""
    return {field.name: field for field in row._meta.concrete_fields if not field.primary_key}


def unit_of(name: str, key: str) -> str:
    """A time's or percentage's unit; a threshold's is that of its signal."""
    if key in IN_SIGNAL_UNIT:
        return CATALOG[name].unit
    return "s" if key.endswith("_s") else ""


def _view(name: str, row: Policy | None) -> PolicyView:
    default = default_row(name)
    known = CATALOG.get(name) or RUNBOOKS[name]
    settings = tuple(
        Setting(key, getattr(row or default, key), getattr(default, key), unit_of(name, key), str(field.help_text))
        for key, field in fields_of(default).items()
    )
    kind = "signal" if isinstance(default, SignalPolicy) else "runbook"
    return PolicyView(name, kind, known.title, row is not None, settings)


@transaction.atomic
def change(name: str, wanted: Mapping[str, str], *, actor: str) -> PolicyChange:
    """Sets fields from text, all or none of them, and audits it. Raises Refused with every reason against it."""
    default = default_row(name)
    type(default).objects.get_or_create(pk=name, defaults={key: getattr(default, key) for key in fields_of(default)})
    row: Policy = type(default).objects.select_for_update().get(pk=name)
    before = snapshot(row)
    for key, value in parsed(row, wanted).items():
        setattr(row, key, value)
    _require_valid(row)
    row.save()
    return _record(row, before, actor)


def parsed(row: Policy, wanted: Mapping[str, str]) -> dict[str, Any]:
    """The texts as the fields' own values. Raises Refused with every reason against them."""
    fields, values, reasons = fields_of(row), {}, []
    for key, text in wanted.items():
        if key not in fields:
            reasons.append(f"{row} has no {key}. It has: {', '.join(fields)}.")
            continue
        try:
            values[key] = value_of(fields[key], text)
        except ValidationError as error:
            reasons.append(_reason(key, error.messages, fields[key]))
    if reasons:
        raise Refused("\n".join(reasons))
    return values


def value_of(field: "Field[Any, Any]", text: str) -> Any:
    """Raises ValidationError. Numbers pass through the form's field, which refuses what is not finite."""
    if isinstance(field, BooleanField):
        if text.lower() not in SWITCH:
            raise ValidationError("Say on or off.")
        return SWITCH[text.lower()]
    form_field = field.formfield()
    return form_field.clean(text) if form_field else field.to_python(text)


def _require_valid(row: Policy) -> None:
    try:
        row.full_clean()
    except ValidationError as error:
        raise Refused("\n".join(_reasons(row, error))) from error


def _reasons(row: Policy, error: ValidationError) -> Iterator[str]:
    for key, messages in error.message_dict.items():
        yield _reason(key, messages, fields_of(row).get(key))


def _reason(key: str, messages: list[str], field: "Field[Any, Any] | None") -> str:
    help_text = f" ({field.help_text})" if field is not None and field.help_text else ""
    return f"{key}: {' '.join(messages)}{help_text}"


def _record(row: Policy, before: dict[str, Any], actor: str) -> PolicyChange:
    after = snapshot(row)
    audit.record(actor=actor, action="change", target=f"policy {row}", before=before, after=after)
    after_change(before, after)
    moved = [key for key in after if after[key] != before[key]]
    return PolicyChange(str(row.pk), {key: before[key] for key in moved}, {key: after[key] for key in moved})


def after_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """What a change of settings leads to: what was only simulated looks whether it may be treated now."""
    forget()
    if before.get("dry_run") and not after.get("dry_run"):
        operate.wake_simulated()
