"""Both nodes as real processes over DDS, with a policy of random weights: what flows, what is left, what survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from matplotlib.image import imread
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.cli.main import main
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import NotQuantizedError
from vlaq_ros.ros import domain
from vlaq_ros.ros.demo import ForeignFilesError, demo
from vlaq_ros.ros.episodes import EpisodeClient
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.station import Station
from vlaq_ros.sim.robot import SimRobot

DOMAIN = domain.claim()


def read(bag: Path) -> dict[str, list[tuple[int, Any]]]:
    """Everything in a bag, by topic."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([bag]) as reader:
        for connection, stamp_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((stamp_ns, message))
    return found


def test_one_episode_through_two_processes(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(tiny_bundle), "--out", str(tmp_path), "--episodes", "1", "--domain-id", str(DOMAIN)]
    assert main(["demo", *arguments]) == 0

    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report) == [
        "episodes",
        "successes",
        "precision_share",
        "switches",
        "chunk_ms",
        "real_time_factor",
        "bytes_over_bf16",
        "artifacts",
    ]
    assert report["episodes"] == 1
    assert sum(report["precision_share"].values()) == pytest.approx(1.0, abs=0.01)
    assert set(report["chunk_ms"]) == set(report["precision_share"]) <= {"fine", "coarse"}
    assert all(0 < times["p50"] <= times["p95"] for times in report["chunk_ms"].values())
    assert 0 < report["real_time_factor"] < 1.2
    assert set(report["bytes_over_bf16"]) == {"linears", "all"}
    assert report["artifacts"] == [str(tmp_path / name) for name in ("bag", "timeline.png", "contact_sheet.png")]
    assert imread(tmp_path / "contact_sheet.png").shape[1] == 1400
    assert imread(tmp_path / "timeline.png").shape[1] == 1540

    bag = read(tmp_path / "bag")
    chunks = [messages.trajectory(message) for _, message in bag["/arm_controller/joint_trajectory"]]
    assert len(chunks) >= 5
    for chunk in chunks:
        assert chunk.joint_names == SimRobot.joint_names
        assert chunk.stamp_ns > 0
        assert chunk.velocities is not None
        np.testing.assert_array_equal(chunk.velocities[-1], 0.0)  # silence is safe
    assert len(bag["/pilot/inference_ms"]) == len(bag["/pilot/precision"])
    joints = np.array([messages.joint_state(message, SimRobot.joint_names)[0] for _, message in bag["/joint_states"]])
    assert np.ptp(joints, axis=0).max() > 0.1  # the arm moved
    assert {"/camera/front/image_raw", "/camera/wrist/image_raw", "/robot_description", "/diagnostics"} <= set(bag)


class KilledError(Exception):
    """Leaves a running episode."""


