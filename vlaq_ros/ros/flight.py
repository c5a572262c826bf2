"""How a pilot runs: infer when it is due, send what comes of it, hold when nothing good does.

No ROS here: the node calls `tick` and `fetch` from its executor thread and publishes what `send` is given.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from vlaq_ros.datatypes import Command, Observation, Stale, Trajectory
from vlaq_ros.errors import VlaqError
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot


class Flight:
    """Owns the inference thread. One other thread calls every method.

    Args:
        pilot: flies the arm.
        observer: what the robot sees.
        clock: tells the time in ns, on the clock of the messages' stamps.
        retry_s: an inference that failed is tried again after this time.
        send: takes a motion to the controller, with the command that it belongs to, or None for a hold.
        wake: called from the inference thread when `fetch` has something to do.
        log: told of a new fault.

    Attributes:
        pilot, observer: as given.
        fault: why the last inference failed; empty where it did not.
    """

    def __init__(
        self,
        pilot: Pilot,
        observer: Observer,
        *,
        clock: Callable[[], int],
        retry_s: float,
        send: Callable[[Trajectory, Command | None], None],
        wake: Callable[[], None],
        log: Callable[[str], object],
    ) -> None:
        self.pilot = pilot
        self.observer = observer
        self.fault = ""
        self._clock = clock
        self._retry_ns = round(retry_s * 1e9)
        self._send = send
        self._wake = wake
        self._log = log
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._thinking: Future[Command | Stale] | None = None
        self._epoch: int | None = None  # of the observer, when the last inference began
        self._answered: int | None = None  # the epoch that the last command belongs to
        self._failed_ns: int | None = None  # when the last inference failed, within this epoch
        self._sent: Command | None = None  # what the arm executes; None where it holds

    def tick(self) -> None:
        """Judge the motion, and begin an inference if one is due; called every monitor period."""
        now_ns, epoch = self._clock(), self.observer.epoch
        self.pilot.watch(self.observer.joints(self.pilot.span_s), now_ns)
        if self._sent is not None and not self.observer.instruction:
            self.hold()
        if self._thinking is not None:
            return
        if epoch != self._epoch:
            self.fault, self._failed_ns = "", None
        if self._failed_ns is not None and now_ns < self._failed_ns + self._retry_ns:
            return
        if epoch != self._answered or self.pilot.due(now_ns):
            self._epoch = epoch
            self._thinking = self._worker.submit(self._think)
            self._thinking.add_done_callback(lambda _: self._wake())

    def fetch(self) -> None:
        """Send the answer of an inference that is done."""
        if self._thinking is None or not self._thinking.done():
            return
        done, self._thinking = self._thinking, None
        if self._epoch != self.observer.epoch:  # the task changed meanwhile, or time jumped
            self.pilot.reset(self._sent)
            return
        if error := done.exception():
            self._fail(error)
            return
        answer = done.result()
        if isinstance(answer, Stale):
            return
        self._send(answer.trajectory, answer)
        self._sent, self._answered, self.fault = answer, self._epoch, ""

    def hold(self) -> None:
        """Bring the arm to rest where it is."""
        window = self.observer.joints(0.0)
        if window is not None:  # an arm that was never seen was never commanded
            self._send(self.pilot.hold(window, self._clock()), None)
        self._sent = None

    def land(self) -> None:
        """Hold the arm and forget everything; an inference that runs is waited for, and its answer dropped."""
        self.hold()
        if self._thinking is not None:
            wait([self._thinking])
        self.pilot.reset()
        self.fault = ""
        self._thinking = self._epoch = self._answered = self._failed_ns = None

    def close(self) -> None:
        """End the inference thread."""
        self._worker.shutdown()

    def _think(self) -> Command | Stale:
        sampled = self.observer.sample(self._clock())
        return self.pilot.step(sampled, self._clock) if isinstance(sampled, Observation) else sampled

    def _fail(self, error: BaseException) -> None:
        """Hold the arm, once for each fault."""
        known = isinstance(error, VlaqError)
        fault = str(error) if known else f"the inference failed: {type(error).__name__}: {error}"
        if not self.fault:
            self.hold()
        if fault != self.fault:
            self._log(fault if known else "".join(traceback.format_exception(error)))
        self.fault, self._failed_ns = fault, self._clock()
