"""What leaves for the controller: within every limit, continuing the running motion, ending at rest."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from vlaq_ros.config import RobotConfig
from vlaq_ros.control import safety
from vlaq_ros.control.chunks import at_rest
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits, Safety
from vlaq_ros.datatypes import FloatArray, Trajectory, Violations
from vlaq_ros.errors import (
    ActionStepError,
    FirstActionError,
    JointLimitsFileError,
    NoMotionError,
    NonFiniteActionError,
    RejectedChunkError,
    UnlimitedJointError,
)
from vlaq_ros.sim import panda
from vlaq_ros.sim.trajectory import TrajectoryController

NOW_NS = 1_700_000_000_012_345_678
STEP_NS = 50_000_000
ROBOT = RobotConfig.load("sim_panda")
JOINTS = ROBOT.joint_names
PANDA = Kinematics(panda.urdf(), JOINTS, panda.TOOL_FRAME)
LIMITS = JointLimits.of(PANDA, ROBOT)
LOWER, UPPER = LIMITS.positions.T
HOME = np.array([*panda.HOME_RAD, 0.02])
ANYWHERE = replace(  # a workspace that the arm cannot leave
    ROBOT,
    safety=replace(ROBOT.safety, workspace_lower_m=(-2.0, -2.0, -2.0), workspace_upper_m=(2.0, 2.0, 2.0)),
)
FREE = Safety(PANDA, ANYWHERE)
BOXED = Safety(PANDA, ROBOT)


def limited(directory: Path, acceleration: float, jerk: float, velocity: float = 2.0) -> tuple[Safety, JointLimits]:
    """The same arm with other limits, equal for all joints."""
    file = directory / "limits.yaml"
    limit = f"{{max_acceleration: {acceleration!r}, max_jerk: {jerk!r}, max_velocity: {velocity!r}}}"
    file.write_text("joint_limits:\n" + "".join(f"  {name}: {limit}\n" for name in JOINTS))
    robot = replace(ANYWHERE, safety=replace(ANYWHERE.safety, joint_limits=str(file)))
    return Safety(PANDA, robot), JointLimits.of(PANDA, robot)


seeds = st.integers(0, 100_000)


def chunk(running: Trajectory, now_ns: int, targets: FloatArray, first_ns: int = STEP_NS) -> Trajectory:
    """Targets [T, J] at steps from now, from where `running` is; observed 80 ms ago."""
    age_ns = 80_000_000
    times_ns = age_ns + np.append(0, first_ns + STEP_NS * np.arange(len(targets)))
    return Trajectory(now_ns - age_ns, JOINTS, times_ns, np.vstack([sample(running, now_ns)[0], targets]))


def wander(rng: np.random.Generator, reach: float) -> FloatArray:
    """Targets [16, J]; with reach 1 they leave the position limits and ask for every rate."""
    return (LOWER + UPPER) / 2 + reach * (UPPER - LOWER) * np.cumsum(rng.normal(size=(16, 8)), axis=0) / 8


def somewhere(rng: np.random.Generator) -> Trajectory:
    return at_rest(JOINTS, rng.uniform(LOWER, UPPER), NOW_NS)


def moving(positions: FloatArray, velocities: FloatArray) -> Trajectory:
    """Straight on for a second."""
    times_ns = np.array([0, 10**9])
    ends = np.stack([positions, positions + velocities])
    return Trajectory(NOW_NS, JOINTS, times_ns, ends, np.tile(velocities, (2, 1)), np.zeros((2, 8)))


def jerks(motion: Trajectory) -> FloatArray:
    """Jerk at both ends and in the middle of the quintic between two points [3, T - 1, J]."""
    assert motion.velocities is not None
    assert motion.accelerations is not None
    h = np.diff(motion.times_ns)[:, None] * 1e-9
    p = motion.positions
    (v0, v1), (a0, a1) = ((rows[:-1], rows[1:]) for rows in (motion.velocities, motion.accelerations))
    way = p[1:] - p[:-1] - v0 * h - a0 * h**2 / 2
    dv, da = v1 - v0 - a0 * h, a1 - a0
    c3 = (20 * way - 8 * dv * h + da * h**2) / 2
    c4 = (-30 * way + 14 * dv * h - 2 * da * h**2) / 2
    c5 = (12 * way - 6 * dv * h + da * h**2) / 2
    return np.stack([(6 * c3 + 24 * c4 * u + 60 * c5 * u**2) / h**3 for u in (0.0, 0.5, 1.0)])


def dense(motion: Trajectory) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The motion every millisecond."""
    first_ns, last_ns = motion.stamp_ns + motion.times_ns[[0, -1]]
    return sample(motion, np.arange(first_ns, last_ns + 1, 1_000_000))


