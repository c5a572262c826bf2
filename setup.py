"""The package for pip and for colcon (ament_python); tool settings are in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

NAME = "vlaq_ros"
ROOT = Path(__file__).parent


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """List the files of a folder, each with its place below share/vlaq_ros, as data_files wants them."""
    files = sorted(file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file())
    return [(f"share/{NAME}/{file.parent}", [str(file)]) for file in files if file.suffix != ".pyc"]


setup(
    name=NAME,
    version="0.1.0",
    description="Quantized vision-language-action policies on a ROS 2 arm, with a precision per action chunk",
    license="Apache-2.0",
    maintainer="vlaq_ros maintainers",
    maintainer_email="maintainers@users.noreply.b-seed-1b73caec.example",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        f"{NAME}.calibrate": ["page.html"],
        f"{NAME}.replay": ["page.html", "page.js"],
        f"{NAME}.quant.kernels": ["native/*.cpp", "native/*.h"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("config"),
        *shared("launch"),
        *shared("models"),
    ],
    python_requires=">=3.11",
    # Never torch: a robot computer brings the build that fits its accelerator.
    # Never ros-*: wheels would shadow a sourced ROS.
    install_requires=[
        "backports.zstd",
        "daqp",
        "matplotlib",
        "numpy",
        "opencv-python-headless",
        "packaging",
        "pin",
        "pyyaml",
        "rich",
        "rosbags",
        "safetensors",
        "scipy",
        "tokenizers",
        "transformers>=5.5",
    ],
    extras_require={
        # ROS 2 kilted without a ROS installation; x86_64 Linux only
        "ros": [
            "ros-rclpy[fastrtps]~=9.1",
            "ros-diagnostic-msgs~=5.5",
            "ros-lifecycle-msgs~=2.3",
            "ros-rcl-interfaces~=2.3",
            "ros-rosgraph-msgs~=2.3",
            "ros-sensor-msgs~=5.5",
            "ros-std-msgs~=5.5",
            "ros-std-srvs~=5.5",
            "ros-trajectory-msgs~=5.5",
        ],
        "sim": ["mujoco"],
        "bench": ["torchao"],  # only compared with; `make bench` keeps it out of .venv
        "ray": ["ray"],  # `vlaq study` over a cluster
        "colcon": ["colcon-common-extensions"],
        "test": [
            "catkin-pkg",
            "hypothesis",
            "jsonschema",
            "mypy",
            "pytest",
            "pytest-xdist",
            # an action in the place of control_msgs'
            "ros-test-msgs~=2.3; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "ruff",
            "setuptools",
            "triton; sys_platform == 'linux' and platform_machine == 'x86_64'",  # builds of torch for CUDA bring it
        ],
    },
    entry_points={
        "console_scripts": [
            "pilot = vlaq_ros.ros.pilot_node:main",
            "sim_robot = vlaq_ros.ros.sim_robot_node:main",
            "vlaq = vlaq_ros.cli.main:main",
        ],
    },
    zip_safe=False,
)
