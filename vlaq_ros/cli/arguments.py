"""Types of command line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make an argparse type that takes `low` to `high`."""
    return _number(int, lambda value: low <= value <= high, f"a whole number from {low} to {high}")


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Make an argparse type that takes `low` to `high`."""
    return _number(float, lambda value: low <= value <= high, f"{low:g} to {high:g} s")


def _number(kind: Callable[[str], Number], fits: Callable[[Number], bool], expected: str) -> Callable[[str], Number]:
    """Make an argparse type; nan should fit nothing."""

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            pass
        else:
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")

    return parse


fraction = _number(float, lambda value: 0 < value <= 1, "a number above 0 and up to 1")
metres = _number(float, lambda value: 0 < value <= 1, "a length above 0 and up to 1 m")


def add_denoise_steps(parser: argparse.ArgumentParser) -> None:
    """Declare the steps of a bundle's two precisions."""
    parser.add_argument(
        "--denoise-steps",
        type=whole_number(1, 1000),
        nargs=2,
        metavar=("FINE", "COARSE"),
        help="Euler steps of the flow (those of policy.json)",
    )
