"""Errors a user can fix: each takes facts and says what was got, what was expected and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class VlaqError(Exception):
    """Base of every error that a user can fix; its text is one sentence, shown without a traceback."""


class ModelNotFoundError(VlaqError):
    """The model directory is missing or incomplete."""

    def __init__(self, path: Path, missing: str) -> None:
        super().__init__(
            f"model directory {str(path)!r} has no {missing}; expected a bundle such as "
            "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0"
        )


class CorruptModelError(VlaqError):
    """A model file cannot be read or does not fit its own configuration."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"model file {str(path)!r} cannot be used: {why}; copy or download it again")


class FormatVersionError(VlaqError):
    """A document of a model directory is written in a format that this package does not read."""

    def __init__(self, path: Path, version: object, expected: int) -> None:
        super().__init__(
            f"{str(path)!r} has format_version {version!r}, expected {expected}; "
            "use the release of vlaq_ros that wrote it, or make it again"
        )


class NotQuantizedError(VlaqError):
    """A checkpoint where a bundle is needed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"model directory {str(path)!r} is a checkpoint, expected a bundle; make one of it: "
            f"vlaq quantize {path} --out {path}_w8w4"
        )


class SourceError(VlaqError):
    """The checkpoint that a bundle was made of is asked for and is not at hand."""

    def __init__(self, bundle: Path, checkpoint: Path, why: str) -> None:
        super().__init__(
            f"full precision is in the checkpoint that bundle {str(bundle)!r} was made of, and {str(checkpoint)!r} "
            f"{why}; copy that checkpoint there, or take a precision of the bundle"
        )


class UnknownPrecisionError(VlaqError):
    """A precision that is not loaded was asked for."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown precision {name!r}; this policy has: {', '.join(known)}")


class PrecisionFailedError(VlaqError):
    """A precision cannot be computed, for want of memory or of a kernel."""

    def __init__(self, precision: str, error: Exception) -> None:
        why = " ".join(str(error).split())
        super().__init__(
            f"precision {precision!r} failed with {type(error).__name__}: {why.rstrip('.')}; expected memory and a "
            "kernel for it: free memory, or run `vlaq doctor`"
        )
        self.precision = precision


class ModelMemoryError(VlaqError):
    """A model does not fit into memory."""

    def __init__(self, path: Path, error: Exception) -> None:
        why = " ".join(str(error).split())
        super().__init__(
            f"model directory {str(path)!r} does not fit into memory ({why.rstrip('.')}); free memory, or take a "
            "bundle that was made under a smaller budget"
        )


class ConfiguredError(VlaqError):
    """A parameter that only an unconfigured node can change."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot change while the node is configured; clean it up first")


class UnknownInstructionError(VlaqError):
    """An instruction that no task of the policy knows."""

    def __init__(self, instruction: str, known: Iterable[str]) -> None:
        listed = "; ".join(known)
        super().__init__(f"no task knows the instruction {instruction!r}; this policy was trained on: {listed}")


class JointNamesError(VlaqError):
    """Joints that the robot file names do not exist on the robot."""

    def __init__(self, missing: Iterable[str], seen: Iterable[str], where: str) -> None:
        super().__init__(
            f"{where} has no joint named {', '.join(missing)}; it has: {', '.join(seen)}; correct the robot's YAML file"
        )


class CameraNamesError(VlaqError):
    """An observation lacks a camera that the policy was trained with."""

    def __init__(self, missing: Iterable[str], seen: Iterable[str]) -> None:
        super().__init__(
            f"the observation has no camera named {', '.join(missing)}; it has: {', '.join(seen) or 'none'}; "
            "name the policy's cameras in the robot's YAML file"
        )


class RobotDescriptionError(VlaqError):
    """The robot description is not a URDF."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the robot description cannot be used: {why.rstrip('.')}; expected the URDF text of the arm, "
            "as robot_state_publisher publishes it on /robot_description"
        )


class NoDescriptionError(VlaqError):
    """The robot did not say what it looks like."""

    def __init__(self, topic: str, waited_s: float) -> None:
        super().__init__(
            f"no robot description came on {topic} for {waited_s:.1f} s; expected a URDF as a latched std_msgs/String; "
            "start the robot, or correct description_topic in the robot's YAML file"
        )


