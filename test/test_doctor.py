from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vlaq_ros.config import share
from vlaq_ros.doctor import accelerator, board, clock, interpreter, memory, processor, rendering, robot, ros, storage
from vlaq_ros.doctor.accelerator import Accelerator
from vlaq_ros.doctor.board import Board
from vlaq_ros.doctor.finding import Finding, Level
from vlaq_ros.doctor.kernel import judge
from vlaq_ros.quant.kernels.select import Kernel

MODEL = share() / "models/tabletop_pi0_calibrated"
ORIN = Board("NVIDIA Jetson AGX Orin Developer Kit", "R39, REVISION: 2.0")
ON_ORIN = Accelerator("2.10.0", "13.0", "Orin", "sm_87", ("sm_87", "sm_110"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(("version", "level"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "fail")])
def test_python_is_one_that_the_package_supports(version: tuple[int, int], level: str) -> None:
    assert interpreter.python(version).level == level


def test_every_package_that_is_missing_or_too_old_is_named() -> None:
    installed = {"numpy": "2.4.6", "transformers": "5.4.0"}
    required = ["numpy", "transformers>=5.5", "scipy", 'ray; extra == "ray"']
    found = interpreter.packages(required, installed.get)
    assert (found.level, found.found) == ("fail", "transformers is 5.4.0, not >=5.5; scipy is missing")
    assert interpreter.packages(required[:1], installed.get) == Finding(
        "packages", Level.OK, "all 1 that setup.py requires"
    )
    assert interpreter.packages(None, installed.get).level == "unknown"


def test_the_packages_of_this_environment_are_looked_up() -> None:
    assert interpreter.version_of("numpy")
    assert interpreter.version_of("no-such-package-anywhere") is None


def test_a_jetson_is_known_by_its_linux_or_by_its_device_tree(tmp_path: Path) -> None:
    release, model = tmp_path / "nv_tegra_release", tmp_path / "model"
    assert board.jetson(release, model) is None
    write(model, "Raspberry Pi 5\0")
    assert board.jetson(release, model) is None
    write(model, f"{ORIN.model}\0")
    assert board.jetson(release, model) == Board(ORIN.model, "")  # as in a container
    write(release, "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64\n# KERNEL\n")
    assert board.jetson(release, model) == ORIN
    assert board.board(ORIN).found == "NVIDIA Jetson AGX Orin Developer Kit, R39, REVISION: 2.0"
    assert board.board(None).found == "no Jetson"


@pytest.mark.parametrize(
    ("said", "level"),
    [("NV Power Mode: MAXN\n0\n", "ok"), ("NV Power Mode: MAXN_SUPER\n2\n", "ok"), ("NV Power Mode: 15W\n1\n", "warn")],
)
def test_a_jetson_runs_in_its_largest_power_mode(said: str, level: str) -> None:
    assert board.power_mode(ORIN, said).level == level
    assert board.power_mode(ORIN, None).level == "unknown"
    assert board.power_mode(None, None).level == "ok"


@pytest.mark.parametrize("on", [None, ORIN])
def test_torch_must_be_there(on: Board | None) -> None:
    assert accelerator.build(None, on).level == "fail"


def test_torch_without_cuda_fails_on_a_jetson_and_nowhere_else() -> None:
    plain = Accelerator("2.13.0+cpu")
    assert accelerator.build(plain, None).level == "ok"
    found = accelerator.build(plain, ORIN)
    assert found.level == "fail"
    assert found.found == ("torch 2.13.0+cpu, built without CUDA, sees no GPU: inference would silently run on the CPU")
    assert accelerator.build(Accelerator("2.13.0", "13.0"), ORIN).level == "fail"  # a driver that torch cannot use
    assert accelerator.build(ON_ORIN, ORIN).level == "ok"


def test_kernels_for_another_gpu_are_told_even_where_a_product_runs() -> None:
    assert accelerator.kernels(ON_ORIN, ORIN).level == "ok"
    assert accelerator.kernels(Accelerator("2.13.0+cpu"), None).level == "ok"
    server = Accelerator("2.14.0", "13.0", "Orin", "sm_87", ("sm_80", "sm_90"))
    found = accelerator.kernels(server, ORIN)
    assert (found.level, found.found) == ("warn", "compiled for sm_80, sm_90; a first product ran")
    assert accelerator.kernels(server, None).level == "ok"
    broken = Accelerator("2.14.0", "13.0", "Orin", "sm_87", ("sm_80",), "CUDA error: no kernel image is available")
    assert accelerator.kernels(broken, ORIN).level == "fail"


def test_a_kernel_that_fails_or_is_slow_is_told() -> None:
    native, reference = Kernel("aarch64 sdot", "tiles", "It runs."), Kernel("reference", "rows", "No compiler.")
    assert judge(native, "").level == "ok"
    assert judge(reference, "").level == "warn"
    assert judge(native, "RuntimeError: no").level == "fail"


@pytest.mark.parametrize(("available_kb", "level"), [(16_000_000, "ok"), (5_500_000, "warn"), (3_900_000, "fail")])
def test_memory_is_held_against_what_loading_takes(tmp_path: Path, available_kb: int, level: str) -> None:
    with (tmp_path / "model-00001.safetensors").open("wb") as file:
        file.truncate(3_150_000_000)  # as the one that was measured; the file is sparse
    meminfo = write(tmp_path / "meminfo", f"MemTotal: 32000000 kB\nMemAvailable:   {available_kb} kB\n")
    found = memory.memory(tmp_path, meminfo)
    assert found.level == level
    assert f"loading {tmp_path.name} takes 5.0 GB at most" in found.found


def test_a_model_without_weights_and_a_system_that_tells_nothing_are_said(tmp_path: Path) -> None:
    assert memory.memory(tmp_path).level == "fail"
    assert memory.memory(MODEL, tmp_path / "nothing").level == "unknown"


@pytest.mark.parametrize(("free", "level"), [(1e9, "warn"), (5e10, "ok")])
def test_recordings_need_room(free: int, level: str) -> None:
    assert storage.judge_disk(Path("here"), int(free)).level == level


def test_shared_memory_is_large_and_not_littered(tmp_path: Path) -> None:
    dead = [f"fastdds_{number:x}" for number in range(201)]
    assert storage.judge_shared_memory(tmp_path, 2**31, ["other"] * 999).level == "ok"
    assert storage.judge_shared_memory(tmp_path, 2**26, []).level == "warn"  # docker's default
    found = storage.judge_shared_memory(tmp_path, 2**31, dead)
    assert found.level == "warn"
    assert "201 files of Fast DDS" in found.found
    assert storage.shared_memory(tmp_path / "nothing").level == "unknown"


PROFILE = """<?xml version="1.0"?><dds xmlns="http://www.eprosima.com"><profiles><transport_descriptors>
<transport_descriptor><segment_size>{size}</segment_size></transport_descriptor>
</transport_descriptors></profiles></dds>"""


@pytest.mark.parametrize(
    ("content", "level"), [(PROFILE.format(size=2**25), "ok"), (PROFILE.format(size=2**19), "warn"), ("<dds", "fail")]
)
def test_the_profile_of_fast_dds_has_segments_for_images(tmp_path: Path, content: str, level: str) -> None:
    path = write(tmp_path / "profile.xml", content)
    assert storage.profile({storage.PROFILES: str(path)}, path).level == level
    assert storage.profile({}, path).level == "warn"
    assert storage.profile({storage.PROFILES: str(tmp_path / "nothing")}, path).level == "fail"


def test_a_step_of_the_clock_is_seen() -> None:
    even = [1e9 + 1e-7 * look for look in range(20)]
    assert clock.steps(even).level == "ok"
    assert clock.steps([*even, 1e9 + 0.5]).level == "warn"
    assert len(clock.differences(duration_s=0.01, count=3)) == 3


def test_the_kernels_word_on_synchronisation_is_read() -> None:
    assert [clock.synchronised(status).level for status in (0x2001, 0x2041, None)] == ["ok", "warn", "unknown"]
    if sys.platform == "linux":
        assert clock.status() is None or clock.status() < 2**16  # type: ignore[operator]  # not None here


def test_governors_of_all_cores_are_read(tmp_path: Path) -> None:
    assert processor.governor(tmp_path).level == "unknown"
    first, second = (tmp_path / f"cpu{core}/cpufreq/scaling_governor" for core in (0, 1))
    write(first, "performance\n")
    assert processor.governor(tmp_path).level == "ok"
    write(second, "schedutil\n")
    assert processor.governor(tmp_path).level == "warn"


def test_the_hottest_zone_counts_and_zones_that_sleep_do_not(tmp_path: Path) -> None:
    assert processor.temperature(tmp_path).level == "unknown"
    for number, (name, said) in enumerate([("cpu-thermal", "48500\n"), ("cv0-thermal", "not available\n")]):
        write(tmp_path / f"thermal_zone{number}/type", f"{name}\n")
        write(tmp_path / f"thermal_zone{number}/temp", said)
    assert processor.temperature(tmp_path).found == "48 °C at cpu-thermal, the hottest of 1"
    write(tmp_path / "thermal_zone0/temp", "91000\n")
    assert processor.temperature(tmp_path).level == "warn"


@pytest.mark.parametrize(("priority", "level"), [(0, "warn"), (49, "warn"), (98, "ok"), (-1, "ok")])
def test_real_time_priority_may_be_taken(priority: int, level: str) -> None:
    assert processor.realtime(priority).level == level


def test_rendering_is_needed_by_the_simulation_alone() -> None:
    assert rendering.rendering("egl", "").level == "ok"
    assert rendering.rendering("", "no EGL").level == "warn"


def test_a_robot_file_is_read_as_the_pilot_reads_it(tmp_path: Path) -> None:
    found = robot.robot("sim_panda", MODEL)
    assert (found.level, found.found) == ("ok", "sim_panda: 8 joints with limits, cameras front, wrist")
    shipped = (share() / "config/robots/sim_panda.yaml").read_text()
    moved = write(tmp_path / "moved.yaml", shipped)
    assert "does not exist" in robot.robot(str(moved), MODEL).found  # its file of limits
    limits = share() / "config/joint_limits/sim_panda.yaml"
    renamed = shipped.replace("front:", "chest:").replace("../joint_limits/sim_panda.yaml", str(limits))
    assert robot.robot(str(write(moved, renamed)), MODEL).found == (
        "the observation has no camera named front; it has: chest, wrist; name the policy's cameras in the robot's "
        "YAML file"
    )


def seen(**middleware: Any) -> dict[str, Any]:
    arrived = {"found_s": 0.5, "images_sent": 60, "images_received": 60}
    return {"rmw": "rmw_fastrtps_cpp", "middleware": arrived | middleware}


def levels(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.level) for finding in found]


