"""Clocks beside the node's own."""

from __future__ import annotations

from rclpy.clock import Clock

try:
    from rclpy.clock_type import ClockType
except ModuleNotFoundError:
    from rclpy.clock import ClockType  # type: ignore[attr-defined]  # Humble's, unknown to later stubs

STEADY = Clock(clock_type=ClockType.STEADY_TIME)  # no jump of the time can stop its timers
SYSTEM = Clock(clock_type=ClockType.SYSTEM_TIME)
