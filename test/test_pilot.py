"""The pilot without ROS: when it replans, what its commands look like, and what it forgets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import ActionChunk, ActionSpace, Command, FloatArray, JointWindow, MotionScales, Observation
from vlaq_ros.errors import NonFiniteActionError, UnknownPrecisionError
from vlaq_ros.pilot import Pilot
from vlaq_ros.sim import panda

MS = 1_000_000
NOW = 1_700_000_000_000_000_000
HOME = np.array([*panda.HOME_RAD, 0.04])
KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
ROBOT = RobotConfig.load("sim_panda")
SCALES = MotionScales(period_s=0.05, displacement_m=0.02, rotation_rad=0.02)
RULES = (PrecisionRule("fine", 0.45), PrecisionRule("coarse", 0.0))
STEPS, STEP_S = 16, 0.05


@dataclass
class RampPolicy:
    """A policy that turns joint 1 at a constant speed, and remembers what it was asked."""

    speed_rad_s: float = 0.2
    precisions: tuple[str, ...] = ("fine", "coarse")
    noise_shape: tuple[int, int] = (STEPS, 10)  # wider than its actions
    asked: list[tuple[str, FloatArray]] = field(default_factory=list)

    def infer(self, observation: Observation, precision: str, noise: FloatArray) -> ActionChunk:
        self.asked.append((precision, noise))
        actions = np.zeros((STEPS, 8))
        actions[:, 0] = self.speed_rad_s * STEP_S * np.arange(1, STEPS + 1)
        actions[:, -1] = 0.04
        return ActionChunk(observation.stamp_ns, STEP_S, ActionSpace.JOINT, actions)


def pilot(policy: RampPolicy, seed: int = 0, **changes: object) -> Pilot:
    config = replace(PilotConfig(), **changes)  # type: ignore[arg-type]  # any field
    return Pilot(policy, KINEMATICS, scales=SCALES, rules=RULES, robot=ROBOT, config=config, seed=seed)


def observation(stamp_ns: int = NOW, positions: FloatArray = HOME) -> Observation:
    return Observation(stamp_ns, {}, panda.JOINT_NAMES, positions, "pick up the red cube")


def window(stamp_ns: int, turn_rad_s: float) -> JointWindow:
    """One second of a steady turn of joint 1, which moves the tool: fast means that coarse precision suffices."""
    ages_s = np.arange(100)[::-1] / 100
    positions = np.tile(HOME, (100, 1))
    positions[:, 0] -= turn_rad_s * ages_s
    stamps_ns = stamp_ns - np.round(ages_s * 1e9).astype(np.int64)
    return JointWindow(panda.JOINT_NAMES, stamps_ns, positions, np.zeros_like(positions))


def measured(positions: FloatArray, stamp_ns: int) -> JointWindow:
    return JointWindow(panda.JOINT_NAMES, np.array([stamp_ns]), positions[None], np.zeros((1, 8)))


def clock(*times_ns: int) -> object:
    return iter(times_ns).__next__


def fly(flying: Pilot, observation_ns: int = NOW, positions: FloatArray = HOME, inference_ms: int = 100) -> Command:
    return flying.step(
        observation(observation_ns, positions), clock(observation_ns, observation_ns + inference_ms * MS)
    )


def settle_coarse(flying: Pilot, from_ns: int) -> int:
    """Watch a fast arm until the precision has dropped; the time of the last look."""
    for stamp_ns in range(from_ns, from_ns + 400 * MS, 20 * MS):
        if flying.watch(window(stamp_ns, 2.0), stamp_ns).precision == "coarse":
            return stamp_ns
    pytest.fail("the precision never dropped")


def test_step_answers_with_what_the_policy_wants_at_the_decided_precision() -> None:
    policy = RampPolicy()
    command = fly(pilot(policy))
    assert [precision for precision, _ in policy.asked] == ["fine"]
    assert command.decision.precision == "fine"
    assert command.observation_stamp_ns == command.trajectory.stamp_ns == NOW
    assert command.inference_s == pytest.approx(0.1)
    assert command.clipped == 0
    blended_ns = NOW + 600 * MS
    positions, velocities, _ = sample(command.trajectory, blended_ns)
    assert positions[0] == pytest.approx(HOME[0] + 0.2 * 0.6, abs=1e-6)
    assert velocities[0] == pytest.approx(0.2, rel=0.05)
    np.testing.assert_allclose(positions[1:], HOME[1:], atol=1e-9)


def test_a_command_ends_at_rest() -> None:
    trajectory = fly(pilot(RampPolicy(speed_rad_s=1.5))).trajectory
    assert trajectory.velocities is not None
    np.testing.assert_array_equal(trajectory.velocities[-1], 0)
    assert trajectory.times_ns[-1] > STEPS * STEP_S * 1e9


def test_the_next_command_continues_the_running_one() -> None:
    flying = pilot(RampPolicy(speed_rad_s=0.5))
    first = fly(flying).trajectory
    seen_ns = NOW + 300 * MS
    lagging = sample(first, seen_ns)[0] - 0.03
    second = fly(flying, seen_ns, lagging).trajectory
    seam_ns = seen_ns + 100 * MS
    for before, after in zip(sample(first, seam_ns)[:2], sample(second, seam_ns)[:2], strict=True):
        np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize(
    ("stamp_ns", "positions"),
    [
        pytest.param(NOW + 300 * MS, HOME + 1.0, id="the robot was reset, or rejected the command"),
        pytest.param(NOW - 300 * MS, HOME, id="time jumped back"),
    ],
)
def test_a_command_that_the_arm_does_not_follow_is_not_continued(stamp_ns: int, positions: FloatArray) -> None:
    flying = pilot(RampPolicy(speed_rad_s=0.5))
    fly(flying)
    trajectory = fly(flying, stamp_ns, positions).trajectory
    start_ns = trajectory.stamp_ns + int(trajectory.times_ns[0])
    np.testing.assert_allclose(sample(trajectory, start_ns)[0], positions, atol=1e-9)


def test_an_observation_from_before_the_command_took_effect_does_not_break_the_motion() -> None:
    flying = pilot(RampPolicy(speed_rad_s=2.0))
    first = fly(flying).trajectory
    again = fly(flying, NOW, HOME, inference_ms=200).trajectory
    seam_ns = NOW + 200 * MS
    np.testing.assert_allclose(sample(again, seam_ns)[0], sample(first, seam_ns)[0], atol=1e-9)


def test_an_object_in_the_gripper_does_not_break_the_motion() -> None:
    flying = pilot(RampPolicy())
    first = fly(flying).trajectory
    seen_ns = NOW + 400 * MS
    blocked = sample(first, seen_ns)[0] + np.array([0] * 7 + [5.0])
    second = fly(flying, seen_ns, blocked).trajectory
    np.testing.assert_allclose(second.positions[:, -1], 0.04, atol=1e-9)


def test_a_step_is_due_once_the_last_observation_is_old() -> None:
    flying = pilot(RampPolicy(), replan_period_s=0.3)
    assert flying.due(NOW)
    fly(flying)
    assert not flying.due(NOW + 299 * MS)
    assert flying.due(NOW + 300 * MS)
    assert flying.due(NOW - 1), "time jumped back"


def test_an_up_decision_makes_a_step_due_at_once_and_its_delay_is_measured() -> None:
    flying = pilot(RampPolicy())
    at_ns = settle_coarse(flying, NOW)
    assert fly(flying, at_ns).decision.precision == "coarse"
    assert flying.upswitch_s is None
    assert not flying.due(at_ns + 20 * MS)

    crossing_ns = at_ns + 20 * MS
    flying.watch(window(crossing_ns, 0.0), crossing_ns)
    assert flying.due(crossing_ns)
    assert fly(flying, crossing_ns + 5 * MS, inference_ms=80).decision.precision == "fine"
    assert flying.upswitch_s == pytest.approx(0.085)
    fly(flying, crossing_ns + 400 * MS)
    assert flying.upswitch_s is None, "it is measured once"


def test_a_coarse_command_in_flight_does_not_count_as_the_answer_to_an_up_decision() -> None:
    flying = pilot(RampPolicy())
    at_ns = settle_coarse(flying, NOW)
    coarse = flying.decision
    flying.watch(window(at_ns + 20 * MS, 0.0), at_ns + 20 * MS)
    chunk = RampPolicy().infer(observation(at_ns), "coarse", np.zeros((STEPS, 8)))
    flying.command(observation(at_ns), coarse, chunk, at_ns + 50 * MS, 0.05)
    assert flying.upswitch_s is None
    assert flying.due(at_ns + 50 * MS)


def test_a_crossing_that_was_taken_back_is_not_measured() -> None:
    flying = pilot(RampPolicy())
    at_ns = settle_coarse(flying, NOW)
    flying.watch(window(at_ns + 20 * MS, 0.0), at_ns + 20 * MS)
    again_ns = settle_coarse(flying, at_ns + 40 * MS)
    fly(flying, again_ns)
    assert flying.upswitch_s is None


@pytest.mark.parametrize("late_ms", [201, None])
def test_unknown_motion_asks_for_the_finest(late_ms: int | None) -> None:
    flying = pilot(RampPolicy(), max_joint_age_s=0.2)
    at_ns = settle_coarse(flying, NOW)
    assert flying.motion is not None
    stopped = window(at_ns, 2.0) if late_ms else None
    decision = flying.watch(stopped, at_ns + (late_ms or 0) * MS)
    assert (decision.precision, decision.reason) == ("fine", "motion unknown")
    assert flying.motion is None


def test_fixed_precision() -> None:
    policy = RampPolicy()
    flying = pilot(policy, precision="coarse")
    fly(flying)
    flying.select("fine")
    flying.watch(window(NOW, 2.0), NOW)
    assert flying.due(NOW), "a finer precision was selected"
    fly(flying)
    assert [precision for precision, _ in policy.asked] == ["coarse", "fine"]
    with pytest.raises(UnknownPrecisionError) as caught:
        flying.select("medium")
    assert str(caught.value) == "unknown precision 'medium'; this policy has: auto, fine, coarse"


def test_noise_depends_on_the_seed_alone() -> None:
    policies = [RampPolicy(), RampPolicy(), RampPolicy()]
    for policy, seed, precision in zip(policies, (1, 1, 2), ("fine", "coarse", "fine"), strict=True):
        flying = pilot(policy, seed, precision=precision)
        fly(flying)
        fly(flying)
    noises = [[noise for _, noise in policy.asked] for policy in policies]
    np.testing.assert_array_equal(noises[0], noises[1])
    assert not np.array_equal(noises[0], noises[2])
    assert not np.array_equal(noises[0][0], noises[0][1])
    assert noises[0][0].shape == policies[0].noise_shape


def test_hold_brakes_from_the_running_motion() -> None:
    flying = pilot(RampPolicy(speed_rad_s=1.0))
    running = fly(flying).trajectory
    now_ns = NOW + 500 * MS
    positions, velocities, _ = sample(running, now_ns)
    held = flying.hold(measured(positions, now_ns), now_ns)
    np.testing.assert_allclose(sample(held, now_ns)[0], positions, atol=1e-9)
    np.testing.assert_allclose(sample(held, now_ns)[1], velocities, atol=1e-9)
    end_ns = now_ns + int(held.times_ns[-1])
    np.testing.assert_array_equal(sample(held, end_ns)[1], 0)
    stopping_rad = sample(held, end_ns)[0][0] - positions[0]
    assert 0 < stopping_rad <= 0.5 * velocities[0] * held.times_ns[-1] * 1e-9 + 1e-9
    assert flying.due(now_ns), "what was commanded is forgotten"


def test_hold_where_nothing_was_commanded_stays_where_it_is() -> None:
    held = pilot(RampPolicy()).hold(measured(HOME, NOW), NOW)
    np.testing.assert_allclose(held.positions, np.broadcast_to(HOME, held.positions.shape), atol=1e-12)


def test_hold_does_not_return_to_where_the_arm_was_when_joint_states_stopped() -> None:
    flying = pilot(RampPolicy(speed_rad_s=1.0))
    running = fly(flying).trajectory
    last_seen_ns, now_ns = NOW + 200 * MS, NOW + 700 * MS
    held = flying.hold(measured(sample(running, last_seen_ns)[0], last_seen_ns), now_ns)
    np.testing.assert_allclose(sample(held, now_ns)[0], sample(running, now_ns)[0], atol=1e-9)


def test_reset_returns_to_the_command_that_took_effect() -> None:
    flying = pilot(RampPolicy(speed_rad_s=0.5))
    sent = fly(flying)
    seen_ns = NOW + 300 * MS
    positions = sample(sent.trajectory, seen_ns)[0]
    never_sent = fly(flying, seen_ns, positions)
    flying.reset(sent)
    again = fly(flying, seen_ns, positions)
    np.testing.assert_array_equal(again.trajectory.positions, never_sent.trajectory.positions)
    flying.reset()
    assert flying.due(seen_ns)


def test_a_number_that_no_robot_can_follow_is_refused_and_changes_nothing() -> None:
    policy = RampPolicy(speed_rad_s=0.5)
    flying = pilot(policy)
    first = fly(flying).trajectory
    policy.speed_rad_s = float("nan")
    seen_ns = NOW + 300 * MS
    with pytest.raises(NonFiniteActionError):
        fly(flying, seen_ns, sample(first, seen_ns)[0])
    policy.speed_rad_s = 0.5
    again = fly(flying, seen_ns, sample(first, seen_ns)[0]).trajectory
    seam_ns = seen_ns + 100 * MS
    np.testing.assert_allclose(sample(again, seam_ns)[0], sample(first, seam_ns)[0], atol=1e-9)
