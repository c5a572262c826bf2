"""Types of command line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make an argparse type that takes `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Make an argparse type that takes `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:  # nan is within no bounds
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {low:g} to {high:g} s")
        return value

    return parse


def fraction(text: str) -> float:
    """Take a number above 0 and up to 1, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number above 0 and up to 1")
    return value


def add_denoise_steps(parser: argparse.ArgumentParser) -> None:
    """Declare the steps of a bundle's two precisions."""
    parser.add_argument(
        "--denoise-steps",
        type=whole_number(1, 1000),
        nargs=2,
        metavar=("FINE", "COARSE"),
        help="Euler steps of the flow (those of policy.json)",
    )