class FrameNameError(VlaqError):
    """A frame that the robot file names does not exist on the robot."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"the robot description has no frame named {name!r}; it has: {', '.join(known)}; "
            "correct the robot's YAML file"
        )


class ActionSizeError(VlaqError):
    """A policy's actions do not fit the robot."""

    def __init__(self, space: str, got: int, expected: int) -> None:
        super().__init__(
            f"the policy's {space} actions have {got} columns, this robot takes {expected}; "
            "use a model that was trained for this robot, or correct the joints in the robot's YAML file"
        )


class RejectedChunkError(VlaqError):
    """A chunk that is not commanded, because a limit that has no nearest motion forbids it.

    Attributes:
        kind: which check found it: `finiteness`, `first action`, `action step` or `motion`.
    """

    kind: ClassVar[str]


class NonFiniteActionError(RejectedChunkError):
    """A target is a number that no robot can follow."""

    kind = "finiteness"

    def __init__(self, joint: str, action: int, value: float) -> None:
        super().__init__(
            f"action {action} of the chunk sends {joint} to {value}, expected a finite position; "
            "nothing was commanded: check the model's files and its camera images"
        )


class FirstActionError(RejectedChunkError):
    """A chunk begins too far from where the arm is."""

    kind = "first action"

    def __init__(self, joint: str, distance_rad: float, allowed_rad: float) -> None:
        super().__init__(
            f"the chunk begins {distance_rad:.3f} rad from where {joint} is measured, expected at most "
            f"{allowed_rad:g} rad; nothing was commanded: check the order, units and signs of the robot file's joints, "
            "or raise its safety.max_first_action_rad"
        )


class ActionStepError(RejectedChunkError):
    """A chunk moves too far from one action to the next."""

    kind = "action step"

    def __init__(self, joint: str, action: int, distance_rad: float, allowed_rad: float) -> None:
        super().__init__(
            f"action {action} of the chunk moves {joint} by {distance_rad:.3f} rad from the action before, expected at "
            f"most {allowed_rad:g} rad; nothing was commanded: check that the model was trained for this robot, "
            "or raise safety.max_action_step_rad in the robot file"
        )


class NoMotionError(RejectedChunkError):
    """No motion within the limits was found from where the arm is."""

    kind = "motion"

    def __init__(self, joint: str, flag: int) -> None:
        super().__init__(
            f"no motion of {joint} within its limits was found (exit flag {flag} of daqp), expected at least one to "
            "rest; nothing was commanded: report this with a recording of the robot's joints"
        )


class UnlimitedJointError(VlaqError):
    """A joint's limits leave it unlimited, or leave it nowhere to be."""

    def __init__(self, joint: str, quantity: str, got: str, expected: str) -> None:
        super().__init__(
            f"the {quantity} limits of {joint}, the stricter of the robot description's and the joint limits file's, "
            f"are {got}; expected {expected}: add them to the file that safety.joint_limits names in the robot file"
        )


class ConfigError(VlaqError):
    """A configuration key or value that cannot be used."""


class UnknownKeyError(ConfigError):
    """A configuration key that does not exist."""

    def __init__(self, key: str, known: Iterable[str], where: str) -> None:
        super().__init__(f"unknown key {key!r} in {where}; known keys: {', '.join(known)}")


class MissingKeyError(ConfigError):
    """A configuration key that has no default is not given."""

    def __init__(self, key: str, sentence: str, where: str) -> None:
        super().__init__(f"{where} has no key {key!r}; add it: {sentence}")


class BadValueError(ConfigError):
    """A configuration value has the wrong type or lies outside its bounds."""

    def __init__(self, key: str, value: object, expected: str, where: str) -> None:
        super().__init__(f"{key} in {where} is {value!r}; expected {expected}")


class RobotFileError(ConfigError):
    """A robot's YAML file cannot be read."""

    def __init__(self, path: Path, why: str, shipped: Iterable[str]) -> None:
        super().__init__(
            f"robot file {str(path)!r} {why}; expected the path of a YAML file or the name of a shipped robot: "
            f"{', '.join(shipped)}"
        )


