"""Node `pilot`: a policy drives the arm, as a managed lifecycle node.

Configuring loads the model and fits it to the robot, activating starts a `Flight`, deactivating ends it with a hold.
Callbacks only store or publish: all of them run in one executor thread, and inference in one other.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros.config import PilotConfig, RobotConfig, resolve
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import Command, Stale, Trajectory
from vlaq_ros.errors import CameraNamesError, JointNamesError, NoDescriptionError, VlaqError
from vlaq_ros.observe import JOINT_STATES, Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.ros import encode, parameters
from vlaq_ros.ros.flight import Flight
from vlaq_ros.ros.lifetime import ros_lifetime
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.status import Status

INSTRUCTION_TOPIC = "instruction"
_POLL_S = 0.05


class PilotNode(LifecycleNode):
    """The pilot as a lifecycle node.

    Args:
        stop: set by the owner when the process shall end; waiting ends with it.

    Raises:
        ConfigError: a parameter or the robot file cannot be used.

    Attributes:
        config: the parameters that were given; `precision` may have changed since.
        fault: why the last configuring failed; None where it did not.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("pilot")
        self.config = parameters.declare(self, PilotConfig)
        self.fault: VlaqError | None = None
        self._robot = RobotConfig.load(self.config.robot)
        self._stop = stop
        self._urdf = ""
        self._flight: Flight | None = None  # while configured
        self._ticking: Timer | None = None  # while active
        self._inputs: list[Subscription[Any]] = []
        self._commands = self.create_lifecycle_publisher(JointTrajectory, self._robot.command_topic, 1)
        self._status = Status(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._thought = self.create_guard_condition(self._fetch)
        self._description = self.create_subscription(
            String, self._robot.description_topic, self._keep_description, LATCHED
        )
        self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        parameters.on_change(self, self._change)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, fit it to the robot, listen."""
        self.fault = None
        try:
            self._flight = self._prepare()
            self._listen(self._flight.observer)
        except VlaqError as error:
            self.fault = error
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start commanding."""
        self._ticking = self.create_timer(self.config.monitor_period_s, self._tick)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold the arm."""
        self._land()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold the arm and free the model."""
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold the arm and free the model, so that it can be configured again."""
        self.close()
        return super().on_error(state)

    def close(self) -> None:
        """Hold the arm if it is commanded, and free everything that configuring made."""
        self._land()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs.clear()
        if self._flight is not None:
            self._flight.close()
            self._flight = None

    def _prepare(self) -> Flight:
        """Load and check everything that can be wrong; the quick checks come first."""
        config = replace(self.config, precision=self.get_parameter("precision").value)
        directory = resolve(config.model, "models")
        spec = PolicySpec.load(directory)
        if missing := [name for name in spec.joint_names if name not in self._robot.joint_names]:
            raise JointNamesError(missing, self._robot.joint_names, "the robot file")
        if missing := [name for name in spec.cameras if name not in self._robot.cameras]:
            raise CameraNamesError(missing, self._robot.cameras)
        kinematics = Kinematics(self._await_description(), spec.joint_names, self._robot.tool_frame)

        torch.set_num_threads(config.threads)
        engine = Engine.load(directory)
        pilot = Pilot(
            engine,
            kinematics,
            scales=spec.motion,
            rules=[PrecisionRule(plan.name, plan.threshold) for plan in engine.plans],
            robot=self._robot,
            config=config,
            seed=config.flow_seed,
        )
        engine.warm_up()
        self._status.say_model(engine.precisions, engine.bytes_over_bf16)
        shares = ", ".join(f"{name} {share:.3f}" for name, share in engine.bytes_over_bf16.items())
        self.get_logger().info(f"{directory.name} at {', '.join(engine.precisions)}: bytes over bf16: {shares}")
        self.get_logger().info(f"kernel {engine.kernel.name}: {engine.kernel.why}")
        observer = Observer(
            spec.cameras,
            spec.joint_names,
            max_image_age_s=config.max_image_age_s,
            max_camera_skew_s=config.max_camera_skew_s,
            max_joint_age_s=config.max_joint_age_s,
        )
        return Flight(
            pilot,
            observer,
            clock=self._now_ns,
            retry_s=config.replan_period_s,
            send=self._send,
            wake=self._thought.trigger,
            log=self.get_logger().error,
        )

    def _await_description(self) -> str:
        """Wait for the URDF; configuring runs inside the executor, which cannot deliver it meanwhile."""
        waited_s, start_s = 0.0, time.monotonic()
        while not self._urdf and waited_s < self.config.description_timeout_s and not self._stop.is_set():
            self._stop.wait(_POLL_S)
            with self._description.handle:
                taken = self._description.handle.take_message(String, False)
            self._urdf = taken[0].data if taken else ""  # type: ignore[redundant-expr]  # the stub forgets None
            waited_s = time.monotonic() - start_s
        if not self._urdf:
            raise NoDescriptionError(self._description.topic_name, waited_s)
        return self._urdf

    def _listen(self, observer: Observer) -> None:
        images = QoSProfile(depth=1, reliability=ReliabilityPolicy[self.config.image_reliability.upper()])
        joints = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)  # accepts either offer
        for camera in observer.cameras:
            store = partial(observer.push_image, camera)
            self._inputs.append(self.create_subscription(Image, self._robot.cameras[camera], store, images))
        self._inputs += [
            self.create_subscription(JointState, self._robot.joint_state_topic, observer.push_joints, joints),
            self.create_subscription(
                String, INSTRUCTION_TOPIC, lambda message: observer.push_instruction(message.data), LATCHED
            ),
        ]

    def _land(self) -> None:
        if self._ticking is not None and self._flight is not None:
            self.destroy_timer(self._ticking)
            self._ticking = None
            self._flight.land()

    def _tick(self) -> None:
        if self._flight is not None:
            self._flight.tick()
            pilot, ages_s = self._flight.pilot, self._flight.observer.ages_s(self._now_ns())
            self._status.say_motion(pilot.decision, pilot.motion, ages_s)

    def _fetch(self) -> None:
        if self._flight is not None:
            self._flight.fetch()

    def _send(self, trajectory: Trajectory, command: Command | None) -> None:
        self._commands.publish(encode.joint_trajectory(trajectory))
        if command is not None and self._flight is not None:
            self._status.say_command(command, self._flight.pilot.upswitch_s)

    def _diagnose(self) -> None:
        now_ns = self._now_ns()
        state = "active" if self._ticking else "inactive" if self._flight else "unconfigured"
        healths = [encode.Health("state", encode.OK, state)]
        if self._flight is not None:
            healths += [*_inputs_health(self._flight.observer, now_ns), _policy_health(self._flight)]
        self._diagnostics.publish(encode.diagnostics(self.get_name(), now_ns, healths))

    def _keep_description(self, message: String) -> None:
        self._urdf = message.data

    def _change(self, name: str, value: Any) -> None:
        if name == "precision" and self._flight is not None:
            self._flight.pilot.select(value)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def _inputs_health(observer: Observer, now_ns: int) -> list[encode.Health]:
    """Say which inputs block inference, and how old all of them are."""
    sampled = observer.sample(now_ns)
    reasons = sampled.reasons if isinstance(sampled, Stale) else ()
    ages = {name: f"{1e3 * age_s:.0f} ms" for name, age_s in observer.ages_s(now_ns).items()}
    joint_age = {JOINT_STATES: ages.pop(JOINT_STATES)}
    healths = []
    for component, prefix, values in (
        ("cameras", "camera", ages),
        (JOINT_STATES, JOINT_STATES, joint_age),
        ("instruction", "instruction", {"instruction": observer.instruction}),
    ):
        blocking = "; ".join(reason for reason in reasons if reason.startswith(prefix))
        level = encode.WARN if blocking else encode.OK
        healths.append(encode.Health(component, level, blocking or "fresh", values))
    return healths


def _policy_health(flight: Flight) -> encode.Health:
    if flight.fault:
        return encode.Health("policy", encode.ERROR, flight.fault)
    decision = flight.pilot.decision
    return encode.Health("policy", encode.OK, f"{decision.precision}: {decision.reason}")


def main() -> None:
    """Run the node until SIGINT or SIGTERM; then the arm is held.

    Raises:
        SystemExit: with one sentence and exit code 1, if the node cannot start.
    """
    with ros_lifetime("pilot") as stop:
        node = PilotNode(stop)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            _run(node, executor, stop)
        finally:
            node.close()
            executor.shutdown()
            node.destroy_node()


def _run(node: PilotNode, executor: SingleThreadedExecutor, stop: threading.Event) -> None:
    starting = node.config.autostart
    while not stop.is_set():
        if starting:
            starting = not _start(node)
        executor.spin_once(timeout_sec=0.1)


def _start(node: PilotNode) -> bool:
    """Configure and activate; False where the robot is not there yet."""
    if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
        if isinstance(node.fault, NoDescriptionError):
            return False
        sys.exit(1)  # configuring has told why
    node.trigger_activate()
    return True


if __name__ == "__main__":
    main()