class Onlooker(Station):
    """A client with both nodes, whose every tick sees the arm."""

    def __init__(self, model: Path, logs: Path) -> None:
        super().__init__("onlooker", domain_id=DOMAIN)
        self.model, self.logs = model, logs
        self.commands: list[Trajectory] = []
        self.joints: list[tuple[FloatArray, FloatArray]] = []
        self.on_tick: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        super().__enter__()
        self.node.create_subscription(
            JointTrajectory,
            "/arm_controller/joint_trajectory",
            lambda message: self.commands.append(messages.trajectory(message)),
            10,
        )
        self.node.create_subscription(
            JointState,
            "/joint_states",
            lambda message: self.joints.append(messages.joint_state(message, SimRobot.joint_names)),
            10,
        )
        self.client = EpisodeClient(self)
        return self

    def process(self, name: str, **parameters: str) -> NodeProcess:
        environment = {"ROS_DOMAIN_ID": str(DOMAIN)}
        return NodeProcess(f"vlaq_ros.ros.{name}_node", parameters, environment, self.logs / f"{name}.log")

    def pilot(self) -> NodeProcess:
        return self.process("pilot", model=str(self.model), autostart="true", enabled="true")

    def tick(self) -> None:
        super().tick()
        self.on_tick()

    def expect(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        assert self.wait(condition, seconds), f"not within {seconds} s: {what}"

    def speed(self) -> float:
        """Of the fastest joint, rad/s."""
        return float(np.abs(self.joints[-1][1]).max()) if self.joints else 0.0


@pytest.fixture
def onlooker(tiny_bundle: Path, tmp_path: Path) -> Iterator[Onlooker]:
    with Onlooker(tiny_bundle, tmp_path) as onlooker:
        yield onlooker


def test_a_killed_pilot_leaves_the_arm_at_rest_and_a_new_one_goes_on(onlooker: Onlooker) -> None:
    with onlooker.process("sim_robot"), onlooker.pilot() as pilot:

        def kill_while_moving() -> None:
            if onlooker.client.status.instruction and onlooker.commands and onlooker.speed() > 0.05:
                os.kill(pilot.pid, signal.SIGKILL)
                raise KilledError

        onlooker.client.wait_until_ready()
        onlooker.on_tick = kill_while_moving
        with pytest.raises(KilledError):
            onlooker.client.run(900_000, "pick up the red cube")
        onlooker.on_tick = lambda: None
        assert pilot.stop() == -signal.SIGKILL

        onlooker.expect(lambda: onlooker.speed() < 0.01, 15.0, "the arm comes to rest")
        onlooker.joints.clear()
        onlooker.expect(lambda: len(onlooker.joints) > 60, 15.0, "joint states go on")
        rest = np.array([positions for positions, _ in onlooker.joints])
        assert np.ptp(rest, axis=0).max() < 0.01
        # It is where the last command ends, which is a brake: nothing was cut off and nothing made up.
        np.testing.assert_allclose(rest[-1][:-1], onlooker.commands[-1].positions[-1][:-1], atol=0.03)

        onlooker.commands.clear()
        with onlooker.pilot():
            onlooker.client.wait_until_ready()
            onlooker.expect(lambda: len(onlooker.commands) > 2, 20.0, "the new pilot commands")
            onlooker.expect(lambda: onlooker.speed() > 0.05, 20.0, "the arm moves again")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ctrl_c_ends_both_processes_and_closes_the_bag(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["demo", "--model", str(tiny_bundle), "--out", str(tmp_path), "--domain-id", str(DOMAIN)]
    code = "import sys; from vlaq_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"
    demo = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "pilot.log"
    deadline = time.monotonic() + 120.0
    while not (log.exists() and "bytes over bf16" in log.read_text()):
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nodes = children(demo.pid)
    assert len(nodes) == 2
    demo.send_signal(signal.SIGINT)
    time.sleep(0.1)
    demo.send_signal(signal.SIGINT)  # impatience must not cut the cleanup short
    _, errors = demo.communicate(timeout=60.0)
    assert demo.returncode == 130
    assert errors == b""
    assert [node for node in nodes if Path(f"/proc/{node}").exists()] == []
    assert {"/joint_states", "/camera/front/image_raw", "/robot_description"} <= set(read(tmp_path / "bag"))


def test_the_demo_starts_nothing_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"vlaq demo: model directory '{tmp_path / 'none'}' has no policy.json;")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_demo_starts_nothing_with_a_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--model", str(tiny_checkpoint), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"vlaq demo: {NotQuantizedError(tiny_checkpoint)}\n"
    assert not (tmp_path / "out").exists()


def test_only_what_a_recording_wrote_is_replaced(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    for name in ("bag.mcap", "metadata.yaml", "notes.txt"):
        (bag / name).write_text(name)
    with pytest.raises(ForeignFilesError) as refusal, demo(tmp_path, tmp_path, "auto", DOMAIN):
        pass
    assert str(refusal.value) == (f"directory '{bag}' holds files that no recording wrote (notes.txt); move them away")
    assert (bag / "notes.txt").read_text() == "notes.txt"
