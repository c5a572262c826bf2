"""The operator at the terminal: asked in whole lines, without the program ever standing still for an answer."""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Callable
from typing import Any, Self

from vlaq_ros.errors import VlaqError


class NoOperatorError(VlaqError):
    """Nobody can answer any more."""

    def __init__(self) -> None:
        super().__init__(
            "the terminal has ended and nobody can answer; expected an operator: run this in a terminal that stays open"
        )


class Operator:
    """A context manager, within which what is typed does not show: it would be torn by what is redrawn meanwhile.

    Args:
        file: descriptor that lines are read from, a terminal's or a pipe's.
        say: shows a line.

    Attributes:
        say: as given.
    """

    def __init__(self, file: int, say: Callable[[str], object]) -> None:
        self.say = say
        self._file, self._typed = file, b""
        self._mode: list[Any] | None = None

    def __enter__(self) -> Self:
        # a process in the background that changes its terminal is stopped by the kernel
        if os.isatty(self._file) and os.tcgetpgrp(self._file) == os.getpgrp():
            self._mode = termios.tcgetattr(self._file)
            local_modes = self._mode[3] & ~termios.ECHO
            termios.tcsetattr(self._file, termios.TCSADRAIN, [*self._mode[:3], local_modes, *self._mode[4:]])
        return self

    def __exit__(self, *_: object) -> None:
        if self._mode is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._mode)

    def forget(self) -> None:
        """Drop what was typed before anything was asked."""
        while self.line() is not None:
            pass

    def line(self) -> str | None:
        """Give the next line that was typed, trimmed and in lower case; None where there is none yet.

        Raises:
            NoOperatorError: there will be none.
        """
        while b"\n" not in self._typed:
            if not select.select([self._file], [], [], 0.0)[0]:
                return None
            read = os.read(self._file, 1024)
            if not read:
                raise NoOperatorError
            self._typed += read
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip().lower()
