"""A bag written by hand is read, counted and drawn; the expected numbers are counted by hand as well."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bag_writer import SECOND, Entry, image, joint_state
from bag_writer import write as write_late
from matplotlib.image import imread

from vlaq_ros.bags import recording as topics
from vlaq_ros.bags.recording import Chunk, EmptyRecordingError, Episode, read, summary
from vlaq_ros.config import RobotConfig
from vlaq_ros.evaluate.report import contact_sheet, timeline
from vlaq_ros.policy.manifest import PrecisionPlan

ROBOT = RobotConfig.load("sim_panda")
PLANS = (PrecisionPlan("fine", 8, 10, 0.45), PrecisionPlan("coarse", 8, 10, 0.0))


def signal(topic: str, msgtype: str, *entries: tuple[float, object]) -> Iterator[Entry]:
    for seconds, value in entries:
        yield int(seconds * SECOND), topic, f"std_msgs/msg/{msgtype}", {"data": value}


write = partial(write_late, delay_ns=0)


def grey(seconds: float, value: int) -> Entry:
    return image(int(seconds * SECOND), "/camera/front/image_raw", np.full((8, 8, 3), value, np.uint8))


def joints(seconds: float, gripper_m: float) -> Entry:
    return joint_state(int(seconds * SECOND), ROBOT.joint_names, [0.0] * 7 + [gripper_m])


def demo() -> list[Entry]:
    """Two episodes of four seconds: a success that switches once, and a failure that stays fine."""
    return [
        *signal(topics.SEED, "Int64", (1.0, 7), (5.0, 8)),
        *signal(topics.INSTRUCTION, "String", (0.9, ""), (1.5, "pick up the red cube"), (4.9, "")),
        *signal(topics.INSTRUCTION, "String", (5.5, "put the blue cube in the bin")),
        *signal(topics.SUCCESS, "Bool", (1.2, False), (4.6, True), (5.2, False)),
        *signal(topics.REAL_TIME_FACTOR, "Float64", (2.0, 1.0), (6.0, 0.9)),
        *signal(topics.PRECISION, "String", (1.8, "fine"), (2.8, "coarse"), (5.8, "fine")),
        *signal(topics.SENSITIVITY, "Float64", *((1 + 0.1 * k, 0.01 * k) for k in range(80))),
        *signal(topics.INFERENCE_MS, "Float64", (1.9, 10.0), (2.9, 4.0), (3.9, 6.0), (5.3, 99.0), (5.9, 20.0)),
        *signal(topics.BYTES_OVER_BF16["linears"], "Float64", (0.5, 0.51)),
        *signal(topics.BYTES_OVER_BF16["all"], "Float64", (0.5, 0.75)),
        *(grey(1 + 0.5 * k, 10 * k) for k in range(17)),
        *(joints(1 + 0.01 * k, 0.04) for k in range(800)),
    ]


def test_episodes_run_from_instruction_to_instruction(tmp_path: Path) -> None:
    recording = read(write(tmp_path / "bag", demo()), ROBOT, "front")
    assert recording.episodes == (
        Episode(7, "pick up the red cube", int(1.5 * SECOND), int(4.9 * SECOND), success=True),
        Episode(8, "put the blue cube in the bin", int(5.5 * SECOND), 9 * SECOND + 1, success=False),
    )
    assert recording.chunks[1] == Chunk(int(2.9 * SECOND), "coarse", 4.0)
    assert recording.images.at(2 * SECOND).shape == (8, 8, 3)
    assert np.unique(recording.images.at(2 * SECOND)).tolist() == [20]
    assert recording.gripper.values == pytest.approx(0.04)


def test_the_summary_counts_what_happened_within_episodes(tmp_path: Path) -> None:
    assert summary(read(write(tmp_path / "bag", demo()), ROBOT, "front")) == {
        "episodes": 2,
        "successes": 1,
        "precision_share": {"coarse": 0.5, "fine": 0.5},  # the inference between the episodes is no chunk of either
        "switches": 1,
        "chunk_ms": {"coarse": {"p50": 5.0, "p95": 5.9}, "fine": {"p50": 15.0, "p95": 19.5}},
        "real_time_factor": 0.95,
        "bytes_over_bf16": {"linears": 0.51, "all": 0.75},
    }


@pytest.mark.parametrize("topic", [topics.SUCCESS, topics.INFERENCE_MS, "/camera/front/image_raw"])
def test_a_bag_without_a_needed_topic_is_refused(tmp_path: Path, topic: str) -> None:
    bag = write(tmp_path / "bag", [message for message in demo() if message[1] != topic])
    with pytest.raises(EmptyRecordingError) as refusal:
        read(bag, ROBOT, "front")
    assert str(refusal.value) == f"bag '{bag}' has no message on {topic}; expected a bag that `vlaq demo` finished"


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    pixels = (picture[..., :3] * 255).round()
    return float(np.mean(np.abs(pixels - colour).max(axis=-1) <= 2))


def test_both_figures_show_both_precisions(tmp_path: Path) -> None:
    recording = read(write(tmp_path / "bag", demo()), ROBOT, "front")
    timeline(recording, PLANS, tmp_path / "timeline.png")
    contact_sheet(recording, PLANS, tmp_path / "contact_sheet.png")
    drawn = imread(tmp_path / "timeline.png")
    for colour in ((0, 114, 178), (230, 159, 0)):
        shaded = tuple(round(255 + 0.35 * (channel - 255)) for channel in colour)
        assert share_of(drawn, shaded) > 0.05
    sheet = imread(tmp_path / "contact_sheet.png")
    assert share_of(sheet, (0, 114, 178)) > share_of(sheet, (230, 159, 0)) > 0.01  # more frames under fine


def test_a_frame_is_tinted_by_the_precision_in_force_at_its_stamp(tmp_path: Path) -> None:
    """Black frames leave nothing but the tint."""
    dark = [grey(m[0] / SECOND, 0) if m[1] == "/camera/front/image_raw" else m for m in demo()]
    all_fine = [m for m in dark if m[1] != topics.PRECISION]
    all_fine += signal(topics.PRECISION, "String", (1.0, "fine"))
    recording = read(write(tmp_path / "bag", all_fine), ROBOT, "front")
    contact_sheet(recording, PLANS, tmp_path / "sheet.png")
    sheet = imread(tmp_path / "sheet.png")
    assert share_of(sheet, (0, 25, 39)) > 0.3
    assert share_of(sheet, (50, 34, 0)) == 0.0