def assert_within(motion: Trajectory, limits: JointLimits) -> None:
    positions, velocities, accelerations = dense(motion)
    assert np.all(positions >= limits.positions[:, 0])
    assert np.all(positions <= limits.positions[:, 1])
    assert np.all(np.abs(velocities) <= limits.velocities)
    assert np.all(np.abs(accelerations) <= limits.accelerations)
    assert np.all(np.abs(jerks(motion)) <= limits.jerks)


def assert_continues(motion: Trajectory, running: Trajectory, now_ns: int) -> None:
    assert motion.stamp_ns + motion.times_ns[0] == now_ns
    np.testing.assert_array_equal(
        [motion.positions[0], motion.velocities[0], motion.accelerations[0]], sample(running, now_ns)
    )


def assert_rests(motion: Trajectory) -> None:
    np.testing.assert_array_equal([motion.velocities[-1], motion.accelerations[-1]], 0)


@given(seeds, st.floats(0, 1), st.integers(1, 2 * STEP_NS))
def test_any_chunk_becomes_a_motion_within_every_limit(seed: int, reach: float, first_ns: int) -> None:
    rng = np.random.default_rng(seed)
    still = somewhere(rng)
    motion, _ = FREE.enforce(chunk(still, NOW_NS, wander(rng, reach), first_ns), still)
    assert_within(motion, LIMITS)
    assert_continues(motion, still, NOW_NS)
    assert_rests(motion)


@settings(max_examples=10)
@given(seeds)
def test_chunks_one_after_the_other_never_leave_the_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    running, now_ns = somewhere(rng), NOW_NS
    for _ in range(50):
        targets = wander(rng, rng.choice([0.02, 0.1, 1.0]))[: rng.integers(1, 17)]
        motion, _ = FREE.enforce(chunk(running, now_ns, targets, int(rng.integers(1, STEP_NS))), running)
        assert_within(motion, LIMITS)
        assert_continues(motion, running, now_ns)
        assert_rests(motion)
        running, now_ns = motion, now_ns + int(rng.integers(1, motion.times_ns[-1] - motion.times_ns[0]))


@settings(max_examples=10)
@given(seed=seeds, acceleration=st.floats(0.3, 30), ramp_s=st.floats(0.003, 0.3))
def test_slow_and_gentle_arms_are_held_to_their_limits_too(
    tmp_path_factory: pytest.TempPathFactory, seed: int, acceleration: float, ramp_s: float
) -> None:
    rng = np.random.default_rng(seed)
    held, limits = limited(tmp_path_factory.mktemp("limits"), acceleration, acceleration / ramp_s)
    running, now_ns = somewhere(rng), NOW_NS
    for _ in range(3):
        motion, _ = held.enforce(chunk(running, now_ns, wander(rng, 0.3)), running)
        assert_within(motion, limits)
        stop_ns = now_ns + int(rng.integers(1, motion.times_ns[-1] - motion.times_ns[0]))
        running = held.stop(motion, stop_ns)
        assert_within(running, limits)
        assert_continues(running, motion, stop_ns)
        assert_rests(running)
        now_ns = stop_ns + int(rng.integers(1, running.times_ns[-1] - running.times_ns[0]))


