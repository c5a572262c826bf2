"""Scores of replays against closed forms: a known offset, a known step, a known delay."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_events import (
    HOME,
    KINEMATICS,
    RULES,
    SPEED_RAD_S,
    STEP_S,
    STEPS,
    answer,
    chord_m,
    look,
    ns,
    reference,
)
from replayable import ROBOT, record

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig, share
from vlaq_ros.control.chunks import step_times
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Decision,
    FloatArray,
    Guide,
    Observation,
    Trajectory,
    Violations,
)
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.replay.fail_if import numbers
from vlaq_ros.replay.replay import replay
from vlaq_ros.replay.replayed import Event, Held
from vlaq_ros.replay.scores import Scores
from vlaq_ros.sim import panda

SCHEMA = json.loads((share() / "config/replay_report.schema.json").read_text())
JOINTS = JointMap(ROBOT, panda.JOINT_NAMES)
BAG = reference()
FINE, COARSE = Decision("fine", 1.0, "S = 1.00"), Decision("coarse", 0.1, "S = 0.10")


def scores(events: Iterable[Event], bag: Reference = BAG, precisions: Sequence[str] = ("fine", "coarse")) -> Scores:
    taken = Scores("demo", bag, KINEMATICS, precisions, RULES, step_s=STEP_S, dwell_s=0.25)
    for event in events:
        taken.take(event)
    return taken


def document(events: Iterable[Event], bag: Reference = BAG, **how: Any) -> dict[str, Any]:
    told = scores(events, bag, **how).document()
    jsonschema.validate(json.loads(json.dumps(told, allow_nan=False)), SCHEMA)
    return told


def test_a_chunk_that_is_off_by_an_angle_errs_by_its_chord() -> None:
    told = document(answer(BAG, 1 + 0.3 * k, off_rad={"fine": 0.0, "coarse": 0.02}, flown_rad=0.01) for k in range(5))
    assert told["ee_error_p95_m"] == pytest.approx(chord_m(0.01), rel=1e-4)
    assert told["ee_error_p95_rad"] == pytest.approx(0.01, rel=1e-4)
    assert told["joint_error_max_rad"] == pytest.approx(0.01, rel=1e-4)
    coarse = told["errors"]["recorded"]["coarse"]
    assert coarse["ee_m"] == pytest.approx(dict.fromkeys(("p50", "p95", "max"), chord_m(0.02)), rel=1e-4)
    assert coarse["joints"][panda.JOINT_NAMES[0]]["p50"] == pytest.approx(0.02, rel=1e-4)
    assert coarse["joints"][panda.JOINT_NAMES[1]]["max"] == pytest.approx(0, abs=1e-9)
    assert told["errors"]["finest"]["coarse"]["ee_m"]["p95"] == pytest.approx(chord_m(0.02), rel=1e-4)
    assert (told["n_answers"], told["n_commands"]) == (5, 5)


@pytest.mark.parametrize("between", [[], [answer(BAG, 1.1, fault="dropped: the task changed meanwhile")]])
def test_a_chunk_counts_from_its_takeover_to_its_successors(between: list[Event]) -> None:
    """Step k of the first chunk is off by k mrad; steps 3 to 8 are in force."""
    rising = 1e-3 * np.arange(1, STEPS + 1)
    first = answer(BAG, 1.0, delay_s=0.1, flown_rad=rising)
    told = document([first, *between, answer(BAG, 1.3, delay_s=0.1)])
    assert told["answers"]["ee_error_m"]["recorded"]["flown"] == pytest.approx([chord_m(8e-3), 0.0], rel=1e-3, abs=1e-9)


def test_a_chunk_counts_with_its_next_step_at_least() -> None:
    rising = 1e-3 * np.arange(1, STEPS + 1)
    told = document([answer(BAG, 1.0, flown_rad=rising), answer(BAG, 1.01, delay_s=0.1)])
    assert told["answers"]["ee_error_m"]["recorded"]["flown"][0] == pytest.approx(chord_m(3e-3), rel=1e-3)


def test_a_chunk_that_is_past_before_it_takes_over_has_no_error() -> None:
    told = document([answer(BAG, 1.0, delay_s=2.0, flown_rad=0.1)])
    assert told["ee_error_p95_m"] is None
    assert told["answers"]["ee_error_m"]["recorded"]["flown"] == [None]


def test_errors_are_known_by_the_step_of_the_chunk() -> None:
    rising = 1e-3 * np.arange(1, STEPS + 1)
    told = document([answer(BAG, 1 + k, flown_rad=rising) for k in range(3)])
    curve = told["horizon"]["recorded"]["flown"]["p95"]
    assert curve[0] is None  # that step is past when the command begins
    assert curve[1:] == pytest.approx([chord_m(it) for it in rising[1:]], rel=1e-4)
    assert told["horizon"]["step_s"] == STEP_S


def test_what_was_not_recorded_is_not_known() -> None:
    """The recording ends within the chunk's horizon."""
    told = document([answer(reference(30.0), 19.8, flown_rad=0.01)], BAG)
    curve = told["horizon"]["recorded"]["flown"]["p50"]
    assert [value is not None for value in curve] == [False] + [True] * 3 + [False] * 12
    assert told["ee_error_max_m"] == pytest.approx(chord_m(0.01), rel=1e-4)


