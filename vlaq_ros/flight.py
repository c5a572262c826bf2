"""How a pilot runs: infer when it is due, send what comes of it, hold when nothing good does.

No ROS here: the node calls `tick` and `fetch` from its executor thread and publishes what `send` is given.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from vlaq_ros.config import PilotConfig
from vlaq_ros.control.following import FollowingWatch
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.datatypes import Command, JointWindow, Stale, Trajectory
from vlaq_ros.errors import PrecisionFailedError, RejectedChunkError, VlaqError
from vlaq_ros.flight_log import FlightLog
from vlaq_ros.gate import Gate
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot

INFERENCE = "inference"  # how the name of its thread begins


class Flight:
    """Owns the inference thread. One other thread calls every method.

    Args:
        pilot: flies the arm.
        observer: what the robot sees.
        gate: whether commands may go out; while it is closed nothing is inferred.
        jumps: finds joint states that no motion explains.
        following: finds commands that move nothing; None where the arm is not meant to follow.
        config: gives the periods and timeouts.
        clock: tells the time in ns, on the clock of the messages' stamps.
        steady: tells the time in ns, on a clock that never jumps.
        send: takes a motion to the controller, with the command that it belongs to, or None for a hold.
        wake: called from the inference thread when `fetch` has something to do.
        say: told of a new fault.

    Attributes:
        pilot, observer, gate: as given.
        log: what was counted.
        fault: why the last inference failed; empty where it did not.
        stalled: that an inference takes too long; empty where none does.
        jump: what jumped, until the next command; empty where nothing did.
        unfollowed: that a command moves nothing; empty where the arm follows.
        lost: why precisions cannot be computed, by name; the finest of the others takes their place.
    """

    def __init__(
        self,
        pilot: Pilot,
        observer: Observer,
        gate: Gate,
        *,
        jumps: JumpWatch,
        following: FollowingWatch | None,
        config: PilotConfig,
        clock: Callable[[], int],
        steady: Callable[[], int],
        send: Callable[[Trajectory, Command | None], None],
        wake: Callable[[], None],
        say: Callable[[str], object],
    ) -> None:
        self.pilot = pilot
        self.observer = observer
        self.gate = gate
        self.log = FlightLog()
        self.fault = self.stalled = self.jump = self.unfollowed = ""
        self.lost: dict[str, str] = {}
        self._jumps = jumps
        self._following = following
        self._retry_ns = round(config.replan_period_s * 1e9)
        self._doubt_for_ns = round(config.max_joint_age_s * 1e9)
        self._stall_ns = round(config.stall_timeout_s * 1e9)
        self._clock = clock
        self._steady = steady
        self._send = send
        self._wake = wake
        self._say = say
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=INFERENCE)
        self._thinking: Future[Command | Stale] | None = None
        self._began_ns = 0  # when that inference began, on the steady clock
        self._void = False  # its answer is to be dropped: it does not know that the arm was held
        self._epoch: int | None = None  # of the observer, when the last inference began
        self._answered: int | None = None  # the epoch that the last command belongs to
        self._failed_ns: int | None = None  # when the last inference failed, within this epoch
        self._failure: type[BaseException] | None = None  # how it failed
        self._sent: Command | None = None  # what the arm executes; None where it holds
        self._brake_ns = (0, 0)  # begin and end of the last hold: until then the arm moves
        self._doubt_ns: tuple[int, int] | None = None  # the last doubt in joint states; None before the first look
        self._missed = False  # the deadline of what the arm executes was counted as missed

    def tick(self) -> None:
        """Judge the motion, and begin an inference if one is due; called every monitor period."""
        now_ns, epoch = self._clock(), self.observer.epoch
        window = self._look(now_ns)
        self.pilot.watch(window, now_ns)
        if not self.gate.commands or not self.observer.instruction:
            self.hold()
            self._missed = False
        self._watch_deadline(now_ns)
        if self._thinking is None and self.gate.commands and self._due(now_ns, epoch):
            self._epoch, self._void, self._began_ns = epoch, False, self._steady()
            self._thinking = self._worker.submit(self._think)
            self._thinking.add_done_callback(lambda _: self._wake())

    def fetch(self) -> None:
        """Send the answer of an inference that is done."""
        if self._thinking is None or not self._thinking.done():
            return
        done, self._thinking, self.stalled = self._thinking, None, ""
        self._look(self._clock())
        if self._void or self._epoch != self.observer.epoch or not self.gate.commands:
            self.pilot.reset(self._sent)  # the task changed meanwhile, the arm was held, or time jumped
            return
        if error := done.exception():
            self._fail(error)
            return
        answer = done.result()
        if isinstance(answer, Stale):
            return
        now_ns = self._clock()
        self._sent, self._answered, self._missed = answer, self._epoch, False
        self.fault, self._failure, self.jump = "", None, ""
        self.log.command(answer, (now_ns - answer.observation_stamp_ns) * 1e-9)
        if self._following is not None:
            self._following.sent(answer.trajectory)
        self._send(answer.trajectory, answer)

    def hold(self, window: JointWindow | None = None) -> None:
        """Bring the arm to rest if it executes a command; an arm that was not commanded is left alone.

        Args:
            window: joint states to believe instead of the newest ones.
        """
        window = window or self.observer.joints(0.0)
        if self._sent is None or window is None:
            return
        self.pilot.reset(self._sent)  # an answer that is computed and not sent moves nothing
        trajectory = self.pilot.hold(window, self._clock())
        self._sent, self._void = None, True
        begin_ns, end_ns = (trajectory.stamp_ns + trajectory.times_ns[[0, -1]]).tolist()
        self._brake_ns = (begin_ns, end_ns)
        if self._following is not None:
            self._following.reset()
        self._send(trajectory, None)

    def late_s(self, now_ns: int) -> float:
        """How long the arm brakes or rests for want of a successor to its command."""
        return 0.0 if self._sent is None else self.pilot.late_s(now_ns)

    def land(self) -> None:
        """Hold the arm and forget everything; the answer of an inference that runs will be dropped."""
        self.hold()
        self.pilot.reset()
        self._jumps.reset()
        self._void, self._doubt_ns = True, None
        self.fault = self.jump = self.unfollowed = ""
        self._epoch = self._answered = self._failed_ns = self._failure = None

    def lose(self, failure: PrecisionFailedError) -> bool:
        """Give up a precision that failed; False where none is left, so that all are tried again."""
        left = self.pilot.lose(failure.precision)
        self.lost = {**self.lost, failure.precision: str(failure)} if left else {}
        if left and not self.fault:  # else it has been tried before
            self._say(f"{failure}; {left} takes its place")
        return bool(left)

    def close(self) -> None:
        """End the inference thread; one that hangs in an inference is left behind."""
        ended = self._thinking is None or bool(wait([self._thinking], self._stall_ns * 1e-9).done)
        self._worker.shutdown(wait=ended)

    def _due(self, now_ns: int, epoch: int) -> bool:
        if epoch != self._epoch:
            self.fault, self._failure, self._failed_ns = "", None, None
        if self._failed_ns is not None and now_ns < self._failed_ns + self._retry_ns:
            return False
        return epoch != self._answered or self.pilot.due(now_ns)

    def _think(self) -> Command | Stale:
        now_ns, unusable_ns = self._clock(), (self._brake_ns, self._doubt_ns or (0, 0))
        sampled = self.observer.sample(now_ns)
        if isinstance(sampled, Stale):
            return sampled
        if any(begin_ns <= now_ns and sampled.stamp_ns < end_ns for begin_ns, end_ns in unusable_ns):
            return Stale(("the observation does not show where the arm rests",))
        return self.pilot.step(sampled, self._clock)

    def _look(self, now_ns: int) -> JointWindow | None:
        """Look at the joints: brake where their states jump, and say where they do not follow."""
        window = self.observer.joints(self.pilot.span_s)
        if window is None:
            return None
        if jump := self._jumps.look(window):
            self.log.jumps += 1
            self.jump = jump.sentence
            self._say(f"joint states jump: {jump.sentence}")
            self.hold(jump.before)
            self._void = True
            self._doubt_ns = jump.before.stamp_ns, window.stamp_ns + self._doubt_for_ns
        elif self._doubt_ns is None:  # nobody has looked for jumps in what came until now
            self._doubt_ns = int(window.stamps_ns[0]), window.stamp_ns
        said = self._following.judge(window, now_ns) if self._following is not None else ""
        if said and not self.unfollowed:
            self._say(said)
        self.unfollowed = said
        return window

    def _watch_deadline(self, now_ns: int) -> None:
        """Notice an inference that takes too long, and a command that found no successor in time."""
        missed = self.late_s(now_ns) > 0
        if self._thinking is not None and not self.stalled and self._steady() - self._began_ns > self._stall_ns:
            self.hold()
            self.stalled = (
                f"an inference has not ended within {self._stall_ns * 1e-9:.1f} s; the arm is held until it does"
            )
            self._say(self.stalled)
            missed = True
        if missed and not self._missed:
            self._missed = True
            self.log.deadline_misses += 1

    def _fail(self, error: BaseException) -> None:
        """Go on at another precision, where one is left; else hold the arm, once for each fault."""
        if isinstance(error, RejectedChunkError):
            self.log.rejected[error.kind] += 1
        if isinstance(error, PrecisionFailedError) and self.lose(error):
            return
        known = isinstance(error, VlaqError) and error.__cause__ is None
        fault = str(error) if isinstance(error, VlaqError) else f"the inference failed: {type(error).__name__}: {error}"
        if not self.fault:
            self.hold()
        if type(error) is not self._failure:  # its numbers may change from one try to the next
            self._say(fault if known else "".join(traceback.format_exception(error)))
        self.fault, self._failure, self._failed_ns = fault, type(error), self._clock()
