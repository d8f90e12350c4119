"""A vendor's measurement, as the clients read it and the sources judge it."""

from datetime import datetime

import msgspec


class Point(msgspec.Struct, frozen=True):
    """The average of a period that began `at`, in the metric's own unit."""

    at: datetime
    value: float