def test_the_deviation_is_that_of_the_precision_that_served() -> None:
    off = {"fine": 0.05, "coarse": 0.07}
    told = document([answer(BAG, 1 + k, off_rad=off, decision=[FINE, COARSE][k % 2]) for k in range(4)])
    assert told["ee_deviation_p95_m"] == pytest.approx(np.percentile([0, chord_m(0.02)] * 2, 95), rel=1e-4)
    assert told["precision_share"] == {"fine": 0.5, "coarse": 0.5}
    assert (told["switches"], told["cheap_share"]) == (3, 0.5)


def test_without_shadows_what_flew_is_scored_alone() -> None:
    told = document([answer(BAG, 1.0, flown_rad=0.01)], precisions=())
    assert list(told["errors"]["recorded"]) == ["flown"]
    assert (told["finest"], told["errors"]["finest"], told["ee_deviation_p95_m"]) == (None, None, None)
    assert told["ee_error_p95_m"] == pytest.approx(chord_m(0.01), rel=1e-4)


def test_a_replay_of_nothing_knows_nothing_and_says_so() -> None:
    told = document([])
    assert told["lines"] == ["the wrist camera began 2.0 s late"]
    counts = {name for name in numbers() if told[name] == 0}
    assert {"n_answers", "n_commands", "rejected", "held", "replayed_s", "flyable_s"} <= counts
    assert all(told[name] is None for name in ("ee_error_p95_m", "held_per_min", "jerk_rms_rad_s3", "stale_share"))


def test_what_was_overtaken_does_not_count() -> None:
    told = document([answer(BAG, 1.0), answer(BAG, 1.3, flown_rad=0.3, fault="dropped: the task changed meanwhile")])
    assert told["ee_error_max_m"] == pytest.approx(0, abs=1e-9)
    assert (told["n_answers"], len(told["answers"]["stamps_ns"])) == (2, 1)


def test_the_worst_moments_lie_a_second_apart() -> None:
    events = [answer(BAG, 1 + 0.25 * k, flown_rad=1e-3 * (20 - abs(k - 20))) for k in range(40)]
    worst = document(events)["worst"]
    assert worst[0]["stamp_ns"] == ns(6.0)
    assert worst[0]["ee_error_m"] == pytest.approx(chord_m(0.02), rel=1e-4)
    stamps_ns = sorted(moment["stamp_ns"] for moment in worst)
    assert min(np.diff(stamps_ns)) >= 1_000_000_000


def test_the_worst_tenth_has_a_tenth_where_all_err_alike_and_all_where_one_errs() -> None:
    alike = [answer(BAG, 1 + 0.3 * k, flown_rad=0.01) for k in range(20)]
    assert document(alike)["ee_error_worst_tenth_share"] == pytest.approx(0.1, rel=1e-3)
    one = [answer(BAG, 1 + 0.3 * k, flown_rad=0.01 * (k == 7)) for k in range(20)]
    assert document(one)["ee_error_worst_tenth_share"] == pytest.approx(1.0, rel=1e-3)


