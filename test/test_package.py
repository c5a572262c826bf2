"""What pip, colcon and rosdep are told of the package agrees with its sources."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from configparser import ConfigParser
from pkgutil import resolve_name
from typing import Any

import pytest
from catkin_pkg.package import Package, parse_package_string
from sources import FILES, ROOT, libraries, setup_arguments

import vlaq_ros

# whose distribution is called otherwise
MODULES = {"backports.zstd": "backports", "pin": "pinocchio", "pyyaml": "yaml", "opencv-python-headless": "cv2"}
LAUNCH = {"launch", "launch_ros", "ros2bag", "rosbag2_storage_mcap"}  # needed by launch/ alone, and on no registry


@pytest.fixture
def arguments() -> Mapping[str, Any]:
    return setup_arguments()


@pytest.fixture
def manifest() -> Package:
    """package.xml, as colcon and rosdep read it."""
    warnings: list[str] = []
    parsed = parse_package_string((ROOT / "package.xml").read_text(encoding="utf-8"), warnings=warnings)
    parsed.validate(warnings=warnings)
    assert warnings == []
    return parsed


def distributions(requirements: Iterable[str]) -> set[str]:
    """Strip extras and versions from requirements."""
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


def modules(requirements: Iterable[str]) -> set[str]:
    """Name the module that each requirement gives."""
    names = distributions(requirements)
    return {MODULES.get(name, name.removeprefix("ros-").replace("-", "_")) for name in names}


def imported() -> set[str]:
    return (
        {name for file in FILES for name in libraries(file)} - set(sys.stdlib_module_names) - {"vlaq_ros", "__future__"}
    )


def test_requirements_are_what_the_sources_import_except_torch(arguments: Mapping[str, Any]) -> None:
    extras = arguments["extras_require"]
    used = (requirement for extra in ("ros", "sim", "bench", "ray") for requirement in extras[extra])
    declared = modules([*arguments["install_requires"], *used])
    assert imported() == declared | {"torch", "triton"}  # a build of torch for CUDA brings triton


def test_the_package_itself_requires_no_ros_wheels(arguments: Mapping[str, Any]) -> None:
    assert not [name for name in arguments["install_requires"] if name.startswith("ros-")]


def test_constraints_pin_torch_and_every_requirement(arguments: Mapping[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        name for name, exactly, _ in (line.partition("==") for line in lines if not line.startswith("#")) if exactly
    }
    required = {name for extra in arguments["extras_require"].values() for name in distributions(extra)}
    assert pins == required | distributions(arguments["install_requires"]) | {"torch"}


def test_manifest_names_the_ros_packages_that_the_sources_import(
    arguments: Mapping[str, Any], manifest: Package
) -> None:
    depends = {depend.name for depend in manifest.exec_depends}
    ros = {name for name in depends if not name.startswith("python3-")}
    assert ros - LAUNCH == imported() & modules(arguments["extras_require"]["ros"])


def test_manifest_names_python_packages_that_pip_is_told_too(arguments: Mapping[str, Any], manifest: Package) -> None:
    depends = {depend.name.removeprefix("python3-") for depend in manifest.exec_depends if "python3-" in depend.name}
    depends = {"cv2" if name == "opencv" else name for name in depends}
    assert depends <= modules(arguments["install_requires"])


def test_name_version_licence_and_maintainer_are_said_alike(arguments: Mapping[str, Any], manifest: Package) -> None:
    (maintainer,) = manifest.maintainers
    assert (manifest.name, manifest.version, *manifest.licenses, maintainer.name, maintainer.email) == tuple(
        arguments[key] for key in ("name", "version", "license", "maintainer", "maintainer_email")
    )
    assert manifest.version == vlaq_ros.__version__


def test_colcon_builds_it_as_ament_python_with_executables_where_ros_looks(manifest: Package) -> None:
    assert manifest.get_build_type() == "ament_python"
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["develop"]["script_dir"] == settings["install"]["install_scripts"] == "$base/lib/vlaq_ros"


def test_every_command_leads_to_a_function(arguments: Mapping[str, Any]) -> None:
    commands = dict(line.split(" = ") for line in arguments["entry_points"]["console_scripts"])
    assert set(commands) == {"pilot", "sim_robot", "vlaq"}
    assert all(callable(resolve_name(place)) for place in commands.values())


def test_share_holds_marker_manifest_configuration_launch_files_and_models(arguments: Mapping[str, Any]) -> None:
    installed = {
        f"{place}/{file.rpartition('/')[2]}": file for place, files in arguments["data_files"] for file in files
    }
    assert installed["share/ament_index/resource_index/packages/vlaq_ros"] == "resource/vlaq_ros"
    assert installed["share/vlaq_ros/package.xml"] == "package.xml"
    for folder in ("config", "launch", "models"):
        sources = {
            file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".yaml", ".json"}
        }
        assert sources
        assert all(installed[f"share/vlaq_ros/{file}"] == str(file) for file in sources)
    assert all((ROOT / file).is_file() for file in installed.values())
