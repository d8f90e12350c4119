"""What can go wrong, in BytePort's own words.

    BytePortError
    ├── Temporary    try again after `delay_s`
    ├── Permanent    trying again would not help: a person is told
    └── Refused      BytePort decided not to; nothing was changed

No exception of a vendor's library travels past the client that uses it: it is turned into one of these there.
"""


class BytePortError(Exception):
    """Root of every error that BytePort raises itself. Its text is fit for an operator's eyes."""


class Temporary(BytePortError):
    """A fault that may pass: an unreachable host, a time-out, a conflict."""

    def __init__(self, message: str, *, delay_s: float = 10.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class Permanent(BytePortError):
    """A fault that stays until a person does something about it."""


class Refused(BytePortError):
    """A call that BytePort does not allow itself to make. Raised before anything is changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
