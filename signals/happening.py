"""What can happen to an incident that programs may be told of."""

from enum import StrEnum


class Happening(StrEnum):
    """An event's type, as it stands in what is sent."""

    OPENED = "incident.opened"
    ACTED = "incident.acted"  # an action was carried out, or tried
    ESCALATED = "incident.escalated"
    RESOLVED = "incident.resolved"
    TEST = "test"  # an operator has asked for it
