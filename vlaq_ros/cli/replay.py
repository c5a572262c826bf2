"""Run a policy on recordings, through the code that runs live, and score what it would have done.

Leaves in OUT: report.html to look at, report.json for machines, and with --annotate a recording of what was predicted;
of many bags a directory for each, with index.html and summary.json over all. A directory of bags stands for all in it.
On a Ray cluster all machines must see the bags, the models and OUT by the same names.
Ctrl-C ends the replay and keeps what is done. The last line of the output is one JSON document.

Examples:
  vlaq replay out/demo/bag --precision all
  vlaq replay bags/ --model models/mine --robot my.yaml --precision all --fail-if 'ee_deviation_p95_m > 0.005' --jobs 4
  vlaq replay bags/monday --precision all --fit-thresholds 0.005 --held-out bags/tuesday
  vlaq replay --suggest bags/monday > my.yaml
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaq_ros.cli.arguments import metres, seconds, whole_number
from vlaq_ros.cli.main import INTERRUPTED

if TYPE_CHECKING:
    from vlaq_ros.replay.plan import Plan, Replayed

FAILED = 1
_SO_FAR_S = 86_400  # a pace is that since the beginning


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 recording (MCAP or sqlite3), or a directory of them"
    )
    parser.add_argument(
        "--model", default="tabletop_pi0_calibrated", help="model directory, or a shipped one (tabletop_pi0_calibrated)"
    )
    parser.add_argument("--robot", default="sim_panda", help="robot file whose topics were recorded (sim_panda)")
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="NAME[,NAME...]",
        help="auto follows the motion, a name fixes it; names with commas, or all, are computed beside auto (auto)",
    )
    parser.add_argument(
        "--teacher", type=Path, metavar="CHECKPOINT", help="what full is computed by (what the model was made of)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/replay"), help="directory of what is left (out/replay)")
    parser.add_argument("--namespace", default="", help="of the recorded robot (none)")
    parser.add_argument("--instruction", default="", help="in the place of the recorded ones, or where there are none")
    parser.add_argument(
        "--urdf", type=Path, metavar="FILE", help="in the place of the recorded description, or where there is none"
    )
    parser.add_argument(
        "--thresholds",
        default="",
        metavar="NAME=S,...",
        help="of S, such as --fit-thresholds finds them (the recorded pilot's, or the model's)",
    )
    parser.add_argument(
        "--latency",
        type=_latency,
        metavar="SECONDS",
        help="of an answer: a number, recorded, or measured here (recorded where the same flies again, else 0.1)",
    )
    parser.add_argument("--annotate", action="store_true", help="write what is predicted as topics, for Foxglove")
    parser.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION", help="exit with 1 where it holds; repeatable"
    )
    parser.add_argument(
        "--fit-thresholds",
        type=metres,
        metavar="METRES",
        help="find the thresholds of S that keep coarser precisions' error at the tool within this, at p95",
    )
    parser.add_argument(
        "--held-out", type=Path, action="append", default=[], metavar="BAG", help="to check them on; repeatable"
    )
    parser.add_argument(
        "--suggest", action="store_true", help="print a robot file for what is in the first bag, then stop"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=whole_number(1, 64), default=1, help="processes, each with a bag at a time (1)")
    where.add_argument("--ray", metavar="ADDRESS", help="of a running Ray cluster, in the place of processes")


def run(arguments: argparse.Namespace) -> int:
    """Print a robot file, or replay every bag and judge them together."""
    from vlaq_ros.errors import UnwrittenReportError

    if arguments.suggest:
        return _suggest(arguments)
    try:
        return _judge(arguments)
    except OSError as error:
        raise UnwrittenReportError(arguments.out, str(error)) from None


def _judge(arguments: argparse.Namespace) -> int:
    from vlaq_ros.errors import NothingToFitError, VlaqError

    plan = _plan(arguments)
    if arguments.fit_thresholds is not None and not plan.policies.shadows:
        raise NothingToFitError(arguments.precision)
    fitting, held_out = _bags(arguments.bags), _bags(arguments.held_out)
    places = _places([*fitting, *held_out], arguments.out)

    arguments.out.mkdir(parents=True, exist_ok=True)
    results = _replay(plan, places, arguments)
    reported = [result for result in results if not result.fault]
    if len(places) == 1 and not reported:
        if results:
            raise VlaqError(results[0].fault)
        return INTERRUPTED
    interrupted = len(results) < len(places) or any(result.stopped for result in reported)
    failing = [failure for result in reported for failure in result.failing]
    for failure in failing:
        print(failure)
    said = {**_summary(results, arguments.out), "failing": failing}
    fit = None
    if arguments.fit_thresholds is not None and not interrupted:
        said["thresholds"] = fit = _fit(reported, fitting, held_out, arguments)
    print(json.dumps(said))
    if interrupted:
        return INTERRUPTED
    unfit = fit is not None and fit["holds"] is False
    return FAILED if failing or unfit or len(reported) < len(results) else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    from vlaq_ros.config import RobotConfig, resolve
    from vlaq_ros.errors import RobotDescriptionError
    from vlaq_ros.replay import fail_if
    from vlaq_ros.replay.plan import Plan
    from vlaq_ros.replay.policies import Policies
    from vlaq_ros.replay.replay import Pace

    conditions = tuple(fail_if.parse(text) for text in arguments.fail_if)
    try:
        urdf = arguments.urdf.read_text(encoding="utf-8") if arguments.urdf else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RobotDescriptionError(str(error)) from None
    return Plan(
        policies=Policies.choose(arguments.precision, resolve(arguments.model, "models"), arguments.teacher),
        robot=RobotConfig.load(arguments.robot),
        namespace=arguments.namespace,
        instruction=arguments.instruction,
        urdf=urdf,
        thresholds=arguments.thresholds,
        conditions=conditions,
        bound_m=arguments.fit_thresholds,
        latency=Pace(arguments.latency) if isinstance(arguments.latency, str) else arguments.latency,
        annotate=arguments.annotate,
    )


def _bags(paths: Sequence[Path]) -> list[Path]:
    """Find the recordings that paths name; what is none is told when its turn comes."""
    from vlaq_ros.bags.rosbag import find_bags

    return list(dict.fromkeys(bag for path in paths for bag in find_bags(path) or [path]))


def _places(bags: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Give every bag a directory: of several one that is named as the bag is, from where they lie apart."""
    if len(bags) == 1:
        return {bags[0]: out}
    above = os.path.commonpath([bag.absolute().parent for bag in bags])
    return {bag: out / bag.absolute().relative_to(above) for bag in bags}