def test_a_seam_is_how_far_the_chunk_lies_from_the_command_it_replaces() -> None:
    """The command stands at the chunk's start, while the chunk by itself goes on turning, 10 mrad ahead."""
    running = Trajectory(ns(1.0), panda.JOINT_NAMES, np.array([0]), BAG.at(np.array([ns(1.1)])))
    first = answer(BAG, 1.0, command=running)
    second = answer(
        BAG,
        1.3,
        delay_s=0.1,
        flown_rad=0.01,
        command=Trajectory(ns(1.3), panda.JOINT_NAMES, np.array([0]), running.positions),
    )
    told = document([first, second])
    assert told["seam_jump_p95_rad"] == pytest.approx(0.01 + SPEED_RAD_S * 0.3, rel=1e-4)
    assert told["seam_speed_jump_p95_rad_s"] == pytest.approx(SPEED_RAD_S, rel=1e-4)
    assert told["restarts"] == 0


def test_a_command_that_begins_elsewhere_is_a_restart_and_no_seam() -> None:
    told = document([answer(BAG, 1.0), answer(BAG, 1.3, flown_rad=0.5)])
    assert (told["restarts"], told["seam_jump_p95_rad"]) == (1, None)


def cubic(start_s: float, jerk_rad_s3: float, seconds: float = 2.0) -> Trajectory:
    """The second joint moves with a constant jerk since START_NS; its quintic through two points is that cubic."""
    times_s = np.array([0.0, seconds])
    since_s = start_s + times_s
    positions = np.tile(HOME, (2, 1))
    velocities, accelerations = np.zeros((2, 8)), np.zeros((2, 8))
    positions[:, 1] += jerk_rad_s3 * since_s**3 / 6
    velocities[:, 1], accelerations[:, 1] = jerk_rad_s3 * since_s**2 / 2, jerk_rad_s3 * since_s
    times_ns = np.rint(times_s * 1e9).astype(np.int64)
    return Trajectory(ns(start_s), panda.JOINT_NAMES, times_ns, positions, velocities, accelerations)


def test_the_jerk_of_commands_is_that_of_the_motion_across_their_seams() -> None:
    commands = [answer(BAG, 0.3 * k, delay_s=0.0, command=cubic(0.3 * k, 7.0)) for k in range(6)]
    assert document(commands)["jerk_rms_rad_s3"] == pytest.approx(7.0 / np.sqrt(7), rel=1e-3)


def test_a_brake_belongs_to_what_is_executed() -> None:
    events: list[Event] = [answer(BAG, 0.0, delay_s=0.0, command=cubic(0.0, 7.0, 1.0))]
    told = document([*events, Held(ns(0.5), cubic(0.5, 7.0, 0.5)), look(2.0, 0.1), look(2.02, 0.1)])
    assert told["jerk_rms_rad_s3"] == pytest.approx(7.0 / np.sqrt(7), rel=1e-3)
    assert told["held"] == 1


def test_a_brake_from_where_the_arm_was_measured_is_a_motion_of_its_own() -> None:
    """The recorded arm did not follow the command: nobody executes the way from one to the other."""
    brake = cubic(0.5, 7.0, 0.5)
    elsewhere = replace(brake, positions=brake.positions + 0.3)
    told = document([answer(BAG, 0.0, delay_s=0.0, command=cubic(0.0, 7.0, 1.0)), Held(ns(0.5), elsewhere)])
    assert told["jerk_rms_rad_s3"] == pytest.approx(7.0 / np.sqrt(7), rel=1e-3)
    assert told["restarts"] == 0


GRASP = reference(gripper_m={0: 0.04, 5: 0.04, 5.2: 0.0, 10: 0.0, 10.2: 0.04, 20: 0.04})


@pytest.mark.parametrize("lag_s", [0.0, 0.15])
def test_a_gripper_that_lags_is_told_by_how_much(lag_s: float) -> None:
    flight = [answer(GRASP, 1 + 0.3 * k, off_rad={"fine": 0.0}, lag_s=lag_s) for k in range(50)]
    told = document(flight, GRASP, precisions=("fine",))
    recorded = told["gripper"]["recorded"]
    assert [event["opens"] for event in recorded] == [False, True]
    np.testing.assert_allclose([event["stamp_ns"] for event in recorded], [ns(5.1), ns(10.1)], atol=1e6)
    assert told["gripper"]["predicted"]["fine"]["delay_s"] == pytest.approx([lag_s] * 2, abs=1e-3)
    assert told["gripper_delay_p95_s"] == pytest.approx(lag_s, abs=1e-3)
    assert (told["gripper_missed"], told["gripper_extra"]) == (0, 0)


