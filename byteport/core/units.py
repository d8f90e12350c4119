"""Figures for people: decimal bytes, durations, percentages."""


def human_bytes(count: float) -> str:
    """`1.2 GB`: decimal units, one decimal."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def human_duration(seconds: float) -> str:
    """`45 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`: the two largest units."""
    whole = round(seconds)
    if abs(whole) < 60:
        return f"{seconds:.1f} s" if abs(seconds) < 10 and seconds != whole else f"{whole} s"
    for size, unit, smaller, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {small_unit}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
