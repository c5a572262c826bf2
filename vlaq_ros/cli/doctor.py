"""Check this machine, and a robot's topics: what is missing, what it should be, and what to do.

Exits with 1 when something fails. Nothing is changed, and no robot moves.

Examples:
  vlaq doctor
  vlaq doctor --robot sim_panda
  vlaq doctor --robot my_arm.yaml --model models/my_pi0_w8w4 --json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from vlaq_ros.doctor.finding import Finding

_COLOURS = {"ok": "green", "unknown": "dim", "warn": "yellow", "fail": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--robot", help="robot file, or a shipped robot: its files and, while it runs, its topics")
    parser.add_argument(
        "--model",
        default="tabletop_pi0_calibrated",
        help="bundle directory, or a shipped one, whose size and names are checked (tabletop_pi0_calibrated)",
    )
    parser.add_argument("--namespace", default="/", help="namespace of the robot's topics (/)")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print a table of findings, then how many there are of each kind."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlaq_ros.doctor.examination import examine
    from vlaq_ros.doctor.finding import Level

    console = Console()
    with console.status("looking"):
        findings = list(examine(arguments.robot, arguments.model, arguments.namespace))
    table = Table("", "check", "finding")
    for finding in findings:
        table.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", Text(finding.check), _said(finding))
    counts = Counter(finding.level for finding in findings)
    console.print(table, ", ".join(f"{counts[level]} {level}" for level in Level), sep="\n")
    if arguments.json:
        print(json.dumps({**{level: counts[level] for level in Level}, "findings": [*map(asdict, findings)]}))
    return 1 if counts[Level.FAIL] else 0


def _said(finding: Finding) -> Text:
    from rich.text import Text

    said = Text(finding.found)
    for word, more in (("expected", finding.expected), ("do", finding.remedy)):
        if more:
            said.append(f"\n{word}: {more}", "dim")
    return said