def test_a_gripper_that_is_not_closed_is_missed_and_one_that_closes_alone_is_extra() -> None:
    never = [answer(BAG, 1 + 0.3 * k) for k in range(50)]
    told = document(never, GRASP)
    assert (told["gripper_missed"], told["gripper_extra"], told["gripper_delay_p95_s"]) == (2, 0, None)
    alone = [answer(GRASP, 1 + 0.3 * k) for k in range(50)]
    told = document(alone, BAG)
    assert (told["gripper_missed"], told["gripper_extra"]) == (0, 2)


def test_an_answer_is_late_when_its_command_comes_after_the_brake_began() -> None:
    """A chunk lasts 0.8 s: the second answer comes 1.1 s after the first observation, the third in time."""
    told = document([answer(BAG, 1.0), answer(BAG, 2.0, decision=COARSE), answer(BAG, 2.3)])
    assert told["deadline_misses_by_precision"] == {"fine": 0, "coarse": 1}
    assert told["latency_p95_s"] == pytest.approx(0.1)
    assert told["inference_s"]["coarse"]["max"] == pytest.approx(0.05)


def test_after_a_hold_no_answer_is_late() -> None:
    told = document([answer(BAG, 1.0), Held(ns(1.2), cubic(0.0, 0.0)), answer(BAG, 4.0)])
    assert told["deadline_misses"] == 0


def test_what_was_refused_and_what_was_limited_is_counted() -> None:
    limited = answer(BAG, 1.0, violations=Violations(velocity=3))
    refused = [answer(BAG, 2.0 + k, fault="action 3 moves 0.9 rad", rejected="action_step") for k in range(2)]
    dropped = [answer(BAG, 5.0 + k, fault=f"the arm was held {k} times meanwhile") for k in range(2)]
    looks = [look(0.02 * k, 0.1) for k in range(1501)]  # 30 s
    told = document([limited, answer(BAG, 1.3), *refused, *dropped, *looks])
    assert told["violations"]["velocity"] == 3
    assert told["limited_share"] == 0.5
    assert told["rejected_by_kind"] == {"action_step": 2}
    assert (told["rejected"], told["rejected_per_min"]) == (2, pytest.approx(4.0))
    assert told["faults_by_kind"] == {"the arm was held N times meanwhile": 2}
    assert (told["n_answers"], told["n_commands"]) == (6, 2)


def test_what_flew_is_the_command_and_not_the_chunk_it_was_made_of() -> None:
    """Limits have brought the command back to what was recorded."""
    kept = answer(BAG, 1.0).command
    assert kept is not None
    told = document([answer(BAG, 1.0, flown_rad=0.3, off_rad={"fine": 0.3, "coarse": 0.3}, command=kept.trajectory)])
    assert told["ee_error_max_m"] == pytest.approx(0, abs=1e-9)
    assert told["errors"]["recorded"]["fine"]["ee_m"]["max"] == pytest.approx(chord_m(0.3), rel=1e-4)


def test_a_chunk_that_was_refused_errs_all_the_same() -> None:
    told = document([answer(BAG, 1.0, flown_rad=0.3, fault="too far", rejected="first_action")])
    assert told["ee_error_max_m"] == pytest.approx(chord_m(0.3), rel=1e-4)


def test_stale_inputs_are_counted_in_seconds_by_reason() -> None:
    old = [
        look(1 + 0.02 * k, 0.1, "fine", f"camera cam_2: {0.3 + 0.02 * k:.2f} s old, allowed 0.30 s") for k in range(50)
    ]
    told = document([*(look(0.02 * k, 0.1) for k in range(50)), *old])
    assert told["stale_by_reason_s"] == {"camera cam_2: N s old, allowed N s": pytest.approx(1.0)}
    assert told["stale_s"] == pytest.approx(1.0)
    assert told["flyable_s"] == pytest.approx(0.98)
    assert told["stale_share"] == pytest.approx(1.0 / 1.98, rel=1e-5)


