"""Time the kernels and the embedded policy on this machine, against what torch, torchao and transformers offer.

A whole run also times every path that must compile first, and random policies of pi0's true width. It writes
OUT/DEVICE.json and, with --page, the tables of a Markdown page. The last line is JSON.

With --node, time the node around the policy instead: from an image to its command, and what it costs beside inference,
with two cameras of 640x480 at 30 Hz and joint states at 500 Hz; it writes OUT/node.json.

Examples:
  vlaq bench --quick
  vlaq bench --node --page docs/performance.md
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
from typing import Any

from vlaq_ros.cli.arguments import whole_number

_NODE_S, _QUICK_NODE_S = 60.0, 10.0


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
    parser.add_argument("--node", action="store_true", help="the ROS 2 node around the policy, in three minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/bench"), help="directory of the JSON files (docs/bench)")
    parser.add_argument("--page", type=Path, help="Markdown page whose tables are written anew from all files in OUT")


def run(arguments: argparse.Namespace) -> int:
    """Measure, then write what was found."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it tells of every extension that it cannot load
    warnings.simplefilter("ignore")  # what libraries say of their own future
    import torch

    from vlaq_ros.bench import node, report
    from vlaq_ros.config import resolve
    from vlaq_ros.errors import NoGpuError

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise NoGpuError
    page, command = arguments.page, "bench --node" if arguments.node else "bench"
    if page:  # what fails, fails now
        report.rewrite(page, page.read_text(encoding="utf-8") if page.is_file() else "", "", command)
    model = resolve("tabletop_pi0_calibrated", "models")
    document, last = _node(arguments, model) if arguments.node else _kernels(arguments, model)
    if not arguments.quick:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{'node' if arguments.node else arguments.device}.json"
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if page:
        devices = (arguments.out / f"{device}.json" for device in ("cpu", "cuda"))
        documents = (json.loads(path.read_text(encoding="utf-8")) for path in devices if path.is_file())
        tables = node.tables(document) if arguments.node else report.tables(documents)
        page.write_text(report.rewrite(page, page.read_text(encoding="utf-8"), tables, command), encoding="utf-8")
    print(json.dumps(last))
    return 0


def _kernels(arguments: argparse.Namespace, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time kernels and policies; give the document, and the last line."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vlaq_ros.bench import report, suite

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
    return document, report.last_line(document)


def _node(arguments: argparse.Namespace, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time the node; give the document, and the last line."""
    from dataclasses import asdict

    import torch
    from rich.console import Console

    from vlaq_ros.bench import machine, node
    from vlaq_ros.policy.spec import PolicySpec
    from vlaq_ros.ros import domain, load
    from vlaq_ros.ros.traced_pilot import WAYS

    instruction, domain_id = PolicySpec.load(model).instructions[0], domain.claim()
    seconds = _QUICK_NODE_S if arguments.quick else _NODE_S
    found = {}
    for way in WAYS[:1] if arguments.quick else WAYS:
        with Console().status(f"the node, {way}"):
            found[way] = node.summary(load.measure(model, instruction, way, seconds, domain_id))
    identity = machine.identify(torch.device("cpu"))
    return {"machine": asdict(identity), "node": found}, {"node": found[WAYS[0]]}
