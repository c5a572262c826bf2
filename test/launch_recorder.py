"""A recorder of launch files: it stands in for the few names of `launch` and `launch_ros` that ours use.

Those packages are on no registry, so here a launch file is executed against this recorder, which keeps what was said
and derives the command line that launching a node means. It is no test of `ros2 launch` itself.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from unittest.mock import patch


@dataclass(frozen=True)
class LaunchConfiguration:
    name: str

    def perform(self, arguments: Mapping[str, str], share: Path) -> str:
        return arguments[self.name]


@dataclass(frozen=True)
class FindPackageShare:
    package: str

    def perform(self, arguments: Mapping[str, str], share: Path) -> str:
        assert self.package == "vlaq_ros"
        return str(share)


@dataclass(frozen=True)
class PathJoinSubstitution:
    parts: Sequence[object]

    def perform(self, arguments: Mapping[str, str], share: Path) -> str:
        return str(Path(*(perform(part, arguments, share) for part in self.parts)))


@dataclass(frozen=True)
class DeclareLaunchArgument:
    name: str
    default_value: object
    description: str


@dataclass(frozen=True)
class SetEnvironmentVariable:
    name: str
    value: object


@dataclass(frozen=True)
class Node:
    package: str
    executable: str
    namespace: object = ""
    parameters: Sequence[object] = field(default_factory=list)
    remappings: Sequence[tuple[object, object]] = field(default_factory=list)
    ros_arguments: Sequence[object] = field(default_factory=list)
    output: str = "log"


@dataclass(frozen=True)
class LaunchDescription:
    entities: Sequence[DeclareLaunchArgument | SetEnvironmentVariable | Node]

    @property
    def declared(self) -> list[DeclareLaunchArgument]:
        return [entity for entity in self.entities if isinstance(entity, DeclareLaunchArgument)]

    @property
    def nodes(self) -> list[Node]:
        return [entity for entity in self.entities if isinstance(entity, Node)]

    def ros_arguments(self, node: Node, share: Path, **given: str) -> list[str]:
        """What follows the executable on its command line, with launch arguments as the user gave them."""
        arguments = self._arguments(share, given)
        words = ["--ros-args", *(perform(word, arguments, share) for word in node.ros_arguments)]
        if namespace := perform(node.namespace, arguments, share):
            words += ["-r", f"__ns:=/{namespace}"]
        for parameters in node.parameters:
            if isinstance(parameters, dict):
                values = {name: perform(value, arguments, share) for name, value in parameters.items()}
                words += [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
            else:
                words += ["--params-file", perform(parameters, arguments, share)]
        for names in node.remappings:
            words += ["-r", ":=".join(perform(name, arguments, share) for name in names)]
        return words

    def environment(self, share: Path, **given: str) -> dict[str, str]:
        """Variables that are set for the nodes."""
        arguments = self._arguments(share, given)
        settings = [entity for entity in self.entities if isinstance(entity, SetEnvironmentVariable)]
        return {setting.name: perform(setting.value, arguments, share) for setting in settings}

    def _arguments(self, share: Path, given: Mapping[str, str]) -> dict[str, str]:
        defaults = {argument.name: perform(argument.default_value, {}, share) for argument in self.declared}
        assert given.keys() <= defaults.keys(), f"not declared: {given.keys() - defaults.keys()}"
        return {**defaults, **given}


def perform(value: object, arguments: Mapping[str, str], share: Path) -> str:
    """Text of a plain value or of a substitution; a bool as YAML writes it."""
    if isinstance(value, LaunchConfiguration | FindPackageShare | PathJoinSubstitution):
        return value.perform(arguments, share)
    return str(value).lower() if isinstance(value, bool) else str(value)


def record(file: Path) -> LaunchDescription:
    """Execute a launch file; a name that is not recorded is an ImportError."""
    names = {
        "launch": [LaunchDescription],
        "launch.actions": [DeclareLaunchArgument, SetEnvironmentVariable],
        "launch.substitutions": [LaunchConfiguration, PathJoinSubstitution],
        "launch_ros": [],
        "launch_ros.actions": [Node],
        "launch_ros.substitutions": [FindPackageShare],
    }
    modules = {name: ModuleType(name) for name in names}
    for name, classes in names.items():
        for item in classes:
            setattr(modules[name], item.__name__, item)
    with patch.dict(sys.modules, modules):
        described: LaunchDescription = runpy.run_path(str(file))["generate_launch_description"]()
    return described
