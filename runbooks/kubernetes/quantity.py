"""Kubernetes quantities: `128Mi`, `1.5G`, `250m`, `1e9`. Pure.

The format: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import Decimal

_FORM = re.compile(
    r"(?P<number>[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?P<suffix>[eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(text: str) -> Decimal:
    """A quantity that is not negative, in its base unit: bytes, or cores. Raises ValueError when it is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"not a quantity: {text[:40]!r}")
    number, suffix = Decimal(found["number"]), found["suffix"] or ""
    if suffix in _BINARY:
        return number * Decimal(2 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:])) if suffix else number


def memory(count: int) -> str:
    """Bytes as a quantity, in the unit that makes it shortest and leaves nothing over: `256Mi`, `2G`."""
    sizes = {unit: 2**power for unit, power in _BINARY.items()}
    sizes |= {unit: 10**power for unit, power in _DECIMAL.items() if power > 0}
    fitting = [f"{count // size}{unit}" for unit, size in sizes.items() if count % size == 0]
    return min([*fitting, str(count)], key=len)
