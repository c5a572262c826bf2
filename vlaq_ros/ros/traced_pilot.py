"""The pilot under a stopwatch, for `vlaq bench --node` alone: calls of public methods read clocks on the way.

The environment says which way of running it is tried, and where the trace goes when the node ends.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from rclpy.executors import MultiThreadedExecutor
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from vlaq_ros.datatypes import ActionChunk, Command, ImageArray, Observation, Stale
from vlaq_ros.flight import Flight
from vlaq_ros.messages import header_stamp_ns
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.engine import Engine
from vlaq_ros.ros import pilot_node

TRACE, WAY = "VLAQ_TRACE", "VLAQ_TRACE_WAY"
WAYS = AS_SHIPPED, DECODED, THREADS = "as shipped", "images decoded as they come", "two executor threads"


class Trace:
    """When images came, inferences were found to be due and commands were there, in ns of the system clock."""

    def __init__(self) -> None:
        self._arrivals_ns: dict[int, int] = {}  # stamp of an image -> when the middleware had it
        self._tick_ns = self._due_ns = self._cpu_ns = 0
        self._steps: list[dict[str, float]] = []

    def install(self) -> None:
        """Step between the methods and their callers."""
        _between(Flight, "tick", self._tick)
        _between(Observer, "sample", self._sample)
        _between(Engine, "infer", self._infer)
        _between(Pilot, "step", self._step)
        _watch_images(self._arrivals_ns)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps({"arrivals_ns": self._arrivals_ns, "steps": self._steps}), encoding="utf-8")

    def _tick(self, tick: Callable[..., None], *given: Any) -> None:
        self._tick_ns = _now_ns()
        tick(*given)

    def _sample(self, sample: Callable[..., Observation | Stale], *given: Any) -> Observation | Stale:
        self._due_ns = self._tick_ns  # the tick that began this inference
        return sample(*given)

    def _infer(self, infer: Callable[..., ActionChunk], *given: Any) -> ActionChunk:
        begun_ns = time.thread_time_ns()
        chunk = infer(*given)
        self._cpu_ns = time.thread_time_ns() - begun_ns
        return chunk

    def _step(self, step: Callable[..., Command], *given: Any) -> Command:
        command = step(*given)
        trajectory = command.trajectory
        self._steps.append(
            {
                "stamp_ns": command.observation_stamp_ns,
                "due_ns": self._due_ns,
                "taken_ns": trajectory.stamp_ns + int(trajectory.times_ns[0]),  # the end of its inference
                "done_ns": _now_ns(),
                "inference_s": command.inference_s,
                "inference_cpu_s": self._cpu_ns * 1e-9,
                "thread": threading.get_native_id(),
            }
        )
        return command


def _between(kind: type[Any], name: str, call: Callable[..., Any]) -> None:
    """Let `call`, given the method and its arguments, answer in its place."""
    method = getattr(kind, name)
    setattr(kind, name, wraps(method)(lambda *given: call(method, *given)))


def _watch_images(arrivals_ns: dict[int, int]) -> None:
    """Note when the middleware had each image, by its stamp; they and joint states alone are taken serialized."""
    handle = vars(Subscription)["handle"]

    class Watched:
        def __init__(self, subscription: Any) -> None:
            self._subscription = subscription

        def __enter__(self) -> None:
            self._subscription.__enter__()

        def __exit__(self, *error: object) -> None:
            self._subscription.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._subscription, name)

        def take_message(self, kind: type[Any], raw: bool) -> Any:
            if taken := self._subscription.take_message(kind, raw):
                message, info = taken
                arrivals_ns[header_stamp_ns(message)] = info["received_timestamp"]
            return taken

    def watched(subscription: Subscription[Any]) -> Any:
        found = handle.fget(subscription)
        return Watched(found) if subscription.raw and subscription.msg_type is not JointState else found

    Subscription.handle = property(watched)  # type: ignore[assignment]  # the stub takes it for a method


def _change(way: str) -> None:
    """Run the pilot otherwise than it is shipped."""
    if way == DECODED:

        def push(push_image: Callable[..., None], observer: Observer, camera: str, stamp_ns: int, decode: Any) -> None:
            image: ImageArray = decode()
            push_image(observer, camera, stamp_ns, lambda: image)

        _between(Observer, "push_image", push)
    elif way == THREADS:
        vars(pilot_node)["SingleThreadedExecutor"] = partial(MultiThreadedExecutor, num_threads=2)


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def main() -> None:
    """Run the node, then write its trace."""
    _change(os.environ[WAY])
    trace = Trace()
    trace.install()
    try:
        pilot_node.main()
    finally:
        trace.save(Path(os.environ[TRACE]))


if __name__ == "__main__":
    main()
