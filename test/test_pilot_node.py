"""Node `pilot` over DDS, against a robot in the test's process: what it commands, says, refuses and withstands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from node_bench import (
    DOMAIN_ID,
    FAILURE,
    PATIENCE_S,
    SUCCESS,
    TASK,
    Bench,
    Robot,
    at_rest_at_the_end,
    initialised,
    robot_file,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, Float64, String

from vlaq_ros.config import PilotConfig
from vlaq_ros.errors import NoDescriptionError, VlaqError
from vlaq_ros.quant.kernels import select
from vlaq_ros.ros import parameters, pilot_node
from vlaq_ros.ros.pilot_node import PilotNode
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Initialises ROS with the given parameters of the pilot."""
    yield from initialised(monkeypatch)


@pytest.fixture
def bench(ros: Callable[..., None], tiny_bundle: Path) -> Iterator[Bench]:
    ros(model=str(tiny_bundle), replan_period_s=0.2, enabled=True)
    made = Bench(Robot(panda.urdf()))
    yield made
    made.close()


def test_a_command_is_a_whole_chunk_that_ends_at_rest(bench: Bench) -> None:
    bench.flying()
    bench.wait(lambda: len(bench.robot.commands) >= 3, "three commands")
    for command in bench.robot.commands:
        assert command.joint_names == panda.JOINT_NAMES
        assert at_rest_at_the_end(command)
        assert np.isfinite(command.positions).all()
        assert command.times_ns[-1] > 0.8e9, "16 steps of 50 ms and a brake"
    stamps_ns = [command.stamp_ns for command in bench.robot.commands]
    assert (np.diff(stamps_ns) >= 0).all(), "stamped with the observation"
    assert 0 <= bench.robot.get_clock().now().nanoseconds - stamps_ns[-1] < 5e9


def test_what_the_pilot_says_of_itself(bench: Bench) -> None:
    motion = ("sensitivity", "motion_fineness", "angular_jerk", "image_age_ms", "joint_age_ms", "late_ms")
    counted = ("latency_ms/p50", "latency_ms/p95", "deadline_misses", "rejected", "violations/velocity")
    names = (*motion, *counted, "precision_index", "inference_ms", "precision_share/fine", "precision_share/coarse")
    heard = {name: bench.robot.listen(Float64, name) for name in names}
    enabled = bench.robot.listen(Bool, "enabled", LATCHED)
    stopped = bench.robot.listen(String, "stopped", LATCHED)
    bench.flying()
    bench.wait(lambda: all(np.isfinite(values).any() for values in heard.values()), "every scalar")
    assert enabled[-1:] == [True]
    assert stopped[-1:] == [""]
    assert 0 < heard["latency_ms/p50"][-1] <= heard["latency_ms/p95"][-1]
    shares = [heard[f"precision_share/{name}"] for name in ("fine", "coarse")]
    bench.wait(lambda: sum(share[-1] for share in shares) == pytest.approx(1.0), "the share of each")
    assert heard["deadline_misses"][-1] % 1 == 0
    late = {name: bench.robot.listen(Float64, f"bytes_over_bf16/{name}", LATCHED) for name in ("linears", "all")}
    bench.wait(lambda: all(late.values()), "the latched bytes")
    assert bench.robot.precisions[0] == "fine", "the first look is the finest"
    assert heard["precision_index"][0] == 0
    assert min(heard["inference_ms"]) > 0
    assert 0 < late["linears"][0] < late["all"][0]
    assert min(filter(np.isfinite, heard["sensitivity"])) >= 0
    bench.wait_for_health("policy", DiagnosticStatus.OK, r"(fine|coarse): S = \d\.\d\d asks for (fine|coarse).*")
    bench.wait_for_health("state", DiagnosticStatus.OK, "active")
    for component in ("cameras", "joint states", "instruction"):
        bench.wait_for_health(component, DiagnosticStatus.OK, "fresh")
    for component, said in (("controller", "follows"), ("safety gate", "open"), ("topics", "heard")):
        bench.wait_for_health(component, DiagnosticStatus.OK, said)
    machine = bench.wait_for_health("machine", DiagnosticStatus.OK)
    assert next(item.value for item in machine.values if item.key == "memory of the process").endswith(" MiB")


