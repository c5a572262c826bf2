"""Trials on a robot, one by one: the arm to its start pose, the scene laid out, the pilot let loose, a verdict.

The pilot is enabled for as long as a trial lasts, and no longer. What a trial is aborted for is nobody's failure: it
says nothing of the condition, and the trial is run again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from std_msgs.msg import Bool

from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import AUTO, RobotConfig
from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate.operator import Operator
from vlaq_ros.evaluate.referee import Referee
from vlaq_ros.evaluate.trial import OPERATOR, SERVICE, SIMULATED, TOPIC, Trial, TrialPlan
from vlaq_ros.evaluate.trial_log import Record, TrialLog, missing
from vlaq_ros.ros import domain
from vlaq_ros.ros.arm import Arm, OutOfPlaceError
from vlaq_ros.ros.pilot_client import POLICY, PilotClient
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.scene import Scene
from vlaq_ros.ros.station import ANSWER_TIMEOUT_S, Station

FAULT_S = 2.0  # a fault that lasts so long aborts
SILENT_S = 5.0  # a pilot that says nothing, or sends no chunk, for so long does
STAND_DOWN_S = 5.0
START_TIMEOUT_S = 60.0  # for a pilot that has just been started, on a busy machine
INTERRUPTED = "interrupted at the terminal"
_VERDICT = "did it succeed? y: yes, n: no, r: run it again, a: end the session"


class AbortedTrialError(VlaqError):
    """A trial says nothing of its condition.

    Attributes:
        final: whether the session ends with it, as a person has to look.
        counted: whether it is one of the plan's attempts.
    """

    def __init__(self, why: str, *, final: bool = False, counted: bool = True) -> None:
        super().__init__(why)
        self.final, self.counted = final, counted


class SessionEndedError(VlaqError):
    """Trials are missing, and nothing more can be done without a person."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(
            f"the session ended at trial {number + 1}: {why.rstrip('.')}; see to it, and run the same command again to "
            "go on"
        )


