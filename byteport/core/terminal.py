"""Text that strangers have written, on its way to a terminal or a log."""

KEPT = "\n\t\u200c\u200d"  # and the joiners, which are parts of words and emoji in many scripts


def harmless(text: str) -> str:
    """The text, with whatever works a terminal's controls, or turns its direction, shown by its number instead."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in KEPT else ascii(each)[1:-1] for each in text)