def test_a_middleware_that_loses_images_or_processes_is_told() -> None:
    good = [("ROS", "ok"), ("discovery", "ok"), ("large images", "ok")]
    assert levels([*ros.middleware(seen(), "", {"ROS_DOMAIN_ID": "7"})]) == good
    assert levels([*ros.middleware(seen(images_received=6), "", {})]) == [*good[:2], ("large images", "warn")]
    assert levels([*ros.middleware(seen(found_s=None), "", {})]) == [("ROS", "ok"), ("discovery", "fail")]
    (broken,) = ros.middleware({}, "No module named 'rclpy'", {})
    assert (broken.level, broken.found) == ("fail", "it does not start: No module named 'rclpy'")


def test_the_variables_of_ros_are_shown() -> None:
    (first, *_) = ros.middleware(seen(), "", {"ROS_DOMAIN_ID": "7", "PATH": "/bin"})
    assert first.found == "rclpy on rmw_fastrtps_cpp; ROS_DOMAIN_ID=7"


ROBOT: dict[str, Any] = {
    "publishers": {"/camera": ["driver"], "/joint_states": ["broadcaster"]},
    "faults": [],
    "blocking": [],
    "described": True,
    "simulated": False,
    "commands": [
        {
            "topic": "/arm/joint_trajectory",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "listeners": {"controller": "trajectory_msgs/msg/JointTrajectory"},
            "commanders": [],
        }
    ],
}