def test_a_robot_without_a_task_is_idle_and_its_inputs_are_not_stale() -> None:
    observer = Observer(("front",), JOINTS, max_image_age_s=0.3, max_camera_skew_s=0.1, max_joint_age_s=0.2)
    idle = [look(1 + 0.02 * k, 0.1, "fine", *observer.blocking(ns(1 + 0.02 * k))) for k in range(50)]
    told = document([look(0.98, 0.1), *idle])
    assert (told["idle_s"], told["stale_s"], told["stale_share"]) == (pytest.approx(1.0), 0.0, None)


def test_time_that_jumps_is_no_time() -> None:
    told = document([look(1.0, 0.1), look(1.02, 0.1), look(0.5, 0.1), look(19.0, 0.1)])
    assert told["flyable_s"] == pytest.approx(0.02)


def test_a_jump_of_joints_is_one_while_it_is_told() -> None:
    told = document([look(1.0, 0.1), *(look(1 + 0.02 * k, 0.1, jump="joint 2 by 0.5 rad") for k in range(1, 5))])
    assert told["joint_jumps"] == 1


def flight(sensitivities: Sequence[float | None], off_rad: Sequence[float]) -> list[Event]:
    """An answer every second, after half a second of looks that all show the same S."""
    events: list[Event] = []
    for number, (sensitivity, angle_rad) in enumerate(zip(sensitivities, off_rad, strict=True)):
        looks = [look(1 + number + 0.02 * k, sensitivity) for k in range(26)]
        off = {"fine": 0.0, "coarse": angle_rad}
        events += [*looks, answer(BAG, 1.5 + number, off_rad=off, decision=looks[-1].decision)]
    return events


def test_the_counterfactual_table_says_what_a_threshold_gives() -> None:
    """S is 0, 0.1 .. 0.9, and the coarse precision is off by S / 10."""
    told = document(flight([k / 10 for k in range(10)], [k / 100 for k in range(10)]))
    rows = told["counterfactual"]["coarse"]
    assert [row["threshold"] for row in rows] == pytest.approx([k / 10 for k in range(10)], abs=0.11)
    for row in rows:
        served = [k / 10 <= row["threshold"] for k in range(10)]
        errors = [chord_m(k / 100) if low else 0.0 for k, low in enumerate(served)]
        assert row["share"] == pytest.approx(np.mean(served))
        assert row["ee_deviation_p95_m"] == pytest.approx(np.percentile(errors, 95), rel=1e-4, abs=1e-9)
        assert row["ee_error_p95_m"] == pytest.approx(np.percentile(errors, 95), rel=1e-4, abs=1e-9)
    assert rows[-1]["share"] == 1.0


def test_an_unknown_motion_is_served_by_the_finest_whatever_the_threshold() -> None:
    told = document(flight([None, 0.2], [0.1, 0.01]))
    assert [row["share"] for row in told["counterfactual"]["coarse"]] == [0.5]
    assert told["answers"]["sensitivity"] == [None, 0.2]


def test_what_counts_is_the_largest_s_of_the_dwell() -> None:
    """S is 0.9 until 0.2 s before the decision, and the dwell is 0.25 s."""
    looks = [look(1 + 0.02 * k, 0.9 if k < 15 else 0.1) for k in range(26)]
    last = answer(BAG, 1.5, off_rad={"fine": 0.0, "coarse": 0.0}, decision=looks[-1].decision)
    assert scores([*looks, last]).samples().sensitivities == pytest.approx([0.9])
    earlier = [look(0.9 + 0.02 * k, 0.9 if k < 7 else 0.1) for k in range(31)]
    last = answer(BAG, 1.5, off_rad={"fine": 0.0, "coarse": 0.0}, decision=earlier[-1].decision)
    assert scores([*earlier, last]).samples().sensitivities == pytest.approx([0.1])


def test_a_document_says_how_far_it_came() -> None:
    told = document([look(0.0, 0.1), look(5.0, 0.1)])
    assert (told["bag_s"], told["replayed_s"]) == (20.0, 5.0)


