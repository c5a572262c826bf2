"""`vlaq replay` of somebody else's recording: names, units, rates and topics are the robot file's business alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, compressed, joint_state, positions, text, trajectory, write
from ur5e import ARM, KNUCKLE, completed, urdf

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.suggestion import suggest
from vlaq_ros.bags.topics import Topics
from vlaq_ros.cli.main import main
from vlaq_ros.joints import JointMap
from vlaq_ros.policy import bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.quant import codes

TASK = "pick up the red cube"
SECONDS = 3
STOOD_DEG = np.array([10.0, -90.0, 95.0, -80.0, -90.0, 5.0])
WENT_DEG = STOOD_DEG + np.array([12.0, 6.0, -8.0, 4.0, 3.0, 30.0])
CLOSED_DEG = 30.0
TOLD_NS = START + SECOND // 2
GATE = ["--fail-if", "joint_error_p95_rad > 1"]  # a random policy moves by some tenths


def recording(bag: Path) -> Path:
    """Two seconds on the way, in degrees; joints in another order; cameras at 15 and 25 Hz, in JPEG."""
    names = [KNUCKLE, *reversed(ARM)]
    said: list[Entry] = [
        text(START, urdf(), "/ur/robot_description"),
        text(START, TASK, "/ur/instruction"),
        trajectory(TOLD_NS, "/ur/scaled/joint_trajectory", ARM, [0.01, 2.0], [STOOD_DEG, WENT_DEG], stamp_ns=TOLD_NS),
        positions(TOLD_NS, "/ur/gripper_controller/commands", [CLOSED_DEG]),
    ]
    for tick in range(125 * SECONDS):
        stamp_ns = START + tick * SECOND // 125
        share = np.clip((stamp_ns - TOLD_NS) / (2 * SECOND), 0.0, 1.0)
        arm_deg = STOOD_DEG + share * (WENT_DEG - STOOD_DEG)
        said.append(joint_state(stamp_ns, names, [share * CLOSED_DEG, *arm_deg[::-1]], "/ur/joint_states"))
    for topic, rate_hz in (("/ur/cam_front/color/image_raw", 15), ("/ur/wrist_camera/image_raw", 25)):
        for k in range(rate_hz * SECONDS):
            pixels = np.full((60, 80, 3), k % 256, np.uint8)
            said.append(compressed(START + k * SECOND // rate_hz, f"{topic}/compressed", pixels, "jpeg"))
    return write(bag, said)


@pytest.fixture(scope="module")
def ur5e_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy for six joints and a gripper."""
    checkpoint = tmp_path_factory.mktemp("models") / "ur5e"
    shutil.copytree(tiny_checkpoint, checkpoint)
    spec = PolicySpec.load(checkpoint)
    columns = [*range(6), 7]
    replace(
        spec,
        joint_names=(*ARM, KNUCKLE),
        state_mean=np.append(np.radians(STOOD_DEG), 0.3),
        state_std=np.full(7, 0.3),
        action_mean=spec.action_mean[:, columns],
        action_std=spec.action_std[:, columns],
    ).save(checkpoint)
    directory = checkpoint.with_name("ur5e_w8")
    plans = (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0))
    bundle.write(
        Checkpoint.open(checkpoint),
        directory,
        plans,
        lambda _, weight: codes.quantize(weight),
        embedding_bits=16,
        report=lambda _: None,
    )
    return directory


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("foreign") / "ur5e")


def test_a_foreign_bag_replays_with_the_file_that_it_proposes(
    bag: Path, ur5e_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--suggest", str(bag)]) == 0
    proposal = capsys.readouterr().out
    robot = completed(proposal, tmp_path / "ur5e.yaml")
    assert {camera.rate_hz for camera in robot.cameras.values()} == {15.0, 25.0}

    joints = JointMap(robot, (*ARM, KNUCKLE))
    reference = Reference.read(bag, Topics.of(robot, ("front", "wrist"), "ur"), joints)
    moments_ns = TOLD_NS + np.array([SECOND // 2, SECOND])
    shares = np.array([[0.25], [0.5]])
    expected = np.radians(STOOD_DEG + shares * (WENT_DEG - STOOD_DEG))
    np.testing.assert_allclose(reference.at(moments_ns)[:, :6], expected, atol=0.005)
    np.testing.assert_allclose(reference.at(moments_ns)[:, 6], np.radians(CLOSED_DEG))
    assert reference.source == "commands"

    out = tmp_path / "out"
    arguments = ["--model", str(ur5e_bundle), "--robot", str(tmp_path / "ur5e.yaml"), "--namespace", "ur"]
    assert main(["replay", str(bag), *arguments, *GATE, "--precision", "fine,coarse", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["source"] == "commands"
    assert report["n_answers"] > 3
    assert report["stale_s"] < 0.2
    assert set(report["precision_share"]) <= {"fine", "coarse"}
    assert (out / "report.html").stat().st_size > 10_000


def test_degrees_taken_for_radians_do_not_pass(
    bag: Path, ur5e_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot, out = tmp_path / "ur5e.yaml", tmp_path / "out"
    completed(suggest(bag).replace("{unit: deg}", "{}"), robot)
    arguments = ["--model", str(ur5e_bundle), "--robot", str(robot), "--namespace", "ur", "--out", str(out)]
    assert main(["replay", str(bag), *arguments, *GATE]) == 1
    assert f"{out / 'report.json'}: joint_error_p95_rad is " in capsys.readouterr().out
