"""The operator's terminal: lines as they come, nothing waited for, and the terminal left as it was found."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.evaluate.operator import NoOperatorError, Operator


def ignore(_: str) -> None:
    """Hear nothing."""


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=5), st.integers(1, 7))
def test_lines_come_whole_however_they_are_cut(lines: list[str], size: int) -> None:
    readable, writable = os.pipe()
    try:
        operator = Operator(readable, ignore)
        typed = "".join(f"{line}\n" for line in lines).encode()
        got = []
        for start in range(0, len(typed), size):
            os.write(writable, typed[start : start + size])
            if (line := operator.line()) is not None:
                got.append(line)
        while (line := operator.line()) is not None:
            got.append(line)
        assert got == [line.strip().lower() for line in lines]
    finally:
        os.close(readable)
        os.close(writable)


def test_what_was_typed_before_is_forgotten_and_an_end_is_told() -> None:
    readable, writable = os.pipe()
    operator = Operator(readable, ignore)
    assert operator.line() is None
    os.write(writable, b"y\nn\n")
    operator.forget()
    assert operator.line() is None
    os.write(writable, b" Y \n")
    os.close(writable)
    assert operator.line() == "y"
    with pytest.raises(NoOperatorError) as end:
        operator.line()
    assert str(end.value) == (
        "the terminal has ended and nobody can answer; expected an operator: run this in a terminal that stays open"
    )
    os.close(readable)


PROGRAM = """
import sys, time
from vlaq_ros.evaluate.operator import Operator
with Operator(0, print) as operator:
    operator.say("ready")
    while (line := operator.line()) is None:
        time.sleep(0.01)
    operator.say(f"got {line}")
"""


def test_a_terminal_does_not_show_what_is_typed_and_is_restored() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    # -u: what it says is seen at once; a session of its own: this terminal is the one that it is in the foreground of
    program = ["-u", "-c", f"import os, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{PROGRAM}"]
    child = subprocess.Popen([sys.executable, *program], stdin=theirs, stdout=theirs, start_new_session=True)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(ours, 100)
    os.write(ours, b"yes\n")
    while b"got yes" not in shown:
        shown += os.read(ours, 100)
    assert child.wait(30.0) == 0
    assert shown.replace(b"\r\n", b"\n").startswith(b"ready\ngot yes")
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
