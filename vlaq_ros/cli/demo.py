"""Run the demonstration: a policy picks and places in MuJoCo, through the ROS 2 nodes sim_robot and pilot.

Leaves in OUT: an MCAP bag of all topics (open it in Foxglove), timeline.png, contact_sheet.png and the nodes' output.
The last line of the output is one JSON document.

Examples:
  vlaq demo
  vlaq demo --episodes 2 --precision fine --out out/fine
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaq_ros.cli.arguments import whole_number

if TYPE_CHECKING:
    from rich.table import Table

    from vlaq_ros.ros.episodes import Status

CAMERA = "front"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--episodes", type=whole_number(1, 1000), default=12, help="how many, spread over all instructions (12)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="directory of what is left (out/demo)")
    parser.add_argument(
        "--model",
        default="tabletop_pi0_calibrated",
        help="bundle directory, or a shipped one (tabletop_pi0_calibrated)",
    )
    parser.add_argument("--precision", default="auto", help="auto follows the motion, a name fixes it (auto)")
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31),
        default=900_000,
        help="of the first episode; training seeds are below 100000 (900000)",
    )
    parser.add_argument(
        "--domain-id",
        type=whole_number(0, 101),
        help="ROS domain that nothing else uses (one that no other demo has)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the episodes, show them, and report from the bag."""
    from rich.console import Console
    from rich.live import Live

    from vlaq_ros.bags.recording import read, summary
    from vlaq_ros.config import RobotConfig, resolve
    from vlaq_ros.evaluate.report import contact_sheet, timeline
    from vlaq_ros.policy.manifest import Manifest
    from vlaq_ros.policy.spec import PolicySpec
    from vlaq_ros.ros import domain
    from vlaq_ros.ros.demo import demo

    model = resolve(arguments.model, "models")
    instructions, plans = PolicySpec.load(model).instructions, Manifest.load(model).precisions
    console = Console()
    domain_id = domain.claim() if arguments.domain_id is None else arguments.domain_id
    with demo(arguments.out, model, arguments.precision, domain_id) as client:
        console.print(f"ROS domain {domain_id}; both nodes start, which takes some seconds")
        client.wait_until_ready()
        with Live(get_renderable=lambda: _view(client.status, plans[0].name), console=console, transient=True):
            for number in range(arguments.episodes):
                instruction = _instruction(instructions, number, arguments.episodes)
                success = client.run(arguments.seed + number, instruction)
                verdict = "[green]success[/]" if success else "[red]failure[/]"
                console.print(f"{number + 1:3} of {arguments.episodes}  {instruction:<32} {verdict}")

    bag = arguments.out / "bag"
    recording = read(bag, RobotConfig.load("sim_panda"), CAMERA)
    figures = {"timeline.png": timeline, "contact_sheet.png": contact_sheet}
    for name, draw in figures.items():
        draw(recording, plans, arguments.out / name)
    artifacts = [str(bag), *(str(arguments.out / name) for name in figures)]
    print(json.dumps({**summary(recording), "artifacts": artifacts}))
    return 0


def _instruction(instructions: Sequence[str], number: int, episodes: int) -> str:
    """Give all instructions in turn, or as many as there are episodes, evenly spread over all."""
    return instructions[number * max(len(instructions), episodes) // episodes % len(instructions)]


def _view(status: Status, finest: str) -> Table:
    """Show what happens now."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    colour = "cyan" if status.precision == finest else "yellow"
    for name, value in (
        ("instruction", status.instruction or "(none, the arm is held)"),
        ("precision", f"[bold {colour}]{status.precision}[/]"),
        ("sensitivity S", f"{status.sensitivity:.2f}"),
        ("inference", f"{status.inference_ms:.0f} ms"),
        ("success", "yes" if status.success else "not yet"),
    ):
        table.add_row(f"[dim]{name}[/]", value)
    return table
