"""Takes credentials out of text that people will read: log excerpts, reasons, commands.

Recognised by their form, so it is a net and not a wall: better a word too many than a
password too few.
"""

import re

MASK = "***"

_KEY = r"(?:passw(?:or)?d|pwd|passphrase|secret|token|signature|credentials?|(?:api|access|private)[_-]?key)"
_VALUE = r"""(?:\\?"(?:[^"\\\n]|\\.)*"?|\\?'(?:[^'\\\n]|\\.)*'?|[^\s"',;&|(){}\[\]]+)"""
_EQUALS = r"""[\\"']{0,3}\s{0,3}(?:=>|[:=])\s{0,3}"""

# The first group stays, the rest is replaced. Every repetition is bounded, or runs over what it cannot give
# back, so that no text makes these slow.
_SECRETS = tuple(
    re.compile(form, re.DOTALL)
    for form in (
        r"()-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
        rf"""(?i)(\bauthorization{_EQUALS}[\\"']{{0,3}})(?:[a-z]{{1,20}} +)?[^\s"',]+""",
        r"(?i)(\bbearer\s{1,3})[\w.~+/=-]{6,}",
        r"(?i)(\bbasic\s{1,3})[\w+/]{18,}={0,2}",
        r"(://)[^\s/]+(?=@)",
        r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"()\b(?:gh[pousr]_|github_pat_|glpat-|xox[a-z]-|sk_live_|sk_test_)[\w-]{10,}",
        r"()\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
        rf"(?i)({_KEY}[\w-]{{0,20}}{_EQUALS}){_VALUE}",
        rf"(?i)(--(?:[a-z]{{1,20}}-)?{_KEY}\s{{1,3}}){_VALUE}",
    )
)


def mask_secrets(text: str) -> str:
    """The text with what looks like a credential replaced by `***`.

    Private keys, Authorization headers, Bearer tokens, AWS key ids, vendors' tokens, JWTs, credentials in
    URLs, and the values of `password=…`, `"api_key": …`, `--token …` and their like.
    """
    for form in _SECRETS:
        text = form.sub(rf"\1{MASK}", text)
    return text


# In turn: what stays (names in double quotes, comments, parameters, words that end in digits), and what is a value.
_SQL = re.compile(
    r"""(?P<stays>"[^"]*"? | --[^\n]* | /\*.*?(?:\*/|\Z) | \$\d+ | [^\W\d]\w*(?!['\w]))
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=dollar)|\Z)
    | \w{0,2}'(?:[^'\\]|''|\\.)*'?
    | \d[\w.]*""",
    re.VERBOSE | re.DOTALL,
)


def mask_literals(statement: str) -> str:
    """An SQL statement with `?` in the place of each value. Rather a value too many than one too few."""
    return _SQL.sub(lambda found: found["stays"] or "?", statement)
