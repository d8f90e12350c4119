"""What a log line looks like. Pure: the processors alone."""

from byteport.logs import escape_controls


def test_what_a_stranger_sends_cannot_work_a_terminals_controls():
    line = {"event": "webhook refused", "source": "x\x1b[2J\x00\x9b31m", "reason": "zwei\nZeilen, grün", "status": 404}
    shown = escape_controls(None, "warning", line)
    assert shown["source"] == r"x\x1b[2J\x00\x9b31m"
    assert shown["reason"] == "zwei\nZeilen, grün"
    assert shown["status"] == 404
