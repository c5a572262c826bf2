"""Time the kernels and the embedded policy on this machine, against what torch, torchao and transformers offer.

A whole run also times every path that must compile first, and random policies of pi0's true width. It writes
OUT/DEVICE.json and, with --page, the tables of a Markdown page. The last line is JSON.

Examples:
  vlaq bench --quick
  vlaq bench --threads 1 2 --page docs/performance.md
  vlaq bench --device cuda
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from pathlib import Path

from vlaq_ros.cli.arguments import whole_number


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--quick", action="store_true", help="a small part in less than a minute; writes no files")
    parser.add_argument(
        "--threads",
        type=whole_number(1, len(os.sched_getaffinity(0))),
        nargs="+",
        help="numbers of them, one after the other (1; 1 and 2 for a whole run)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the networks are (cpu)")
    parser.add_argument("--out", type=Path, default=Path("docs/bench"), help="directory of the JSON files (docs/bench)")
    parser.add_argument("--page", type=Path, help="Markdown page whose tables are written anew from all files in OUT")


def run(arguments: argparse.Namespace) -> int:
    """Measure, then write what was found."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it tells of every extension that it cannot load
    warnings.simplefilter("ignore")  # what libraries say of their own future
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vlaq_ros.bench import report, suite
    from vlaq_ros.config import resolve
    from vlaq_ros.errors import NoGpuError

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise NoGpuError
    page = arguments.page
    if page:
        report.rewrite(
            page, page.read_text(encoding="utf-8") if page.is_file() else "", "", "bench"
        )  # fails now, if at all
    model = resolve("tabletop_pi0_calibrated", "models")
    threads = arguments.threads or ([1] if arguments.quick else [1, 2])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, auto_refresh=False) as bar:  # a thread that draws would take time from those measured
        task = bar.add_task("", total=None)
        done = -1

        def show(description: str, left: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=description, completed=done, total=done + left, refresh=True)

        plan = suite.QUICK if arguments.quick else suite.FULL
        document = suite.run(plan, torch.device(arguments.device), threads, model, show)
        show("done", 0)
    if not arguments.quick:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{arguments.device}.json"
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if page:
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("*.json"))]
        text = report.rewrite(page, page.read_text(encoding="utf-8"), report.tables(documents), "bench")
        page.write_text(text, encoding="utf-8")
    print(json.dumps(report.last_line(document)))
    return 0
