"""A policy without weights, for replays: what it answers shows everything that it was asked with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray, Guide, MotionScales, Observation
from vlaq_ros.errors import UnknownInstructionError
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.sim import panda

TASK = "pick up the red cube"
STEPS, STEP_S = 16, 0.05


class Swaying:
    """Moves joints 1 to 7 a little, by the noise, the pixels, the precision and the guide.

    Attributes:
        asked: precisions, noises and whether there was a guide, of every inference.
        reach_rad: of joint 1 per step; a large one is rejected.
    """

    precisions = ("fine", "coarse")
    plans = (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 4, 8, 0.0))
    noise_shape = (STEPS, 8)
    guidable = True

    def __init__(self, *cameras: str) -> None:
        self.spec = SimpleNamespace(
            cameras=cameras, joint_names=panda.JOINT_NAMES, motion=MotionScales(0.05, 0.02, 0.02)
        )
        self.asked: list[tuple[str, FloatArray, bool]] = []
        self.reach_rad = 0.003

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        if observation.instruction != TASK:
            raise UnknownInstructionError(observation.instruction, [TASK])
        self.asked.append((precision, noise, guide is not None))
        actions = np.zeros(self.noise_shape)
        actions[:, 0] = self.reach_rad * np.arange(1, STEPS + 1)
        actions[:, 1] = 1e-3 * noise[0, 0]
        actions[:, 2] = 1e-4 * np.mean([image.mean() for image in observation.images.values()])
        actions[:, 3] = 1e-3 * self.precisions.index(precision)
        actions[:, 4] = 1e-2 * observation.joint_positions[0]
        if guide is not None:
            held = guide.weights > 0
            actions[held, :7] = 0.5 * (actions[held, :7] + guide.actions[held, :7])
        actions[:, 7] = 0.04
        return ActionChunk(observation.stamp_ns, STEP_S, ActionSpace.JOINT, actions)
