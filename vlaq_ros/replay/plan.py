"""How bags are replayed, and one bag replayed so: read, flown, scored, drawn and reported.

bag -> Reference -> replay -> scores, drawing, parity, annotation -> report.json, report.html, annotated/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import LATENCY_S, PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import rules
from vlaq_ros.errors import NoInstructionError, NoRecordedDescriptionError, UnwrittenReportError
from vlaq_ros.evaluate.threshold_fit import Samples
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.engine import FULL
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.replay import page
from vlaq_ros.replay.annotation import Annotation
from vlaq_ros.replay.drawing import Drawing
from vlaq_ros.replay.fail_if import Condition
from vlaq_ros.replay.journal import session
from vlaq_ros.replay.parity import Parity
from vlaq_ros.replay.picture import write_picture
from vlaq_ros.replay.policies import Policies
from vlaq_ros.replay.replay import MEASURED, RECORDED, Latency, replay
from vlaq_ros.replay.replayed import Event, Look
from vlaq_ros.replay.scores import Scores
from vlaq_ros.session import Session

REPORT, PAGE, PICTURE, ANNOTATED = ARTIFACTS = "report.json", "report.html", "timeline.png", "annotated"
_FAR = 0.5  # of a joint's range
_TELL_NS = 1_000_000_000  # of the bag, between two words on how far it is
_INTERRUPTED = "The replay was interrupted: this is what there was until then"


class Sink(Protocol):
    """What looks at a replay."""

    def take(self, event: Event) -> None:
        """Look at the next event."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a bag."""

    bag: Path
    out: Path  # directory of its report
    document: Mapping[str, Any]  # report.json; empty where there is a fault
    samples: Samples | None = None  # that thresholds can be fitted to
    failing: tuple[str, ...] = ()  # sentences on the conditions that hold
    stopped: bool = False  # the report ends where it was interrupted
    fault: str = ""  # why there is no report; empty where there is one


@dataclass(frozen=True, slots=True)
class Plan:
    """How bags are replayed: the same for all of them."""

    policies: Policies
    robot: RobotConfig
    namespace: str  # of the recorded robot
    instruction: str  # in the place of the recorded ones; empty: those
    urdf: str  # in the place of the recorded one; empty: that
    thresholds: str  # of S, as the pilot's parameter says them; empty: the recorded pilot's, or the model's
    latency: Latency | None  # None: as recorded, where what is asked for is what flew then; else LATENCY_S
    conditions: tuple[Condition, ...]  # that fail a bag
    bound_m: float | None  # at the tool, that thresholds are fitted for; None where none are
    annotate: bool

    def run(
        self,
        bag: Path,
        out: Path,
        *,
        advance: Callable[[float], object],
        stopped: Callable[[], bool],
    ) -> Replayed:
        """Replay a bag, and write what is to be said of it.

        Args:
            bag: a recording.
            out: directory of the report; what an earlier one left there is replaced.
            advance: told how many more seconds of the bag are done.
            stopped: whether to end the replay where it is, and report it.

        Raises:
            VlaqError: the recording, the robot and the policy do not fit together, or the report cannot be written.
        """
        spec = PolicySpec.load(self.policies.model)
        joints = JointMap(self.robot, spec.joint_names)
        topics = Topics.of(self.robot, spec.cameras, self.namespace)
        reference = Reference.read(bag, topics, joints)
        if not (self.instruction or reference.instructions):
            raise NoInstructionError(bag, topics.instruction)
        urdf = self.urdf or reference.urdf
        if not urdf:
            raise NoRecordedDescriptionError(bag, topics.description)
        kinematics = Kinematics(urdf, joints.urdf, self.robot.tool_frame)
        config, latency = self._flown(bag, topics, reference)
        torch.set_num_threads(config.threads)
        policy, shadows = self.policies.load()

        chosen_by = rules(policy.plans, config.thresholds)
        scores = Scores(
            str(bag),
            reference,
            kinematics,
            self.policies.shadows,
            chosen_by,
            step_s=spec.step_s,
            dwell_s=config.dwell_s,
        )
        drawing = Drawing(reference, spec.cameras, kinematics)
        parity = Parity(bag, reference, topics) if latency is RECORDED else None
        sinks: list[Sink] = [scores, drawing, *filter(None, [parity])]
        events = replay(
            bag,
            policy,
            reference,
            topics,
            joints,
            robot=self.robot,
            config=config,
            shadows=shadows,
            latency=latency,
            urdf=urdf,
            instruction=self.instruction,
        )
        try:
            out.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                if self.annotate:
                    shutil.rmtree(out / ANNOTATED, ignore_errors=True)
                    annotation = Annotation(
                        out / ANNOTATED, kinematics, urdf, joints, reference=reference, step_s=spec.step_s
                    )
                    sinks.append(stack.enter_context(annotation))
                whole = _stream(events, sinks, reference, advance, stopped)
            said = [*_beyond_limits(reference, kinematics), _said(latency)]
            said += [_compared(parity)] if parity else []
            said += [] if whole else [_INTERRUPTED]
            document = scores.document(said)
            (out / REPORT).write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
            failing = tuple(filter(None, (it.failure(document, str(out / REPORT)) for it in self.conditions)))
            bounds_m = page.bounds(self.conditions, self.bound_m)
            page.write(out / PAGE, drawing, document, bounds_m=bounds_m, failed=failing)
            write_picture(out / PICTURE, drawing, document)
        except OSError as error:
            raise UnwrittenReportError(out, str(error)) from None
        return Replayed(bag, out, document, scores.samples(), failing, stopped=not whole)

    def _flown(self, bag: Path, topics: Topics, reference: Reference) -> tuple[PilotConfig, Latency]:
        """Configure the pilot as the recorded one was, where that is known, but for what is asked for."""
        recorded = session(bag, topics) if reference.journal else None
        config = PilotConfig() if recorded is None else recorded.config()
        own = recorded is not None and recorded.sha256 == Session.of(config, self.policies.model).sha256
        kept = config.thresholds if own and self.policies.precision != FULL else ""  # others name other precisions
        asked = replace(config, precision=self.policies.precision, thresholds=self.thresholds or kept)
        if self.latency is not None:
            return asked, self.latency
        return asked, RECORDED if own and asked == config else LATENCY_S


