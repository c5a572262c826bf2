"""Make a bundle of a checkpoint by what its own observations say of every channel: smaller, or nearer to it.

The bundle keeps a budget of bytes for all precisions together; report.html in it says what was measured. Without --data
the policy drives the simulated arm and is calibrated on what it sees there. An interrupted calibration goes on where it
stopped: give the same command again.

Examples:
  vlaq calibrate models/tabletop_pi0 --budget 0.305 --out models/mine
  vlaq calibrate checkpoints/my_pi0 --data bags/ --robot config/robots/my.yaml --out models/my_pi0_calibrated
  vlaq calibrate models/tabletop_pi0 --recipe awq --observations 64 --out out/awq
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from vlaq_ros.cli.arguments import add_denoise_steps, fraction, whole_number


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from vlaq_ros.calibrate.recipes import DEFAULT, RECIPES

    parser.add_argument("checkpoint", type=Path, help="directory with transformers' files and policy.json")
    parser.add_argument("--out", type=Path, required=True, help="directory of the bundle; must not exist")
    parser.add_argument(
        "--budget",
        type=fraction,
        default=0.305,
        help="bytes of the quantized linears, all precisions resident, over theirs in bf16 (0.305)",
    )
    parser.add_argument("--recipe", choices=RECIPES, default=DEFAULT, help=f"methods; the study's winner is {DEFAULT}")
    parser.add_argument(
        "--data", type=Path, help="rosbag2 recording, a directory of them, or demonstrations of the simulated arm"
    )
    parser.add_argument("--robot", default="sim_panda", help="robot file whose topics were recorded (sim_panda)")
    parser.add_argument("--instruction", help="what the robot was asked to do, where a recording does not say it")
    parser.add_argument("--observations", type=whole_number(8, 4096), default=128, help="to calibrate on (128)")
    add_denoise_steps(parser)
    parser.add_argument(
        "--episodes",
        type=_episodes,
        default=36,
        help="in simulation, to learn whether switching precisions pays; 0 leaves that open (36)",
    )
    parser.add_argument(
        "--jobs", type=whole_number(1, 64), default=2, help="processes that drive the simulated arm (2)"
    )
    parser.add_argument("--seed", type=whole_number(0, 31), default=0, help="of the observations and their noise (0)")


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, measure and report, then say what was made."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vlaq_ros.calibrate.calibration import Request, make
    from vlaq_ros.calibrate.pipeline import NAMES
    from vlaq_ros.config import RobotConfig

    request = Request(
        checkpoint=arguments.checkpoint,
        out=arguments.out,
        recipe=arguments.recipe,
        budget=arguments.budget,
        data=arguments.data,
        robot=RobotConfig.load(arguments.robot),
        instruction=arguments.instruction,
        observations=arguments.observations,
        denoise_steps=arguments.denoise_steps,
        episodes=arguments.episodes,
        jobs=arguments.jobs,
        seed=arguments.seed,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:

        def stage(name: str, units: int) -> Callable[[int], None]:
            task = bar.add_task(name, total=units)
            return lambda done: bar.advance(task, done)

        facts = make(request, stage)
    linears, whole = facts.memory.over_bf16["linears"], facts.memory.over_bf16["all"]
    errors = ", ".join(f"{error:.1e} at {name}" for name, error in zip(NAMES, facts.calibrated.nmse, strict=True))
    print(
        f"{arguments.out}: {linears:.3f} of the bytes of its linears in bf16, {whole:.3f} of all; action error {errors}"
    )
    print(facts.dispatch.verdict)
    print(f"look at {arguments.out / 'report.html'}; try: vlaq rollout --model {arguments.out} --precision auto")
    return 0


def _episodes(text: str) -> int:
    """Take no episodes, or as many as say something and keep to their range of seeds, as an argparse type."""
    from vlaq_ros.calibrate.thresholds import LEAST_EPISODES

    return 0 if text == "0" else whole_number(LEAST_EPISODES, 600)(text)
