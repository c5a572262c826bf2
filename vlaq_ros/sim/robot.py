"""The simulated robot without ROS: a scene, a trajectory controller and a clock.

The ROS node `sim_robot` and the in-process rollout both drive this class.
"""

from __future__ import annotations

import numpy as np

from vlaq_ros.datatypes import FloatArray, ImageArray, Trajectory
from vlaq_ros.sim import panda
from vlaq_ros.sim.scene import TIMESTEP_NS, Scene
from vlaq_ros.sim.trajectory import TrajectoryController


class SimRobot:
    """An arm that follows trajectories in simulated time.

    Args:
        image_size_px: side of the square camera images.
        time_ns: simulated time at the start.
    """

    joint_names = panda.JOINT_NAMES

    def __init__(self, image_size_px: int = 96, time_ns: int = 0) -> None:
        self.scene = Scene(image_size_px)
        self.urdf = panda.urdf()
        self.time_ns = time_ns
        self._controller = self._holding()

    @property
    def instruction(self) -> str:
        """What the arm is asked to do."""
        return self.scene.instruction

    @property
    def success(self) -> bool:
        """Whether the instruction is fulfilled now."""
        return self.scene.success

    @property
    def failed(self) -> bool:
        """Whether the episode cannot succeed any more."""
        return self.scene.failed

    def reset(self, seed: int, instruction: str) -> None:
        """Start an episode; time keeps running.

        Raises:
            UnknownInstructionError: no task has this instruction.
        """
        self.scene.reset(seed, instruction)
        self._controller = self._holding()

    def accept(self, trajectory: Trajectory) -> str | None:
        """Follow `trajectory` from now on; the answer is the reason of a rejection."""
        return self._controller.accept(trajectory, self.time_ns, *self.joint_state())

    def forward(self, joints: slice, positions: FloatArray) -> None:
        """Go to `positions` rad (m) at once, as forward_command_controller does; other joints stay where they are sent.

        Args:
            joints: which of `joint_names` are meant.
            positions: one for each of them.
        """
        wanted, _ = self._controller.sample(self.time_ns)
        wanted[joints] = positions
        self._controller = TrajectoryController(self.joint_names, wanted, self.time_ns)

    def advance(self, duration_ns: int) -> None:
        """Simulate for `duration_ns`, rounded down to whole physics steps."""
        stamps_ns = self.time_ns + TIMESTEP_NS * np.arange(1, duration_ns // TIMESTEP_NS + 1)
        for positions, velocities in zip(*self._controller.sample(stamps_ns), strict=True):
            self.scene.step(positions, velocities)
        self.time_ns += TIMESTEP_NS * len(stamps_ns)

    def joint_state(self) -> tuple[FloatArray, FloatArray]:
        """Positions [J] rad (m) and velocities [J] rad/s (m/s)."""
        return self.scene.joint_state()

    def images(self) -> dict[str, ImageArray]:
        """Both camera images now, [H, W, 3] RGB."""
        return self.scene.images()

    def _holding(self) -> TrajectoryController:
        return TrajectoryController(self.joint_names, self.joint_state()[0], self.time_ns)
