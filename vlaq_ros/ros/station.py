"""A station beside the robot: a node that a command on a terminal owns, with child processes and recordings."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.recorder import Recorder

TICK_S = 0.05
ANSWER_TIMEOUT_S = 20.0
HEARD_S = 3.0  # a recorder hears by then what there is to hear
LOST_AFTER_S = 2.0  # a call without an answer is repeated, as a node that dies leaves calls unanswered
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SilentServiceError(VlaqError):
    """A service does not answer."""

    def __init__(self, service: str, waited_s: float) -> None:
        super().__init__(
            f"service {service} gave no answer for {waited_s:.0f} s; expected its node to run: start it, "
            "or see whether it hangs"
        )


class NoClockError(VlaqError):
    """Simulated time does not begin."""

    def __init__(self, waited_s: float) -> None:
        super().__init__(
            f"the pilot uses simulated time, and none came on /clock for {waited_s:.0f} s; start the simulation, "
            "or the pilot without use_sim_time"
        )


class Station:
    """A context manager: the node lives, and children run, until it is left, for whatever reason.

    Args:
        name: of the node.
        namespace: of the node.
        domain_id: a ROS domain of this machine's own that nothing else uses; None: the one of the environment.

    Attributes:
        node: to publish, subscribe and call with; `tick` lets its messages in.
    """

    def __init__(self, name: str, namespace: str = "", domain_id: int | None = None) -> None:
        self._name, self._namespace, self._domain_id = name, namespace, domain_id
        self._stop = threading.Event()
        self._stopped = False
        self._recorder: Recorder | None = None
        self._children: list[NodeProcess] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # undoes the first steps if a later one fails
            for number in _STOPPING:
                stack.callback(signal.signal, number, signal.signal(number, lambda *_: self._stop.set()))
            if self._domain_id is not None:
                os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # read when a context starts, here and there
            self._context = Context()
            rclpy.init(context=self._context, domain_id=self._domain_id, signal_handler_options=SignalHandlerOptions.NO)
            stack.callback(rclpy.shutdown, context=self._context)
            self.node = Node(self._name, context=self._context, namespace=self._namespace)
            stack.callback(self.node.destroy_node)
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self.node)
            stack.callback(self._executor.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, module: str, parameters: Mapping[str, str], log: Path) -> None:
        """Run a node of this package in the same domain, as `python -m MODULE`; its output goes to `log`."""
        environment = {} if self._domain_id is None else {"ROS_DOMAIN_ID": str(self._domain_id)}
        self._children.append(self._stack.enter_context(NodeProcess(module, parameters, environment, log)))

    @contextmanager
    def recording(self, bag: Path, cameras: Collection[str] = (), awaited: Collection[str] = ()) -> Iterator[None]:
        """Record every topic of the domain.

        Args:
            bag: that does not exist yet.
            cameras: topics of images, absolute, of which no other coding is recorded.
            awaited: topics, absolute, that are waited for, so that nothing of what follows is missed.
        """
        with Recorder(bag, self._context, cameras) as recorder:
            self._recorder = recorder
            try:
                self.wait(lambda: recorder.heard.issuperset(awaited), HEARD_S)
                yield
            finally:
                self._recorder = None

    def now_ns(self) -> int:
        """Time on the ROS clock."""
        return self.node.get_clock().now().nanoseconds

    def follow_clock(self, simulated: bool) -> None:
        """Tell simulated time where the robot does, from its first moment on; otherwise the machine's."""
        self.node.set_parameters([Parameter("use_sim_time", value=simulated)])
        if not self.wait(lambda: self.now_ns() > 0, ANSWER_TIMEOUT_S):
            raise NoClockError(ANSWER_TIMEOUT_S)

    def tick(self) -> None:
        """Let messages in for a moment and record them.

        Raises:
            NodeDiedError: a child ended by itself.
            KeyboardInterrupt: Ctrl-C; once, so that nothing cuts the cleaning up short, and only here, where nothing
                is half written.
        """
        end_s = time.monotonic() + TICK_S
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)
        if self._recorder is not None:
            self._recorder.drain()
        for child in self._children:
            child.check()
        if self._stop.is_set() and not self._stopped:
            self._stopped = True
            raise KeyboardInterrupt

    def wait(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Tick until a condition holds, and say whether it does in time."""
        end_s = time.monotonic() + limit_s
        while not (held := condition()) and time.monotonic() < end_s:
            self.tick()
        return held

    def call(
        self,
        client: Client[Any, Any],
        request: Any,
        *,
        limit_s: float = ANSWER_TIMEOUT_S,
        lost_s: float = LOST_AFTER_S,
    ) -> Any:
        """Call a service and return its answer; a call without one for `lost_s` is repeated.

        Raises:
            SilentServiceError: none came for `limit_s`.
        """
        end_s = time.monotonic() + limit_s
        while (left_s := end_s - time.monotonic()) > 0:
            future = client.call_async(request)
            if self.wait(future.done, min(left_s, lost_s)):
                return future.result()
            client.remove_pending_request(future)
        raise SilentServiceError(client.service_name, limit_s)
