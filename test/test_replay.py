"""Bags that rosbags alone has written are flown: when ticks, inferences and answers come, and what is told of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, image, joint_state, text, write
from swaying import STEPS, TASK, Swaying

from vlaq_ros import messages
from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.errors import NoJournalError
from vlaq_ros.joints import JointMap
from vlaq_ros.replay import reflight
from vlaq_ros.replay.replay import MEASURED, RECORDED, Latency, replay
from vlaq_ros.replay.replayed import Answer, Event, Held, Look, Seen
from vlaq_ros.sim import panda

MS = SECOND // 1000
ROBOT = RobotConfig.load("sim_panda")
CAMERAS = ("front", "wrist")
TOPICS = Topics.of(ROBOT, CAMERAS)
HOME = np.array([*panda.HOME_RAD, 0.04])


def seconds(begin_s: float, end_s: float, *, images: bool = True, joints: bool = True) -> list[Entry]:
    """An arm that stands, at 100 Hz, seen at 20 Hz; an image is as bright as it is old."""
    said: list[Entry] = []
    for tick in range(round(100 * begin_s), round(100 * end_s)):
        stamp_ns = START + tick * SECOND // 100
        if joints:
            said.append(joint_state(stamp_ns, panda.JOINT_NAMES, HOME))
        if images and tick % 5 == 0:
            pixels = np.full((4, 4, 3), tick % 256, np.uint8)
            said += [image(stamp_ns, f"/camera/{name}/image_raw", pixels) for name in CAMERAS]
    return said


def told(instruction: str = TASK) -> list[Entry]:
    return [text(START, instruction), text(START, panda.urdf(), "/robot_description")]


def fly(
    bag: Path,
    policy: Swaying | None = None,
    latency: Latency = 0.1,
    *,
    shadows: dict[str, Swaying] | None = None,
    instruction: str = "",
    **changes: Any,
) -> list[Event]:
    joints = JointMap.whole(ROBOT)
    return list(
        replay(
            bag,
            policy or Swaying(*CAMERAS),  # type: ignore[arg-type]  # its spec holds what a replay reads
            Reference.read(bag, TOPICS, joints),
            TOPICS,
            joints,
            robot=ROBOT,
            config=replace(PilotConfig(), **changes),
            shadows=shadows or {},
            latency=latency,
            instruction=instruction,
        )
    )


def of(kind: type[Event], events: Iterable[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def after_ms(stamp_ns: int) -> float:
    return (stamp_ns - START) / MS


def test_ticks_are_even_and_answers_come_after_the_latency(tmp_path: Path) -> None:
    events = fly(write(tmp_path / "bag", [*seconds(0, 2), *told()]))
    assert [after_ms(look.stamp_ns) for look in of(Look, events)] == [*range(0, 1990, 20)]
    answers = of(Answer, events)
    began = [after_ms(answer.took_over_ns) - 100 for answer in answers]
    seen = [after_ms(answer.observation.stamp_ns) for answer in answers]
    assert began == seen == [*range(0, 2000, 300)]
    for answer in answers:
        assert answer.fault == answer.rejected == ""
        motion = answer.command.trajectory
        assert motion.stamp_ns + motion.times_ns[0] == answer.took_over_ns
        assert answer.command.inference_s == pytest.approx(0.1)
        assert list(answer.inference_s) == [answer.decision.precision]
    order = [event.took_over_ns if isinstance(event, Answer) else event.stamp_ns for event in events]
    assert order == sorted(order)


def test_every_image_is_shown_once_and_only_those_of_observations_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    convert = messages.IMAGES["Image"]
    monkeypatch.setitem(messages.IMAGES, "Image", lambda message: decoded.append(message) or convert(message))
    bag = write(tmp_path / "bag", [*seconds(0, 2), *told()])
    Reference.read(bag, TOPICS, JointMap.whole(ROBOT))
    by_the_reference = len(decoded)
    events = fly(bag)
    seen = of(Seen, events)
    assert [(item.camera, after_ms(item.stamp_ns)) for item in seen] == [
        (camera, at_ms) for at_ms in range(0, 2000, 50) for camera in CAMERAS
    ]
    assert len(decoded) - 2 * by_the_reference == len(CAMERAS) * len(of(Answer, events))
    assert (seen[6].decode() == 15).all()


def test_a_latency_of_zero_answers_in_the_tick(tmp_path: Path) -> None:
    events = fly(write(tmp_path / "bag", [*seconds(0, 1), *told()]), latency=0.0)
    assert [after_ms(answer.took_over_ns) for answer in of(Answer, events)] == [0, 300, 600, 900]


def test_a_measured_latency_is_what_inference_takes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.07)
    monkeypatch.setattr(reflight.time, "perf_counter", clock.__next__)
    events = fly(write(tmp_path / "bag", [*seconds(0, 1), *told()]), latency=MEASURED)
    assert [after_ms(answer.took_over_ns) for answer in of(Answer, events)] == [70, 370, 670, 970]
    assert {round(sum(answer.inference_s.values()), 9) for answer in of(Answer, events)} == {0.07}


def test_a_latency_beyond_the_chunk_makes_the_arm_wait(tmp_path: Path) -> None:
    events = fly(write(tmp_path / "bag", [*seconds(0, 3), *told()]), latency=0.9)
    late_s = {round(after_ms(look.stamp_ns)): look.late_s for look in of(Look, events)}
    first, second = [answer.took_over_ns for answer in of(Answer, events)][:2]
    assert late_s[round(after_ms(second)) - 20] > 0, "it rests for want of a successor"
    assert (after_ms(first), after_ms(second)) == (900, 1800)


def test_shadows_answer_the_same_observation_and_noise_without_a_guide(tmp_path: Path) -> None:
    policy, full = Swaying(*CAMERAS), Swaying(*CAMERAS)
    full.precisions = ("full",)  # type: ignore[assignment]  # of the same kind
    shadows = {"full": full, "fine": policy, "coarse": policy}
    answers = of(Answer, fly(write(tmp_path / "bag", [*seconds(0, 2), *told()]), policy, shadows=shadows))
    for answer in answers:
        assert list(answer.targets) == list(shadows)
        assert set(answer.inference_s) == set(shadows)
        assert all(targets.shape == (STEPS, 8) for targets in answer.targets.values())
        fine, coarse = answer.targets["fine"], answer.targets["coarse"]
        np.testing.assert_allclose(coarse[:, 3] - fine[:, 3], 1e-3, atol=1e-12)
        np.testing.assert_array_equal(coarse[:, :3], fine[:, :3])
        np.testing.assert_array_equal(answer.targets["full"], fine)
    assert not any(guided for _, _, guided in full.asked)
    flown = [noise for _, noise, _ in full.asked]
    assert len({noise[0, 0] for noise in flown}) == len(answers), "every inference has noise of its own"
    assert all(any(noise is other for other in flown) for _, noise, _ in policy.asked)
    alone = of(Answer, fly(tmp_path / "bag"))
    for answer, one in zip(answers, alone, strict=True):
        np.testing.assert_array_equal(answer.command.trajectory.positions, one.command.trajectory.positions)


def test_what_the_pilot_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*seconds(0, 2), *told()])
    wild = Swaying(*CAMERAS)
    wild.reach_rad = 0.4
    answers = of(Answer, fly(bag, wild, shadows={"coarse": wild}))
    assert answers
    for answer in answers:
        assert (answer.rejected, answer.command) == ("action step", None)
        assert answer.fault.startswith("action 1 of the chunk moves panda_joint1 by 0.400 rad ")
        assert answer.chunk is not None
        assert list(answer.targets) == ["coarse"]
    lost = of(Answer, fly(write(tmp_path / "other", [*seconds(0, 2), *told("dance")]), shadows={"coarse": Swaying()}))
    assert {(answer.fault, answer.rejected, answer.chunk, len(answer.targets)) for answer in lost} == {
        (f"no task knows the instruction 'dance'; this policy was trained on: {TASK}", "", None, 0)
    }


def test_an_instruction_is_followed_from_when_it_was_given(tmp_path: Path) -> None:
    said = [*seconds(0, 3), *told(), text(START + SECOND, ""), text(START + 2 * SECOND, TASK)]
    events = fly(write(tmp_path / "bag", said))
    began_ms = [after_ms(answer.took_over_ns) - 100 for answer in of(Answer, events)]
    assert not [at_ms for at_ms in began_ms if 1020 < at_ms < 2000]
    assert [at_ms for at_ms in began_ms if at_ms >= 2000]
    [held] = of(Held, events)
    assert after_ms(held.stamp_ns) == 1000
    dropped = [answer for answer in of(Answer, events) if answer.command is None]
    assert [answer.fault for answer in dropped] == [
        "dropped: the task changed meanwhile, the arm was held, or time jumped"
    ]


def test_a_bag_without_an_instruction_is_given_one(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*seconds(0, 1), *told("")])
    events = fly(bag)
    assert not of(Answer, events)
    assert {look.blocking for look in of(Look, events)[1:]} == {("instruction: none given",)}
    assert of(Answer, fly(bag, instruction=TASK))


def test_inputs_that_stop_block_and_are_told(tmp_path: Path) -> None:
    said = [*seconds(0, 1), *seconds(1, 2, images=False), *seconds(2, 3), *told()]
    events = fly(write(tmp_path / "bag", said))
    blocked = [after_ms(look.stamp_ns) for look in of(Look, events) if look.blocking]
    assert blocked == [*range(1260, 2000, 20)]
    seen_ms = [after_ms(answer.observation.stamp_ns) for answer in of(Answer, events)]
    assert not [at_ms for at_ms in seen_ms if 950 < at_ms < 2000]
    assert seen_ms[-1] > 2000


def test_a_long_silence_is_no_more_than_a_short_one(tmp_path: Path) -> None:
    hour = 3600
    short = fly(write(tmp_path / "short", [*seconds(0, 1), *seconds(5, 6), *told()]))
    long = fly(write(tmp_path / "long", [*seconds(0, 1), *seconds(hour, hour + 1), *told()]))
    assert len(of(Look, short)) == len(of(Look, long)) < 210
    assert len(of(Answer, long)) == len(of(Answer, short)) > 6
    assert not of(Look, long)[-1].blocking


def test_a_clock_that_runs_back_is_followed(tmp_path: Path) -> None:
    early = [(arrived_ns + 11 * SECOND, *rest) for arrived_ns, *rest in seconds(0, 1)]
    events = fly(write(tmp_path / "bag", [*told(), *seconds(10, 11), *early]))
    stamps_ms = [after_ms(look.stamp_ns) for look in of(Look, events)]
    assert stamps_ms == [*range(10_000, 10_990, 20), *range(0, 990, 20)]
    assert min(after_ms(answer.observation.stamp_ns) for answer in of(Answer, events)) < 1000


def test_a_bag_without_a_journal_cannot_be_repeated(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*seconds(0, 1), *told()])
    expected = (
        f"bag {str(bag)!r} has no journal of the pilot on /pilot/journal; expected one for recorded latencies: give a "
        "time with --latency, or --latency measured"
    )
    with pytest.raises(NoJournalError) as raised:
        fly(bag, latency=RECORDED)
    assert str(raised.value) == expected
