"""Encoding: what goes out comes back through messages.py, and diagnostics are named as REP 107 asks."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.ros import encode

STAMP_NS = 1_700_000_000_123_456_789


@given(st.integers(0, 5), st.integers(1, 8), st.sampled_from(["positions", "velocities", "accelerations"]))
def test_a_trajectory_comes_back_from_the_wire(steps: int, joints: int, filled: str) -> None:
    rng = np.random.default_rng(steps)
    values = [rng.normal(size=(steps, joints)) for _ in range(3)]
    count = 1 + ["positions", "velocities", "accelerations"].index(filled)
    times_ns = np.cumsum(rng.integers(1, 3_000_000_000, steps))
    names = tuple(f"joint{j}" for j in range(joints))
    sent = Trajectory(STAMP_NS, names, times_ns, *values[:count])

    wire = serialize_message(encode.joint_trajectory(sent))
    received = messages.trajectory(deserialize_message(wire, JointTrajectory))

    assert (received.stamp_ns, received.joint_names) == (STAMP_NS, names)
    np.testing.assert_array_equal(received.times_ns, times_ns)
    np.testing.assert_array_equal(received.positions, sent.positions)
    for field in ("velocities", "accelerations"):
        before, after = getattr(sent, field), getattr(received, field)
        if before is None or steps == 0:
            assert after is None
        else:
            np.testing.assert_array_equal(after, before)


def test_diagnostics_are_named_by_node_and_component() -> None:
    healths = [
        encode.Health("cameras", encode.WARN, "camera wrist: 0.52 s old, allowed 0.30 s", {"wrist": "520 ms"}),
        encode.Health("policy", encode.OK, "fine"),
    ]
    array = encode.diagnostics("pilot", STAMP_NS, healths)
    assert messages.stamp_ns(array.header.stamp) == STAMP_NS
    cameras, policy = array.status
    assert (cameras.name, cameras.level, cameras.message) == (
        "pilot: cameras",
        DiagnosticStatus.WARN,
        healths[0].message,
    )
    assert [(value.key, value.value) for value in cameras.values] == [("wrist", "520 ms")]
    assert (policy.name, policy.level, policy.values) == ("pilot: policy", DiagnosticStatus.OK, [])


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_000_000_000, STAMP_NS])
def test_stamps_survive(stamp_ns: int) -> None:
    assert messages.stamp_ns(encode.diagnostics("pilot", stamp_ns, []).header.stamp) == stamp_ns
