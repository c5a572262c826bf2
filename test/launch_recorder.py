"""A recorder of launch files: it stands in for the few names of `launch` and `launch_ros` that ours use.

Those packages are on no registry, so here a launch file is executed against this recorder, which keeps what was said
and derives the command line that launching a node means. It is no test of `ros2 launch` itself.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from unittest.mock import patch

Entity = TypeVar("Entity")


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
class PythonExpression:
    parts: Sequence[object]

    def perform(self, arguments: Mapping[str, str], share: Path) -> str:
        return str(eval("".join(perform(part, arguments, share) for part in self.parts)))


@dataclass(frozen=True)
class IfCondition:
    predicate: object


@dataclass(frozen=True)
class DeclareLaunchArgument:
    name: str
    default_value: object = None
    description: str = ""


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
class ExecuteProcess:
    cmd: list[str]
    output: str = "log"


@dataclass(frozen=True)
class LaunchContext:
    launch_configurations: Mapping[str, str]


@dataclass(frozen=True)
class OpaqueFunction:
    function: Callable[[LaunchContext], list[ExecuteProcess]]


@dataclass(frozen=True)
class IncludeLaunchDescription:
    source: object
    launch_arguments: Iterable[tuple[str, object]]
    condition: IfCondition


@dataclass(frozen=True)
class LaunchDescription:
    entities: Sequence[object]

    @property
    def declared(self) -> list[DeclareLaunchArgument]:
        return self._all(DeclareLaunchArgument)

    @property
    def nodes(self) -> list[Node]:
        return self._all(Node)

    def included(self, share: Path, **given: str) -> list[Path]:
        """Launch files that this one includes."""
        arguments = self._arguments(share, given)
        includes = self._all(IncludeLaunchDescription)
        return [
            Path(perform(include.source, arguments, share))
            for include in includes
            if perform(include.condition.predicate, arguments, share) == "True"
        ]

    def commands(self, share: Path, **given: str) -> list[list[str]]:
        """Command lines of what is started beside nodes, by this file and those that it includes."""
        arguments = self._arguments(share, given)
        started = [
            process.cmd for made in self._all(OpaqueFunction) for process in made.function(LaunchContext(arguments))
        ]
        passed = {
            name: perform(value, arguments, share)
            for include in self._all(IncludeLaunchDescription)
            for name, value in include.launch_arguments
        }
        for file in self.included(share, **given):
            inner = record(file)
            names = {argument.name for argument in inner.declared}
            inherited = {name: value for name, value in {**arguments, **passed}.items() if name in names}
            started += inner.commands(share, **inherited)
        return started

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
        return {setting.name: perform(setting.value, arguments, share) for setting in self._all(SetEnvironmentVariable)}

    def _arguments(self, share: Path, given: Mapping[str, str]) -> dict[str, str]:
        names = {argument.name for argument in self.declared}
        assert given.keys() <= names, f"not declared: {given.keys() - names}"
        defaults = {
            it.name: perform(it.default_value, {}, share) for it in self.declared if it.default_value is not None
        }
        assert names == {*defaults, *given}, f"not given: {names - {*defaults, *given}}"
        return {**defaults, **given}

    def _all(self, kind: type[Entity]) -> list[Entity]:
        return [entity for entity in self.entities if isinstance(entity, kind)]


def perform(value: object, arguments: Mapping[str, str], share: Path) -> str:
    """Text of a plain value or of a substitution; a bool as YAML writes it."""
    if isinstance(value, LaunchConfiguration | FindPackageShare | PathJoinSubstitution | PythonExpression):
        return value.perform(arguments, share)
    return str(value).lower() if isinstance(value, bool) else str(value)


def record(file: Path) -> LaunchDescription:
    """Execute a launch file; a name that is not recorded is an ImportError."""
    names = {
        "launch": [LaunchContext, LaunchDescription],
        "launch.actions": [
            *(DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription),
            *(OpaqueFunction, SetEnvironmentVariable),
        ],
        "launch.conditions": [IfCondition],
        "launch.substitutions": [LaunchConfiguration, PathJoinSubstitution, PythonExpression],
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
