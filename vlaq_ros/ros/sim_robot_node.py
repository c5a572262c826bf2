"""Node `sim_robot`: the simulated robot, which looks like a real one from outside.

It publishes cameras, joint states and the URDF, and follows trajectories. For evaluation only, it takes a seed and an
instruction (latched), is reset to them by a service and tells success.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import partial

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, Header, Int64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.config import SimRobotConfig
from vlaq_ros.datatypes import ImageArray
from vlaq_ros.errors import BadValueError, UnusableMessageError, VlaqError
from vlaq_ros.ros import parameters
from vlaq_ros.ros.clocks import STEADY, SYSTEM
from vlaq_ros.ros.lifetime import ros_lifetime
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim.pacing import Pacer

SLICE_NS = 8_000_000  # of simulated time between two joint states
SECOND_NS = 1_000_000_000
SLOW = 0.9  # of the wanted real-time factor; below it a warning is due


class NoEpisodeError(VlaqError):
    """A reset was asked for before an episode was named."""

    def __init__(self) -> None:
        super().__init__("no episode is known to reset to; publish ~/seed (0 or more) and ~/instruction first")


class SimRobotNode(Node):
    """The simulated robot; its owner calls `step` whenever `wait_ns` says that the next slice is due.

    Stamps are system time as on a real robot, or simulated time where this node publishes /clock.

    Raises:
        NoRendererError: the cameras cannot be rendered here.
        ConfigError: a parameter cannot be used.
    """

    def __init__(self) -> None:
        # MuJoCo binds its renderer when it is imported: here, its failure is an error that main can tell.
        from vlaq_ros.sim.robot import SimRobot  # noqa: PLC0415  # see above

        super().__init__("sim_robot")
        config = parameters.declare(self, SimRobotConfig)
        if config.real_time_factor != 1.0 and not config.publish_clock:
            expected = "1.0, or publish_clock set, as only simulated time can pass at another speed"
            raise BadValueError("real_time_factor", config.real_time_factor, expected, "the parameters of sim_robot")
        self._stamps_are_simulated = config.publish_clock
        # Paced by the clock that its stamps must agree with, if there is one.
        self._pacing_clock = STEADY if config.publish_clock else SYSTEM
        start_ns = self._now_ns()
        self._robot = SimRobot(time_ns=0 if config.publish_clock else start_ns)
        self._pacer = Pacer(config.real_time_factor, self._robot.time_ns, start_ns)
        self._seed: int | None = None
        self._instruction: str | None = None
        image_qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[config.image_reliability.upper()])
        self._cameras = {
            name: self.create_publisher(Image, f"camera/{name}/image_raw", image_qos) for name in self._robot.images()
        }
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", 10) if config.publish_clock else None
        self._real_time_factor = self.create_publisher(Float64, "~/real_time_factor", 10)
        self._success = self.create_publisher(Bool, "~/success", LATCHED)
        self._tell_success(False)
        self._description = self.create_publisher(String, "robot_description", LATCHED)
        self._description.publish(String(data=self._robot.urdf))

        if config.controller == "JointTrajectory":
            self.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._follow, 10)
        else:
            for controller, joints in (("position_controller", slice(-1)), ("gripper_controller", slice(-1, None))):
                forward = partial(self._forward, joints)
                self.create_subscription(Float64MultiArray, f"{controller}/commands", forward, 10)
        self.create_subscription(Int64, "~/seed", self._keep_seed, LATCHED)
        self.create_subscription(String, "~/instruction", self._keep_instruction, LATCHED)
        self.create_service(Trigger, "~/reset", self._reset)

        self._wanted_factor = config.real_time_factor
        self._exposure_period_ns = round(SECOND_NS / config.camera_rate_hz)
        self._exposure_ns = self._robot.time_ns + self._exposure_period_ns
        self._measured_from = (self._robot.time_ns, self._now_ns())

    def wait_ns(self) -> int:
        """How long until the next slice is due; negative when it is late."""
        return self._pacer.wait_ns(self._robot.time_ns + SLICE_NS, self._now_ns())

    def step(self) -> None:
        """Simulate one slice and publish what the robot measured at its end."""
        self._robot.advance(SLICE_NS)
        stamp = Time(nanoseconds=self._robot.time_ns + self._offset_ns).to_msg()
        if self._clock_publisher is not None:
            self._clock_publisher.publish(ClockMessage(clock=stamp))
        positions, velocities = self._robot.joint_state()
        self._joint_states.publish(
            JointState(
                header=Header(stamp=stamp),
                name=self._robot.joint_names,
                position=array("d", positions),
                velocity=array("d", velocities),
            )
        )
        if self._robot.time_ns >= self._exposure_ns:
            self._exposure_ns += self._exposure_period_ns
            for camera, pixels in self._robot.images().items():
                header = Header(stamp=stamp, frame_id=f"{camera}_camera_optical_frame")
                self._cameras[camera].publish(_image_message(header, pixels))
        if self._robot.success != self._succeeded:
            self._tell_success(self._robot.success)
        self._measure()

    @property
    def _offset_ns(self) -> int:
        """From simulated time to stamps."""
        return 0 if self._stamps_are_simulated else self._pacer.lost_ns

    def _now_ns(self) -> int:
        return self._pacing_clock.now().nanoseconds

    def _tell_success(self, success: bool) -> None:
        self._succeeded = success
        self._success.publish(Bool(data=success))

    def _measure(self) -> None:
        """Publish the real-time factor once a second, and warn where the machine is too slow."""
        sim_ns, clock_ns = self._robot.time_ns, self._now_ns()
        elapsed_ns = clock_ns - self._measured_from[1]
        if elapsed_ns < SECOND_NS:
            return
        factor = (sim_ns - self._measured_from[0]) / elapsed_ns
        self._measured_from = (sim_ns, clock_ns)
        self._real_time_factor.publish(Float64(data=factor))
        if factor < SLOW * self._wanted_factor:
            self.get_logger().warning(
                f"the machine is too slow: the real-time factor is {factor:.2f}, expected {self._wanted_factor:g}",
                throttle_duration_sec=10.0,
            )

    def _follow(self, message: JointTrajectory) -> None:
        """Take a trajectory; a rejection is told in the log alone, as the real controller does."""
        try:
            trajectory = messages.trajectory(message)
        except UnusableMessageError as error:
            reason: str | None = str(error)
        else:
            if trajectory.stamp_ns:
                trajectory = replace(trajectory, stamp_ns=trajectory.stamp_ns - self._offset_ns)
            reason = self._robot.accept(trajectory)
        if reason is not None:
            self.get_logger().error(f"trajectory rejected: {reason}")

    def _forward(self, joints: slice, message: Float64MultiArray) -> None:
        """Take positions; a rejection is told in the log alone, as the real controller does."""
        positions, expected = np.array(message.data), len(self._robot.joint_names[joints])
        if len(positions) == expected and np.isfinite(positions).all():
            self._robot.forward(joints, positions)
        else:
            self.get_logger().error(f"command rejected: got {positions.tolist()}, expected {expected} finite positions")

    def _keep_seed(self, message: Int64) -> None:
        self._seed = message.data

    def _keep_instruction(self, message: String) -> None:
        self._instruction = message.data

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Start the latched episode; the answer names it, as what was published just before may not have come yet."""
        try:
            if self._seed is None or self._seed < 0 or self._instruction is None:
                raise NoEpisodeError
            self._robot.reset(self._seed, self._instruction)
        except VlaqError as error:
            response.message = str(error)
        else:
            self._tell_success(False)
            response.success = True
            response.message = f"{self._seed}: {self._instruction}"
        return response


def _image_message(header: Header, pixels: ImageArray) -> Image:
    height, width, _ = pixels.shape
    data = array("B", pixels.tobytes())  # anything else is copied element by element, which takes 100 times as long
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def main() -> None:
    """Run the node until SIGINT or SIGTERM.

    Raises:
        SystemExit: with one sentence and exit code 1, if the node cannot start.
    """
    with ros_lifetime("sim_robot") as stop:
        node = SimRobotNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stop.is_set():
            wait_ns = node.wait_ns()
            if wait_ns <= 0:
                node.step()
            executor.spin_once(timeout_sec=max(wait_ns, 0) * 1e-9)
        executor.shutdown()
        node.destroy_node()


if __name__ == "__main__":
    main()
