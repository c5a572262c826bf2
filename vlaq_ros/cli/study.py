"""Hold methods, widths, denoising steps and switching rules against each other by what the simulated arm does.

Everything lies in one directory, and the same command goes on where it stopped: episodes are kept as they are done,
and more --episodes extend what is there. All cells meet the same seeds and the same noise. On a Ray cluster all
machines must see --model and --out by the same names.

Examples:
  vlaq study --list
  vlaq study --model models/tabletop_pi0 --out out/study --cells full 'methods/*' --episodes 200
  vlaq study --model models/tabletop_pi0 --out out/study --ray 192.168.0.10:6379
  vlaq study --out out/study --report
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaq_ros.cli.arguments import whole_number

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from vlaq_ros.study.cells import Cell, Plan


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--model", type=Path, default=Path("models/tabletop_pi0"), help="checkpoint (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/study"), help="directory of the study (%(default)s)")
    parser.add_argument(
        "--cells", nargs="+", default=["*"], metavar="GLOB", help="cells to run, by patterns of their names (all)"
    )
    parser.add_argument("--episodes", type=whole_number(1, 1_000_000), default=200, help="of every cell (200)")
    parser.add_argument(
        "--coarse",
        type=_widths,
        default="w4a3",
        metavar="wBaB",
        help="emulated precision that 8-bit activations are switched with (w4a3)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=whole_number(1, 64), default=os.cpu_count(), help="processes (all cores)")
    where.add_argument("--ray", metavar="ADDRESS", help="of a running Ray cluster, in the place of processes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="name the cells and the episodes that are done, then stop")
    what.add_argument("--report", action="store_true", help="write tables and figures of what is done, then stop")


def run(arguments: argparse.Namespace) -> int:
    """Prepare, fly pilots, roll out and measure what is missing."""
    from vlaq_ros.study.cells import plan
    from vlaq_ros.study.variants import Emulated

    study = plan(Emulated(*arguments.coarse))
    cells = study.matching(arguments.cells)
    if arguments.list:
        return _list(cells, arguments.out)
    if arguments.report:
        from vlaq_ros.study.report import write

        for path in write(study, arguments.out):
            print(path)
        return 0
    return _study(study, cells, arguments)


def _study(study: Plan, cells: Sequence[Cell], arguments: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vlaq_ros.study import measuring, running
    from vlaq_ros.study.cells import variants_of
    from vlaq_ros.study.workshop import Workshop

    workshop = Workshop(arguments.model.resolve(), arguments.out.resolve())
    workshop.claim()
    variants = variants_of(cells)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, speed_estimate_period=1800) as bar:

        def stage(name: str, units: int) -> Callable[[int], None]:
            task = bar.add_task(name, total=units)
            return lambda done: bar.advance(task, done)

        pool = _pool(arguments)
        try:
            workshop.prepare([variant.weights for variant in variants], arguments.jobs, stage)
            pilots = {
                pair.variants: running.pilot(workshop, pair, pool, stage)
                for pair in study.pairs
                if any(cell.variants == pair.variants for cell in cells)
            }
            running.run(workshop, cells, pilots, episodes=arguments.episodes, pool=pool, stage=stage)
        finally:
            pool.shutdown(cancel_futures=True)
        measuring.measure(workshop, variants, variants_of(study.cells), stage)
    print(f"{len(cells)} cells of {arguments.episodes} episodes are in {arguments.out}; see: vlaq study --report")
    return 0


def _pool(arguments: argparse.Namespace) -> Executor:
    if arguments.ray is None:
        from vlaq_ros.evaluate.parallel import workers

        return workers(arguments.jobs)
    from vlaq_ros.evaluate.cluster import RayExecutor

    return RayExecutor(arguments.ray)


def _list(cells: Sequence[Cell], out: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from vlaq_ros.study.results import path, read

    table = Table("cell", "answers", "done")
    for cell in cells:
        done = len(read(path(out, cell.name), cell.facts))
        table.add_row(cell.name, " / ".join(variant.name for variant in cell.variants), str(done))
    Console().print(table)
    return 0


def _widths(text: str) -> tuple[int, int]:
    from vlaq_ros.study.cells import ACTIVATION_BITS, WEIGHT_BITS

    found = re.fullmatch(r"w(\d+)a(\d+)", text)
    if found:
        widths = weight, activation = int(found[1]), int(found[2])
        if weight in WEIGHT_BITS and activation in ACTIVATION_BITS and (weight < 4 or activation < 8):
            return widths
    weights, activations = (", ".join(map(str, bits)) for bits in (WEIGHT_BITS, ACTIVATION_BITS))
    raise argparse.ArgumentTypeError(
        f"got {text!r}, expected widths below w4a8 such as w4a3: "
        f"weights of {weights} and activations of {activations} bits"
    )
