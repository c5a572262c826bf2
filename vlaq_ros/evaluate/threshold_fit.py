"""Thresholds of S that keep the action error of coarser precisions within a bound, from observations that all answered.

A precision is asked for up to the S at which the 95th percentile of its error crosses the bound. Percentiles are taken
in bins of S and made monotonic; `vlaq calibrate` finds its thresholds in the same way, where the bound itself depends
on S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import TooFewAnswersError
from vlaq_ros.evaluate.spread import number, percentile

NEVER = 1e9  # a threshold above any S
ALWAYS = -1.0  # one below any
_BINS = 20
_CHANGE = 1e-4  # the least by which thresholds fall


@dataclass(frozen=True, slots=True)
class Samples:
    """N observations that several precisions have answered."""

    sensitivities: FloatArray  # [N] S that the decision acted on; infinite where the finest precision had to answer
    errors_m: dict[str, FloatArray]  # [N] of the tool from the finest precision that was computed; finest first

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Put the samples of many recordings together; all have the same precisions."""
        names = parts[0].errors_m
        return cls(
            np.concatenate([part.sensitivities for part in parts]),
            {name: np.concatenate([part.errors_m[name] for part in parts]) for name in names},
        )

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
        bound_m: that the 95th percentile of the error is to keep, over the chunks of each precision.

    Returns:
        Plain values: `bound_m`; `thresholds` by precision, finest first; for `fitting` and `held_out` (null without
        recordings) answers, the share of each precision and of all coarser than the finest, and 95th percentiles of
        the error over all answers and by the precision that would have served; `holds`, whether all of these keep the
        bound on what was held out (null where that is not known).

    Raises:
        TooFewAnswersError: fewer than 20 answers of known S to fit to, or only one precision.
    """
    samples = Samples.joined(fitting)
    names = tuple(samples.errors_m)
    known = np.isfinite([samples.sensitivities, *samples.errors_m.values()]).all(axis=0)
    if len(names) < 2 or known.sum() < _BINS:
        raise TooFewAnswersError(int(known.sum()), _BINS, names)
    centres, rows = bins(samples.sensitivities[known])
    excesses_m = [typical(samples.errors_m[name][known], rows) - bound_m for name in names[1:]]
    thresholds = falling([first_crossing(centres, excess_m) for excess_m in excesses_m])
    checked = _outcome(Samples.joined(held_out), thresholds) if held_out else None
    p95s_m = checked["ee_deviation_p95_m_by_precision"].values() if checked else ()
    return {
        "bound_m": bound_m,
        "thresholds": dict(zip(names, thresholds, strict=True)),
        "fitting": _outcome(samples, thresholds),
        "held_out": checked,
        "holds": all(p95_m <= bound_m for p95_m in p95s_m if p95_m is not None) if checked else None,
    }


def _outcome(samples: Samples, thresholds: Sequence[float]) -> dict[str, Any]:
    """What thresholds would have given."""
    names, served = tuple(samples.errors_m), samples.served(thresholds)
    errors_m = np.array([samples.errors_m[name] for name in names])
    taken_m = errors_m[served, np.arange(len(served))]
    return {
        "answers": len(served),
        "cheap_share": number(float(np.mean(served > 0))),
        "precision_share": {name: number(float(np.mean(served == k))) for k, name in enumerate(names)},
        "ee_deviation_p95_m": percentile(taken_m, 95),
        "ee_deviation_p95_m_by_precision": {name: percentile(taken_m[served == k], 95) for k, name in enumerate(names)},
    }


def thresholds_file(fit: dict[str, Any]) -> str:
    """Write what `fit_thresholds` gave as a file of parameters for the pilot: `--params-file` of `ros2 run`."""
    fitting, held_out = fit["fitting"], fit["held_out"]
    lines = [f"# Fitted by vlaq replay to {fitting['answers']} answers, for at most {fit['bound_m']:g} m at the tool."]
    for name, outcome in (("There", fitting), ("On recordings that were held out", held_out)):
        if outcome:
            lines.append(
                f"# {name}: {outcome['cheap_share']:.0%} coarser than the finest, 95th percentile "
                f"{outcome['ee_deviation_p95_m']:.2g} m."
            )
    thresholds = ",".join(f"{name}={threshold!r}" for name, threshold in fit["thresholds"].items())
    values: str = yaml.safe_dump({"/**": {"ros__parameters": {"thresholds": thresholds}}})
    return "\n".join([*lines, values])


def bins(sensitivities: FloatArray) -> tuple[FloatArray, list[NDArray[np.int64]]]:
    """Medians [K] and rows of quantile bins."""
    parts = np.array_split(np.argsort(sensitivities, kind="stable"), min(_BINS, len(sensitivities)))
    return np.array([np.median(sensitivities[rows]) for rows in parts]), parts


def typical(errors: FloatArray, parts: Sequence[NDArray[np.int64]]) -> FloatArray:
    """95th percentiles [K] of errors in bins, made monotonic in the direction that fits better."""
    percentiles = np.array([np.percentile(errors[rows], 95) for rows in parts])
    fits = [isotonic_regression(percentiles, increasing=increasing).x for increasing in (True, False)]
    best: FloatArray = min(fits, key=lambda fit: float(np.sum((fit - percentiles) ** 2)))
    return best


def first_crossing(sensitivities: FloatArray, excess: FloatArray) -> float:
    """The S up to which an excess [K] over a bound is none: `NEVER` if everywhere, `ALWAYS` if nowhere."""
    above = np.flatnonzero(excess > 0)
    if not len(above):
        return NEVER
    if above[0] == 0:
        return ALWAYS
    ends = slice(above[0] - 1, above[0] + 1)
    return float(np.interp(0, excess[ends], sensitivities[ends]))


def falling(crossings: Sequence[float] | FloatArray) -> tuple[float, ...]:
    """Append the coarsest precision's threshold and make them fall, as a manifest wants it.

    A precision whose threshold is lifted by this is asked for at no S that occurs.
    """
    thresholds = [0.0 if not len(crossings) or crossings[-1] > 0 else float(crossings[-1]) - 1]
    for threshold in reversed([round(float(crossing), 4) for crossing in crossings]):
        thresholds.append(max(threshold, round(thresholds[-1] + _CHANGE, 4)))
    return tuple(reversed(thresholds))
