"""`vlaq trial` as a process, with the simulated robot and a real pilot: begun, interrupted, ended, reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from rosbags.highlevel import AnyReader
from sources import ROOT

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.cli.main import main
from vlaq_ros.config import RobotConfig
from vlaq_ros.evaluate.trial import TrialPlan
from vlaq_ros.evaluate.trial_log import read
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.engine import Engine
from vlaq_ros.replay.journal import session
from vlaq_ros.replay.parity import Parity
from vlaq_ros.replay.replay import RECORDED, replay
from vlaq_ros.ros.trial import INTERRUPTED

PROGRAM = "import sys; from vlaq_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def repeated(bag: Path, model: Path) -> Parity:
    """The bag, flown again as its journal says."""
    robot, policy = RobotConfig.load("sim_panda"), Engine.load(model)
    topics, joints = Topics.of(robot, policy.spec.cameras), JointMap(robot, policy.spec.joint_names)
    reference, told = Reference.read(bag, topics, joints), session(bag, topics)
    assert told is not None
    parity, threads = Parity(bag, reference, topics), torch.get_num_threads()
    torch.set_num_threads(told.config().threads)
    for event in replay(
        bag, policy, reference, topics, joints, robot=robot, config=told.config(), shadows={}, latency=RECORDED
    ):
        parity.take(event)
    torch.set_num_threads(threads)
    return parity


def test_a_plan_is_interrupted_and_goes_on(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = yaml.safe_load((ROOT / "config/trials/sim.yaml").read_text())
    conditions = {name: {"precision": name, "model": str(tiny_bundle)} for name in ("fine", "coarse")}
    changes = {"conditions": conditions, "instructions": ["pick up the red cube"], "trials": 1, "time_limit_s": 2.0}
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(shipped | changes))
    arguments = ["trial", str(file), "--out", str(out)]
    record = out / "trials.jsonl"

    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 200.0
    while not (record.exists() and record.read_text().count("\n") == 2):  # its head and the first trial
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    nodes = children(first.pid)
    first.send_signal(signal.SIGINT)
    printed, errors = first.communicate(timeout=60.0)
    assert (first.returncode, errors) == (130, "")
    assert len(nodes) == 2
    assert [node for node in nodes if Path(f"/proc/{node}").exists()] == []
    plan = TrialPlan.load(str(file))
    done, interrupted = read(out, plan)
    assert (done.number, done.abort, interrupted.number, interrupted.abort) == (0, "", 1, INTERRUPTED)
    assert json.loads(printed.splitlines()[-1])["missing"] == 1

    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["trials"], said["missing"], said["aborted"]) == (2, 0, 1)
    assert {name: facts["precision_share"] for name, facts in said["conditions"].items()} == {
        "fine": {"fine": 1.0},
        "coarse": {"coarse": 1.0},
    }
    assert [pair["n"] for pair in said["pairs"]] == [1]
    records = read(out, plan)
    assert records[:2] == (done, interrupted)
    assert records[2].number == 1
    for entry in (done, records[2]):
        with AnyReader([out / entry.bag]) as bag:
            topics = {connection.topic for connection, _, _ in bag.messages()}
        assert {"/camera/front/image_raw", "/arm_controller/joint_trajectory", "/pilot/precision", "/clock"} <= topics
        parity = repeated(out / entry.bag, tiny_bundle)
        assert (parity.commands >= sum(entry.chunks.values()) > 0, parity.unmatched) == (True, 0)
        assert parity.largest <= 1e-6
    assert (out / "report/success.svg").read_text().startswith("<?xml")

    before = record.read_bytes()
    assert main([*arguments, "--report"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == said
    assert record.read_bytes() == before


def test_nothing_starts_without_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trial", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"vlaq trial: trial plan '{tmp_path / 'none.yaml'}' does not exist;")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["trial", "sim", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"vlaq trial: '{tmp_path / 'file'}' cannot be written ([Errno 17]")


def test_nothing_is_reported_that_was_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trial", "sim", "--out", str(tmp_path / "out"), "--report"]) == 2
    assert capsys.readouterr().err.startswith(f"vlaq trial: '{tmp_path / 'out'}' holds no trials;")
