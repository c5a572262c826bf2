"""Our values as ROS messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vlaq_ros.datatypes import FloatArray, Trajectory

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True, slots=True)
class Health:
    """How one component of a node is: a line of /diagnostics."""

    component: str
    level: bytes  # OK, WARN or ERROR
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def joint_trajectory(trajectory: Trajectory) -> JointTrajectory:
    """Encode a trajectory; `messages.trajectory` gives an equal one back."""
    count = len(trajectory.times_ns)
    rows = zip(
        trajectory.times_ns.tolist(),
        trajectory.positions.tolist(),
        _rows(trajectory.velocities, count),
        _rows(trajectory.accelerations, count),
        strict=True,
    )
    points = [
        JointTrajectoryPoint(
            positions=positions,
            velocities=velocities,
            accelerations=accelerations,
            time_from_start=Duration(nanoseconds=time_ns).to_msg(),
        )
        for time_ns, positions, velocities, accelerations in rows
    ]
    header = Header(stamp=Time(nanoseconds=trajectory.stamp_ns).to_msg())
    return JointTrajectory(header=header, joint_names=trajectory.joint_names, points=points)


def positions(values: FloatArray) -> Float64MultiArray:
    """Encode what a forward_command_controller takes: one value [J] for each of its joints, in its order."""
    return Float64MultiArray(data=values.tolist())


def diagnostics(node: str, stamp_ns: int, healths: Iterable[Health]) -> DiagnosticArray:
    """Encode how a node's components are, named as REP 107 asks: `node: component`."""
    status = [
        DiagnosticStatus(
            level=health.level,
            name=f"{node}: {health.component}",
            message=health.message,
            values=[KeyValue(key=key, value=value) for key, value in health.values.items()],
        )
        for health in healths
    ]
    return DiagnosticArray(header=Header(stamp=Time(nanoseconds=stamp_ns).to_msg()), status=status)


def _rows(values: FloatArray | None, count: int) -> list[list[float]]:
    """Rows [T, J], empty ones where the trajectory does not hold this quantity."""
    rows: list[list[float]] = [[]] * count if values is None else values.tolist()
    return rows
