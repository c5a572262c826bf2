"""What a replay predicts, as topics of a recording beside the original: Foxglove and PlotJuggler show both.

    /replay/command            trajectory_msgs/JointTrajectory   as it would have left, or the brake; in message units
    /replay/precision          std_msgs/String                   in force for the next chunk
    /replay/sensitivity        std_msgs/Float64                  S
    /replay/tool_path/NAME     nav_msgs/Path                     of a chunk's tool, in the root link
    /replay/tool_error_m/NAME  std_msgs/Float64                  its largest distance from the recorded one
    /replay/inference_ms/NAME  std_msgs/Float64

NAME is a precision that is computed beside what flies, or `flown`. Messages lie on the recorder's clock; the stamps in
them are the robot's.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.rosbag import TEXT, TRAJECTORY
from vlaq_ros.control.chunks import step_times
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.joints import JointMap
from vlaq_ros.replay.answer_errors import FLOWN
from vlaq_ros.replay.replayed import Answer, Event, Held, Look
from vlaq_ros.replay.stance import Stance

_SECOND_NS = 1_000_000_000
_STORE = get_typestore(Stores.ROS2_KILTED)
_NUMBER, _PATH = "std_msgs/msg/Float64", "nav_msgs/msg/Path"


class Annotation:
    """A sink of events that writes a rosbag2 in MCAP as they come; leave its context to complete the file.

    Args:
        directory: of the recording to write; must not exist.
        kinematics: of the arm, for the tool.
        urdf: that the arm was described by, for the root link's name.
        joints: whose names and units commands are written in.
        reference: what was recorded.
        step_s: time between two rows of a chunk.
    """

    def __init__(
        self,
        directory: Path,
        kinematics: Kinematics,
        urdf: str,
        joints: JointMap,
        *,
        reference: Reference,
        step_s: float,
    ) -> None:
        self._writer = Writer(directory, version=9, storage_plugin=StoragePlugin.MCAP)
        self._kinematics = kinematics
        self._frame = _root_link(urdf)
        self._joints = joints
        self._reference = reference
        self._step_s = step_s
        self._connections: dict[str, Any] = {}
        self._precision = ""

    def __enter__(self) -> Self:
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()  # what came until an error is worth keeping

    def take(self, event: Event) -> None:
        """Write what an event tells; what is not known, or no number, is left out."""
        match event:
            case Look():
                if event.motion is not None:
                    self._write("sensitivity", _NUMBER, event.stamp_ns, data=event.motion.sensitivity)
                if event.decision.precision != self._precision:
                    self._precision = event.decision.precision
                    self._write("precision", TEXT, event.stamp_ns, data=self._precision)
            case Answer():
                self._answer(event)
            case Held():
                self._command(event.stamp_ns, event.trajectory)

    def _answer(self, answer: Answer) -> None:
        if answer.command is not None:
            self._command(answer.took_over_ns, answer.command.trajectory)
        for name, inference_s in answer.inference_s.items():
            self._write(f"inference_ms/{name}", _NUMBER, answer.took_over_ns, data=1e3 * inference_s)
        observation, targets_of = answer.observation, dict(answer.targets)
        if answer.chunk is not None:
            targets_of[FLOWN] = self._kinematics.joint_targets(answer.chunk, observation.joint_positions)
        for name, targets in targets_of.items():
            if np.isfinite(targets).all():
                self._tool(name, observation.stamp_ns, Stance.of(self._kinematics, targets))

    def _command(self, stamp_ns: int, trajectory: Trajectory) -> None:
        positions = self._joints.message_positions(trajectory.positions)
        velocities, accelerations = (
            np.empty((len(positions), 0)) if rates is None else self._joints.message_rates(rates)
            for rates in (trajectory.velocities, trajectory.accelerations)
        )
        points = [
            _new(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=positions[row],
                velocities=velocities[row],
                accelerations=accelerations[row],
                effort=np.empty(0),
                time_from_start=_time("Duration", time_ns),
            )
            for row, time_ns in enumerate(trajectory.times_ns.tolist())
        ]
        names = list(self._joints.message)
        self._write(
            "command", TRAJECTORY, stamp_ns, header=_header(trajectory.stamp_ns, ""), joint_names=names, points=points
        )

    def _tool(self, name: str, stamp_ns: int, predicted: Stance) -> None:
        due_ns = stamp_ns + step_times(len(predicted.joints), self._step_s)
        recorded = Stance.of(self._kinematics, self._reference.at(due_ns))
        error_m = np.fmax.reduce(predicted.errors(recorded).tool_m)  # nan where nothing of it is known
        if np.isfinite(error_m):
            self._write(f"tool_error_m/{name}", _NUMBER, stamp_ns, data=float(error_m))
        rows = zip(
            due_ns.tolist(),
            predicted.tool.tolist(),
            Rotation.from_matrix(predicted.rotations).as_quat().tolist(),
            strict=True,
        )
        poses = [
            _new(
                "geometry_msgs/msg/PoseStamped",
                header=_header(time_ns, self._frame),
                pose=_new(
                    "geometry_msgs/msg/Pose",
                    position=_new("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True))),
                    orientation=_new("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion, strict=True))),
                ),
            )
            for time_ns, position, quaternion in rows
        ]
        self._write(f"tool_path/{name}", _PATH, stamp_ns, header=_header(stamp_ns, self._frame), poses=poses)

    def _write(self, name: str, msgtype: str, stamp_ns: int, **fields: Any) -> None:
        if name not in self._connections:
            self._connections[name] = self._writer.add_connection(f"/replay/{name}", msgtype, typestore=_STORE)
        raw = _STORE.serialize_cdr(_new(msgtype, **fields), msgtype)
        self._writer.write(self._connections[name], stamp_ns + self._reference.offset_ns, raw)


def _new(msgtype: str, **fields: Any) -> Any:
    return _STORE.types[msgtype](**fields)


def _time(kind: str, time_ns: int) -> Any:
    seconds, nanoseconds = divmod(time_ns, _SECOND_NS)
    return _new(f"builtin_interfaces/msg/{kind}", sec=seconds, nanosec=nanoseconds)


def _header(stamp_ns: int, frame: str) -> Any:
    return _new("std_msgs/msg/Header", stamp=_time("Time", stamp_ns), frame_id=frame)


def _root_link(urdf: str) -> str:
    """Name the link of a URDF that hangs on no joint."""
    robot = ElementTree.fromstring(urdf)
    children = {child.get("link") for child in robot.findall("joint/child")}
    return next(name for link in robot.findall("link") if (name := link.get("name", "")) not in children)