def test_no_motion_that_a_general_solver_finds_is_nearer(tmp_path: Path) -> None:
    """The same problem, in the jerks between the knots."""
    held, limits = limited(tmp_path, 3.0, 40.0, 0.8)
    still = at_rest(JOINTS, HOME, NOW_NS)
    desired = chunk(still, NOW_NS, HOME + 0.4 * np.random.default_rng(3).normal(size=(6, 8)))
    motion, violations = held.enforce(desired, still)
    assert_within(motion, limits)
    assert min(violations.velocity, violations.acceleration, violations.jerk) > 0

    start_ns = desired.times_ns[0]
    knots_s, wanted_s = (motion.times_ns - start_ns) * 1e-9, (desired.times_ns[1:] - start_ns) * 1e-9
    steps_s = np.diff(knots_s)

    def response(elapsed_s: FloatArray, order: int) -> FloatArray:
        """The `order`-fold integral of every interval's unit jerk, at these times."""
        since = np.clip(elapsed_s[:, None] - knots_s, 0, None) ** order / math.factorial(order)
        return since[:, :-1] - since[:, 1:]

    jerk, accelerations = np.eye(len(steps_s)), response(knots_s, 1)
    velocities = response(knots_s, 2)
    between = (velocities[:-1] + accelerations[:-1] * steps_s[:, None] / 2)[1:]
    unit_s = steps_s[-1]
    rows = np.vstack(
        [
            response(wanted_s, 3),
            safety._SMOOTHING * unit_s**3 * np.sqrt(steps_s / unit_s)[:, None] * jerk,
            safety._BRAKING * unit_s * velocities[knots_s > wanted_s[-1]],
        ]
    )
    most = 0.99 * 40.0  # the variables are in units of this
    constraints = [
        LinearConstraint(most * np.vstack([velocities[1:-1], between]), -0.99 * 0.8, 0.99 * 0.8),
        LinearConstraint(most * accelerations[1:-1], -0.99 * 3.0, 0.99 * 3.0),
        LinearConstraint(most * np.vstack([velocities[-1], accelerations[-1]]), 0, 0),
    ]
    for joint in range(7):
        side = np.zeros(len(rows))
        side[: len(wanted_s)] = desired.positions[1:, joint] - HOME[joint]

        def distance(x: FloatArray, side: FloatArray = side) -> float:
            return float(np.sum((most * rows @ x - side) ** 2))

        def slope(x: FloatArray, side: FloatArray = side) -> FloatArray:
            return 2 * most * rows.T @ (most * rows @ x - side)

        best = minimize(
            distance,
            np.zeros(len(steps_s)),
            jac=slope,
            method="SLSQP",
            bounds=[(-1, 1)] * len(steps_s),
            constraints=constraints,
            options={"maxiter": 1000, "ftol": 1e-9},
        )
        assert best.success
        ours = distance(np.diff(motion.accelerations[:, joint]) / steps_s / most)
        assert ours == pytest.approx(best.fun, rel=1e-3)
        assert ours <= best.fun * (1 + 1e-6)


@given(st.floats(0.0, 1.0), st.integers(1, STEP_NS))
def test_a_chunk_within_the_limits_is_followed(phase: float, first_ns: int) -> None:
    """A smooth reach of 0.15 rad in 0.8 s, started anywhere between two knots."""
    still = at_rest(JOINTS, HOME, NOW_NS)
    u = np.clip((first_ns + STEP_NS * np.arange(16)) / 800e6, 0, 1)[:, None]
    way = 0.15 * np.cos(phase * np.arange(8)) * [1, 1, 1, 1, 1, 1, 1, 0.05]
    desired = chunk(still, NOW_NS, HOME + way * u**3 * (10 - 15 * u + 6 * u**2), first_ns)
    motion, violations = FREE.enforce(desired, still)
    assert violations == Violations()
    np.testing.assert_allclose(sample(motion, desired.stamp_ns + desired.times_ns)[0], desired.positions, atol=1e-3)


def test_violations_count_the_points_that_a_limit_holds() -> None:
    still = at_rest(JOINTS, HOME, NOW_NS)
    above = HOME + np.where(np.arange(8) == 0, 4.0, 0.0) * np.linspace(0.1, 1, 16)[:, None]
    _, violations = FREE.enforce(chunk(still, NOW_NS, above), still)
    assert violations.velocity >= 12  # the joint runs at full speed after the target that runs away
    assert violations.position == 0  # which is out of reach in this time
    at_limit = HOME.copy()
    at_limit[-1] = panda.FINGER_OPEN_M
    open_still = at_rest(JOINTS, at_limit, NOW_NS)
    beyond = np.tile(at_limit, (16, 1))
    assert FREE.enforce(chunk(open_still, NOW_NS, beyond), open_still)[1] == Violations()
    beyond[4:, -1] += 0.01
    assert FREE.enforce(chunk(open_still, NOW_NS, beyond), open_still)[1].position >= 10


def test_a_continuous_joint_turns_as_far_as_it_is_asked_to() -> None:
    kinematics = Kinematics(
        panda.urdf().replace('"panda_joint7" type="revolute"', '"panda_joint7" type="continuous"'),
        JOINTS,
        panda.TOOL_FRAME,
    )
    turning = Safety(kinematics, ANYWHERE)
    pose = HOME.copy()
    pose[6] = 40.0
    still = at_rest(JOINTS, pose, NOW_NS)
    way = np.linspace(0, 0.6, 16)[:, None] * np.eye(8)[6]
    motion, violations = turning.enforce(chunk(still, NOW_NS, pose + way), still)
    assert violations == Violations()
    assert motion.positions[-1, 6] > 40.55
    assert np.all(np.abs(dense(motion)[1]) <= LIMITS.velocities)


