"""Thresholds of S that keep the action error of coarser precisions within a bound, from observations that all answered.

A precision serves up to the largest S at which 95 % of the chunks that it would then serve keep the bound, the coarsest
precision first. Beyond the S that was seen the finest serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import TooFewAnswersError
from vlaq_ros.evaluate.spread import number

NEVER = 1e9  # a threshold above any S
ALWAYS = -1.0  # one below any
_BINS = 20
_LEAST = 20  # answers
_KEPT = 0.95  # of the chunks keep the bound
_CHANGE = 1e-4  # the least by which thresholds fall


@dataclass(frozen=True, slots=True)
class Samples:
    """N observations that several precisions have answered."""

    sensitivities: FloatArray  # [N] S that the decision acted on; infinite where the finest precision had to answer
    errors_m: dict[str, FloatArray]  # [N] of the tool from the finest precision that was computed; finest first

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Put together the samples of recordings at the same precisions, as far as all of their errors are known."""
        names = parts[0].errors_m
        sensitivities = np.concatenate([part.sensitivities for part in parts])
        errors_m = {name: np.concatenate([part.errors_m[name] for part in parts]) for name in names}
        known = np.isfinite(sum(errors_m.values(), np.zeros(len(sensitivities))))
        return cls(sensitivities[known], {name: values[known] for name, values in errors_m.items()})

    def served(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """Say which precision would have answered [N], as an index, finest 0."""
        below = self.sensitivities[:, None] <= np.array(thresholds[:-1])
        served: NDArray[np.int64] = np.count_nonzero(below, axis=1)
        return served


def fit_thresholds(fitting: Sequence[Samples], held_out: Sequence[Samples], bound_m: float) -> dict[str, Any]:
    """Fit thresholds on some recordings and check them on others.

    Args:
        fitting: of the recordings to fit to, one or more.
        held_out: of those to check on; none leaves it open whether the thresholds hold elsewhere.
        bound_m: that 95 % of the chunks that each precision serves are to keep.

    Returns:
        Plain values: `bound_m`; `thresholds` by precision, finest first; for `fitting` and `held_out` (null without
        answers) answers, the share of each precision and of all coarser than the finest, and 95th percentiles of
        the error over all answers and by the precision that would have served; `holds`, whether all of these keep the
        bound on what was held out (null where that is not known).

    Raises:
        TooFewAnswersError: fewer than 20 answers of known S to fit to, or only one precision.
    """
    samples = Samples.joined(fitting)
    names = tuple(samples.errors_m)
    known = np.isfinite(samples.sensitivities)
    if len(names) < 2 or known.sum() < _LEAST:
        raise TooFewAnswersError(int(known.sum()), _LEAST, names)
    steps = np.ceil(samples.sensitivities / _CHANGE) * _CHANGE  # a threshold serves whole steps of S, as it is rounded
    crossings = [ALWAYS]
    for name in reversed(names[1:]):
        rows = known & (steps > crossings[0])
        kept = samples.errors_m[name][rows] <= bound_m
        crossings.insert(0, kept_up_to(steps[rows], kept, _KEPT, none=crossings[0]))
    thresholds = falling(crossings[:-1])
    checked = _outcome(Samples.joined(held_out), thresholds) if held_out else None
    p95s_m = filter(None, checked["ee_deviation_p95_m_by_precision"].values() if checked else ())
    return {
        "bound_m": bound_m,
        "thresholds": dict(zip(names, thresholds, strict=True)),
        "fitting": _outcome(samples, thresholds),
        "held_out": checked,
        "holds": all(p95_m <= bound_m for p95_m in p95s_m) if checked else None,
    }


def _outcome(samples: Samples, thresholds: Sequence[float]) -> dict[str, Any] | None:
    """What thresholds would have given; None where nothing was answered."""
    names, served = tuple(samples.errors_m), samples.served(thresholds)
    if not len(served):
        return None
    errors_m = np.array([samples.errors_m[name] for name in names])
    taken_m = errors_m[served, np.arange(len(served))]
    return {
        "answers": len(served),
        "cheap_share": number(float(np.mean(served > 0))),
        "precision_share": {name: number(float(np.mean(served == k))) for k, name in enumerate(names)},
        "ee_deviation_p95_m": _kept(taken_m),
        "ee_deviation_p95_m_by_precision": {name: _kept(taken_m[served == k]) for k, name in enumerate(names)},
    }


def _kept(errors_m: FloatArray) -> float | None:
    """The least error that 95 % of the answers keep; None where there is none."""
    return float(np.percentile(errors_m, 100 * _KEPT, method="inverted_cdf")) if len(errors_m) else None


def thresholds_file(fit: dict[str, Any]) -> str:
    """Write what `fit_thresholds` gave as a file of parameters for the pilot: `--params-file` of `ros2 run`."""
    kept = {
        True: "they keep the bound",
        False: "they do NOT keep the bound there, so do not fly them",
        None: "nothing was held out, so nothing shows that they keep the bound elsewhere",
    }[fit["holds"]]
    lines = [f"# Fitted by vlaq replay, for at most {fit['bound_m']:g} m at the tool: {kept}."]
    for name in ("fitting", "held_out"):
        if outcome := fit[name]:
            lines.append(
                f"# {name}: {outcome['answers']} answers, {outcome['cheap_share']:.0%} coarser than the finest, "
                f"95th percentile {outcome['ee_deviation_p95_m']:.2g} m"
            )
    thresholds = ",".join(f"{name}={threshold!r}" for name, threshold in fit["thresholds"].items())
    values: str = yaml.safe_dump({"/**": {"ros__parameters": {"thresholds": thresholds}}})
    return "\n".join([*lines, values])


def bins(sensitivities: FloatArray) -> tuple[FloatArray, list[NDArray[np.int64]]]:
    """Medians [K] and rows of quantile bins."""
    parts = np.array_split(np.argsort(sensitivities, kind="stable"), min(_BINS, len(sensitivities)))
    return np.array([np.median(sensitivities[rows]) for rows in parts]), parts


def kept_up_to(x: FloatArray, kept: NDArray[np.bool_], share: float, none: float) -> float:
    """Largest x up to which a share of the rows [N] keeps something; `none` if there is none."""
    values, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    shares = np.cumsum(np.bincount(which, kept)) / np.cumsum(counts)
    return float(values[shares >= share].max(initial=none))


def falling(crossings: Sequence[float] | FloatArray) -> tuple[float, ...]:
    """Append the coarsest precision's threshold and make them fall, as a manifest wants it.

    A precision whose threshold is lifted by this is asked for at no S that occurs.
    """
    thresholds = [0.0 if not len(crossings) or crossings[-1] > 0 else float(crossings[-1]) - 1]
    for threshold in reversed([round(float(crossing), 4) for crossing in crossings]):
        thresholds.append(max(threshold, round(thresholds[-1] + _CHANGE, 4)))
    return tuple(reversed(thresholds))
