"""What happens where one chunk takes over from another, on the simulated arm with injected latency.

The same episodes are flown with naive, blended and guided seams; then, in full precision, with guided seams in closed
form and with the paper's whole Jacobian. Every cell that is done is kept in OUT/seams.json, and replaces what was kept
of it; --page writes tables and figure of all that is kept. The last line is JSON.

Examples:
  vlaq seams --episodes 100 --page docs/seams.md
  vlaq seams --latency 0.15 --episodes 20 --out /tmp
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from vlaq_ros.cli.arguments import seconds, whole_number


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--model", default="tabletop_pi0_calibrated", help="model directory, or a shipped one (tabletop_pi0_calibrated)"
    )
    parser.add_argument("--precision", default="fine", metavar="NAME", help="of the model's precisions (fine)")
    parser.add_argument("--episodes", type=whole_number(1, 1_000_000), default=100, help="of every cell (100)")
    parser.add_argument("--seed", type=whole_number(0, 2**31), default=900_000, help="of the first episode (900000)")
    parser.add_argument(
        "--latency",
        type=seconds(0.0, 2.0),
        nargs="+",
        default=[0.0, 0.05, 0.15, 0.4],
        help="from an observation to its command, s (0 0.05 0.15 0.4)",
    )
    parser.add_argument("--jobs", type=whole_number(1, 64), default=os.cpu_count(), help="processes (all cores)")
    parser.add_argument("--out", type=Path, default=Path("docs/seams"), help="directory of the results (docs/seams)")
    parser.add_argument("--page", type=Path, help="Markdown page whose tables are written anew from all that is kept")


def run(arguments: argparse.Namespace) -> int:
    """Fly cell by cell and keep each."""
    from rich.progress import Progress

    from vlaq_ros.bench.report import rewrite
    from vlaq_ros.config import resolve
    from vlaq_ros.evaluate import seam_report
    from vlaq_ros.evaluate.referee import TIME_LIMIT_S
    from vlaq_ros.evaluate.rollout import in_turn
    from vlaq_ros.evaluate.seam_report import CLOSED_FORM, KINDS, WHOLE_JACOBIAN
    from vlaq_ros.evaluate.seams import Cell, engine, fly, row
    from vlaq_ros.policy.engine import FULL
    from vlaq_ros.policy.spec import PolicySpec
    from vlaq_ros.study import jacobian

    page = arguments.page
    if page:
        rewrite(page, page.read_text(encoding="utf-8") if page.is_file() else "", "", "seams")  # fails now, if at all
    model = resolve(arguments.model, "models")
    episodes = in_turn(arguments.seed, PolicySpec.load(model).instructions, arguments.episodes)
    cells = [
        *(
            Cell(name, name, arguments.precision, latency_s, engine)
            for latency_s in arguments.latency
            for name in KINDS
        ),
        *(Cell(CLOSED_FORM, "guided", FULL, latency_s, engine) for latency_s in arguments.latency),
        *(Cell(WHOLE_JACOBIAN, "guided", FULL, latency_s, jacobian.load) for latency_s in arguments.latency),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "seams.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    with Progress() as bar:
        task = bar.add_task("", total=len(cells) * len(episodes))
        for cell, flown in fly(
            model, cells, episodes, limit_s=TIME_LIMIT_S, jobs=arguments.jobs, report=lambda n: bar.advance(task, n)
        ):
            new = row(cell, flown)
            kept = [old for old in kept if seam_report.key(old) != seam_report.key(new)] + [new]
            path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
            bar.update(task, description=f"{cell.name}, {cell.latency_s * 1e3:g} ms")
    if page:
        page.write_text(rewrite(page, page.read_text(encoding="utf-8"), seam_report.tables(kept), "seams"), "utf-8")
        seam_report.draw(kept, arguments.out / "seams.svg")
    print(json.dumps(seam_report.last_line(kept)))
    return 0
