"""What the row of a webhook can be told, as `Source.options`. Each kind may have more."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec


class WebhookOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`reports_end`: whether the sender reliably says when it is over; left out, what is usual for its kind.
    `max_per_second`: signals that it may send."""

    reports_end: bool | msgspec.UnsetType = msgspec.UNSET
    max_per_second: Annotated[float, msgspec.Meta(gt=0)] | msgspec.UnsetType = msgspec.UNSET


def fault_of(options: Mapping[str, Any], form: type[WebhookOptions] = WebhookOptions) -> str:
    """What is wrong with a row's options; empty when nothing is. An option that is misspelt does not go unnoticed."""
    try:
        msgspec.convert(options, form)
    except msgspec.ValidationError as error:
        return str(error)
    return ""
