"""How far the chunks of a replay are off: from what was recorded, and from those of the finest precision.

A chunk counts while it is in force: from when it takes over until its successor does, at least its first step that is
then still ahead. Its error is the largest of these steps. What safety refused counts as if it had been followed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlaq_ros.datatypes import FloatArray, IntArray
from vlaq_ros.evaluate.spread import column, number, percentile, spread
from vlaq_ros.evaluate.threshold_fit import Samples, bins
from vlaq_ros.replay.replayed import Answer
from vlaq_ros.replay.stance import Stance

FLOWN = "flown"  # the command; where none left, the chunk that would have become one
RECORDED, FINEST = "recorded", "finest"  # what chunks are held against
_WORST = 10  # moments
_APART_NS = 1_000_000_000  # between two of them
_SHARES = np.linspace(0.1, 1, 10)  # of the chunks, that thresholds are tried for


def in_force(stamps_ns: IntArray, took_over_ns: int, until_ns: int) -> slice:
    """Say which steps of a chunk are executed; none where all of it is past when it takes over.

    Args:
        stamps_ns: when its steps [T] are due.
        took_over_ns: when it takes over.
        until_ns: when its successor does.
    """
    first = int(np.searchsorted(stamps_ns, took_over_ns, side="right"))
    return slice(first, max(first + 1, int(np.searchsorted(stamps_ns, until_ns, side="right"))))


class AnswerErrors:
    """Keeps a few numbers of every answer.

    Args:
        precisions: that are computed in shadow, finest first.
        joint_names: J, the gripper's last.
    """

    def __init__(self, precisions: Sequence[str], joint_names: Sequence[str]) -> None:
        self._names = {RECORDED: (FLOWN, *precisions), FINEST: tuple(precisions)}
        self._precisions = tuple(precisions)
        self._joint_names = tuple(joint_names)
        self._stamps_ns: list[int] = []
        self._served: list[str] = []  # the precision in force
        self._sensitivities: list[float] = []
        # of every answer, by what it is held against
        self._peaks: dict[str, list[FloatArray]] = {RECORDED: [], FINEST: []}  # [R, 2 + J] of the steps in force
        self._steps: dict[str, list[FloatArray]] = {RECORDED: [], FINEST: []}  # [R, T] m at the tool

    def __len__(self) -> int:
        return len(self._stamps_ns)

    def add(self, answer: Answer, recorded: Stance, chunks: dict[str, Stance], rows: slice, sensitivity: float) -> None:
        """Measure an answer.

        Args:
            answer: to an observation.
            recorded: what was recorded at the chunk's steps [T].
            chunks: what was asked for then, by precision and for `FLOWN`; those that are unknown are missing.
            rows: of the steps in force.
            sensitivity: S that the decision acted on.
        """
        self._stamps_ns.append(answer.observation.stamp_ns)
        self._served.append(answer.decision.precision)
        self._sensitivities.append(sensitivity)
        finest = chunks.get(self._precisions[0]) if self._precisions else None
        for against, other in ((RECORDED, recorded), (FINEST, finest)):
            columns = np.full((len(self._names[against]), len(recorded.joints), 2 + len(self._joint_names)), np.nan)
            for row, name in enumerate(self._names[against]):
                if other is not None and name in chunks:
                    columns[row] = chunks[name].errors(other).columns
            self._peaks[against].append(np.fmax.reduce(columns[:, rows], axis=1, initial=np.nan))
            self._steps[against].append(columns[:, :, 0].astype(np.float32))

    def flown(self) -> FloatArray:
        """Errors [N, 2 + J] of what flew from what was recorded."""
        return self._of(RECORDED, FLOWN)

    def deviations_m(self) -> FloatArray:
        """Distance [N] of the tool from the finest precision's, at the precision that served."""
        tool_m = {name: self._tool_m(FINEST, name) for name in self._precisions}
        unknown = np.full(len(self), np.nan)
        return np.array([tool_m.get(name, unknown)[row] for row, name in enumerate(self._served)])

    def samples(self, served: Sequence[str]) -> Samples:
        """What thresholds are fitted to: S and deviations of the precisions that the controller chooses from."""
        return Samples(
            np.array(self._sensitivities),
            {name: self._tool_m(FINEST, name) for name in served if name in self._precisions},
        )

    def table(self) -> dict[str, Any]:
        """Errors by what they are held against, by precision, spread over answers."""
        return self._told(lambda against, name: self._spreads(self._of(against, name)))

    def columns(self) -> dict[str, Any]:
        """One number for every answer, in the order of their observations."""
        return {
            "stamps_ns": self._stamps_ns,
            "precision": self._served,
            "sensitivity": column(self._sensitivities),
            "ee_error_m": self._told(lambda against, name: column(self._tool_m(against, name))),
        }

    def horizon(self) -> dict[str, Any]:
        """Distance of the tool by chunk step, spread over answers; all steps count, executed or not."""

        def curves(against: str, name: str) -> dict[str, list[float | None]]:
            row = self._names[against].index(name)
            steps = np.array([steps[row] for steps in self._steps[against]], dtype=np.float64)  # [N, T]
            return {f"p{percent}": [percentile(values, percent) for values in steps.T] for percent in (50, 95)}

        return self._told(curves)

    def worst(self) -> list[dict[str, Any]]:
        """Where what flew lay furthest from what was recorded: the largest errors, a second or more apart."""
        errors_m = self.flown()[:, 0]
        order = [row for row in np.argsort(-errors_m, kind="stable").tolist() if np.isfinite(errors_m[row])]
        chosen: list[int] = []
        for row in order:
            if all(abs(self._stamps_ns[row] - self._stamps_ns[other]) >= _APART_NS for other in chosen):
                chosen.append(row)
            if len(chosen) == _WORST:
                break
        return [
            {
                "stamp_ns": self._stamps_ns[row],
                "precision": self._served[row],
                "sensitivity": number(self._sensitivities[row]),
                "ee_error_m": number(float(errors_m[row])),
            }
            for row in chosen
        ]

    def worst_tenth_share(self) -> float | None:
        """Share of the summed error of what flew that the worst tenth of the answers has: 0.1 where all err alike."""
        errors_m = np.sort(self.flown()[:, 0])
        errors_m = errors_m[np.isfinite(errors_m)]
        if not errors_m.sum() > 0:
            return None
        return number(float(errors_m[-max(1, len(errors_m) // 10) :].sum() / errors_m.sum()))

    def by_sensitivity(self) -> dict[str, Any] | None:
        """95th percentiles of errors in bins of S with as many answers each; None where S was never known."""
        seen = np.array(self._sensitivities)
        known = np.flatnonzero(np.isfinite(seen))
        if not len(known):
            return None
        centres, rows = bins(seen[known])
        return {
            "sensitivity": column(centres),
            "ee_error_p95_m": self._told(
                lambda against, name: [percentile(self._tool_m(against, name)[known[part]], 95) for part in rows]
            ),
        }

    def counterfactual(self, served: Sequence[str]) -> dict[str, list[dict[str, float | None]]]:
        """What thresholds of S would have given: one coarser precision up to a threshold, the finest served above.

        Args:
            served: the precisions that the controller chooses from, finest first.

        Returns:
            By coarser precision, rows of rising thresholds: share of its chunks, and 95th percentiles of the tool's
            distance from what was recorded and from the finest precision.
        """
        seen = np.array(self._sensitivities)
        known = seen[np.isfinite(seen)]
        edges = np.unique(np.quantile(known, _SHARES, method="lower")) if len(known) else known

        def p95(against: str, low: str, high: str, threshold: float) -> float | None:
            return percentile(np.where(seen <= threshold, self._tool_m(against, low), self._tool_m(against, high)), 95)

        fine, *coarser = [name for name in served if name in self._precisions] or [""]
        return {
            name: [
                {
                    "threshold": number(edge),
                    "share": number(float(np.mean(seen <= edge))),
                    "ee_error_p95_m": p95(RECORDED, name, fine, edge),
                    "ee_deviation_p95_m": p95(FINEST, name, fine, edge),
                }
                for edge in edges.tolist()
            ]
            for name in coarser
        }

    def _told(self, tell: Callable[[str, str], Any]) -> dict[str, Any]:
        """What is told by what chunks are held against, and by precision; null where there is nothing to tell."""
        return {
            RECORDED: {name: tell(RECORDED, name) for name in self._names[RECORDED]},
            FINEST: {name: tell(FINEST, name) for name in self._names[FINEST][1:]} or None,
        }

    def _of(self, against: str, name: str) -> FloatArray:
        """Errors [N, 2 + J] of one precision."""
        row = self._names[against].index(name)
        return np.array([peaks[row] for peaks in self._peaks[against]]).reshape(len(self), 2 + len(self._joint_names))

    def _tool_m(self, against: str, name: str) -> FloatArray:
        """Its distance [N] at the tool."""
        tool_m: FloatArray = self._of(against, name)[:, 0]
        return tool_m

    def _spreads(self, errors: FloatArray) -> dict[str, Any]:
        joints = {name: spread(values) for name, values in zip(self._joint_names, errors[:, 2:].T, strict=True)}
        return {"ee_m": spread(errors[:, 0]), "ee_rad": spread(errors[:, 1]), "joints": joints}
