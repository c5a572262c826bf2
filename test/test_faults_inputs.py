"""Faults of what comes in, without ROS: whatever network and sensors do, an observation is what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import FloatArray, ImageArray, Observation, Stale
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer

MS, SECOND = 1_000_000, 1_000_000_000
NOW = 1_700_000_000 * SECOND
CAMERAS = ("front", "wrist")
JOINTS = JointMap.whole(RobotConfig.load("sim_panda"))
AGE_S, SKEW_S, JOINT_AGE_S = 0.3, 0.1, 0.2
IMAGE_PERIOD, JOINT_PERIOD, LOOK_PERIOD = 50 * MS, 10 * MS, 20 * MS
RATES = np.linspace(0.1, 0.8, len(JOINTS.urdf))  # rad/s; every joint moves on, so a position tells its time


def observer() -> Observer:
    watching = Observer(CAMERAS, JOINTS, max_image_age_s=AGE_S, max_camera_skew_s=SKEW_S, max_joint_age_s=JOINT_AGE_S)
    watching.push_instruction("pick up the red cube")
    return watching


def truth(stamp_ns: int) -> FloatArray:
    """Where the joints are [J], at a time."""
    return RATES * (stamp_ns - NOW) * 1e-9


def picture(number: int) -> ImageArray:
    """The image of a camera that was taken as its `number`-th, which it tells in its first two channels."""
    return np.tile(np.array([*divmod(number, 256), 0], dtype=np.uint8), (2, 2, 1))


def push_image(watching: Observer, camera: str, stamp_ns: int, number: int) -> None:
    watching.push_image(camera, stamp_ns, partial(picture, number))


def push_joints(watching: Observer, stamp_ns: int, positions: FloatArray) -> None:
    sec, nanosec = divmod(stamp_ns, SECOND)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
    watching.push_joints(SimpleNamespace(header=header, name=JOINTS.message, position=positions, velocity=[]))


@dataclass(frozen=True)
class Network:
    """What happens to messages on their way."""

    seed: int
    lost: float = 0.0  # share
    twice: float = 0.0  # share
    delay_ms: float = 0.0  # at most

    def deliver(self, stamps_ns: list[int]) -> Iterator[tuple[int, int]]:
        """When a message comes, and its stamp: once, twice or never."""
        random = np.random.default_rng([self.seed, len(stamps_ns)])
        for stamp_ns in stamps_ns:
            for probability in (1.0 - self.lost, self.twice):
                if random.random() < probability:
                    yield stamp_ns + round(random.uniform(0.0, self.delay_ms) * MS), stamp_ns


def play(network: Network, duration_ns: int) -> Iterator[tuple[int, Observation | Stale]]:
    """Sensors behind a network: what the pilot sees at every look, from the first second on."""
    events: list[tuple[int, int, str]] = []
    for source, period_ns in (*((camera, IMAGE_PERIOD) for camera in CAMERAS), ("joints", JOINT_PERIOD)):
        stamps_ns = list(range(NOW, NOW + duration_ns, period_ns))
        aside = Network(network.seed + len(events), network.lost, network.twice, network.delay_ms)
        events += [(arrival_ns, stamp_ns, source) for arrival_ns, stamp_ns in aside.deliver(stamps_ns)]
    events += [(look_ns, 0, "look") for look_ns in range(NOW + SECOND, NOW + duration_ns, LOOK_PERIOD)]
    watching = observer()
    for arrival_ns, stamp_ns, source in sorted(events):
        if source == "look":
            yield arrival_ns, watching.sample(arrival_ns)
        elif source == "joints":
            push_joints(watching, stamp_ns, truth(stamp_ns))
        else:
            push_image(watching, source, stamp_ns, (stamp_ns - NOW) // IMAGE_PERIOD)


@given(
    network=st.builds(
        Network,
        seed=st.integers(0, 2**31),
        lost=st.floats(0.0, 0.9),
        twice=st.floats(0.0, 0.5),
        delay_ms=st.floats(0.0, 600.0),
    )
)
def test_a_bad_network_never_makes_an_observation_of_what_was_not_measured(network: Network) -> None:
    for now_ns, seen in play(network, 3 * SECOND):
        if isinstance(seen, Stale):
            assert all(reason.startswith(("camera", "joint states")) for reason in seen.reasons)
            assert seen.reasons
            continue
        taken_ns = {
            camera: NOW + int(pixels[0, 0] @ [256, 1, 0]) * IMAGE_PERIOD for camera, pixels in seen.images.items()
        }
        assert set(taken_ns) == set(CAMERAS)
        assert seen.stamp_ns == max(taken_ns.values()) <= now_ns
        assert now_ns - min(taken_ns.values()) <= AGE_S * SECOND
        assert seen.stamp_ns - min(taken_ns.values()) <= SKEW_S * SECOND
        measured_ns = NOW + seen.joint_positions / RATES * 1e9  # of every joint, from where it is
        assert np.ptp(measured_ns) < 1e4, "all joints at one time"
        assert -JOINT_AGE_S * SECOND - 1e4 <= measured_ns[0] - seen.stamp_ns <= 1e4


@pytest.mark.parametrize("seed", range(5))
def test_observations_go_on_while_a_fifth_of_all_messages_is_lost(seed: int) -> None:
    looks = [isinstance(seen, Observation) for _, seen in play(Network(seed, lost=0.2, delay_ms=20.0), 20 * SECOND)]
    assert np.mean(looks) > 0.9


def test_observations_go_on_while_messages_overtake_each_other() -> None:
    looks = [isinstance(seen, Observation) for _, seen in play(Network(0, twice=0.2, delay_ms=120.0), 20 * SECOND)]
    assert np.mean(looks) > 0.9


def fed(watching: Observer, start_ns: int, end_ns: int, *cameras: str) -> None:
    """Healthy sensors from one time to another."""
    for stamp_ns in range(start_ns, end_ns + 1, JOINT_PERIOD):
        push_joints(watching, stamp_ns, truth(stamp_ns))
        if (stamp_ns - NOW) % IMAGE_PERIOD == 0:
            for camera in cameras:
                push_image(watching, camera, stamp_ns, 0)


def test_an_image_that_is_sent_again_and_again_grows_old() -> None:
    watching = observer()
    fed(watching, NOW, NOW + SECOND, *CAMERAS)
    for late_ms in range(30, 800, 60):
        now_ns = NOW + SECOND + late_ms * MS
        push_joints(watching, now_ns, truth(now_ns))
        push_image(watching, "wrist", now_ns, 0)
        push_image(watching, "front", NOW + SECOND, 0)
        seen = watching.sample(now_ns)
        if late_ms <= SKEW_S * 1e3:
            assert isinstance(seen, Observation)
        elif late_ms <= AGE_S * 1e3:
            assert seen == Stale((f"cameras front, wrist: {1e-3 * late_ms:.2f} s apart, allowed 0.10 s",))
        else:
            assert seen == Stale((f"camera front: {1e-3 * late_ms:.2f} s old, allowed 0.30 s",))


def test_a_frozen_picture_with_new_stamps_is_believed() -> None:
    watching = observer()
    fed(watching, NOW, NOW + 10 * SECOND, *CAMERAS)
    seen = watching.sample(NOW + 10 * SECOND)
    assert isinstance(seen, Observation), "what the page says must stay true"
    np.testing.assert_array_equal(seen.images["front"], picture(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_joint_states_that_are_not_finite_are_never_used(value: float) -> None:
    watching = observer()
    fed(watching, NOW, NOW + SECOND, *CAMERAS)
    broken = truth(NOW)
    broken[3] = value
    for late_ms in range(0, 500, 10):
        now_ns = NOW + SECOND + late_ms * MS
        push_joints(watching, now_ns, broken)
        for camera in CAMERAS:
            push_image(watching, camera, now_ns, 0)
        seen = watching.sample(now_ns)
        window = watching.joints(1.0)
        assert window is not None
        assert np.isfinite(window.positions).all()
        if late_ms <= JOINT_AGE_S * 1e3:
            assert isinstance(seen, Observation)
        else:
            words = "joint states: the joint state has a position that is not finite; expected a number for every joint"
            assert seen == Stale((words,))
    fed(watching, NOW + 2 * SECOND, NOW + 2 * SECOND + 50 * MS, *CAMERAS)
    assert isinstance(watching.sample(NOW + 2 * SECOND + 50 * MS), Observation)
