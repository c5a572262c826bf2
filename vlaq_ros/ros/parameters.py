"""The settings of config.py as ROS parameters: declared with descriptors, checked by config.py alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vlaq_ros.config import build, setting_of
from vlaq_ros.errors import VlaqError

Config = TypeVar("Config")


def declare(node: Node, cls: type[Config]) -> Config:
    """Declare every setting of `cls`, with the values that the user gave; `Setting.changes` says which may change.

    Raises:
        ConfigError: a given parameter is no setting, or its value cannot be used.
    """
    # rclpy tells what a parameter file says of undeclared parameters in no other way; it declares a few of its own
    overrides = node._parameter_overrides
    given = {name: parameter.value for name, parameter in overrides.items() if not node.has_parameter(name)}
    config = build(cls, given, f"the parameters of {node.get_name()}")
    for item in fields(cls):  # type: ignore[arg-type]  # a dataclass, as `build` demands
        node.declare_parameter(item.name, getattr(config, item.name), _descriptor(item), ignore_override=True)
    return config


def on_change(node: Node, apply: Callable[[str, Any], None]) -> None:
    """Offer every changed parameter to `apply`, as name and value; a VlaqError from it refuses the change."""

    def judge(changed: list[Parameter[Any]]) -> SetParametersResult:
        try:
            for parameter in changed:
                apply(parameter.name, parameter.value)
        except VlaqError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(judge)


def _descriptor(item: Field[Any]) -> ParameterDescriptor:
    known = setting_of(item)
    descriptor = ParameterDescriptor(
        description=f"{known.sentence} [{known.unit}]" if known.unit else known.sentence,
        additional_constraints=f"one of {', '.join(known.choices)}" if known.choices else "",
        read_only=not known.changes,
    )
    if known.bounds and item.type == "int":
        low, high = known.bounds
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    elif known.bounds:
        low, high = known.bounds
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    return descriptor