@pytest.mark.parametrize("outside_rad", [0.002, 0.3])
def test_an_arm_beyond_a_position_limit_comes_back_and_gets_no_further_out(outside_rad: float) -> None:
    pose = HOME.copy()
    pose[1] = UPPER[1] + outside_rad
    still = at_rest(JOINTS, pose, NOW_NS)
    out, _ = FREE.enforce(chunk(still, NOW_NS, np.tile(pose + 0.2, (16, 1))), still)
    assert dense(out)[0][:, 1].max() <= pose[1] + 1e-9
    home, _ = FREE.enforce(chunk(still, NOW_NS, np.tile(HOME, (16, 1))), still)
    positions, velocities, _ = dense(home)
    assert positions[-1, 1] < UPPER[1]
    assert velocities[:, 1].max() <= 1e-6


def test_a_chunk_that_is_past_brakes() -> None:
    still = at_rest(JOINTS, HOME, NOW_NS)
    running, _ = FREE.enforce(chunk(still, NOW_NS, HOME + np.linspace(0.03, 0.5, 16)[:, None] * np.ones(8)), still)
    now_ns = NOW_NS + 400_000_000
    motion, violations = FREE.enforce(chunk(running, now_ns, np.empty((0, 8))), running)
    assert violations == Violations()
    assert_continues(motion, running, now_ns)
    assert_rests(motion)
    ways = [np.abs(rest.positions[-1, :-1] - motion.positions[0, :-1]) for rest in (motion, running)]
    assert np.all(ways[0] < 0.3 * ways[1])


