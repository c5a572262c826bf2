"""Run trials on a robot, unattended, in random order and in pairs, and keep their record.

Leaves in OUT: trials.jsonl, a line for every trial; an MCAP bag of each; and the report, which --report makes anew from
the record alone. What was stopped goes on with the same command. The last line of the output is one JSON document.

Examples:
  vlaq trial sim
  vlaq trial my_trials.yaml --out out/trials/monday
  vlaq trial my_trials.yaml --out out/trials/monday --report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from vlaq_ros.evaluate.trial import TrialPlan
    from vlaq_ros.evaluate.trial_log import Record, TrialLog


STDIN = 0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("plan", metavar="PLAN", help="plan file, or the name of a shipped one in config/trials")
    parser.add_argument("--out", type=Path, help="directory of what is left (out/trials/ and the plan's name)")
    parser.add_argument("--report", action="store_true", help="run nothing, report what was recorded by now")


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, and report what there is, however the session ended."""
    from vlaq_ros.errors import UnwrittenTrialsError
    from vlaq_ros.evaluate import trial_log
    from vlaq_ros.evaluate.trial import TrialPlan

    plan = TrialPlan.load(arguments.plan)
    out = arguments.out or Path("out/trials") / Path(arguments.plan).stem
    if arguments.report:
        _report(plan, trial_log.read(out, plan), out)
        return 0
    try:
        with trial_log.TrialLog(out, plan) as log:
            try:
                _run(plan, out, log)
            finally:
                _report(plan, log.records, out)
    except OSError as error:
        raise UnwrittenTrialsError(out, str(error)) from None
    return 0


def _run(plan: TrialPlan, out: Path, log: TrialLog) -> None:
    """Run what is missing, and show it."""
    from functools import partial

    from rich.console import Console
    from rich.live import Live

    from vlaq_ros.evaluate.operator import Operator
    from vlaq_ros.ros.trial import session

    console = Console(highlight=False)
    console.print(f"{plan.pilot} and its robot are looked for, which may take some seconds")
    with (
        Operator(STDIN, partial(console.print, markup=False, soft_wrap=True)) as operator,
        session(plan, out, log, operator) as trials,
        Live(get_renderable=lambda: _view(plan, log.records, trials.phase), console=console, transient=True),
    ):
        trials.run()


def _view(plan: TrialPlan, records: Sequence[Record], phase: str) -> Table:
    """Show how far the trials are, and what happens now."""
    from rich.table import Table

    from vlaq_ros.evaluate.trial_report import results

    table = Table(title=phase, title_justify="left", title_style="bold")
    for head in ("condition", "trials", "success", "Wilson 95 %", "aborted"):
        table.add_column(head, justify="left" if head == "condition" else "right")
    for condition in results(plan, records):
        interval = condition.interval
        table.add_row(
            condition.name,
            f"{len(condition.finished)} of {plan.trials}",
            str(condition.successes),
            f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else "",
            str(condition.aborted),
        )
    return table


def _report(plan: TrialPlan, records: Sequence[Record], out: Path) -> None:
    """Write the report, and print it."""
    from vlaq_ros.evaluate.trial_report import draw, summary, tables

    directory = out / "report"
    directory.mkdir(exist_ok=True)
    text, said = tables(plan, records), summary(plan, records)
    (directory / "tables.md").write_text(text, encoding="utf-8")
    (directory / "summary.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    draw(plan, records, directory / "success.svg")
    print(text)
    print(json.dumps({**said, "artifacts": [str(out / "trials.jsonl"), str(directory)]}))
