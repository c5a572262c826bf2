"""A plan of trials on a robot: what is compared, on what, and in which order.

Trials come in blocks. In a block every condition meets the same instruction and the same scene once, in random order:
so conditions are compared in pairs, and what drifts over a day (light, wear, the operator) falls on all of them alike.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from vlaq_ros.config import AUTO, RobotConfig, build, read_mapping, resolve, setting, settings_table, share
from vlaq_ros.errors import BadValueError, TrialPlanFileError

TOPIC, OPERATOR = "topic", "operator"
NONE, SERVICE = "none", "service"
RUNNING, SIMULATED = "running", "simulated"
_FOLDER = "config/trials"


@dataclass(frozen=True, slots=True)
class ConditionConfig:
    """What is compared: a policy at a precision."""

    precision: str = setting(
        "auto follows the motion of the arm, a name of the model's precisions fixes it.", default=AUTO
    )
    model: str = setting(
        "Bundle, as the pilot's parameter of this name takes it; given for every condition, or for none: then the "
        "pilot keeps its own. Another bundle than in the trial before is loaded between the two.",
        default="",
    )


@dataclass(frozen=True, slots=True)
class StartConfig:
    """Where the arm stands when a trial begins."""

    positions: tuple[float, ...] = setting(
        "Pose of the arm's joints and the gripper, in the order of the robot file. The way there is straight in joint "
        "space: choose a pose that is reached so from wherever a trial may end.",
        unit="rad or m",
        bounds=(-1e3, 1e3),
    )
    tolerance_rad: float = setting(
        "A trial does not begin while an arm joint is further from its place.", unit="rad", bounds=(1e-4, 1.0)
    )
    gripper_tolerance: float = setting("The same for the gripper.", unit="rad or m", bounds=(1e-5, 1.0))
    velocity_share: float = setting(
        "Share of the joints' velocity limits at which the arm is brought there.", unit="", bounds=(0.001, 1.0)
    )


@dataclass(frozen=True, slots=True)
class SuccessConfig:
    """Who says that a trial succeeded."""

    by: str = setting("topic: a latched std_msgs/Bool; operator: asked on the terminal.", choices=(TOPIC, OPERATOR))
    topic: str = setting("Topic, where it says so; true must last for 0.3 s.", default="")


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """How the scene is laid out before a trial."""

    reset: str = setting(
        "none: it is left as it is; operator: asked for on the terminal; service: NODE/reset (std_srvs/Trigger) is "
        "called once the scene's seed (std_msgs/Int64) and the instruction (std_msgs/String) are latched on NODE/seed "
        "and NODE/instruction, until its message is 'SEED: INSTRUCTION'.",
        choices=(NONE, OPERATOR, SERVICE),
    )
    node: str = setting("NODE of the service.", default="")
    seed: int = setting(
        "Of the first block's scene; every block has the next one. An operator lays a scene out by its number.",
        default=0,
        bounds=(0, 2**31),
    )


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What `vlaq trial` runs."""

    robot: str = setting("Robot file, or the name of a shipped one in config/robots/.")
    conditions: Mapping[str, ConditionConfig] = setting("What is compared, by name.")
    instructions: tuple[str, ...] = setting("What the robot is asked for; blocks take them in turn, shuffled.")
    trials: int = setting("Trials of every condition, which is the number of blocks.", bounds=(1, 10_000))
    seed: int = setting("Of the order of instructions and conditions.", bounds=(0, 2**31))
    time_limit_s: float = setting("A trial without success has failed after this time.", unit="s", bounds=(0.1, 3600.0))
    start: StartConfig = setting("Where the arm stands when a trial begins.")
    success: SuccessConfig = setting("Who says that a trial succeeded.")
    scene: SceneConfig = setting("How the scene is laid out before a trial.")
    attempts: int = setting(
        "A trial that is aborted is run again, up to this many times; then the session ends.",
        default=2,
        bounds=(1, 100),
    )
    pilot: str = setting("The pilot's node; the robot's relative topics lie in its namespace.", default="/pilot")
    processes: str = setting(
        "running: the pilot and the robot run already; simulated: sim_robot and a pilot are started, and ended.",
        default=RUNNING,
        choices=(RUNNING, SIMULATED),
    )

    @classmethod
    def load(cls, name: str) -> Self:
        """Read a plan, given as a path or as the name of a shipped one.

        Raises:
            TrialPlanFileError: there is no such file, or it is not a YAML mapping.
            UnknownKeyError, MissingKeyError, BadValueError: its content cannot be used.
            RobotFileError: its robot's file cannot be read.
        """
        path = resolve(name, _FOLDER, ".yaml")
        if not path.is_file():
            raise TrialPlanFileError(path, "does not exist", shipped_plans())
        values = read_mapping(path, lambda why: TrialPlanFileError(path, why, shipped_plans()))
        plan = build(cls, values, str(path))
        plan.check(str(path))
        return plan

    def check(self, where: str) -> None:
        """Hold values against each other; `where` is what they are part of, for the error.

        Raises:
            BadValueError: they do not fit.
            RobotFileError: the robot's file cannot be read.
        """
        for key in ("conditions", "instructions"):
            if not getattr(self, key):
                raise BadValueError(key, [], "at least one", where)
        if len(set(self.instructions)) < len(self.instructions):
            raise BadValueError("instructions", list(self.instructions), "each instruction once", where)
        models = {name: condition.model for name, condition in self.conditions.items()}
        if any(models.values()) and not all(models.values()):
            raise BadValueError("conditions", models, "a model for every condition, or for none", where)
        if self.success.by == TOPIC and not self.success.topic:
            raise BadValueError("success.topic", "", "the topic that tells success", where)
        if self.scene.reset == SERVICE and not self.scene.node:
            raise BadValueError("scene.node", "", "the node whose service resets the scene", where)
        joints = RobotConfig.load(self.robot).joint_names
        if len(self.start.positions) != len(joints):
            expected = f"{len(joints)} numbers, of {', '.join(joints)}"
            raise BadValueError("start.positions", list(self.start.positions), expected, where)


@dataclass(frozen=True, slots=True)
class Trial:
    """One place in the order."""

    number: int  # from 0
    block: int
    condition: str
    instruction: str
    seed: int  # of the scene


def order(plan: TrialPlan) -> tuple[Trial, ...]:
    """Lay all trials out; the same plan always gives the same order."""
    rng = random.Random(plan.seed)
    instructions: list[str] = []
    while len(instructions) < plan.trials:
        instructions += rng.sample(plan.instructions, len(plan.instructions))
    slots = (
        (block, condition)
        for block in range(plan.trials)
        for condition in rng.sample(tuple(plan.conditions), len(plan.conditions))
    )
    return tuple(
        Trial(number, block, condition, instructions[block], plan.scene.seed + block)
        for number, (block, condition) in enumerate(slots)
    )


def shipped_plans() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(file.stem for file in (share() / _FOLDER).glob("*.yaml"))


def settings_tables() -> str:
    """Render all that can be said in a plan, for docs/trial.md."""
    titles = {
        TrialPlan: "Plan",
        ConditionConfig: "Plan: `conditions.NAME`",
        StartConfig: "Plan: `start`",
        SuccessConfig: "Plan: `success`",
        SceneConfig: "Plan: `scene`",
    }
    return "\n".join(line for cls, title in titles.items() for line in [*settings_table(cls, title), ""])


if __name__ == "__main__":
    sys.stdout.write(settings_tables())
