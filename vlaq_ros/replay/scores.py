"""What the replay of a recording comes to: report.json, as config/replay_report.schema.json explains it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np

from vlaq_ros.bags.reference import Reference
from vlaq_ros.control.chunks import asked, step_times
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import Command, Trajectory
from vlaq_ros.evaluate.spread import column, number, percentile, spread
from vlaq_ros.evaluate.threshold_fit import Samples
from vlaq_ros.replay.answer_errors import FLOWN, RECORDED, AnswerErrors, in_force
from vlaq_ros.replay.crossings import Crossings, opening, timing
from vlaq_ros.replay.executed import Executed
from vlaq_ros.replay.looks import Looks, without_numbers
from vlaq_ros.replay.replayed import Answer, Event, Held, Look, Seen
from vlaq_ros.replay.stance import Stance

FORMAT_VERSION = 1


class Scores:
    """Takes the events of a replay, in their order, and keeps a few numbers of every answer.

    Args:
        bag: name of the recording.
        reference: what the arm did and was told in it.
        kinematics: of the arm.
        precisions: that are computed in shadow, finest first; none where nothing is computed beside what flies.
        rules: that the controller chooses by, finest first.
        step_s: between two rows of a chunk.
        dwell_s: of the controller.
    """

    def __init__(
        self,
        bag: str,
        reference: Reference,
        kinematics: Kinematics,
        precisions: Sequence[str],
        rules: Sequence[PrecisionRule],
        *,
        step_s: float,
        dwell_s: float,
    ) -> None:
        self._bag = bag
        self._reference = reference
        self._kinematics = kinematics
        self._precisions = tuple(precisions)
        self._rules = tuple(rules)
        self._step_s = step_s
        self._errors = AnswerErrors(precisions, kinematics.joint_names)
        self._executed = Executed()
        self._looks = Looks(dwell_s)
        limits_m = kinematics.position_limits[-1]
        self._opening_m = opening(reference.positions[:, -1], limits_m)
        self._crossings = {name: Crossings(self._opening_m) for name in (RECORDED, FLOWN, *precisions)}
        self._open: tuple[Answer, Trajectory, float] | None = None  # the last one, what its chunk asks for, and S
        self._answers = 0
        self._last_ns = reference.start_ns
        self._brake_ns: int | None = None  # when the last command begins to brake for want of a successor
        self._served: list[str] = []  # precisions of the commands
        self._latency_s: dict[str, list[float]] = defaultdict(list)  # from observation to command, by precision
        self._inference_s: dict[str, list[float]] = defaultdict(list)
        self._misses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._violations: Counter[str] = Counter()
        self._limited = 0  # commands that a limit changed
        self._held = 0

    def take(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Seen):
            return
        stamp_ns = event.took_over_ns if isinstance(event, Answer) else event.stamp_ns
        self._last_ns = max(self._last_ns, stamp_ns)
        if isinstance(event, Look):
            self._looks.take(event)
        elif isinstance(event, Answer):
            self._take_answer(event)
        else:
            self._take_hold(event)

    def samples(self) -> Samples:
        """What `fit_thresholds` takes of what has come."""
        self._close(self._last_ns)
        return self._errors.samples([rule.name for rule in self._rules])

    def document(self, lines: Sequence[str] = ()) -> dict[str, Any]:
        """Give report.json in plain values; nothing in it is nan: what is not known is null.

        No event is taken any more after this.

        Args:
            lines: sentences on how it was replayed, beside those on what is wrong with the recording.
        """
        self._close(self._last_ns)
        self._executed.end(self._last_ns)
        reference, errors, looks = self._reference, self._errors, self._looks
        served = [rule.name for rule in self._rules]
        bag_s = (reference.end_ns - reference.start_ns) * 1e-9
        replayed_s = (self._last_ns - reference.start_ns) * 1e-9
        return {
            "format_version": FORMAT_VERSION,
            "bag": self._bag,
            "source": reference.source,
            "lines": [*reference.lines, *lines],
            "precisions": list(self._precisions),
            "finest": self._precisions[0] if self._precisions else None,
            "thresholds": {rule.name: number(rule.threshold) for rule in self._rules},
            **self._numbers(bag_s, replayed_s),
            "errors": errors.table(),
            "horizon": {"step_s": self._step_s, **errors.horizon()},
            "by_sensitivity": errors.by_sensitivity(),
            "counterfactual": errors.counterfactual(served),
            "worst": errors.worst(),
            "gripper": self._gripper(),
            "precision_share": self._shares(),
            "latency_s": {name: spread(np.array(values)) for name, values in self._latency_s.items()},
            "inference_s": {name: spread(np.array(values)) for name, values in self._inference_s.items()},
            "deadline_misses_by_precision": dict(self._misses),
            "rejected_by_kind": dict(self._rejected),
            "faults_by_kind": dict(self._faults),
            "violations": dict(self._violations),
            "stale_by_reason_s": {reason: number(s) for reason, s in sorted(looks.stale_by_reason_s.items())},
            "answers": errors.columns(),
        }

    def _numbers(self, bag_s: float, replayed_s: float) -> dict[str, float | None]:
        """What can be asked of a report by name."""
        errors, looks, executed = self._errors, self._looks, self._executed
        flown = errors.flown()
        arm = np.fmax.reduce(flown[:, 2:-1], axis=1)
        delays = timing(self._crossings[RECORDED].found, self._crossings[FLOWN].found)
        seen_s = looks.flyable_s + looks.stale_s
        commands = len(self._served)
        switches = sum(a != b for a, b in pairwise(self._served))
        inference_s, latency_s = (
            np.array([value for values in by_precision.values() for value in values])
            for by_precision in (self._inference_s, self._latency_s)
        )

        def per_min(count: float) -> float | None:
            return number(60 * count / looks.flyable_s) if looks.flyable_s else None

        def share(part: float, whole: float) -> float | None:
            return number(part / whole) if whole else None

        return {
            "bag_s": number(bag_s),
            "replayed_s": number(replayed_s),
            "flyable_s": number(looks.flyable_s),
            "idle_s": number(looks.idle_s),
            "stale_s": number(looks.stale_s),
            "stale_share": share(looks.stale_s, seen_s),
            "n_answers": self._answers,
            "n_commands": commands,
            "ee_error_p50_m": percentile(flown[:, 0], 50),
            "ee_error_p95_m": percentile(flown[:, 0], 95),
            "ee_error_max_m": percentile(flown[:, 0], 100),
            "ee_error_worst_tenth_share": errors.worst_tenth_share(),
            "ee_error_p95_rad": percentile(flown[:, 1], 95),
            "joint_error_p95_rad": percentile(arm, 95),
            "joint_error_max_rad": percentile(arm, 100),
            "ee_deviation_p95_m": percentile(errors.deviations_m(), 95),
            "seam_jump_p95_rad": percentile(np.array(executed.jumps_rad), 95),
            "seam_speed_jump_p95_rad_s": percentile(np.array(executed.speed_jumps_rad_s), 95),
            "jerk_rms_rad_s3": number(executed.jerk_rad_s3),
            "restarts": executed.restarts,
            "gripper_delay_p95_s": percentile(np.abs(delays.delays_s), 95),
            "gripper_missed": delays.missed,
            "gripper_extra": delays.extra,
            "limited_share": share(self._limited, commands),
            "rejected": self._rejected.total(),
            "rejected_per_min": per_min(self._rejected.total()),
            "faults": self._faults.total(),
            "held": self._held,
            "held_per_min": per_min(self._held),
            "joint_jumps": looks.jumps,
            "deadline_misses": self._misses.total(),
            "deadline_misses_per_min": per_min(self._misses.total()),
            "late_s": number(looks.late_s),
            "latency_p50_s": percentile(latency_s, 50),
            "latency_p95_s": percentile(latency_s, 95),
            "inference_p50_s": percentile(inference_s, 50),
            "inference_p95_s": percentile(inference_s, 95),
            "cheap_share": share(sum(name != self._rules[0].name for name in self._served), commands),
            "switches": switches,
            "switches_per_min": per_min(switches),
        }

    def _gripper(self) -> dict[str, Any]:
        """Timing of closing and opening, by precision and for what flew, against what was recorded."""
        recorded = self._crossings[RECORDED].found
        against = {name: timing(recorded, self._crossings[name].found) for name in (FLOWN, *self._precisions)}
        return {
            "closed_m": number(self._opening_m[0]),
            "open_m": number(self._opening_m[1]),
            "recorded": [{"stamp_ns": crossing.stamp_ns, "opens": crossing.opens} for crossing in recorded],
            "predicted": {
                name: {"delay_s": column(times.delays_s), "missed": times.missed, "extra": times.extra}
                for name, times in against.items()
            },
        }

    def _shares(self) -> dict[str, float | None]:
        counts = Counter(self._served)
        return {rule.name: number(counts[rule.name] / len(self._served)) for rule in self._rules if self._served}

    def _take_answer(self, answer: Answer) -> None:
        self._answers += 1
        for name, seconds in answer.inference_s.items():
            self._inference_s[name].append(seconds)
        chunk, command, observed = answer.chunk, answer.command, answer.observation.joint_positions
        if chunk is not None:
            alone = asked(
                self._kinematics.joint_targets(chunk, observed),
                observed,
                step_times(len(chunk.actions), chunk.step_s),
                joint_names=self._kinematics.joint_names,
                stamp_ns=chunk.stamp_ns,
            )
            if command is not None or answer.rejected:  # else it was overtaken: nobody would have followed it
                self._close(answer.took_over_ns)
                without_images = replace(answer, observation=replace(answer.observation, images={}))
                self._open = without_images, alone, self._looks.sensitivity(answer.decision)
            if command is not None:
                self._executed.take_over(command.trajectory, alone, answer.took_over_ns)
                self._count(command, answer.took_over_ns, brake_ns=alone.stamp_ns + int(alone.times_ns[-1]))
        if answer.rejected:
            self._rejected[answer.rejected] += 1
        elif command is None:
            self._faults[without_numbers(answer.fault)] += 1

    def _count(self, command: Command, now_ns: int, brake_ns: int) -> None:
        """Count a command that takes over, and will have begun to brake by `brake_ns`."""
        precision, violations = command.decision.precision, asdict(command.violations)
        self._served.append(precision)
        self._latency_s[precision].append((now_ns - command.observation_stamp_ns) * 1e-9)
        self._misses[precision] += self._brake_ns is not None and now_ns > self._brake_ns
        self._brake_ns = brake_ns
        self._violations.update(violations)
        self._limited += any(violations.values())

    def _take_hold(self, held: Held) -> None:
        self._close(held.stamp_ns)
        self._executed.hold(held.trajectory, held.stamp_ns)
        self._held += 1
        self._brake_ns = None
        for crossings in self._crossings.values():
            crossings.pause()

    def _close(self, until_ns: int) -> None:
        """Measure the chunk that was in force until then."""
        if self._open is None:
            return
        (answer, alone, sensitivity), self._open = self._open, None
        stamps_ns = alone.stamp_ns + alone.times_ns[1:]
        rows = in_force(stamps_ns, answer.took_over_ns, until_ns)
        recorded, flown = self._reference.at(stamps_ns), alone.positions[1:]
        if answer.command is not None:
            flown = sample(answer.command.trajectory, stamps_ns)[0]
            flown[stamps_ns < answer.took_over_ns] = np.nan
        targets = {FLOWN: flown, **answer.targets}
        chunks = {name: Stance.of(self._kinematics, joints) for name, joints in targets.items()}
        self._errors.add(answer, Stance.of(self._kinematics, recorded), chunks, rows, sensitivity)
        for name, crossings in self._crossings.items():
            joints = recorded if name == RECORDED else targets.get(name)
            if joints is not None:
                crossings.push(stamps_ns[rows], joints[rows, -1])