def _stream(
    events: Iterable[Event],
    sinks: Sequence[Sink],
    reference: Reference,
    advance: Callable[[float], object],
    stopped: Callable[[], bool],
) -> bool:
    """Show every event to all who look, and tell whether they saw the whole replay."""
    told_ns = reference.start_ns
    for event in events:
        for sink in sinks:
            sink.take(event)
        if isinstance(event, Look) and event.stamp_ns >= told_ns + _TELL_NS:
            advance((event.stamp_ns - told_ns) * 1e-9)
            told_ns = event.stamp_ns
        if stopped():
            return False
    advance((reference.end_ns - told_ns) * 1e-9)
    return True


def _beyond_limits(reference: Reference, kinematics: Kinematics) -> list[str]:
    """Say which joints were measured so far beyond their limits that their numbers mean something else."""
    lower, upper = kinematics.position_limits.T
    beyond = np.maximum(lower - reference.positions, reference.positions - upper)  # [N, J]
    return [
        f"{name} was measured at {reference.positions[row, column]:.3g}, far beyond its limits {lower[column]:.3g} to "
        f"{upper[column]:.3g}, in rad or m: correct its unit or sign in the robot file"
        for column, name in enumerate(kinematics.joint_names)
        if beyond[row := int(beyond[:, column].argmax()), column] > _FAR * (upper[column] - lower[column])
    ]


def _said(latency: Latency) -> str:
    if latency is RECORDED:
        return "Inferences take as long as they took when this was recorded"
    if latency is MEASURED:
        return "Inferences take as long as they take on this machine"
    return f"Every command comes {latency:g} s after its inference begins"


def _compared(parity: Parity) -> str:
    return (
        f"{parity.commands} of {parity.recorded} recorded commands were repeated, with a largest difference of "
        f"{parity.largest:.2g} in SI units, and {parity.unmatched} others were sent; {parity.decisions_equal} of "
        f"{parity.decisions} decisions are the same"
    )