def test_the_page_names_every_topic_and_service_that_the_node_has(bench: Bench) -> None:
    page = set(re.findall(r"`~(/[a-z0-9_/]+)`", (Path(__file__).parents[1] / "docs/node.md").read_text()))
    node = bench.pilot()
    assert node.trigger_configure() == SUCCESS
    topics = [item.topic_name for item in (*node.publishers, *node.subscriptions)]
    named = {*topics, *(service.service_name for service in node.services)}
    own = {name.removeprefix("/pilot") for name in named if name.startswith("/pilot/")}
    standard = re.compile(r"/(transition_event|.*_states?|.*_transitions|.*_graph|.*parameter.*|get_type_description)")
    assert page == {name for name in own if not standard.fullmatch(name) and "share" not in name}


def test_a_camera_that_stops_stops_commands_until_it_is_back(bench: Bench) -> None:
    bench.flying()
    bench.robot.cameras_on["wrist"] = False
    bench.wait_for_health("cameras", DiagnosticStatus.WARN, r"camera wrist: \d+\.\d\d s old, allowed 0\.30 s")
    bench.wait_for_silence()
    count = len(bench.robot.commands)
    bench.robot.cameras_on["wrist"] = True
    bench.wait(lambda: len(bench.robot.commands) > count, "commands again")
    bench.wait_for_health("cameras", DiagnosticStatus.OK, "fresh")


def test_joint_states_that_stop_stop_commands_and_ask_for_the_finest(bench: Bench) -> None:
    sensitivity = bench.robot.listen(Float64, "sensitivity")
    bench.flying()
    bench.wait(lambda: np.isfinite(sensitivity[-1:]).all() and sensitivity, "a known motion")
    bench.robot.joints_on = False
    bench.wait_for_health("joint states", DiagnosticStatus.WARN, r"joint states: \d+\.\d\d s old, allowed 0\.20 s")
    bench.wait(lambda: np.isnan(sensitivity[-1]), "an unknown motion")
    bench.wait_for_silence()
    count = len(bench.robot.commands)
    bench.robot.joints_on = True
    bench.wait(lambda: len(bench.robot.commands) > count, "commands again")


def test_an_instruction_that_no_task_knows_holds_the_arm(bench: Bench) -> None:
    bench.flying()
    bench.robot.say("dance")
    unknown = "no task knows the instruction 'dance'; this policy was trained on: pick up the red cube; .*"
    bench.wait_for_health("policy", DiagnosticStatus.ERROR, unknown)
    bench.wait_for_silence()
    chunk, hold = bench.robot.commands[-2:]
    assert chunk.times_ns[-1] > 0.8e9 > hold.times_ns[-1], "held once, by a brake"
    assert at_rest_at_the_end(hold)
    count = len(bench.robot.commands)
    bench.robot.say("put the blue cube in the bin")
    bench.wait(lambda: len(bench.robot.commands) > count, "commands again")
    bench.wait_for_health("policy", DiagnosticStatus.OK)


def test_deactivating_holds_and_activating_goes_on(bench: Bench) -> None:
    node = bench.flying()
    assert node.trigger_deactivate() == SUCCESS
    bench.wait_for_silence()
    chunk, hold = bench.robot.commands[-2:]
    assert chunk.times_ns[-1] > 0.8e9 > hold.times_ns[-1]
    count = len(bench.robot.commands)
    bench.wait_for_health("state", DiagnosticStatus.OK, "inactive")
    assert node.trigger_activate() == SUCCESS
    bench.wait(lambda: len(bench.robot.commands) > count, "commands again")


def test_cleaning_up_frees_and_configuring_works_again(bench: Bench) -> None:
    node = bench.flying()
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert not [info for info in node.subscriptions if "image_raw" in info.topic_name]
    bench.wait_for_health("state", DiagnosticStatus.OK, "unconfigured")
    count = len(bench.robot.commands)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    bench.wait(lambda: len(bench.robot.commands) > count, "commands again")


def test_precision_is_a_live_parameter(bench: Bench) -> None:
    node = bench.flying()
    precision = bench.robot.precisions
    for name in ("coarse", "fine"):
        [result] = node.set_parameters([Parameter("precision", value=name)])
        assert result.successful
        precision.clear()
        bench.wait(lambda expected=name: precision[-3:] == [expected] * 3, f"{name} alone")
    [refused] = node.set_parameters([Parameter("precision", value="medium")])
    assert refused.reason == "unknown precision 'medium'; this policy has: auto, fine, coarse"
    assert node.get_parameter("precision").value == "fine"
    [fixed] = node.set_parameters([Parameter("dwell_s", value=1.0)])
    assert not fixed.successful


def test_a_precision_is_requested_by_a_latched_topic_before_or_after_the_start(bench: Bench) -> None:
    request = bench.robot.create_publisher(String, "/pilot/precision_request", LATCHED)
    request.publish(String(data="coarse"))
    node = bench.flying()
    precision = bench.robot.precisions
    bench.wait(lambda: precision[-3:] == ["coarse"] * 3, "coarse alone")
    request.publish(String(data="medium"))
    request.publish(String(data="fine"))
    bench.wait(lambda: precision[-3:] == ["fine"] * 3, "fine alone")
    assert node.get_parameter("precision").value == "fine", "a request and the parameter are one"