class Follower:
    """A policy that asks for what was recorded, turned about the arm's base by so much at each precision."""

    noise_shape, guidable = (STEPS, 8), False

    def __init__(self, spec: PolicySpec, recorded: Reference, off_rad: dict[str, float]) -> None:
        self.spec = spec
        self.plans = [PrecisionPlan(name, 16, 1, -float(k)) for k, name in enumerate(off_rad)]
        self.precisions = tuple(off_rad)
        self._recorded, self._off_rad = recorded, off_rad

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        stamps_ns = observation.stamp_ns + step_times(len(noise), STEP_S)
        actions = self._recorded.at(np.minimum(stamps_ns, self._recorded.end_ns))
        actions[:, :-1] -= observation.joint_positions[:-1]
        actions[:, 0] += self._off_rad[precision]
        return ActionChunk(observation.stamp_ns, STEP_S, ActionSpace.JOINT, actions)


def replayed(bag: Path, model: Path, config: PilotConfig) -> dict[str, Any]:
    """Score the events of a real replay, of a policy whose errors are known."""
    spec = PolicySpec.load(model)
    topics = Topics.of(ROBOT, spec.cameras, "")
    recorded = Reference.read(bag, topics, JOINTS)
    policy = Follower(spec, recorded, {"fine": 0.0, "coarse": 0.01})
    shadows = dict.fromkeys(policy.precisions, policy)
    events = replay(bag, policy, recorded, topics, JOINTS, robot=ROBOT, config=config, shadows=shadows, latency=0.1)
    return document(events, recorded)


def test_a_recording_that_is_replayed_is_scored(tiny_bundle: Path, tmp_path: Path) -> None:
    told = replayed(record(tmp_path / "bag"), tiny_bundle, PilotConfig(precision="coarse"))
    assert told["n_answers"] == told["n_commands"] > 5
    assert told["ee_deviation_p95_m"] == pytest.approx(chord_m(0.01), rel=1e-3)
    assert told["errors"]["recorded"]["fine"]["ee_m"]["max"] == pytest.approx(0, abs=1e-6)
    assert told["errors"]["recorded"]["coarse"]["ee_m"]["p95"] == pytest.approx(chord_m(0.01), rel=1e-3)
    assert 0.1 * chord_m(0.01) < told["ee_error_p50_m"] < 1.5 * chord_m(0.01)
    assert (told["stale_s"], told["rejected"], told["cheap_share"]) == (0.0, 0, 1.0)
    assert told["flyable_s"] > 2
    assert 0.1 <= told["latency_p50_s"] <= 0.1 + 0.08 + 0.02  # the image may be 80 ms old, a tick is 20 ms


@pytest.mark.parametrize(("thresholds", "coarse"), [("fine=1e9,coarse=0", True), ("fine=-1,coarse=-2", False)])
def test_thresholds_that_are_given_choose_the_precision(
    tiny_bundle: Path, tmp_path: Path, thresholds: str, coarse: bool
) -> None:
    told = replayed(record(tmp_path / "bag"), tiny_bundle, PilotConfig(thresholds=thresholds))
    assert (told["cheap_share"] > 0.3) == coarse
    assert (told["switches"], told["cheap_share"] > 0) == (int(coarse), coarse)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(look, st.floats(0, 20), st.one_of(st.none(), st.floats(0, 2))),
            st.builds(
                lambda seen_s, delay_s, off_rad, fault: answer(
                    BAG, seen_s, delay_s=delay_s, off_rad={"coarse": off_rad}, flown_rad=off_rad, fault=fault
                ),
                st.floats(0, 25),
                st.floats(0, 3),
                st.one_of(st.floats(-1, 1), st.just(np.nan)),
                st.sampled_from(["", "too far"]),
            ),
            st.builds(lambda time_s: Held(ns(time_s), cubic(time_s, 1.0, 0.3)), st.floats(0, 20)),
        ),
        max_size=12,
    )
)
def test_whatever_comes_in_whatever_order_the_report_follows_its_schema(events: list[Event]) -> None:
    document(events)


def test_every_number_of_a_report_is_explained() -> None:
    told = document(flight([0.1, 0.2], [0.0, 0.1]))
    assert list(SCHEMA["required"]) == list(SCHEMA["properties"]) == list(told)
    assert all(said["description"].endswith(".") for said in SCHEMA["properties"].values())
    for name, value in told.items():
        if value is None or (isinstance(value, int | float) and name not in {"format_version", "finest"}):
            assert name in numbers()
            assert 2 <= len(SCHEMA["properties"][name]["title"].split()) <= 6