@given(seeds, st.floats(0, 1))
def test_a_stop_holds_the_limits_and_continues_the_running_motion(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    still = somewhere(rng)
    running, _ = FREE.enforce(chunk(still, NOW_NS, wander(rng, reach)), still)
    now_ns = NOW_NS + int(rng.integers(0, running.times_ns[-1] - running.times_ns[0]))
    motion = FREE.stop(running, now_ns)
    assert_within(motion, LIMITS)
    assert_continues(motion, running, now_ns)
    assert_rests(motion)


def test_a_stop_of_an_arm_at_rest_keeps_it_there() -> None:
    motion = FREE.stop(at_rest(JOINTS, HOME, NOW_NS), NOW_NS + 10**9)
    np.testing.assert_allclose(motion.positions, np.tile(HOME, (len(motion.positions), 1)), atol=1e-12)
    assert motion.times_ns[-1] >= 100_000_000


def test_an_arm_too_fast_for_its_position_limit_stops_as_soon_as_it_can() -> None:
    near = HOME.copy()
    near[1] = UPPER[1] - 0.05
    motion = FREE.stop(moving(near, 2.0 * np.eye(8)[1]), NOW_NS)
    assert motion.positions[-1, 1] - near[1] == pytest.approx(2.0**2 / 2 / 7.5, rel=0.05)
    assert np.all(np.abs(dense(motion)[2]) <= LIMITS.accelerations)


def tools(motion: Trajectory) -> FloatArray:
    return PANDA.forward(dense(motion)[0])[0]


@settings(max_examples=15)
@given(seeds)
def test_the_tool_never_leaves_its_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower, upper = np.array(ROBOT.safety.workspace_lower_m), np.array(ROBOT.safety.workspace_upper_m)
    running, now_ns, lost = at_rest(JOINTS, HOME, NOW_NS), NOW_NS, 0
    for _ in range(6):
        way = np.cumsum(rng.normal(size=(1, 8)) * 0.1 * np.ones((16, 1)), axis=0)
        motion, violations = BOXED.enforce(chunk(running, now_ns, sample(running, now_ns)[0] + way), running)
        assert_within(motion, LIMITS)
        assert_continues(motion, running, now_ns)
        assert_rests(motion)
        assert np.all((tools(motion) >= lower) & (tools(motion) <= upper))
        lost += violations.workspace
        running, now_ns = motion, now_ns + int(rng.integers(1, motion.times_ns[-1] - motion.times_ns[0]))
    assert lost > 0


def test_a_chunk_is_cut_where_the_tool_would_leave_its_box() -> None:
    """Joint 2 leans the arm forward, out of x <= 0.9 m or down to the table."""
    still = at_rest(JOINTS, HOME, NOW_NS)
    lean = HOME + np.where(np.arange(8) == 1, 1.0, 0.0) * np.linspace(0.07, 1.1, 16)[:, None]
    desired = chunk(still, NOW_NS, lean)
    motion, violations = BOXED.enforce(desired, still)
    assert 0 < violations.workspace < 16
    kept = 16 - violations.workspace
    reached, wanted = sample(motion, desired.stamp_ns + int(desired.times_ns[kept]))[0], lean[kept - 1]
    np.testing.assert_allclose(reached, wanted, atol=5e-3)
    one_more = replace(desired, times_ns=desired.times_ns[: kept + 2], positions=desired.positions[: kept + 2])
    assert BOXED.enforce(one_more, still)[1].workspace == 1


def test_a_tool_outside_its_box_only_moves_inwards() -> None:
    pose = HOME.copy()
    pose[1] += 1.2
    outside_m = PANDA.forward(pose[None])[0][0]
    assert outside_m[2] < ROBOT.safety.workspace_lower_m[2]
    still = at_rest(JOINTS, pose, NOW_NS)
    down, violations = BOXED.enforce(chunk(still, NOW_NS, pose + np.eye(8)[1] * np.full((16, 1), 0.2)), still)
    assert violations.workspace == 16
    np.testing.assert_array_equal(down.positions, np.tile(pose, (2, 1)))
    up, violations = BOXED.enforce(chunk(still, NOW_NS, np.linspace(pose, HOME, 16)), still)
    assert violations.workspace == 0
    assert tools(up)[-1, 2] > outside_m[2] + 0.1


def test_where_no_target_is_allowed_the_running_motion_goes_on() -> None:
    """Joint 1 turns; the chunk leans forward, out of a box whose floor is near."""
    tool_m = PANDA.forward(HOME[None])[0][0]
    near = replace(ROBOT.safety, workspace_lower_m=(0.1, -0.6, float(tool_m[2]) - 0.03))
    held = Safety(PANDA, replace(ROBOT, safety=near))
    still = at_rest(JOINTS, HOME, NOW_NS)
    turn, lean = np.eye(8)[:2]
    running, _ = held.enforce(chunk(still, NOW_NS, HOME + np.linspace(0.005, 0.1, 16)[:, None] * turn), still)
    now_ns = NOW_NS + 333_000_000
    late_ns = 4 * STEP_NS  # so that there is time to leave the box before the first target
    desired = chunk(running, now_ns, np.tile(HOME + 0.5 * lean, (16, 1)), late_ns)
    motion, violations = held.enforce(desired, running)
    assert violations == Violations(workspace=16)
    assert motion.stamp_ns == desired.stamp_ns
    assert_continues(motion, running, now_ns)
    later_ns = now_ns + np.arange(0, 10**9, 7_000_000)
    np.testing.assert_allclose(sample(motion, later_ns)[0], sample(running, later_ns)[0], atol=1e-9)


@settings(max_examples=30)
@given(seeds, st.integers(0, 90_000_000))
def test_the_controller_accepts_it_and_follows_it(seed: int, delivery_ns: int) -> None:
    rng = np.random.default_rng(seed)
    still = somewhere(rng)
    motion, _ = FREE.enforce(chunk(still, NOW_NS, wander(rng, 0.5)), still)
    controller = TrajectoryController(JOINTS, still.positions[0], NOW_NS)
    received_ns = NOW_NS + delivery_ns
    assert controller.accept(motion, received_ns, still.positions[0], np.zeros(8)) is None
    after_ns = received_ns + np.arange(0, 1_500_000_000, 7_000_000)
    np.testing.assert_allclose(controller.sample(after_ns)[0], sample(motion, after_ns)[0], atol=1e-9)


def test_where_the_running_motion_is_too_fast_to_brake_in_time_nothing_is_commanded() -> None:
    running = moving(HOME, 20.0 * np.eye(8)[1])
    with pytest.raises(NoMotionError) as caught:
        FREE.enforce(chunk(running, NOW_NS, np.tile(HOME, (16, 1))), running)
    assert str(caught.value) == (
        "no motion of panda_joint2 within its limits was found (exit flag -1 of daqp), expected at least one to rest; "
        "nothing was commanded: report this with a recording of the robot's joints"
    )


def test_a_chunk_from_where_the_arm_is_is_admitted() -> None:
    targets = np.linspace(HOME, HOME + 0.4, 16)
    targets[8:, -1] = panda.FINGER_OPEN_M  # the gripper may jump
    FREE.admit(targets, HOME)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_is_rejected(value: float) -> None:
    targets = np.tile(HOME, (16, 1))
    targets[6, 1] = value
    with pytest.raises(NonFiniteActionError) as caught:
        FREE.admit(targets, HOME)
    assert caught.value.kind == "finiteness"
    assert str(caught.value) == (
        f"action 6 of the chunk sends panda_joint2 to {value}, expected a finite position; "
        "nothing was commanded: check the model's files and its camera images"
    )


def test_a_chunk_that_begins_far_from_the_arm_is_rejected() -> None:
    targets = np.tile(HOME, (16, 1))
    targets[:, 3] += 0.6
    with pytest.raises(FirstActionError) as caught:
        FREE.admit(targets, HOME)
    assert caught.value.kind == "first action"
    assert str(caught.value) == (
        "the chunk begins 0.600 rad from where panda_joint4 is measured, expected at most 0.5 rad; nothing was "
        "commanded: check the order, units and signs of the robot file's joints, or raise its "
        "safety.max_first_action_rad"
    )


def test_a_chunk_with_a_leap_is_rejected() -> None:
    targets = np.tile(HOME, (16, 1))
    targets[9:, 5] -= 0.31
    with pytest.raises(ActionStepError) as caught:
        FREE.admit(targets, HOME)
    assert caught.value.kind == "action step"
    assert isinstance(caught.value, RejectedChunkError)
    assert str(caught.value) == (
        "action 9 of the chunk moves panda_joint6 by 0.310 rad from the action before, expected at most 0.3 rad; "
        "nothing was commanded: check that the model was trained for this robot, or raise safety.max_action_step_rad "
        "in the robot file"
    )


def test_limits_are_the_stricter_of_the_robot_description_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    said = dict.fromkeys(JOINTS, "{max_acceleration: 7.0, max_jerk: 70.0}")
    said["panda_joint1"] = "{max_acceleration: 1.0, max_jerk: 9.0, max_velocity: 0.5, min_position: -1.0}"
    said["panda_joint2"] = "{max_acceleration: 1.0, max_jerk: 9.0, max_velocity: 50.0, max_position: 50.0}"
    file.write_text("joint_limits:\n" + "".join(f"  {name}: {limit}\n" for name, limit in said.items()))
    limits = JointLimits.of(PANDA, replace(ROBOT, safety=replace(ROBOT.safety, joint_limits=str(file))))
    np.testing.assert_array_equal(limits.positions[:2], [(-1.0, 2.8973), (-1.7628, 1.7628)])
    np.testing.assert_array_equal(limits.velocities[:3], [0.5, 2.175, 2.175])
    np.testing.assert_array_equal(limits.accelerations, [1.0, 1.0, *[7.0] * 6])
    np.testing.assert_array_equal(limits.jerks, [9.0, 9.0, *[70.0] * 6])


def test_a_joint_whose_velocity_nobody_limits_is_refused() -> None:
    unlimited = Kinematics(panda.urdf().replace('velocity="2.61"', 'velocity="0"', 1), JOINTS, panda.TOOL_FRAME)
    with pytest.raises(UnlimitedJointError) as caught:
        Safety(unlimited, ROBOT)
    assert str(caught.value) == (
        "the velocity limits of panda_joint5, the stricter of the robot description's and the joint limits file's, are "
        "not given; expected a number above 0: add them to the file that safety.joint_limits names in the robot file"
    )


def test_position_limits_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    limit = "{max_acceleration: 7.0, max_jerk: 70.0, min_position: 3.0}"
    file.write_text("joint_limits:\n" + "".join(f"  {name}: {limit}\n" for name in JOINTS))
    with pytest.raises(UnlimitedJointError, match=r"position limits of panda_joint1, .* are 3 to 2\.8973; expected"):
        Safety(PANDA, replace(ROBOT, safety=replace(ROBOT.safety, joint_limits=str(file))))


def test_without_a_file_of_limits_there_is_no_safety(tmp_path: Path) -> None:
    robot = replace(ROBOT, safety=replace(ROBOT.safety, joint_limits=str(tmp_path / "none.yaml")))
    with pytest.raises(JointLimitsFileError):
        Safety(PANDA, robot)