def test_the_model_changes_while_unconfigured_alone(bench: Bench, tiny_bundle: Path, tmp_path: Path) -> None:
    node = bench.pilot()
    [missing] = node.set_parameters([Parameter("model", value=str(tmp_path))])
    assert not missing.successful
    assert missing.reason.startswith(f"model directory '{tmp_path}' has no policy.json; ")
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    [changed] = node.set_parameters([Parameter("model", value=str(other))])
    assert changed.successful
    shutil.rmtree(other)
    assert node.trigger_configure() == FAILURE
    assert str(other) in str(node.fault), "it is the other one that is loaded"
    [back] = node.set_parameters([Parameter("model", value=str(tiny_bundle))])
    assert back.successful
    assert node.trigger_configure() == SUCCESS
    [late] = node.set_parameters([Parameter("model", value=str(tiny_bundle))])
    assert late.reason == "model cannot change while the node is configured; clean it up first"


def test_a_model_that_does_not_fit_into_memory_is_told_in_one_sentence(
    bench: Bench, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(directory: Path) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr(pilot_node.Engine, "load", load)
    assert str(configured(bench)) == (
        f"model directory '{tiny_bundle}' does not fit into memory (CUDA out of memory. Tried to allocate 2 GiB); "
        "free memory, or take a bundle that was made under a smaller budget"
    )
    bench.wait_for_health("state", DiagnosticStatus.ERROR, "model directory .* does not fit into memory .*")
    monkeypatch.undo()
    [node] = bench._pilots
    assert node.trigger_configure() == SUCCESS, "a failure leaves a clean state"
    bench.wait_for_health("state", DiagnosticStatus.OK, "inactive")


def test_parameters_describe_themselves(bench: Bench) -> None:
    node = bench.pilot()
    dwell = node.describe_parameter("dwell_s")
    assert dwell.read_only
    assert dwell.description == "A coarser precision must be asked for this long before it is taken. [s]"
    assert (dwell.floating_point_range[0].from_value, dwell.floating_point_range[0].to_value) == (0.0, 5.0)
    assert not node.describe_parameter("precision").read_only
    threads = node.describe_parameter("threads").integer_range[0]
    assert (threads.from_value, threads.to_value, threads.step) == (1, 64, 1)
    assert node.describe_parameter("seam").additional_constraints == "one of guided, blended, naive"
    assert not node.describe_parameter("model").read_only, "while the node is unconfigured"


def test_the_shipped_parameter_file_loads_through_rcl(ros: Callable[..., None]) -> None:
    path = pilot_node.resolve("pilot", "config", ".yaml")
    rclpy.init(args=["--ros-args", "--params-file", str(path)], domain_id=DOMAIN_ID)
    node = Node("pilot")
    assert parameters.declare(node, PilotConfig) == PilotConfig()
    node.destroy_node()


def configured(bench: Bench) -> VlaqError:
    """Configure a pilot that cannot be, and give the reason."""
    node = bench.pilot()
    assert node.trigger_configure() == FAILURE
    assert node.fault is not None
    assert node.trigger_activate() != SUCCESS
    return node.fault


def corrupt(bundle: Path, folder: Path) -> str:
    copy = folder / "corrupt"
    shutil.copytree(bundle, copy)
    weights = copy / "model-00001.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(copy)


@pytest.mark.parametrize(
    "case",
    ["missing", "checkpoint", "corrupt", "precision", "thresholds", "robot joints", "cameras", "urdf joints", "frame"],
)
def test_what_refuses_to_configure(ros: Callable[..., None], tiny_bundle: Path, tmp_path: Path, case: str) -> None:
    given: dict[str, object] = {"model": str(tiny_bundle), "description_timeout_s": PATIENCE_S}
    urdf = panda.urdf()
    if case == "missing":
        given["model"] = str(tmp_path)
        text = f"model directory '{tmp_path}' has no policy.json; "
    elif case == "checkpoint":
        given["model"] = "tabletop_pi0"
        text = f"model directory '{pilot_node.resolve('tabletop_pi0', 'models')}' is a checkpoint, expected a bundle; "
    elif case == "corrupt":
        given["model"] = corrupt(tiny_bundle, tmp_path)
        text = f"model file '{given['model']}/model-00001.safetensors' cannot be used: "
    elif case == "precision":
        given["precision"] = "medium"
        text = "unknown precision 'medium'; this policy has: auto, fine, coarse"
    elif case == "thresholds":
        given["thresholds"] = "fine=0.2,coarse=0.3"
        text = "thresholds in the pilot's parameters is 'fine=0.2,coarse=0.3'; expected a falling number for each of "
    elif case == "robot joints":
        names = [f"arm{i}" for i in range(1, 8)]
        given["robot"] = robot_file(tmp_path, arm_joints=names)
        text = "the robot file has no joint named panda_joint1, "
    elif case == "cameras":
        given["robot"] = robot_file(tmp_path, cameras={"side": {"topic": "image", "rate_hz": 20.0}})
        text = "the observation has no camera named front, wrist; it has: side; "
    elif case == "urdf joints":
        urdf = urdf.replace("panda_joint3", "elbow")
        text = "the robot description has no joint named panda_joint3; it has: panda_joint1, "
    else:
        given["robot"] = robot_file(tmp_path, tool_frame="hook")
        text = "the robot description has no frame named 'hook'; it has: "
    ros(**given)
    made = Bench(Robot(urdf))
    try:
        fault = configured(made)
    finally:
        made.close()
    assert str(fault).startswith(text)
    assert "\n" not in str(fault)


def test_a_robot_that_does_not_describe_itself(ros: Callable[..., None], tiny_bundle: Path) -> None:
    ros(model=str(tiny_bundle), description_timeout_s=0.3)
    node = PilotNode(threading.Event())
    assert node.trigger_configure() == FAILURE
    assert isinstance(node.fault, NoDescriptionError)
    assert str(node.fault).startswith("no robot description came on /robot_description for 0.3 s; ")
    node.destroy_node()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["-x"], "pilot: the ROS arguments cannot be used: ['-x']"),
        (["--params-file", "none.yaml"], "pilot: the ROS arguments cannot be used: failed to initialize rcl: "),
        (
            ["-p", "replan_periods:=0.3"],
            "pilot: unknown key 'replan_periods' in the parameters of pilot; known keys: model, ",
        ),
        (["-p", "dwell_s:=-1.0"], "pilot: dwell_s in the parameters of pilot is -1.0; expected a number from 0 to 5 s"),
        (
            ["-p", "threads:=two"],
            "pilot: threads in the parameters of pilot is 'two'; expected a whole number from 1 to 64",
        ),
        (["-p", "robot:=/nowhere.yaml"], "pilot: robot file '/nowhere.yaml' does not exist; "),
    ],
)
def test_the_process_refuses_wrong_arguments_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, given: list[str], text: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    monkeypatch.setattr(sys, "argv", ["pilot", "--ros-args", *given])
    with pytest.raises(SystemExit) as ended, handlers_restored():
        pilot_node.main()
    assert str(ended.value).startswith(text)


