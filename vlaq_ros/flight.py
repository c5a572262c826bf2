"""How a pilot runs: infer when it is due, send what comes of it, hold when nothing good does.

No ROS here: the node calls `tick` and `fetch` from its executor thread and publishes what `send` is given. A replay
calls them with the times of a recording: what a flight does follows from its arguments, its observer and its gate.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field

from vlaq_ros.config import PilotConfig
from vlaq_ros.control.following import FollowingWatch
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.datatypes import Command, Decision, JointWindow, Stale, Trajectory
from vlaq_ros.errors import PrecisionFailedError, RejectedChunkError, VlaqError
from vlaq_ros.flight_log import FlightLog
from vlaq_ros.gate import Gate
from vlaq_ros.journal import Entry, Fetch, Land, Lose, Tick
from vlaq_ros.observe import Held, Observer
from vlaq_ros.pilot import Pilot


@dataclass(frozen=True, slots=True)
class _Question:
    """What an inference answers: all that it is to know of the moment that it was asked in."""

    now_ns: int
    held: Held
    decision: Decision
    unusable_ns: tuple[tuple[int, int], ...]  # from when on what was seen before when shows no arm that rests
    readings_ns: list[int] = field(default_factory=list)  # of the clock, by the pilot


class Flight:
    """One thread calls every method; what is inferred is inferred by the executor that is given.

    Args:
        pilot: flies the arm.
        observer: what the robot sees.
        gate: whether commands may go out; while it is closed nothing is inferred.
        jumps: finds joint states that no motion explains.
        following: finds commands that move nothing; None where the arm is not meant to follow.
        config: gives the periods and timeouts.
        executor: infers, one thing after the other; the flight shuts it down.
        clock: tells the time in ns while something is inferred, on the clock of the messages' stamps.
        send: takes a motion to the controller, with the command that it belongs to, or None for a hold.
        wake: called by the executor when `fetch` has something to do.
        say: told of a new fault.
        note: told of everything that a replay has to repeat.

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
        executor: Executor,
        clock: Callable[[], int],
        send: Callable[[Trajectory, Command | None], None],
        wake: Callable[[], None],
        say: Callable[[str], object],
        note: Callable[[Entry], object],
    ) -> None:
        self.pilot = pilot
        self.observer = observer
        self.gate = gate
        self.log = FlightLog()
        self.fault = self.stalled = self.jump = self.unfollowed = ""
        self.lost: dict[str, str] = {}
        self._asked = config.precision
        self._jumps = jumps
        self._following = following
        self._retry_ns = round(config.replan_period_s * 1e9)
        self._doubt_for_ns = round(config.max_joint_age_s * 1e9)
        self._stall_ns = round(config.stall_timeout_s * 1e9)
        self._clock = clock
        self._send = send
        self._wake = wake
        self._say = say
        self._note = note
        self._executor = executor
        self._thinking: tuple[_Question, Future[Command | Stale]] | None = None
        self._began_ns = 0  # when that inference began, on a steady clock
        self._void = False  # its answer is to be dropped: it does not know that the arm was held
        self._epoch: int | None = None  # of the observer, when the last inference began
        self._answered: int | None = None  # the epoch that the last command belongs to
        self._failed_ns: int | None = None  # when the last inference failed, within this epoch
        self._failure: type[BaseException] | None = None  # how it failed
        self._sent: Command | None = None  # what the arm executes; None where it holds
        self._brake_ns = (0, 0)  # begin and end of the last hold: until then the arm moves
        self._doubt_ns: tuple[int, int] | None = None  # the last doubt in joint states; None before the first look
        self._missed = False  # the deadline of what the arm executes was counted as missed

    def tick(self, now_ns: int, steady_ns: int) -> None:
        """Judge the motion, and begin an inference if one is due; called every monitor period.

        Args:
            now_ns: on the clock of the messages' stamps.
            steady_ns: the same moment on a clock that never jumps.
        """
        epoch = self.observer.epoch
        self.pilot.watch(self._look(now_ns), now_ns)
        if not self.gate.commands or not self.observer.instruction:
            self._hold(now_ns)
            self._missed = False
        self._watch_deadline(now_ns, steady_ns)
        begins = self._thinking is None and self.gate.commands and self._due(now_ns, epoch)
        self._note_tick(now_ns, steady_ns, begins=begins)
        if begins:
            self._epoch, self._void, self._began_ns = epoch, False, steady_ns
            unusable_ns = self._brake_ns, self._doubt_ns or (0, 0)
            question = _Question(now_ns, self.observer.take(), self.pilot.decision, unusable_ns)
            answer = self._executor.submit(self._think, question)
            self._thinking = question, answer
            answer.add_done_callback(lambda _: self._wake())

    def fetch(self, now_ns: int) -> None:
        """Send the answer of an inference that is done."""
        if self._thinking is None or not self._thinking[1].done():
            return
        (question, answer), self._thinking, self.stalled = self._thinking, None, ""
        self._look(now_ns)
        why, error = self._take(answer, now_ns), answer.exception()
        self._note(
            Fetch(
                now_ns,
                self.observer.instruction,
                self.gate.commands,
                question.decision.precision,
                tuple(question.readings_ns),
                self.pilot.draws,
                tuple(self.pilot.delays_s),
                why,
                isinstance(error, PrecisionFailedError),
            )
        )

    def select(self, precision: str) -> None:
        """Fix the precision by its name, or let it follow the motion with `auto`.

        Raises:
            UnknownPrecisionError: the policy has no such precision.
        """
        if precision != self._asked:  # else nothing begins anew
            self.pilot.select(precision)
            self._asked = precision

    def late_s(self, now_ns: int) -> float:
        """How long the arm brakes or rests for want of a successor to its command."""
        return 0.0 if self._sent is None else self.pilot.late_s(self._sent, now_ns)

    def land(self, now_ns: int) -> None:
        """Hold the arm and forget everything; the answer of an inference that runs will be dropped."""
        self._note(Land(now_ns))
        self._hold(now_ns)
        self.pilot.reset()
        self._jumps.reset()
        self._void, self._doubt_ns = True, None
        self.fault = self.jump = self.unfollowed = ""
        self._epoch = self._answered = self._failed_ns = self._failure = None

    def lose(self, failure: PrecisionFailedError) -> bool:
        """Give up a precision that failed; False where none is left, so that all are tried again."""
        self._note(Lose(failure.precision))
        return self._lose(failure)

    def close(self) -> None:
        """End the executor; one that hangs in an inference is left behind."""
        ended = self._thinking is None or bool(wait([self._thinking[1]], self._stall_ns * 1e-9).done)
        self._executor.shutdown(wait=ended)

    def _due(self, now_ns: int, epoch: int) -> bool:
        if epoch != self._epoch:
            self.fault, self._failure, self._failed_ns = "", None, None
        if self._failed_ns is not None and now_ns < self._failed_ns + self._retry_ns:
            return False
        return epoch != self._answered or self.pilot.due(now_ns)

    def _think(self, question: _Question) -> Command | Stale:
        def read_clock() -> int:
            question.readings_ns.append(self._clock())
            return question.readings_ns[-1]

        now_ns = question.now_ns
        sampled = self.observer.sample(now_ns, question.held)
        if isinstance(sampled, Stale):
            return sampled
        if any(begin_ns <= now_ns and sampled.stamp_ns < end_ns for begin_ns, end_ns in question.unusable_ns):
            return Stale(("the observation does not show where the arm rests",))
        return self.pilot.step(sampled, question.decision, read_clock)

    def _take(self, done: Future[Command | Stale], now_ns: int) -> str:
        """Send an answer, or say why not."""
        if self._void or self._epoch != self.observer.epoch or not self.gate.commands:
            self.pilot.reset(self._sent)
            return "dropped: the task changed meanwhile, the arm was held, or time jumped"
        if error := done.exception():
            self._fail(error, now_ns)
            return str(error)
        answer = done.result()
        if isinstance(answer, Stale):
            return "; ".join(answer.reasons)
        self._sent, self._answered, self._missed = answer, self._epoch, False
        self.fault, self._failure, self.jump = "", None, ""
        self.log.command(answer, (now_ns - answer.observation_stamp_ns) * 1e-9)
        if self._following is not None:
            self._following.sent(answer.trajectory)
        self._send(answer.trajectory, answer)
        return ""

    def _hold(self, now_ns: int, window: JointWindow | None = None) -> None:
        """Bring the arm to rest if it executes a command; an arm that was not commanded is left alone.

        Args:
            now_ns: when to begin.
            window: joint states to believe instead of the newest ones.
        """
        window = window or self.observer.joints(0.0)
        if self._sent is None or window is None:
            return
        self.pilot.reset(self._sent)  # an answer that is computed and not sent moves nothing
        trajectory = self.pilot.hold(window, now_ns)
        self._sent, self._void = None, True
        begin_ns, end_ns = (trajectory.stamp_ns + trajectory.times_ns[[0, -1]]).tolist()
        self._brake_ns = (begin_ns, end_ns)
        if self._following is not None:
            self._following.reset()
        self._send(trajectory, None)

    def _look(self, now_ns: int) -> JointWindow | None:
        """Look at the joints: brake where their states jump, and say where they do not follow."""
        window = self.observer.joints(self.pilot.span_s)
        if window is None:
            return None
        if jump := self._jumps.look(window):
            self.log.jumps += 1
            self.jump = jump.sentence
            self._say(f"joint states jump: {jump.sentence}")
            self._hold(now_ns, jump.before)
            self._void = True
            self._doubt_ns = jump.before.stamp_ns, window.stamp_ns + self._doubt_for_ns
        elif self._doubt_ns is None:  # nobody has looked for jumps in what came until now
            self._doubt_ns = int(window.stamps_ns[0]), window.stamp_ns
        said = self._following.judge(window, now_ns) if self._following is not None else ""
        if said and not self.unfollowed:
            self._say(said)
        self.unfollowed = said
        return window

    def _watch_deadline(self, now_ns: int, steady_ns: int) -> None:
        """Notice an inference that takes too long, and a command that found no successor in time."""
        missed = self.late_s(now_ns) > 0
        if self._thinking is not None and not self.stalled and steady_ns - self._began_ns > self._stall_ns:
            self._hold(now_ns)
            self.stalled = (
                f"an inference has not ended within {self._stall_ns * 1e-9:.1f} s; the arm is held until it does"
            )
            self._say(self.stalled)
            missed = True
        if missed and not self._missed:
            self._missed = True
            self.log.deadline_misses += 1

    def _fail(self, error: BaseException, now_ns: int) -> None:
        """Go on at another precision, where one is left; else hold the arm, once for each fault."""
        if isinstance(error, RejectedChunkError):
            self.log.rejected[error.kind] += 1
        if isinstance(error, PrecisionFailedError) and self._lose(error):
            return
        known = isinstance(error, VlaqError) and error.__cause__ is None
        fault = str(error) if isinstance(error, VlaqError) else f"the inference failed: {type(error).__name__}: {error}"
        if not self.fault:
            self._hold(now_ns)
        if type(error) is not self._failure:  # its numbers may change from one try to the next
            self._say(fault if known else "".join(traceback.format_exception(error)))
        self.fault, self._failure, self._failed_ns = fault, type(error), now_ns

    def _lose(self, failure: PrecisionFailedError) -> bool:
        left = self.pilot.lose(failure.precision)
        self.lost = {**self.lost, failure.precision: str(failure)} if left else {}
        if left and not self.fault:  # else it has been tried before
            self._say(f"{failure}; {left} takes its place")
        return bool(left)

    def _note_tick(self, now_ns: int, steady_ns: int, *, begins: bool) -> None:
        decision, observer = self.pilot.decision, self.observer
        sensitivity = None if math.isnan(decision.sensitivity) else decision.sensitivity
        seen = observer.newest_ns(), observer.kept, observer.instruction, self.gate.commands
        self._note(Tick(now_ns, steady_ns, *seen, self._asked, decision.precision, sensitivity, begins))
