"""What is around the node in every node's process: ROS, signals, and a user's mistakes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from vlaq_ros.errors import VlaqError


@contextmanager
def ros_lifetime(name: str) -> Iterator[threading.Event]:
    """Initialise ROS around a node's life and give the event that SIGINT and SIGTERM set.

    rclpy's own signal handlers would invalidate the context before the node could publish its last message.

    Args:
        name: of the node, for its last words.

    Raises:
        SystemExit: with one sentence and exit code 1, for a VlaqError or for ROS arguments that cannot be used.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except (rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError) as error:
        sys.exit(f"{name}: the ROS arguments cannot be used: {error}")
    try:
        yield stop
    except VlaqError as error:
        sys.exit(f"{name}: {error}")
    finally:
        rclpy.shutdown()