def test_the_process_ends_with_one_sentence_where_it_cannot_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    monkeypatch.setattr(sys, "argv", ["pilot", "--ros-args", "-p", f"model:={tmp_path}", "-p", "autostart:=true"])
    with pytest.raises(SystemExit) as ended, handlers_restored():
        pilot_node.main()
    assert ended.value.code == 1
    [line] = capfd.readouterr().err.splitlines()
    assert f"model directory '{tmp_path}' has no policy.json; " in line


def test_the_process_waits_for_the_robot_and_holds_it_when_it_is_terminated(
    ros: Callable[..., None], tiny_bundle: Path, tmp_path: Path
) -> None:
    ros()
    given = {"autostart": "true", "enabled": "true", "model": tiny_bundle, "replan_period_s": 0.2}
    given |= {"description_timeout_s": 0.5}
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "vlaq_ros.ros.pilot_node", "--ros-args", *words]
    environment = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    made = Bench(Robot(urdf=""))
    with log.open("w") as output, subprocess.Popen(command, env=environment, stderr=output) as process:
        try:
            made.wait(
                lambda: "no robot description came on /robot_description for 0.5 s" in log.read_text(), "it waits"
            )
            made.robot.describe(panda.urdf())
            made.robot.say(TASK)
            made.wait(lambda: len(made.robot.commands) >= 2, "two commands")
            process.terminate()
            made.wait(lambda: process.poll() is not None, "the process ends")
            made.wait_for_silence()
        finally:
            process.kill()
            made.close()
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert f"kernel {select.chosen(torch.device('cpu')).name}: " in log.read_text()
    hold = made.robot.commands[-1]
    assert hold.times_ns[-1] < 0.8e9
    assert at_rest_at_the_end(hold)


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Give the test process its signal handlers back, which main() takes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
