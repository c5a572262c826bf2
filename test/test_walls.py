"""The walls of docs/design.md: which room may import which, and which libraries belong to one room alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sources import FILES, PACKAGE, ROOT, imports, libraries

WORDS = {"datatypes", "errors", "config"}
FLIGHT = {"gate", "flight_log", "journal", "flight"}
BELOW: dict[str, set[str]] = {  # a room is a folder of the package, or a file at its top
    "__init__": set(),
    "errors": set(),
    "datatypes": set(),
    "config": {"errors"},
    "messages": WORDS,
    "joints": WORDS,
    "observe": WORDS | {"messages", "joints"},
    "control": WORDS,
    "pilot": WORDS | {"control"},
    "gate": set(),
    "flight_log": WORDS,
    "journal": WORDS,
    "flight": WORDS | {"observe", "control", "pilot", "gate", "flight_log", "journal"},
    "quant": WORDS,
    "policy": WORDS | {"quant"},
    "sim": WORDS | {"control", "policy"},
    "session": WORDS | {"policy"},
    "bags": WORDS | {"messages", "joints", "control"},
    "evaluate": WORDS | {"joints", "control", "pilot", "policy", "sim", "bags"},
    "replay": WORDS
    | {"messages", "joints", "observe", "control", "pilot", "policy", "session", "bags", "evaluate"}
    | FLIGHT,
    "bench": WORDS | {"policy", "quant"},
    "calibrate": WORDS | {"observe", "messages", "joints", "control", "quant", "policy", "sim", "bags", "evaluate"},
    "study": WORDS | {"control", "quant", "policy", "sim", "evaluate", "bench", "calibrate"},
    "ros": WORDS
    | {"messages", "joints", "observe", "control", "pilot", "policy", "sim", "session", "bags", "evaluate"}
    | FLIGHT,
}
BELOW["doctor"] = WORDS | {"joints", "policy", "quant", "ros"}
BELOW["cli"] = set(BELOW)

MESSAGES = ("diagnostic", "geometry", "lifecycle", "rosgraph", "sensor", "std", "trajectory")
ROS = ("rclpy", "rcl_interfaces", "std_srvs", *(f"{name}_msgs" for name in MESSAGES))
OWNERS = {  # library -> the only rooms (or files) that import it
    **{name: {"ros"} for name in ROS},
    "mujoco": {"sim"},
    "pinocchio": {"control/kinematics.py"},
    "torch": {"quant", "policy", "sim", "evaluate", "replay", "bench", "calibrate", "study", "doctor", "ros", "cli"},
    "transformers": {"policy", "sim", "bench", "calibrate"},
    "triton": {"quant/kernels/cuda.py", "quant/kernels/triton_kernels.py"},
    "launch": set(),
    "launch_ros": set(),
}
CLOSED_LOOP = {  # runs the simulator itself
    *(PACKAGE / "evaluate" / name for name in ("parallel.py", "rollout.py", "seams.py", "switching.py")),
    *(PACKAGE / "calibrate" / name for name in ("calibration.py", "episodes.py", "perturbation.py", "simulated.py")),
}
TIMELESS = {
    "datatypes",
    "config",
    "messages",
    "joints",
    "observe",
    "control",
    "pilot",
    "quant",
    "policy",
    "gate",
    "bags",
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_reader_sees_every_form_of_import(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text("import os.path\nfrom vlaq_ros import sim\ndef f():\n    from vlaq_ros.ros.encode import status\n")
    assert list(imports(file)) == ["os.path", "vlaq_ros.sim", "vlaq_ros.ros.encode.status"]


def test_arrows_point_down_only() -> None:
    rooms = list(BELOW)
    assert [name for i, name in enumerate(rooms) if not BELOW[name] <= set(rooms[:i])] == []


def test_every_room_is_known() -> None:
    assert {room(file) for file in FILES} <= set(BELOW)


@pytest.mark.parametrize("name", BELOW)
def test_a_room_imports_only_rooms_below_it(name: str) -> None:
    climbing = [
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in FILES
        if room(file) == name
        for module in imports(file)
        if module.startswith("vlaq_ros.") and module.split(".")[1] not in {name, "__version__"} | BELOW[name]
    ]
    assert climbing == []


@pytest.mark.parametrize(("library", "owners"), OWNERS.items())
def test_a_library_stays_in_its_room(library: str, owners: set[str]) -> None:
    users = {file for file in FILES if library in libraries(file)}
    assert {file for file in users if not owners & {room(file), str(file.relative_to(PACKAGE))}} == set()


def test_time_is_an_argument() -> None:
    assert {file for file in FILES if room(file) in TIMELESS and libraries(file) & {"time", "datetime"}} == set()


def test_everything_outside_ros_sim_study_and_the_closed_loop_imports_without_ros_and_without_mujoco() -> None:
    robot_side = (file for file in FILES if room(file) not in {"ros", "sim", "study"} and file not in CLOSED_LOOP)
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in robot_side]
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({[*ROS, 'mujoco']}))\n"  # None there makes an import fail
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
