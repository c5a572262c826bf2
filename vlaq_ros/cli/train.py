"""Train the embedded policy on scripted demonstrations, all from seeds; leaves a checkpoint, for vlaq quantize.

An interrupted run goes on where it last saved itself: give the same command again.

Examples:
  vlaq train --out out/policy
  vlaq train --out out/short --episodes 200 --steps 600 --action-space end_effector
  vlaq train --out out/finer --init models/tabletop_pi0 --vision-steps 100 --steps 1400
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vlaq_ros.cli.arguments import whole_number

ACTION_SPACES = ("joint", "end_effector")
MEASURED_EPISODES = 36  # of the trained policy, for the scales of its motion
MEASURED_SEED = 800_000  # demonstrations begin at 0, vlaq rollout at 900000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, with log.jsonl beside it")
    parser.add_argument(
        "--demos", type=Path, default=Path("out/demonstrations"), help="demonstrations, recorded where they are missing"
    )
    parser.add_argument("--episodes", type=whole_number(1, 100_000), default=1400, help="demonstrations (1400)")
    parser.add_argument("--action-space", choices=ACTION_SPACES, default="joint", help="of the chunks (joint)")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="CHECKPOINT",
        help="begin from these weights in place of a fresh network; words that it does not know start fresh, and "
        "means and deviations are those of the demonstrations",
    )
    parser.add_argument(
        "--vision-steps", type=whole_number(0, 10**6), default=300, help="the vision tower alone, first (300)"
    )
    parser.add_argument("--steps", type=whole_number(1, 10**6), default=1500, help="of the whole policy (1500)")
    parser.add_argument("--processes", type=whole_number(1, 64), default=2, help="of one thread each (2)")
    parser.add_argument("--seed", type=whole_number(0, 2**31), default=0, help="of initialisation and batches (0)")


def run(arguments: argparse.Namespace) -> int:
    """Record what is missing, train, then measure how the policy moves the arm."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vlaq_ros.config import LATENCY_S, PilotConfig
    from vlaq_ros.control.kinematics import Kinematics
    from vlaq_ros.datatypes import ActionSpace
    from vlaq_ros.evaluate.motion import PolicyMotion, measure, on_policy
    from vlaq_ros.evaluate.parallel import share_out
    from vlaq_ros.evaluate.referee import TIME_LIMIT_S
    from vlaq_ros.evaluate.rollout import in_turn
    from vlaq_ros.policy.engine import FULL
    from vlaq_ros.policy.spec import PolicySpec
    from vlaq_ros.sim import demonstrations, panda, training

    recipe = training.Recipe(
        action_space=ActionSpace(arguments.action_space),
        episodes=arguments.episodes,
        init=arguments.init,
        vision_steps=arguments.vision_steps,
        steps=arguments.steps,
        processes=arguments.processes,
        seed=arguments.seed,
    )
    training.check(arguments.out, recipe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}")) as bar:
        recording = bar.add_task("demonstrations", total=arguments.episodes, note="")
        kept = 0
        shards = demonstrations.plan(arguments.demos, arguments.episodes)
        for asked, successful in demonstrations.generate(shards, arguments.processes):
            kept += successful
            bar.update(recording, advance=asked, note=f"{kept} successful")
        task = bar.add_task("training", total=recipe.vision_steps + recipe.steps, note="")

        def report(progress: training.Progress) -> None:
            knows = "" if progress.object_error_m is None else f"object {progress.object_error_m * 100:.1f} cm, "
            bar.update(task, completed=progress.step, note=f"{knows}{progress.frames_per_s:.0f} frames/s")

        training.train(arguments.demos, arguments.out, recipe, report)

        spec = PolicySpec.load(arguments.out)
        tasks = spec.instructions
        episodes = in_turn(MEASURED_SEED, tasks, MEASURED_EPISODES)
        measuring = bar.add_task("its motion", total=len(episodes), note="")
        joints = []
        for outcome in share_out(
            arguments.out, FULL, episodes, latency_s=LATENCY_S, limit_s=TIME_LIMIT_S, jobs=arguments.processes
        ):
            joints.append(outcome.joints)
            bar.advance(measuring)
    kinematics = Kinematics(panda.urdf(), spec.joint_names, panda.TOOL_FRAME)
    motion = measure(kinematics, joints, PilotConfig().monitor_period_s, spec.motion.period_s)
    if isinstance(motion, PolicyMotion):
        on_policy(spec, motion).save(arguments.out)
    out = arguments.out
    print(
        f"{out}: trained on {kept} demonstrations; try: vlaq rollout --model {out} --precision full; "
        f"for the robot: vlaq quantize {out} --out {out}_w8w4"
    )
    return 0