class Trials:
    """Runs what is missing of a plan.

    Args:
        plan: what to run.
        out: directory of the bags.
        log: takes a record of every trial that was begun.
        station: whose node lies in the pilot's namespace.
        operator: told what happens, and asked where the plan says so.

    Attributes:
        phase: what happens now.

    Raises:
        SilentServiceError: the pilot does not answer.
        NoDescriptionError: the robot does not say what it looks like.
        ConfigError: the robot's limits cannot be used, or the start pose lies beyond them.
    """

    def __init__(self, plan: TrialPlan, out: Path, log: TrialLog, station: Station, operator: Operator) -> None:
        self.phase = ""
        self._plan, self._out, self._log, self._station, self._operator = plan, out, log, station, operator
        self._pilot = PilotClient(station, plan.pilot)
        self._stand_down(START_TIMEOUT_S)  # whatever a session before left enabled
        station.follow_clock(self._pilot.parameter("use_sim_time"))
        robot = RobotConfig.load(plan.robot)
        self._arm = Arm(station, robot)
        self._topics = Topics.of(robot, tuple(robot.cameras), station.node.get_namespace())
        self._arm.check(plan.start)
        self._scene = Scene(station, plan.scene.node) if plan.scene.reset == SERVICE else None
        self._told: bool | None = None  # by the topic of success
        if plan.success.by == TOPIC:
            station.node.create_subscription(Bool, plan.success.topic, self._keep_success, LATCHED)
        self._span_ns = (0, 0)  # of the trial, from its instruction on

    def run(self) -> None:
        """Run all trials that have no result yet.

        Raises:
            SessionEndedError: something has to be seen to first.
            KeyboardInterrupt: Ctrl-C.
        """
        for trial in missing(self._plan, self._log.records):
            aborts = 0
            try:
                while (abort := self._attempt(trial)) is not None:
                    aborts += abort.counted
                    if abort.final or aborts == self._plan.attempts:
                        raise SessionEndedError(trial.number, str(abort))
            except OSError as error:  # a full disk
                raise SessionEndedError(trial.number, str(error)) from None

    def _attempt(self, trial: Trial) -> AbortedTrialError | None:
        """Run a trial once and record it; what it was aborted for is returned."""
        stamp_ns = self._station.now_ns()
        bag, self._span_ns = "", (stamp_ns, stamp_ns)
        self._pilot.forget()
        abort: AbortedTrialError | None = None
        success: bool | None = None
        try:
            self._prepare(trial)
            bag = _unused(self._out / "bags", f"{trial.number:04}")
            awaited = (self._topics.joint_states, self._topics.description, f"{self._plan.pilot}/session")
            with self._station.recording(self._out / "bags" / bag, self._topics.cameras.values(), awaited):
                try:
                    success = self._drive(trial)
                finally:
                    self._stand_down()
            if success is None:
                success = self._judged(self._ask(_VERDICT, ("y", "n", "r", "a")))
        except AbortedTrialError as error:
            abort = error
        except OutOfPlaceError as error:
            abort = AbortedTrialError(str(error))
        except VlaqError as error:  # of a node that died, is silent or refuses
            abort = AbortedTrialError(str(error), final=True)
        except KeyboardInterrupt:
            self._note(trial, stamp_ns, bag, None, INTERRUPTED)
            raise
        self._note(trial, stamp_ns, bag, None if abort else success, str(abort or ""))
        return abort

    def _prepare(self, trial: Trial) -> None:
        """Bring the pilot, the arm and the scene to where the trial begins; nothing is commanded by the pilot."""
        condition = self._plan.conditions[trial.condition]
        self.phase = f"trial {trial.number + 1}, {trial.condition}: the pilot is prepared"
        self._stand_down()
        self._stay_off()
        self._pilot.load(condition.model)
        self._pilot.set("precision", condition.precision)
        self.phase = f"trial {trial.number + 1}, {trial.condition}: the arm goes to its start pose"
        self._arm.bring(self._plan.start, self._stay_off)
        self.phase = f"trial {trial.number + 1}, {trial.condition}: the scene is laid out"
        if self._scene is not None:
            self._scene.lay_out(trial.seed, trial.instruction)
        elif self._plan.scene.reset == OPERATOR:
            asked = f"lay out scene {trial.seed} for {trial.instruction!r}, then press Enter; a: end the session"
            self._judged(self._ask(asked, ("", "a")))
        if self._plan.success.by == TOPIC:
            self._station.wait(lambda: self._told is False, ANSWER_TIMEOUT_S)
            if self._told is not False:
                got = "true before the trial began" if self._told else "never told"
                raise AbortedTrialError(f"success on {self._plan.success.topic} is {got}; expected a latched false")

    def _drive(self, trial: Trial) -> bool | None:
        """Let the pilot command until the trial is over; None where the operator has not said yet how it ended."""
        plan, pilot = self._plan, self._pilot
        self._arm.bring(plan.start, self._stay_off)  # nothing to do, unless the scene was laid out with the arm
        self.phase = f"trial {trial.number + 1}, {trial.condition}: {trial.instruction}"
        if why := pilot.enable(True):
            raise AbortedTrialError(f"the pilot does not command: {why}", final=True)
        pilot.forget()
        pilot.instruct(trial.instruction)
        start_ns = now_ns = self._station.now_ns()
        referee = Referee(start_ns, plan.time_limit_s)
        asks = plan.success.by == OPERATOR
        if asks:
            self._operator.forget()
        judged: bool | None = None
        while judged is None and not referee.over(self._told is True, failed=False, now_ns=now_ns):
            self._station.tick()
            now_ns = self._station.now_ns()
            self._span_ns = (start_ns, now_ns)
            self._watch(plan.conditions[trial.condition].precision)
            if asks:
                judged = self._judged(self._operator.line())
        if not pilot.precisions:
            raise AbortedTrialError(f"the pilot sent no chunk: {self._complaints()}")
        return judged if asks else self._told

    def _watch(self, precision: str) -> None:
        """Abort a trial that goes wrong for another reason than its condition."""
        pilot, now_s = self._pilot, time.monotonic()
        if pilot.enabled is False:
            self._station.wait(lambda: bool(pilot.stopped), 1.0)  # comes after it
            why = f"stopped: {pilot.stopped}" if pilot.stopped else "disabled by somebody else"
            raise AbortedTrialError(f"the pilot was {why}", final=True)
        if now_s - pilot.heard_s > SILENT_S:
            raise AbortedTrialError(f"the pilot has been silent for {SILENT_S:.0f} s", final=True)
        if pilot.faulty_s is not None and now_s - pilot.faulty_s > FAULT_S:
            raise AbortedTrialError(self._complaints())
        if now_s - pilot.chunk_s > SILENT_S and POLICY not in pilot.health:
            raise AbortedTrialError(f"the pilot sent no chunk for {SILENT_S:.0f} s: {self._complaints()}")
        if precision != AUTO and (others := set(pilot.precisions) - {precision}):
            raise AbortedTrialError(f"a chunk was computed at {', '.join(sorted(others))}, expected {precision} alone")

    def _stay_off(self) -> None:
        """Abort before anything moves, or while the arm is brought somewhere, if the pilot is stopped or commands."""
        if self._pilot.stopped:
            raise AbortedTrialError(f"the pilot was stopped: {self._pilot.stopped}", final=True)
        if self._pilot.enabled:
            raise AbortedTrialError("somebody else enabled the pilot between two trials", final=True)

    def _stand_down(self, limit_s: float = STAND_DOWN_S) -> None:
        """Take the instruction back and keep commands in: the arm brakes and holds."""
        self._pilot.instruct("")
        self._pilot.enable(False, limit_s)

    def _ask(self, question: str, answers: Sequence[str]) -> str:
        """Wait for one of some answers."""
        self.phase = question
        self._operator.forget()
        self._operator.say(question)
        while True:
            self._station.tick()
            if (line := self._operator.line()) is None:
                continue
            if line in answers:
                return line
            self._operator.say(f"got {line!r}; {question}")

    def _judged(self, line: str | None) -> bool | None:
        """Say what an answer means for a trial: None where it says nothing yet."""
        if line == "a":
            raise AbortedTrialError("ended by the operator", final=True)
        if line == "r":
            raise AbortedTrialError("run again by the operator", counted=False)
        return {"y": True, "n": False}.get(line or "")

    def _complaints(self) -> str:
        """What the pilot says of the components that are not well; that we can command the arm is no news."""
        own, health = self._station.node.get_fully_qualified_name(), self._pilot.health
        said = [f"{component}: {message}" for component, (_, message) in health.items() if own not in message]
        return "; ".join(said) or "it names no reason in /diagnostics"

    def _note(self, trial: Trial, stamp_ns: int, bag: str, success: bool | None, abort: str) -> None:
        """Record what came of a trial."""
        pilot, (start_ns, end_ns) = self._pilot, self._span_ns
        p50_ms, p95_ms = np.percentile(pilot.inference_ms, (50, 95)).round(1) if pilot.inference_ms else (None, None)
        record = Record(
            number=trial.number,
            block=trial.block,
            condition=trial.condition,
            instruction=trial.instruction,
            seed=trial.seed,
            stamp_ns=stamp_ns,
            success=success,
            seconds=round((end_ns - start_ns) * 1e-9, 3),
            abort=abort,
            chunks=dict(sorted(Counter(pilot.precisions).items())),
            latency_p50_ms=p50_ms,
            latency_p95_ms=p95_ms,
            model=pilot.model,
            bag=bag and f"bags/{bag}",
        )
        self._log.add(record)
        verdict = {True: "success", False: "failure", None: f"aborted: {abort}"}[success]
        self._operator.say(f"{trial.number + 1:4}  {trial.condition:<12} {trial.instruction:<34} {verdict}")

    def _keep_success(self, message: Bool) -> None:
        self._told = message.data


@contextmanager
def session(plan: TrialPlan, out: Path, log: TrialLog, operator: Operator) -> Iterator[Trials]:
    """Connect to the robot and the pilot of a plan, or start simulated ones; all is undone at the end.

    The arguments are those of `Trials`, which says what is raised.
    """
    simulated = plan.processes == SIMULATED
    domain_id = domain.claim() if simulated else None
    with Station("vlaq_trial", plan.pilot.rpartition("/")[0], domain_id) as station:
        if simulated:
            logs = out / "logs" / _unused(out / "logs", "session")
            logs.mkdir(parents=True)
            # in simulated time, so that a busy machine slows everything down and changes nothing
            station.start("vlaq_ros.ros.sim_robot_node", {"publish_clock": "true"}, logs / "sim_robot.log")
            given = {"robot": plan.robot, "use_sim_time": "true", "description_timeout_s": "60.0"}
            station.start("vlaq_ros.ros.pilot_node", given, logs / "pilot.log")
        yield Trials(plan, out, log, station, operator)


def _unused(directory: Path, stem: str) -> str:
    """Name something in a directory that is not there yet."""
    return next(name for number in count() if not (directory / (name := f"{stem}-{number}")).exists())