def of_robot(**different: Any) -> dict[str, str]:
    """Everything that is not as it should be."""
    return {finding.check: finding.found for finding in ros.topics(ROBOT | different) if finding.level != "ok"}


def test_a_robot_that_is_well_is_told_by_its_nodes() -> None:
    assert [finding.found for finding in ros.topics(ROBOT)] == [
        "/camera from driver; /joint_states from broadcaster",
        "all cameras and the joint states are in time",
        "controller listens to /arm/joint_trajectory",
    ]


def test_what_the_pilot_would_say_of_its_inputs_is_told() -> None:
    assert of_robot(publishers=ROBOT["publishers"] | {"/wrist": []}) == {"topics": "nobody publishes /wrist"}
    assert of_robot(faults=["camera front: 2 of 30 images per second arrive"]) == {
        "inputs": "camera front: 2 of 30 images per second arrive"
    }
    assert of_robot(blocking=["camera front: 3.00 s old, allowed 0.30 s"]) == {
        "observation": "camera front: 3.00 s old, allowed 0.30 s"
    }
    assert of_robot(described=False) == {"description": "no URDF came"}


def test_a_controller_that_does_not_listen_and_a_second_commander_are_told() -> None:
    (command,) = ROBOT["commands"]
    said = [
        of_robot(commands=[command | different])["commands"]
        for different in (
            {"listeners": {}},
            {"listeners": {"forward": "std_msgs/msg/Float64MultiArray"}},
            {"commanders": ["teleop"]},
        )
    ]
    assert said == [
        "nobody listens to /arm/joint_trajectory",
        "/arm/joint_trajectory has the type std_msgs/msg/Float64MultiArray",
        "teleop publishes on /arm/joint_trajectory",
    ]


def test_findings_become_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlaq_ros.cli.main import main  # noqa: PLC0415
    from vlaq_ros.doctor import examination  # noqa: PLC0415

    listed = [Finding("one", Level.OK, "[good]"), Finding("two", Level.FAIL, "bad", "better", "mend it")]
    monkeypatch.setattr(examination, "examine", lambda *_: iter(listed))
    assert main(["doctor", "--json"]) == 1
    *shown, last = capsys.readouterr().out.splitlines()
    assert any("[good]" in line for line in shown)
    assert json.loads(last) == {
        "ok": 1,
        "unknown": 0,
        "warn": 0,
        "fail": 1,
        "findings": [
            {"check": "one", "level": "ok", "found": "[good]", "expected": "", "remedy": ""},
            {"check": "two", "level": "fail", "found": "bad", "expected": "better", "remedy": "mend it"},
        ],
    }
    monkeypatch.setattr(examination, "examine", lambda *_: iter(listed[:1]))
    assert main(["doctor"]) == 0
