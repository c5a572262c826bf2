"""The demo's processes: `sim_robot` and `pilot` on a ROS domain of their own, a client and a recorder here."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.episodes import EpisodeClient
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.recorder import Recorder

TICK_S = 0.05
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ForeignFilesError(VlaqError):
    """Something that no recording wrote is in the way."""

    def __init__(self, directory: Path) -> None:
        names = ", ".join(sorted(path.name for path in directory.iterdir()))
        super().__init__(f"directory {str(directory)!r} holds files that no recording wrote ({names}); move them away")


class Demo:
    """A context manager: both nodes run and every topic is recorded until it is left, for whatever reason.

    Args:
        out: directory for the bag and the nodes' output; what a demo before left there is replaced.
        model: model directory.
        precision: of the pilot, `auto` or a name.
        domain_id: ROS domain that nothing else uses.

    Raises:
        ForeignFilesError: the directory of the bag holds something else.
    """

    def __init__(self, out: Path, model: Path, precision: str, domain_id: int) -> None:
        self.bag = out / "bag"
        self.logs = {name: out / f"{name}.log" for name in ("sim_robot", "pilot")}
        self._parameters: dict[str, dict[str, str]] = {
            "sim_robot": {},
            "pilot": {"model": str(model), "precision": precision, "autostart": "true", "enabled": "true"},
        }
        self._domain_id = domain_id
        out.mkdir(parents=True, exist_ok=True)
        _remove_bag(self.bag)
        self._stop = threading.Event()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # undoes the first steps if a later one fails
            for number in STOPPING:
                stack.callback(signal.signal, number, signal.signal(number, lambda *_: self._stop.set()))
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # read when a context starts, here and there
            context = Context()
            rclpy.init(context=context, domain_id=self._domain_id, signal_handler_options=SignalHandlerOptions.NO)
            stack.callback(rclpy.shutdown, context=context)
            self._recorder = stack.enter_context(Recorder(self.bag, context))
            node = Node("demo", context=context)
            stack.callback(node.destroy_node)
            self._executor = SingleThreadedExecutor(context=context)
            self._executor.add_node(node)
            stack.callback(self._executor.shutdown)
            self.client = EpisodeClient(node, self.tick)
            self.processes = {name: stack.enter_context(self._start(name)) for name in self._parameters}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tick(self) -> None:
        """Let messages in for a moment and record them.

        Raises:
            NodeDiedError: a node ended by itself.
            KeyboardInterrupt: Ctrl-C; raised here alone, where nothing is half written.
        """
        end_s = time.monotonic() + TICK_S
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)
        self._recorder.drain()
        for process in self.processes.values():
            process.check()
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _start(self, name: str) -> NodeProcess:
        environment = {"ROS_DOMAIN_ID": str(self._domain_id)}
        return NodeProcess(f"vlaq_ros.ros.{name}_node", self._parameters[name], environment, self.logs[name])


def _remove_bag(bag: Path) -> None:
    """Remove the files of an earlier recording, and nothing else."""
    for name in (f"{bag.name}.mcap", "metadata.yaml"):
        (bag / name).unlink(missing_ok=True)
    if bag.exists():
        if any(bag.iterdir()):
            raise ForeignFilesError(bag)
        bag.rmdir()
