"""The pilot without ROS: when it replans, what its commands look like, and what it forgets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Command,
    FloatArray,
    Guide,
    JointWindow,
    MotionScales,
    Observation,
    Violations,
)
from vlaq_ros.errors import FirstActionError, NonFiniteActionError, UnknownPrecisionError
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
    """A policy that turns joint 1 at a constant speed, follows guides, and remembers what it was asked."""

    speed_rad_s: float = 0.2
    guidable: bool = True
    precisions: tuple[str, ...] = ("fine", "coarse")
    noise_shape: tuple[int, int] = (STEPS, 10)  # wider than its actions
    asked: list[tuple[str, FloatArray]] = field(default_factory=list)
    guides: list[Guide | None] = field(default_factory=list)

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        self.asked.append((precision, noise))
        self.guides.append(guide)
        actions = np.zeros((STEPS, 8))
        actions[:, 0] = self.speed_rad_s * STEP_S * np.arange(1, STEPS + 1)
        actions[:, -1] = 0.04
        if guide is not None:
            actions += guide.weights[:, None] * (guide.actions - actions)
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
    readings = clock(observation_ns, observation_ns + inference_ms * MS)
    return flying.step(observation(observation_ns, positions), flying.decision, readings)


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
    assert replace(command.violations, acceleration=0, jerk=0) == Violations()
    blended_ns = NOW + 600 * MS
    positions, velocities, _ = sample(command.trajectory, blended_ns)
    assert positions[0] == pytest.approx(HOME[0] + 0.2 * 0.6, abs=1e-4)
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
    flying.command(observation(at_ns), coarse, chunk, at_ns + 50 * MS, 0.05, guided=False)
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
    flying = pilot(RampPolicy(speed_rad_s=0.5), seam="blended")
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


def fly_on(flying: Pilot, commands: int, latency_ms: int = 100, every_ms: int = 300) -> Command:
    """Fly from NOW with an arm that follows exactly."""
    command = fly(flying, inference_ms=latency_ms)
    for k in range(1, commands):
        stamp_ns = NOW + k * every_ms * MS
        command = fly(flying, stamp_ns, sample(command.trajectory, stamp_ns)[0], inference_ms=latency_ms)
    return command


def test_the_delay_is_the_longest_of_the_last_ten_and_the_first_does_not_count() -> None:
    flying = pilot(RampPolicy())
    fly(flying, inference_ms=5000)
    assert np.isnan(flying.delay_s)
    for k, latency_ms in enumerate([150, 250, *[100] * 9]):
        stamp_ns = NOW + (6000 + 300 * k) * MS
        fly(flying, stamp_ns, inference_ms=latency_ms)
        assert flying.delay_s == pytest.approx(0.15 if k == 0 else 0.25)
    fly(flying, NOW + 12_000 * MS)
    assert flying.delay_s == pytest.approx(0.1)


def test_a_chunk_is_guided_by_what_the_arm_will_do_before_and_after_it_comes() -> None:
    policy = RampPolicy(speed_rad_s=0.5)
    flying = pilot(policy)
    second = fly_on(flying, 2)
    assert policy.guides == [None, None], "nothing ran, then the delay was not known"

    seen_ns = NOW + 600 * MS
    lagging = sample(second.trajectory, seen_ns)[0] - 0.01
    fly(flying, seen_ns, lagging)
    guide = policy.guides[-1]
    assert guide is not None
    np.testing.assert_array_equal(guide.weights[:2], 1)  # executed in the 100 ms that an answer takes
    assert np.all(np.diff(guide.weights[1:10]) < 0)  # the rest of the second chunk, which ends 500 ms from here
    assert np.all(guide.weights[10:] == 0), "neither the brake nor what follows"
    times_ns = seen_ns + np.arange(1, 11) * 50 * MS
    running = sample(second.trajectory, times_ns)[0]
    np.testing.assert_allclose(guide.actions[:10, :-1], running[:, :-1] - lagging[:-1], atol=1e-12)
    np.testing.assert_allclose(guide.actions[:10, -1], running[:, -1], atol=1e-12)


def test_a_guide_crosses_from_one_precision_to_another() -> None:
    policy = RampPolicy()
    flying = pilot(policy, precision="fine")
    command = fly_on(flying, 2)
    flying.select("coarse")
    flying.watch(None, NOW + 600 * MS)
    fly(flying, NOW + 600 * MS, sample(command.trajectory, NOW + 600 * MS)[0])
    assert [precision for precision, _ in policy.asked] == ["fine", "fine", "coarse"]
    assert policy.guides[-1] is not None


@pytest.mark.parametrize("why", ["held", "reset", "jumped", "ended", "blended", "naive", "the policy cannot"])
def test_there_is_no_guide_where_there_is_nothing_to_continue(why: str) -> None:
    policy = RampPolicy(guidable=why != "the policy cannot")
    flying = pilot(policy, **({"seam": why} if why in {"blended", "naive"} else {}))
    command = fly_on(flying, 2)
    seen_ns = NOW + (1200 if why == "ended" else 600) * MS
    positions = sample(command.trajectory, seen_ns)[0]
    if why == "held":
        flying.hold(measured(positions, seen_ns), seen_ns)
    if why == "reset":
        flying.reset()
    if why == "jumped":
        positions = positions + 1.0
    assert flying.guide(observation(seen_ns, positions)) is None


@pytest.mark.parametrize(
    ("seam", "guidable"), [("guided", True), ("guided", False), ("blended", True), ("naive", True)]
)
def test_position_velocity_and_acceleration_are_continuous_at_every_kind_of_seam(seam: str, guidable: bool) -> None:
    policy = RampPolicy(speed_rad_s=0.5, guidable=guidable)
    flying = pilot(policy, seam=seam)
    before = fly_on(flying, 2).trajectory
    policy.speed_rad_s = -0.5
    seen_ns, seam_ns = NOW + 600 * MS, NOW + 700 * MS
    after = fly(flying, seen_ns, sample(before, seen_ns)[0]).trajectory
    for old, new in zip(sample(before, seam_ns), sample(after, seam_ns), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_a_guided_chunk_is_not_blended_again_and_another_is() -> None:
    """The chunk turns back at once; a blend draws its first steps to the running motion."""
    ends = []
    for guided in (True, False):
        flying = pilot(RampPolicy(speed_rad_s=0.3), seam="blended", blend_s=0.4)
        before = fly_on(flying, 2).trajectory
        seen = observation(NOW + 600 * MS, sample(before, NOW + 600 * MS)[0])
        chunk = RampPolicy(speed_rad_s=-0.3).infer(seen, "fine", np.zeros((STEPS, 10)))
        command = flying.command(seen, flying.decision, chunk, NOW + 700 * MS, 0.1, guided=guided)
        ends.append(float(sample(command.trajectory, NOW + 850 * MS)[0][0]))
    assert ends[0] < ends[1] - 0.01


def test_late_is_an_arm_whose_chunk_has_ended_without_a_successor() -> None:
    flying = pilot(RampPolicy())
    first = fly(flying)
    end_ns = NOW + STEPS * 50 * MS
    assert flying.late_s(first, end_ns) == 0
    assert flying.late_s(first, end_ns + 250 * MS) == pytest.approx(0.25)
    successor = fly(flying, end_ns + 100 * MS, inference_ms=200)
    assert flying.late_s(successor, end_ns + 300 * MS) == 0


def test_a_chunk_that_begins_far_away_is_refused_and_changes_nothing() -> None:
    policy = RampPolicy(speed_rad_s=0.5)
    flying = pilot(policy)
    first = fly(flying).trajectory
    policy.speed_rad_s = 0.6 / STEP_S
    seen_ns = NOW + 300 * MS
    with pytest.raises(FirstActionError):
        fly(flying, seen_ns, sample(first, seen_ns)[0])
    policy.speed_rad_s = 0.5
    again = fly(flying, seen_ns, sample(first, seen_ns)[0]).trajectory
    np.testing.assert_allclose(sample(again, seen_ns + 100 * MS)[0], sample(first, seen_ns + 100 * MS)[0], atol=1e-9)
