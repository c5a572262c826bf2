"""The scripted expert in the place of a policy, for tests of the closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray, Guide, Observation
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import expert
from vlaq_ros.sim.robot import SimRobot


class Expert:
    """It finds the scene that an observation was taken of."""

    guidable = False
    precisions = ("fine", "coarse")
    plans = (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0))

    def __init__(self, spec: PolicySpec) -> None:
        self.noise_shape = (len(spec.action_mean), 7)
        self.spec = replace(
            spec,
            action_space=ActionSpace.END_EFFECTOR,
            action_mean=np.zeros(self.noise_shape),
            action_std=np.ones(self.noise_shape),
        )
        self.robots: list[SimRobot] = []
        self.calls: list[tuple[str, list[int], FloatArray]] = []  # precision, stamps, noise

    def robot(self, image_size_px: int) -> SimRobot:
        self.robots.append(SimRobot(image_size_px))
        return self.robots[-1]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        precision: str,
        noise: FloatArray,
        guides: Sequence[Guide | None] | None = None,
    ) -> list[ActionChunk]:
        self.calls.append((precision, [observation.stamp_ns for observation in observations], noise))
        return [self._plan(observation) for observation in observations]

    def _plan(self, observation: Observation) -> ActionChunk:
        (scene,) = (
            robot.scene
            for robot in self.robots
            if np.array_equal(robot.joint_state()[0], observation.joint_positions)
            and robot.time_ns == observation.stamp_ns
        )
        step_s = self.spec.step_s
        actions = expert.plan(scene, len(self.spec.action_mean), step_s)
        return ActionChunk(observation.stamp_ns, step_s, ActionSpace.END_EFFECTOR, actions)
