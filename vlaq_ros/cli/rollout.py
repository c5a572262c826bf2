"""Closed-loop success of a policy on unseen seeds, in one process and without ROS.

Several precisions meet the same seeds and the same flow noise; each is compared with the first, seed by seed. "full" is
the source checkpoint itself, which the robot never holds; it lies beside the bundle, or is itself the model. Every
precision gets one line of JSON at the end.

Examples:
  vlaq rollout --precision auto --episodes 100
  vlaq rollout --precision full fine coarse auto --episodes 300
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

from vlaq_ros.cli.arguments import seconds, whole_number

if TYPE_CHECKING:
    from rich.table import Table

    from vlaq_ros.evaluate.rollout import Outcome


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--model", default="tabletop_pi0_calibrated", help="model directory, or a shipped one (tabletop_pi0_calibrated)"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["auto"],
        metavar="NAME",
        help="auto follows the motion, a name fixes it, full is the source checkpoint (auto)",
    )
    parser.add_argument("--episodes", type=whole_number(1, 1_000_000), default=100, help="how many (100)")
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31),
        default=900_000,
        help="of the first episode; training seeds are below 100000 (900000)",
    )
    parser.add_argument(
        "--latency", type=seconds(0.0, 2.0), default=0.1, help="from an observation to its command, s (0.1)"
    )
    parser.add_argument("--jobs", type=whole_number(1, 64), default=os.cpu_count(), help="processes (all cores)")


def run(arguments: argparse.Namespace) -> int:
    """Run every precision on the same episodes, then report."""
    from rich.console import Console
    from rich.progress import Progress

    from vlaq_ros.config import resolve
    from vlaq_ros.evaluate.parallel import share_out
    from vlaq_ros.evaluate.referee import TIME_LIMIT_S
    from vlaq_ros.evaluate.rollout import in_turn, summary
    from vlaq_ros.policy.spec import PolicySpec

    model = resolve(arguments.model, "models")
    tasks = PolicySpec.load(model).instructions
    episodes = in_turn(arguments.seed, tasks, arguments.episodes)
    results: dict[str, list[Outcome]] = {}
    documents = []
    console = Console()
    with Progress(console=console) as bar:
        for precision in arguments.precision:
            start_s = time.monotonic()
            running = share_out(
                model, precision, episodes, latency_s=arguments.latency, limit_s=TIME_LIMIT_S, jobs=arguments.jobs
            )
            results[precision] = list(bar.track(running, len(episodes), description=precision))
            documents.append(summary(precision, results[precision], time.monotonic() - start_s))
    console.print(_successes(documents))
    if len(results) > 1:
        console.print(_comparison(results))
    for document in documents:
        print(json.dumps(document))
    return 0


def _successes(documents: list[dict[str, Any]]) -> Table:
    """Count successes by task and by family of tasks, one column for each precision."""
    from rich.table import Table

    from vlaq_ros.sim.scene import COLOURS

    tasks = list(documents[0]["by_task"])
    families = {name: " ".join(word for word in name.split() if word not in COLOURS) for name in tasks}
    table = Table("task", *(document["precision"] for document in documents))
    for section in ({name: name for name in tasks}, families, dict.fromkeys(tasks, "all")):
        for title in dict.fromkeys(section.values()):
            cells = []
            for document in documents:
                counts = [document["by_task"][name] for name in tasks if section[name] == title]
                cells.append(f"{sum(count['successes'] for count in counts)} of {sum(count['n'] for count in counts)}")
            table.add_row(title, *cells)
        table.add_section()
    bounds = (document["wilson95"] for document in documents)
    table.add_row("95 % interval of all", *(f"{low:.1%} to {high:.1%}" for low, high in bounds))
    shares = (document["precision_share"].items() for document in documents)
    table.add_row("chunks", *(", ".join(f"{share:.0%} {name}" for name, share in items) for items in shares))
    return table


def _comparison(results: dict[str, list[Outcome]]) -> Table:
    """Hold every precision against the first, on the same seeds."""
    import numpy as np
    from rich.table import Table

    from vlaq_ros.evaluate.statistics import mcnemar

    reference, *others = results
    successes = {
        name: np.array([outcome.success for outcome in sorted(outcomes, key=lambda outcome: outcome.seed)])
        for name, outcomes in results.items()
    }
    table = Table("precision", f"only {reference} succeeds", "only this one succeeds", "p (exact McNemar)")
    for name in others:
        result = mcnemar(successes[reference], successes[name])
        table.add_row(name, str(result.only_first), str(result.only_second), f"{result.p_value:.3f}")
    return table