class JointLimitsFileError(ConfigError):
    """A file of joint limits cannot be used."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"joint limits file {str(path)!r} {why}; expected the format of joint_limits.yaml, with max_acceleration "
            "and max_jerk of every joint: name it as safety.joint_limits in the robot's YAML file"
        )


class TrialPlanFileError(ConfigError):
    """A plan of trials cannot be read."""

    def __init__(self, path: Path, why: str, shipped: Iterable[str]) -> None:
        super().__init__(
            f"trial plan {str(path)!r} {why}; expected the path of a YAML file or the name of a shipped plan: "
            f"{', '.join(shipped)}"
        )


class OtherPlanError(VlaqError):
    """Trials were recorded under another plan than the one that is to go on."""

    def __init__(self, path: Path, differing: Iterable[str]) -> None:
        super().__init__(
            f"the trials in {str(path)!r} were run under another {', another '.join(differing)}; "
            "restore the plan to go on with them, or give another --out to begin anew"
        )


class TrialRecordError(VlaqError):
    """A file of trials cannot be read."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(
            f"line {line} of {str(path)!r} is no record of a trial ({why}); expected what `vlaq trial` wrote: "
            "restore the file, or give another --out to begin anew"
        )


class TrialsRunningError(VlaqError):
    """Two commands would write the same record."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another `vlaq trial` adds to {str(path)!r} now; expected one at a time: wait for it, "
            "or give another --out"
        )


class UnwrittenTrialsError(VlaqError):
    """What trials leave cannot be written: most often the disk is full."""

    def __init__(self, out: Path, why: str) -> None:
        super().__init__(
            f"{str(out)!r} cannot be written ({why}), expected room and the right to write there; the trials recorded "
            "so far are whole: see to it, and run the same command again"
        )


class NoTrialsError(VlaqError):
    """Trials are to be reported that were never run."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{str(path)!r} holds no trials; run `vlaq trial` without --report first, or correct --out")


class UnusableMessageError(VlaqError):
    """A ROS message whose content cannot be used."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(f"{got}; expected {expected}")


class MissingDependencyError(VlaqError):
    """A module that the package does not install by itself is needed and is not there."""

    REMEDIES: ClassVar[dict[str, str]] = {
        "torch": "install the build of PyTorch that fits this machine",
        "rclpy": "source the setup file of a ROS 2 installation, or run pip install '.[ros]' in the checkout",
        "mujoco": "run pip install '.[sim]' in the checkout",
        "ray": "run pip install '.[ray]' in the checkout",
        "control_msgs": "install ros-$ROS_DISTRO-control-msgs, or command the gripper as joint or Float64MultiArray",
    }

    def __init__(self, module: str) -> None:
        super().__init__(f"the Python module {module!r} is needed and not installed; {self.REMEDIES[module]}")


class KernelBuildError(VlaqError):
    """The native kernels could not be built or loaded; the reference runs instead."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the native kernels cannot be used: {why.rstrip('.')}; "
            "expected a C++17 compiler, such as Debian's package g++"
        )


class PageMarkersError(VlaqError):
    """A Markdown page has no place for the tables of a benchmark."""

    def __init__(self, page: Path, begin: str, end: str) -> None:
        super().__init__(
            f"page {str(page)!r} lacks the lines {begin!r} and {end!r}, in this order; add them where the tables belong"
        )


class OutputExistsError(VlaqError):
    """What a command would write is there already."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{str(path)!r} exists; nothing was written: remove it, or give another --out")


class UnwritableOutputError(VlaqError):
    """Nothing can be written where a command was told to write."""

    def __init__(self, path: Path, there: Path) -> None:
        super().__init__(
            f"{str(path)!r} cannot be made in {str(there)!r}; expected a directory to write to: give another --out"
        )


class NoGpuError(VlaqError):
    """A GPU was asked for, and torch sees none."""

    def __init__(self) -> None:
        super().__init__(
            "the device is cuda and torch sees no GPU; expected one and a build of torch that supports it: "
            "check nvidia-smi and torch.version.cuda, or take --device cpu"
        )


class CalibrationDataError(VlaqError):
    """What calibration data was asked of is neither a recording nor demonstrations."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{str(path)!r} holds no calibration data; expected a rosbag2 recording (a directory, or an .mcap or .db3 "
            "file), a directory of recordings, or a directory of demonstrations that `vlaq train` recorded"
        )


