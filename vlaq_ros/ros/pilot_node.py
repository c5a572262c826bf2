"""Node `pilot`: a policy drives the arm, as a managed lifecycle node.

Configuring loads the model and fits it to the robot, activating starts a `Flight`, deactivating ends it with a hold.
Callbacks only store or publish: all of them run in one executor thread, and inference in one other.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String

from vlaq_ros.config import PilotConfig, RobotConfig, resolve
from vlaq_ros.control.following import FollowingWatch
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import rules
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import Command, Trajectory
from vlaq_ros.errors import (
    CameraNamesError,
    ConfiguredError,
    ModelMemoryError,
    NoDescriptionError,
    PrecisionFailedError,
    VlaqError,
)
from vlaq_ros.flight import Flight
from vlaq_ros.gate import Gate
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Journal
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.ros import encode, health, parameters
from vlaq_ros.ros.clocks import STEADY
from vlaq_ros.ros.controls import Controls
from vlaq_ros.ros.inputs import Inputs, starved
from vlaq_ros.ros.lifetime import ros_lifetime
from vlaq_ros.ros.outputs import Outputs
from vlaq_ros.ros.qos import LATCHED, SILENT_PUBLISHER
from vlaq_ros.ros.status import Status
from vlaq_ros.session import Session

_INFERENCE = "inference"  # how the name of its thread begins
_POLL_S = 0.05
_SAY_S = 0.1  # between two looks at the motion that are published
_SWITCH_S = 0.0005  # between Python's threads: at its 5 ms, the two threads keep a command waiting from each other
_STILL = 0.25  # of the tracking tolerance: a joint commanded further away than this is expected to move


class PilotNode(LifecycleNode):
    """The pilot as a lifecycle node.

    Args:
        stop: set by the owner when the process shall end; waiting ends with it.

    Raises:
        ConfigError: a parameter or the robot file cannot be used.

    Attributes:
        config: the parameters that were given at start.
        fault: why the last configuring failed; None where it did not.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("pilot")
        self.config = parameters.declare(self, PilotConfig)
        self.fault: VlaqError | None = None
        self._robot = RobotConfig.load(self.config.robot)
        self._stop = stop
        self._urdf = ""
        self._gate = Gate(enabled=self.config.enabled, estop=self._robot.estop_topic)
        self._controls = Controls(self, self._gate, self._commanding, self._tick)
        self._rig: _Rig | None = None  # while configured
        self._held = ExitStack()  # frees it
        self._active = False
        self._diagnosed_ns: int | None = None  # when health was told last, on the ROS clock
        self._status = Status(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1, event_callbacks=SILENT_PUBLISHER)
        self._thought = self.create_guard_condition(self._fetch)
        self._description = self.create_subscription(
            String, self._robot.description_topic, self._keep_description, LATCHED
        )
        self.create_timer(1.0, self._diagnose, clock=STEADY)
        parameters.on_change(self, self._change)
        self._controls.say()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, fit it to the robot, listen."""
        self.fault = None
        try:
            with ExitStack() as made:  # undoes the first steps if a later one fails
                self._rig = self._prepare(made)
                self._held = made.pop_all()
        except VlaqError as error:
            self.fault = error
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let commands out, if the gate is open."""
        if self._rig is not None:
            self._rig.outputs.activate()
            self._active = True
        self._controls.say()
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
        self._rig = None
        self._held.close()
        self._gate.forget_estop()

    def _prepare(self, made: ExitStack) -> _Rig:
        """Load and check everything that can be wrong; the quick checks come first.

        Args:
            made: takes what frees everything again.
        """
        robot = self._robot
        config = replace(self.config, **{name: self.get_parameter(name).value for name in ("model", "precision")})
        directory = resolve(config.model, "models")
        spec = PolicySpec.load(directory)
        joints = JointMap(robot, spec.joint_names)
        if missing := [name for name in spec.cameras if name not in robot.cameras]:
            raise CameraNamesError(missing, robot.cameras)
        kinematics = Kinematics(self._await_description(), joints.urdf, robot.tool_frame)
        limits = JointLimits.of(kinematics, robot)
        outputs = Outputs(self, robot, joints, dry_run=config.dry_run)
        made.callback(outputs.close)

        torch.set_num_threads(config.threads)
        try:
            engine = Engine.load(directory)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ModelMemoryError(directory, error) from None
        pilot = Pilot(
            engine,
            kinematics,
            scales=spec.motion,
            rules=rules(engine.plans, config.thresholds),
            robot=robot,
            config=config,
            seed=config.flow_seed,
        )
        observer = Observer(
            spec.cameras,
            joints,
            max_image_age_s=config.max_image_age_s,
            max_camera_skew_s=config.max_camera_skew_s,
            max_joint_age_s=config.max_joint_age_s,
        )
        still_rad = _STILL * config.tracking_tolerance_rad
        flight = Flight(
            pilot,
            observer,
            self._gate,
            jumps=JumpWatch(limits.velocities, config.tracking_tolerance_rad),
            following=None if config.dry_run else FollowingWatch(still_rad, config.follow_timeout_s),
            config=config,
            executor=ThreadPoolExecutor(max_workers=1, thread_name_prefix=_INFERENCE),
            clock=self._now_ns,
            send=partial(self._send, outputs),
            wake=self._thought.trigger,
            say=self.get_logger().error,
            note=Journal(self._status.say_journal).note,
        )
        made.callback(flight.close)
        self._warm_up(engine, flight)
        self._say_model(directory, engine)
        self._status.say_session(Session.of(config, directory).text())
        inputs = Inputs(self, robot, observer, self._controls.estop)
        made.callback(inputs.close)
        request = self.create_subscription(String, "~/precision_request", self._request_precision, LATCHED)
        made.callback(self.destroy_subscription, request)
        # At simulated time's pace where there is one; otherwise by a clock that no jump of the time can stop.
        clock = self.get_clock() if self.get_parameter("use_sim_time").value else STEADY
        for period_s, callback in ((config.monitor_period_s, self._tick), (_SAY_S, self._say_motion)):
            made.callback(self.destroy_timer, self.create_timer(period_s, callback, clock=clock))
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through all of it again would take longer than a chunk
        made.callback(gc.unfreeze)
        return _Rig(flight, inputs, outputs)

    def _warm_up(self, engine: Engine, flight: Flight) -> None:
        for precision in engine.precisions:
            try:
                engine.warm_up(precision)
            except Exception as error:  # a kernel may raise anything
                failure = PrecisionFailedError(precision, error)
                if not flight.lose(failure):
                    raise failure from error

    def _say_model(self, directory: Path, engine: Engine) -> None:
        self._status.say_model(engine.precisions, engine.bytes_over_bf16)
        shares = ", ".join(f"{name} {share:.3f}" for name, share in engine.bytes_over_bf16.items())
        self.get_logger().info(f"{directory.name} at {', '.join(engine.precisions)}: bytes over bf16: {shares}")
        self.get_logger().info(f"kernel {engine.kernel.name}: {engine.kernel.why}")

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

    def _land(self) -> None:
        self._active = False
        if self._rig is not None:
            self._rig.flight.land(self._now_ns())
            self._rig.outputs.deactivate()
        self._controls.say()

    def _commanding(self) -> bool:
        return self._active and self._gate.commands

    def _tick(self) -> None:
        if self._rig is not None:
            self._rig.inputs.take()
            if self._active:
                self._rig.flight.tick(self._now_ns(), time.monotonic_ns())

    def _fetch(self) -> None:
        if self._rig is not None:
            self._rig.flight.fetch(self._now_ns())

    def _send(self, outputs: Outputs, trajectory: Trajectory, command: Command | None) -> None:
        outputs.send(trajectory)
        if command is not None and self._rig is not None:
            self._status.say_command(command, self._rig.flight.pilot.upswitch_s)

    def _say_motion(self) -> None:
        if self._active and self._rig is not None:
            flight, now_ns = self._rig.flight, self._now_ns()
            pilot = flight.pilot
            self._status.say_motion(pilot.decision, pilot.motion, flight.observer.ages_s(now_ns), flight.late_s(now_ns))

    def _diagnose(self) -> None:
        now_ns, rig = self._now_ns(), self._rig
        state = "active" if self._active else "inactive" if rig else "unconfigured"
        stands, self._diagnosed_ns = now_ns == self._diagnosed_ns, now_ns
        if stands:
            state += "; simulated time stands still"
        level = encode.ERROR if self.fault else encode.WARN if stands else encode.OK
        healths = [encode.Health("state", level, str(self.fault or state))]
        if rig is not None:
            if self._robot.estop_topic and not self.count_publishers(self._robot.estop_topic):
                self._gate.lose_estop()
                self._controls.say()
            healths += health.of_flight(
                rig.flight,
                now_ns,
                unheard=rig.inputs.faults(),
                starved=starved(rig.flight.observer, self._robot, now_ns),
                commanders=rig.outputs.commanders(),
            )
            self._status.say_log(rig.flight.log)
        self._diagnostics.publish(encode.diagnostics(self.get_name(), now_ns, healths))

    def _keep_description(self, message: String) -> None:
        self._urdf = message.data

    def _request_precision(self, message: String) -> None:
        """Set the parameter, so that there is one answer to what is asked for."""
        [result] = self.set_parameters([Parameter("precision", value=message.data)])
        if not result.successful:
            self.get_logger().error(f"~/precision_request: {result.reason}")

    def _change(self, name: str, value: Any) -> None:
        if name == "precision" and self._rig is not None:
            self._rig.flight.select(value)
        if name == "model":
            if self._rig is not None:
                raise ConfiguredError(name)
            PolicySpec.load(resolve(value, "models"))

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


@dataclass(frozen=True, slots=True)
class _Rig:
    """What configuring makes."""

    flight: Flight
    inputs: Inputs
    outputs: Outputs


def main() -> None:
    """Run the node until SIGINT or SIGTERM; then the arm is held.

    Raises:
        SystemExit: with one sentence and exit code 1, if the node cannot start.
    """
    sys.setswitchinterval(_SWITCH_S)
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
    if any(thread.name.startswith(_INFERENCE) for thread in threading.enumerate()):
        os._exit(1)  # Python would wait for an inference that hangs; the arm is held, and ROS is shut down


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