def _replay(plan: Plan, places: Mapping[Path, Path], arguments: argparse.Namespace) -> list[Replayed]:
    """Replay the bags, show how far they are, and print what came of each; Ctrl-C leaves the rest."""
    from functools import partial

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from vlaq_ros.cli.pace import PaceColumn
    from vlaq_ros.replay.jobs import replay_all

    results: list[Replayed] = []
    far = TextColumn("{task.completed:.0f} of {task.total:.0f} s")
    columns = (BarColumn(), far, TimeRemainingColumn(), PaceColumn())
    with _pool(arguments) as pool, Progress(*columns, speed_estimate_period=_SO_FAR_S) as bar:
        lengths_s = {bag: _seconds(bag) for bag in places}
        task = bar.add_task("", total=sum(lengths_s.values()))
        say = partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)
        try:
            for result in replay_all(plan, places, pool, partial(bar.advance, task)):
                results.append(result)
                bar.update(task, completed=sum(lengths_s[done.bag] for done in results))
                for line in _told(result):
                    say(line)
        except KeyboardInterrupt:
            say(f"interrupted after {len(results)} of {len(places)} bags")
    return sorted(results, key=lambda result: [*places].index(result.bag))


@contextmanager
def _pool(arguments: argparse.Namespace) -> Iterator[Executor | None]:
    """Start what replays bags beside each other; None where this process replays them itself."""
    if arguments.ray is None and arguments.jobs == 1:
        yield None
        return
    if arguments.ray is None:
        from vlaq_ros.evaluate.parallel import workers

        pool = workers(arguments.jobs)
    else:
        from vlaq_ros.evaluate.cluster import RayExecutor

        pool = RayExecutor(arguments.ray)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _seconds(bag: Path) -> float:
    """Say how long a recording is; nothing where it cannot be read, which is told when its turn comes."""
    from vlaq_ros.bags.rosbag import open_bag
    from vlaq_ros.errors import VlaqError

    try:
        with open_bag(bag) as opened:
            return (opened.end_ns - opened.start_ns) * 1e-9
    except VlaqError:
        return 0.0


def _told(result: Replayed) -> list[str]:
    """Say what came of a bag."""
    from vlaq_ros.replay.plan import PAGE

    if result.fault:
        return [f"{result.bag}: {result.fault}"]
    told = result.document
    head = f"{result.bag}: {told['replayed_s']:.0f} of {told['bag_s']:.0f} s replayed; {result.out / PAGE}"
    return [head, *(f"  {line}" for line in told["lines"])]


def _summary(results: Sequence[Replayed], out: Path) -> dict[str, Any]:
    """Put the numbers of all reports together; of several write them, with a page."""
    from vlaq_ros.replay.fail_if import numbers
    from vlaq_ros.replay.page import SummaryRow, write_summary
    from vlaq_ros.replay.plan import ARTIFACTS, PAGE

    told = {result.out: {name: result.document[name] for name in numbers()} for result in results if not result.fault}
    if out in told:  # there is no other
        artifacts = [str(path) for name in ARTIFACTS if (path := out / name).exists()]
        return {**told[out], "artifacts": artifacts}
    names = {result.bag: str(result.out.relative_to(out)) for result in results}
    summary = {
        "bags": {names[result.bag]: {"fault": result.fault} if result.fault else told[result.out] for result in results}
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    rows = [SummaryRow(names[it.bag], f"{names[it.bag]}/{PAGE}", it.document, it.fault, it.failing) for it in results]
    write_summary(out / "index.html", rows)
    return {**summary, "artifacts": [str(out / "index.html"), str(out / "summary.json")]}


def _fit(
    reported: Sequence[Replayed], fitting: Sequence[Path], held_out: Sequence[Path], arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """Fit thresholds, check them on what was held out, and write them; None where nothing could be replayed."""
    from vlaq_ros.evaluate.threshold_fit import fit_thresholds, thresholds_file

    samples = {result.bag: result.samples for result in reported if result.samples}
    given, kept = ([samples[bag] for bag in bags if bag in samples] for bags in (fitting, held_out))
    if not given:
        return None
    fit = fit_thresholds(given, kept, arguments.fit_thresholds)
    text = thresholds_file(fit)
    (arguments.out / "thresholds.yaml").write_text(text, encoding="utf-8")
    print(text)
    return fit


def _suggest(arguments: argparse.Namespace) -> int:
    """Print a robot file."""
    from vlaq_ros.bags.suggestion import suggest

    print(suggest(_bags(arguments.bags)[0], arguments.namespace))  # a fleet's bags are of robots alike
    return 0


def _latency(text: str) -> str | float:
    if text in ("recorded", "measured"):
        return text
    try:
        return seconds(0.0, 10.0)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, recorded or measured") from None