class TooFewObservationsError(VlaqError):
    """Calibration data holds fewer observations than are to be drawn from it."""

    def __init__(self, source: str, got: int, wanted: int) -> None:
        super().__init__(
            f"{source} gives {got} observations, expected at least {wanted}; record more, or ask for fewer"
        )


class NoObservationError(VlaqError):
    """At no moment of a recording is everything at hand that a policy needs."""

    def __init__(self, source: str, why: str) -> None:
        super().__init__(
            f"{source} gives no observation, most often because of {why}; "
            "expected fresh images of every camera, joint states and an instruction"
        )


class UnreadableBagError(VlaqError):
    """A recording is no rosbag2, or it is damaged."""

    def __init__(self, bag: Path, why: str) -> None:
        super().__init__(
            f"bag {str(bag)!r} cannot be read ({why.rstrip('.')}); expected rosbag2 in mcap or sqlite3; "
            "check it with `ros2 bag info`, or record it again"
        )


class EmptyBagError(VlaqError):
    """A recording holds no message."""

    def __init__(self, bag: Path) -> None:
        super().__init__(
            f"bag {str(bag)!r} holds no message; expected a recording of a robot at work: the recorder heard nothing "
            "(another ROS_DOMAIN_ID, or a QoS that does not fit), record it again"
        )


class BagTopicsError(VlaqError):
    """A recording lacks topics that an observation is made of."""

    def __init__(self, bag: Path, missing: Iterable[str], seen: Iterable[str]) -> None:
        super().__init__(
            f"bag {str(bag)!r} has no {', no '.join(missing)}; it has: {', '.join(seen) or 'nothing'}; "
            "record them, or correct the topics in the robot's YAML file"
        )


class NamespaceError(VlaqError):
    """The robots of a recording have other namespaces than was said."""

    def __init__(self, bag: Path, topic: str, namespaces: Iterable[str]) -> None:
        super().__init__(
            f"bag {str(bag)!r} has no joint states on {topic}, but robots in the namespaces {', '.join(namespaces)}; "
            "pick one of them with --namespace"
        )


class NoInstructionError(VlaqError):
    """A recording does not say what the robot was asked to do."""

    def __init__(self, bag: Path, topic: str) -> None:
        super().__init__(
            f"bag {str(bag)!r} has no std_msgs/msg/String on {topic}, so nothing says what the robot was asked to do; "
            "expected one of the policy's instructions: give it with --instruction"
        )


class NothingToSuggestError(VlaqError):
    """A recording shows no arm that a robot file could be proposed for."""

    def __init__(self, bag: Path, namespace: str, seen: Iterable[str]) -> None:
        where = f" in namespace {namespace!r}" if namespace else ""
        super().__init__(
            f"bag {str(bag)!r} shows no arm{where}; expected sensor_msgs/msg/JointState with positions of four joints "
            f"or more, and it has: {', '.join(seen) or 'nothing'}; record joint states, or correct --namespace"
        )


class UnreadableDemonstrationsError(VlaqError):
    """A file of demonstrations is damaged, or of other tasks than this simulation's."""

    def __init__(self, shard: Path, why: str) -> None:
        super().__init__(
            f"demonstrations {str(shard)!r} cannot be read ({why.rstrip('.')}); expected a file that this version of "
            "`vlaq train` recorded: remove it and record it again"
        )


class NotSimulatedError(VlaqError):
    """A policy needs what the simulation does not have."""

    def __init__(self, kind: str, missing: Iterable[str]) -> None:
        super().__init__(
            f"the simulation has no {kind} {', '.join(map(repr, missing))}, which the policy needs; "
            "calibrate it on a rosbag2 recording of its own robot: give one with --data"
        )


class BufferFileError(VlaqError):
    """A file of calibration observations cannot be used."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"calibration buffer {str(path)!r} cannot be used: {why}; remove it and calibrate again")


class BudgetError(VlaqError):
    """A budget that no allocation of widths can use."""

    def __init__(self, limit: float, unit: str, least: float, most: float) -> None:
        low, high = math.ceil(least * 1e4) / 1e4, math.floor(most * 1e4) / 1e4
        super().__init__(
            f"the budget is {limit:g} {unit}, expected {low:g}, the least that can be, to {high:g}, what 16 bits need; "
            "give --budget a number between them"
        )


class TooFewInjectionsError(VlaqError):
    """Too few episodes succeed at full precision to say what errors do to them."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            f"errors were injected into {got} episodes that succeed at full precision, expected at least {expected}; "
            "give --episodes more, or 0 to leave open whether switching pays"
        )


class OtherStudyError(VlaqError):
    """Results of a study were made with something else than what is asked for now."""

    def __init__(self, path: Path, differing: Iterable[str]) -> None:
        super().__init__(
            f"results {str(path)!r} were made with another {', another '.join(differing)}; "
            "give the study another --out, or remove them"
        )


class NoCellError(VlaqError):
    """A pattern names nothing that a study has."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"no cell of the study is named {pattern!r}; `vlaq study --list` names them all")


class NoResultsError(VlaqError):
    """A study is to be reported that has not been run."""

    def __init__(self, out: Path) -> None:
        super().__init__(f"{str(out)!r} holds no results of the full policy; run `vlaq study --out {out}` first")


class JournalError(VlaqError):
    """What a pilot has noted of its flight cannot be read."""

    def __init__(self, text: str, why: Exception) -> None:
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        super().__init__(
            f"the pilot's journal says {shown!r} ({why}); expected what this version of the package writes: replay it "
            "with the version that recorded it, or with --latency 0.1"
        )


class NoJournalError(VlaqError):
    """A recording is to be repeated as it was, and does not say how it was."""

    def __init__(self, bag: Path, topic: str) -> None:
        super().__init__(
            f"bag {str(bag)!r} has no journal of the pilot on {topic}; expected one for recorded latencies: give a "
            "time with --latency, or --latency measured"
        )


class OtherTeacherError(VlaqError):
    """A teacher whose chunks cannot be held against a model's."""

    def __init__(self, teacher: Path, model: Path, differing: Iterable[str]) -> None:
        super().__init__(
            f"the teacher {str(teacher)!r} has another {', another '.join(differing)} than the model {str(model)!r}; "
            "expected the checkpoint that it was made of: correct --teacher"
        )


class NoRecordedDescriptionError(VlaqError):
    """A recording does not say what the robot looks like."""

    def __init__(self, bag: Path, topic: str) -> None:
        super().__init__(
            f"bag {str(bag)!r} has no robot description on {topic}; expected the URDF of the arm: give it with --urdf"
        )


class NothingToFitError(VlaqError):
    """Thresholds are to be fitted, and only one precision answers every observation."""

    def __init__(self, precision: str) -> None:
        super().__init__(
            f"thresholds are fitted to precisions that answer the same observations, and --precision is {precision!r}; "
            "expected all, or names with commas between them"
        )


class TooFewAnswersError(VlaqError):
    """Recordings do not hold enough to fit thresholds to."""

    def __init__(self, got: int, expected: int, precisions: Iterable[str]) -> None:
        super().__init__(
            f"thresholds would be fitted to {got} answers of {', '.join(precisions) or 'no precision'}, expected at "
            f"least {expected} answers of two precisions or more at a known motion; give more recordings, and "
            "--precision all"
        )


class ConditionError(VlaqError):
    """A condition on the numbers of a report that cannot be read."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"got the condition {text!r}; expected a number of the report, one of > >= < <= ==, and what it is held "
            "against, such as 'ee_error_p95_m > 0.02'"
        )


class UnknownScoreError(VlaqError):
    """A condition names a number that a report does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"a report has no number {name!r}; it has: {', '.join(known)}")


class UnwrittenReportError(VlaqError):
    """The report of a replay cannot be written: most often the disk is full."""

    def __init__(self, out: Path, why: str) -> None:
        super().__init__(
            f"{str(out)!r} cannot be written ({why}), expected room and the right to write there: see to it, or give "
            "another --out"
        )


class WorkerLostError(VlaqError):
    """A process that replayed a recording is gone."""

    def __init__(self, bag: Path) -> None:
        super().__init__(
            f"the process that replayed bag {str(bag)!r} ended before it was done; expected a report: most often "
            "memory was short: give fewer --jobs"
        )


class ClusterError(VlaqError):
    """A Ray cluster cannot be reached."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"no Ray cluster answers at {address!r} ({why.rstrip('.')}); expected the address that `ray start` printed"
        )
